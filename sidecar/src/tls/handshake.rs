//! Drives rustls' handshake over a socket with a pooled buffer, then takes the traffic keys out of it. Whatever rustls has already
//! decrypted or not yet looked at goes on into the record layer: no byte is lost between the two.
use super::cipher::{self, Cipher};
use super::stream::{Kernel, Records};
use super::{give_back, take_buffer};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a refused peer may take to read why.
const PART: Duration = Duration::from_secs(1);

/// What a finished handshake leaves.
pub struct Established {
    /// The connection.
    pub records: Records,
    /// The peer's chain, as the verifier accepted it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The agreed protocol.
    pub alpn: Option<Vec<u8>>,
    /// The key exchange group.
    pub group: Option<rustls::NamedGroup>,
    /// Names the connection on both ends (`cipher::binding`).
    pub binding: [u8; 32],
}

/// Opens TLS as a client.
pub async fn client(tcp: TcpStream, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Established> {
    establish(tcp, UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?).await
}

/// Answers TLS as a server.
pub async fn server(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Established> {
    establish(tcp, UnbufferedServerConnection::new(config).map_err(io::Error::other)?).await
}

/// What both kinds of rustls' unbuffered connections have.
trait Unbuffered: Deref<Target: Deref<Target = CommonState>> {
    type Data;
    const CLIENT: bool;
    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn finish(self) -> Result<(rustls::ExtractedSecrets, Kernel), rustls::Error>;
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    const CLIENT: bool = true;
    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
    fn finish(self) -> Result<(rustls::ExtractedSecrets, Kernel), rustls::Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, kernel)| (secrets, Kernel::Client(Box::new(kernel))))
    }
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    const CLIENT: bool = false;
    fn step<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
    fn finish(self) -> Result<(rustls::ExtractedSecrets, Kernel), rustls::Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, kernel)| (secrets, Kernel::Server(Box::new(kernel))))
    }
}

/// The pooled buffer that bytes from the socket arrive in; goes back to the pool however the handshake ends.
struct Incoming {
    buffer: Option<Box<[u8]>>,
    filled: usize,
}

impl Incoming {
    fn bytes(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer[..self.filled])
    }
    fn discard(&mut self, count: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.copy_within(count..self.filled, 0);
            self.filled -= count;
        }
    }
    async fn fill(&mut self, tcp: &mut TcpStream) -> io::Result<()> {
        let room = self.buffer.as_mut().map_or(&mut [][..], |buffer| &mut buffer[self.filled..]);
        if room.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake message is longer than 64 KiB"));
        }
        match tcp.read(room).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.filled += count;
                Ok(())
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            give_back(buffer);
        }
    }
}

enum Next {
    Again,
    Read,
    Done,
}

async fn establish<C: Unbuffered>(mut tcp: TcpStream, mut connection: C) -> io::Result<Established> {
    let mut incoming = Incoming { buffer: Some(take_buffer()), filled: 0 };
    let mut outgoing = Vec::new();
    let mut ahead = Vec::new();
    let mut failed: Option<rustls::Error> = None;
    loop {
        let UnbufferedStatus { discard, state } = connection.step(incoming.bytes());
        let next = match state {
            // The first error may leave an alert, which the next step encodes; the one after that repeats the error.
            Err(error) => {
                if let Some(first) = failed.take() {
                    part(&mut tcp, &outgoing).await;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, first));
                }
                failed = Some(error);
                Next::Again
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut data, &mut outgoing)?;
                Next::Again
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                if let Some(error) = failed {
                    part(&mut tcp, &outgoing).await;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
                tcp.write_all(&outgoing).await?;
                outgoing.clear();
                data.done();
                Next::Again
            }
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                // The peer's first bytes came with the end of its handshake.
                while let Some(record) = traffic.next_record() {
                    ahead.extend_from_slice(record.map_err(io::Error::other)?.payload);
                }
                Next::Again
            }
            Ok(ConnectionState::BlockedHandshake) => Next::Read,
            Ok(ConnectionState::WriteTraffic(_)) => Next::Done,
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        incoming.discard(discard);
        match (next, &failed) {
            (Next::Again, _) => {}
            (_, Some(error)) => return Err(io::Error::new(io::ErrorKind::InvalidData, error.clone())),
            (Next::Read, None) => incoming.fill(&mut tcp).await?,
            (Next::Done, None) if connection.is_handshaking() => incoming.fill(&mut tcp).await?,
            (Next::Done, None) => break,
        }
    }
    let chain = connection.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect();
    let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
    let group = connection.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
    let (secrets, kernel) = connection.finish().map_err(io::Error::other)?;
    let (tx, rx) = (&secrets.tx, &secrets.rx);
    let binding = if C::CLIENT { cipher::binding(&tx.1, &rx.1) } else { cipher::binding(&rx.1, &tx.1) }
        .map_err(io::Error::other)?;
    let sealer = Cipher::new((tx.0, &tx.1)).map_err(io::Error::other)?;
    let opener = Cipher::new((rx.0, &rx.1)).map_err(io::Error::other)?;
    let (buffer, filled) = (incoming.buffer.take(), incoming.filled);
    let records = Records::new(tcp, kernel, opener, sealer, buffer, filled, ahead);
    Ok(Established { records, chain, alpn, group, binding })
}

/// Says the alert and waits for the peer to have read it: a socket that is closed with bytes unread sends a reset, which would
/// destroy the alert on its way. Whether the alert leaves does not change what happened, so that errors end it and no more.
async fn part(tcp: &mut TcpStream, alert: &[u8]) {
    let goodbye = async {
        tcp.write_all(alert).await?;
        tcp.shutdown().await?;
        let mut buffer = [0; 1024];
        for _ in 0..64 {
            if tcp.read(&mut buffer).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    drop(tokio::time::timeout(PART, goodbye).await);
}

fn encode<D>(data: &mut rustls::unbuffered::EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> io::Result<()> {
    let start = outgoing.len();
    match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(needed)) => outgoing.resize(start + needed.required_size, 0),
        Err(error) => return Err(io::Error::other(error)),
        Ok(_) => return Ok(()),
    }
    let written = data.encode(&mut outgoing[start..]).map_err(io::Error::other)?;
    outgoing.truncate(start + written);
    Ok(())
}
