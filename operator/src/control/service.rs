//! The gRPC service: decides who may attach, and starts the task of the stream.
use super::hub::Hub;
use super::session::Session;
use super::stream::{Stream, remaining};
use signet_proto::control::control_server::{Control, ControlServer};
use signet_proto::control::{Down, Up};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The longest message from a sidecar: a hello with all its wants is 80 KB.
const MAX_MESSAGE: usize = 256 * 1024;
/// Messages that wait for a slow peer; the session computes no more until they are taken.
const WAITING: usize = 4;

/// `signet.control.v1.Control`.
#[derive(Debug, Clone)]
pub struct Service {
    hub: Arc<Hub>,
}

impl Service {
    /// For a tonic server over `signet_enroll::serve_tls`, which tells who the verified peer is.
    pub fn server(hub: Arc<Hub>) -> ControlServer<Self> {
        ControlServer::new(Self { hub }).max_decoding_message_size(MAX_MESSAGE)
    }

    fn admit(&self, request: Request<Streaming<Up>>) -> Result<Response<ReceiverStream<Result<Down, Status>>>, Status> {
        let hub = &self.hub;
        // Absent only if this service were served without TLS.
        let peer = signet_enroll::caller(&request).and_then(|caller| caller.peer.clone());
        let peer =
            peer.ok_or_else(|| refuse(hub, "no_identity", Status::unauthenticated("no verified certificate")))?;
        if remaining(&peer).is_zero() {
            let status = Status::unavailable("the certificate of this connection has ended; connect again");
            return Err(refuse(hub, "certificate_ended", status));
        }
        let snapshots = hub.published.snapshot.clone();
        let snapshot = snapshots.borrow().clone().ok_or_else(|| {
            refuse(hub, "not_ready", Status::unavailable("the operator's documents could not be read yet; see its log"))
        })?;
        let member = snapshot.authorize(&peer.leaf.id, peer.leaf.uid.as_ref()).map_err(|refusal| {
            tracing::warn!(identity = %peer.leaf.id, %refusal, "control stream refused");
            refuse(hub, "refused", Status::permission_denied(refusal.to_string()))
        })?;
        let workload = member.workload.key.clone();
        let uid = member.workload.uid.clone();
        let seat = uid.as_ref().and_then(|uid| hub.take_place(uid, &workload, &peer));
        let seat =
            seat.ok_or_else(|| refuse(hub, "full", Status::resource_exhausted("no place for another stream")))?;
        hub.metrics.attach("attached");
        tracing::info!(%workload, identity = %peer.leaf.id, "control stream attached");

        let (outgoing, out) = mpsc::channel(WAITING);
        let session = Session::new(peer.leaf.id.clone(), peer.leaf.uid.clone());
        let incoming = request.into_inner();
        let stream = Stream { hub: hub.clone(), seat, workload, session, snapshots, incoming, outgoing };
        tokio::spawn(stream.run(remaining(&peer)));
        Ok(Response::new(ReceiverStream::new(out)))
    }
}

fn refuse(hub: &Hub, kind: &'static str, status: Status) -> Status {
    hub.metrics.attach(kind);
    status
}

#[tonic::async_trait]
impl Control for Service {
    type AttachStream = ReceiverStream<Result<Down, Status>>;

    async fn attach(&self, request: Request<Streaming<Up>>) -> Result<Response<Self::AttachStream>, Status> {
        self.admit(request)
    }
}
