//! `grpc`: one `grpc.health.v1.Health/Check` without TLS, as the kubelet makes it.
use super::Failed;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use prost::Message;
use tokio::net::TcpStream;

/// Of an answer: a status is two bytes.
const ANSWER_BYTES: usize = 4096;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// 200 when the service serves, 503 when it says anything else.
pub(super) async fn check(stream: TcpStream, service: &str) -> Result<StatusCode, Failed> {
    let broken = |error: h2::Error| Failed::Grpc(error.to_string());
    let (sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    tokio::select! {
        // Lives as long as this call; what goes wrong with it the exchange hears of.
        status = exchange(sender, service) => status,
        ended = connection => Err(Failed::Grpc(ended.err().map_or_else(|| "it hung up".to_owned(), |e| e.to_string()))),
    }
}

async fn exchange(sender: h2::client::SendRequest<Bytes>, service: &str) -> Result<StatusCode, Failed> {
    let broken = |error: h2::Error| Failed::Grpc(error.to_string());
    let request = Request::post("http://probe/grpc.health.v1.Health/Check")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/signet")
        .body(())?;
    let message = HealthCheckRequest { service: service.to_owned() };
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    message.encode(&mut frame).map_err(|error| Failed::Grpc(error.to_string()))?;

    let mut sender = sender.ready().await.map_err(broken)?;
    let (response, mut body) = sender.send_request(request, false).map_err(broken)?;
    body.send_data(frame.freeze(), true).map_err(broken)?;
    let response = response.await.map_err(broken)?;
    if response.status() != StatusCode::OK {
        return Ok(StatusCode::SERVICE_UNAVAILABLE);
    }
    // An answer without a message has its status in the head.
    failed(response.headers())?;
    let mut stream = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data.map_err(broken)?;
        stream.flow_control().release_capacity(data.len()).map_err(broken)?;
        if bytes.len() + data.len() > ANSWER_BYTES {
            return Err(Failed::Grpc(format!("an answer of more than {ANSWER_BYTES} bytes")));
        }
        bytes.extend_from_slice(&data);
    }
    if let Some(trailers) = stream.trailers().await.map_err(broken)? {
        failed(&trailers)?;
    }
    let message = bytes.get(5..).ok_or_else(|| Failed::Grpc("no message".to_owned()))?;
    let answer = HealthCheckResponse::decode(message).map_err(|error| Failed::Grpc(error.to_string()))?;
    Ok(if answer.status == 1 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE })
}

/// A `grpc-status` other than 0, such as 5 for a service that the application does not know.
fn failed(headers: &HeaderMap) -> Result<(), Failed> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => Err(Failed::Grpc(format!("grpc-status {status:?}"))),
        _ => Ok(()),
    }
}
