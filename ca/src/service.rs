//! `signet.ca.v1`: every call goes from cheap to dear (sizes, rate of the caller, nonce, look-up, rate of the workload) and
//! only then to cryptography, at a bench with few places. Refusals carry a reason, and `retry-after-ms` where waiting helps.
mod hosts;
mod pods;
mod refusal;
mod routes;
mod watch;

pub use pods::Pods;

pub use routes::Routes;

use crate::{
    attest::{Refusal, nonces::Nonces},
    clock::Clock,
    issuance::{Issuance, Unjournaled},
    limits::{Bench, Buckets, Busy, address_key},
    metrics::Metrics,
    store::Store,
    trust::Publisher,
};
use signet_enroll::caller;
use signet_enroll::places::Counts;
use signet_identity::WorkloadUid;
use signet_proto::ca::{
    ChallengeRequest, ChallengeResponse, IssueRequest, IssueResponse, RegisterRequest, RegisterResponse, TrustState,
    WatchTrustRequest, certificate_authority_server::CertificateAuthority, issue_request::Attestation,
};
use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};
use tonic::{Request, Response, Status};

/// A request has some hundred bytes; a Kubernetes token some thousand.
pub const MAX_MESSAGE: usize = 32 * 1024;

/// Whom this CA knows, and so what it attests.
#[derive(Debug)]
pub enum Callers {
    /// Machines that joined with a token, by their host keys.
    Hosts(Arc<Store>),
    /// Pods of the cluster that this CA runs in.
    Pods(Box<Pods>),
}

/// Everything that the calls need.
#[derive(Debug)]
pub struct Parts {
    /// Who calls.
    pub callers: Callers,
    /// The way to a certificate.
    pub issuance: Arc<Issuance>,
    /// The newest trust state.
    pub publisher: Arc<Publisher>,
    /// Where cryptography is done.
    pub bench: Bench,
    /// Fresh nonces.
    pub nonces: Nonces,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
    /// Calls that need no attestation, by address.
    pub by_address: Buckets<IpAddr>,
    /// Proofs that did not verify, by address: cryptography that an unknown caller may cost.
    pub failures: Buckets<IpAddr>,
    /// Issuances, by workload.
    pub by_workload: Buckets<WorkloadUid>,
    /// Calls of workloads that show a good certificate in the handshake, once others have used up what their address may.
    pub by_peer: Buckets<WorkloadUid>,
    /// Open trust streams, and those of one address.
    pub watches: Arc<tokio::sync::Semaphore>,
    /// See `watches`.
    pub watches_by_address: Counts<IpAddr>,
    /// And those of a workload that shows a good certificate, beyond what its address may have.
    pub watches_by_peer: Counts<WorkloadUid>,
    /// A trust stream ends after twice to three times this long, so that its connection can, which takes no new calls by then.
    pub connection_age: Duration,
    /// How long a request may take, the disk included.
    pub answer_time: Duration,
    /// Ends the trust streams when the process stops.
    pub stopping: tokio::sync::watch::Receiver<bool>,
}

/// Who calls, in limits.
#[derive(Debug, Clone)]
struct Caller {
    /// Names whoever has proved nothing.
    address: IpAddr,
    /// The workload whose certificate was shown in the handshake, and is good.
    proved: Option<WorkloadUid>,
}

/// What is asked for, beside the evidence.
#[derive(Debug)]
struct Asked {
    caller: Caller,
    /// The certificate request.
    csr: Vec<u8>,
    /// The trust sequence that the caller says it holds.
    held: u64,
}

/// The gRPC service.
#[derive(Debug, Clone)]
pub struct Service {
    parts: Arc<Parts>,
}

impl Service {
    /// Over these parts.
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// Turns an outcome into the wire's, counts and logs refusals.
    fn answer<T>(
        &self,
        rpc: &'static str,
        address: IpAddr,
        outcome: Result<T, Refusal>,
    ) -> Result<Response<T>, Status> {
        outcome.map(Response::new).map_err(|refusal| {
            self.parts.metrics.refused(rpc, refusal.reason());
            refusal::log(rpc, address, &refusal);
            refusal::status(&refusal)
        })
    }
}

impl Parts {
    fn challenge(&self, caller: &Caller) -> Result<ChallengeResponse, Refusal> {
        let now = self.clock.running();
        self.charged(caller, self.by_address.take(&caller.address, now))?;
        let nonce = self.nonces.make(now).ok_or_else(|| Refusal::Internal("no randomness".into()))?;
        Ok(ChallengeResponse { nonce: nonce.to_vec() })
    }

    async fn register(self: Arc<Self>, address: IpAddr, request: RegisterRequest) -> Result<RegisterResponse, Refusal> {
        match &self.callers {
            Callers::Hosts(store) => hosts::register(&self, store, address, request).await,
            Callers::Pods(_) => Err(pods::ONLY_PODS),
        }
    }

    /// `peer` is where it called from.
    async fn issue(
        self: Arc<Self>,
        caller: Caller,
        peer: IpAddr,
        request: IssueRequest,
    ) -> Result<IssueResponse, Refusal> {
        let (leaf, receipt) = match (&self.callers, request.attestation) {
            (_, None) => {
                let want = "send a host key proof, or a pod's token";
                return Err(Refusal::Field { field: "attestation", found: "missing".into(), want });
            }
            (Callers::Hosts(store), Some(Attestation::HostKey(proof))) => {
                let asked = Asked { caller, csr: request.csr, held: request.trust_sequence_held };
                (hosts::issue(&self, store, proof, asked).await?, Vec::new())
            }
            (Callers::Pods(pods), Some(Attestation::Kubernetes(proof))) => {
                let asked = Asked { caller, csr: request.csr, held: request.trust_sequence_held };
                pods.issue(&self, proof, request.renewal, peer, asked).await?
            }
            (Callers::Hosts(_), Some(Attestation::Kubernetes(_))) => return Err(hosts::ONLY_HOSTS),
            (Callers::Pods(_), Some(Attestation::HostKey(_))) => return Err(pods::ONLY_PODS),
        };
        let chain = self.issuance.journal(leaf).await?;
        Ok(IssueResponse {
            chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
            trust: Some(self.publisher.newest().wire.clone()),
            receipt,
        })
    }

    /// The trust sequence that a caller may be said to hold: nobody holds a newer one than the newest.
    fn held(&self, uid: &WorkloadUid, claimed: u64) -> u64 {
        let newest = self.publisher.newest().state.sequence;
        if claimed > newest {
            tracing::error!(%uid, claimed, newest, "a workload holds a newer trust state: is ours from a backup?");
        }
        claimed.min(newest)
    }

    /// A request that takes too long is given up here, with words, before the transport gives it up without any. What it asked
    /// of the store is carried out or not; a certificate that is journaled late is handed to nobody, and a join that is
    /// repeated with the same key gets the same answer.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let limit = self.answer_time;
        tokio::time::timeout(limit, work).await.unwrap_or(Err(Refusal::Slow(limit)))
    }

    /// What others did from the same address is no reason to refuse who has shown a good certificate: what it does then is
    /// charged to the workload.
    fn charged(&self, caller: &Caller, to_address: Result<(), Busy>) -> Result<(), Busy> {
        match &caller.proved {
            Some(uid) => to_address.or_else(|_| self.by_peer.take(uid, self.clock.running())),
            None => to_address,
        }
    }

    /// Charges a failed proof to the address; that the bucket is empty now shows at the next request.
    fn failed(&self, address: IpAddr) {
        let _ = self.failures.take(&address, self.clock.running());
    }
}

/// Where a request came from.
fn peer<T>(request: &Request<T>) -> IpAddr {
    caller(request).map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |caller| caller.remote.ip().to_canonical())
}

impl Parts {
    fn caller<T>(&self, request: &Request<T>) -> Caller {
        let address = address_key(peer(request), matches!(self.callers, Callers::Pods(_)));
        let proved = caller(request).and_then(|caller| caller.peer.as_ref()?.leaf.uid.clone());
        Caller { address, proved }
    }
}

#[tonic::async_trait]
impl CertificateAuthority for Service {
    type WatchTrustStream = watch::Stream;

    async fn challenge(&self, request: Request<ChallengeRequest>) -> Result<Response<ChallengeResponse>, Status> {
        let caller = self.parts.caller(&request);
        self.answer("challenge", caller.address, self.parts.challenge(&caller))
    }

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let address = self.parts.caller(&request).address;
        let outcome = self.parts.in_time(self.parts.clone().register(address, request.into_inner())).await;
        self.answer("register", address, outcome)
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let peer = peer(&request);
        let caller = self.parts.caller(&request);
        let address = caller.address;
        let outcome = self.parts.in_time(Box::pin(self.parts.clone().issue(caller, peer, request.into_inner()))).await;
        self.answer("issue", address, outcome)
    }

    async fn watch_trust(&self, request: Request<WatchTrustRequest>) -> Result<Response<watch::Stream>, Status> {
        let caller = self.parts.caller(&request);
        self.answer("watch_trust", caller.address, watch::open(&self.parts, &caller))
    }
}

/// One state of the stream; named here so that `watch` needs no wire types of its own.
type Update = Result<TrustState, Status>;
