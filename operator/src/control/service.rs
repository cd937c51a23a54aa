//! The gRPC service: decides who may attach, and starts the task of the stream.
use super::hub::Hub;
use super::session::Session;
use super::stream::{Stream, remaining};
use crate::documents::Key;
use crate::index::{Refusal, Snapshot};
use signet_identity::{Peer, WorkloadUid};
use signet_proto::control::control_server::{Control, ControlServer};
use signet_proto::control::{Down, ReplicaReport, ReplicaTaken, Up};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The longest message from a sidecar: a hello with all its wants is 80 KB.
const MAX_MESSAGE: usize = 256 * 1024;
/// Messages that wait for a slow peer; the session computes no more until they are taken.
const WAITING: usize = 4;

type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

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

    async fn admit(
        &self,
        request: Request<Streaming<Up>>,
    ) -> Result<Response<ReceiverStream<Result<Down, Status>>>, Status> {
        let hub = &self.hub;
        // Absent only if this service were served without TLS.
        let peer = signet_enroll::caller(&request).and_then(|caller| caller.peer.clone());
        let peer =
            peer.ok_or_else(|| refuse(hub, "no_identity", Status::unauthenticated("no verified certificate")))?;
        if remaining(&peer).is_zero() {
            let status = Status::unavailable("the certificate of this connection has ended; connect again");
            return Err(refuse(hub, "certificate_ended", status));
        }
        let mut snapshots = hub.published.snapshot.clone();
        let (workload, uid) = self.workload_of(&peer, &mut snapshots).await?;
        let seat = hub.take_place(&uid, &workload, &peer);
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

    /// The workload that the peer proves to be. Its document and its sidecar often come at the same moment: a UID that is
    /// unknown is looked for once more when the documents have changed.
    async fn workload_of(&self, peer: &Peer, snapshots: &mut Snapshots) -> Result<(Key, WorkloadUid), Status> {
        let hub = &self.hub;
        let patience = Instant::now() + hub.limits.document;
        loop {
            let snapshot = snapshots.borrow_and_update().clone().ok_or_else(|| {
                let status = Status::unavailable("the operator's documents could not be read yet; see its log");
                refuse(hub, "not_ready", status)
            })?;
            let refusal = match (snapshot.authorize(&peer.leaf.id, peer.leaf.uid.as_ref()), &peer.leaf.uid) {
                (Ok(member), Some(uid)) => return Ok((member.workload.key.clone(), uid.clone())),
                (Ok(_), None) => Refusal::NoUid(peer.leaf.id.clone()),
                (Err(refusal), _) => refusal,
            };
            let unknown = matches!(refusal, Refusal::UnknownUid(_));
            if unknown {
                hub.metrics.attach("waiting");
            }
            if !unknown || !matches!(timeout_at(patience, snapshots.changed()).await, Ok(Ok(()))) {
                tracing::warn!(identity = %peer.leaf.id, %refusal, "control stream refused");
                return Err(refuse(hub, "refused", Status::permission_denied(refusal.to_string())));
            }
        }
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
        self.admit(request).await
    }

    async fn report(&self, request: Request<ReplicaReport>) -> Result<Response<ReplicaTaken>, Status> {
        let Some((reports, own)) = self.hub.reports.get() else {
            return Err(Status::unimplemented("this operator writes no status"));
        };
        let peer = signet_enroll::caller(&request).and_then(|caller| caller.peer.clone());
        let peer = peer.ok_or_else(|| Status::unauthenticated("no verified certificate"))?;
        if peer.leaf.id != *own || remaining(&peer).is_zero() {
            tracing::warn!(identity = %peer.leaf.id, "a report of a replica refused");
            return Err(Status::permission_denied("only an operator reports to operators"));
        }
        let report = request.into_inner();
        if reports.take(&report, Instant::now()) {
            Ok(Response::new(ReplicaTaken { edges_wanted: reports.wants_edges(&report.replica) }))
        } else {
            Err(Status::resource_exhausted("more than is believed of replicas"))
        }
    }
}
