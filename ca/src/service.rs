//! `signet.ca.v1`: every call goes from cheap to dear (sizes, rate of the caller, nonce, look-up, rate of the workload) and
//! only then to cryptography, at a bench with few places. Refusals carry a reason, and `retry-after-ms` where waiting helps.
mod refusal;
mod routes;
mod watch;

pub use routes::Routes;

use crate::{
    attest::{Refusal, host_key, join_token, nonces::Nonces},
    certificate::public_key_of_request,
    clock::Clock,
    issuance::Issuance,
    limits::{Bench, Buckets, address_key},
    metrics::Metrics,
    store::Store,
    trust::Publisher,
};
use signet_enroll::caller;
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

/// Everything that the calls need.
#[derive(Debug)]
pub struct Parts {
    /// Tokens, host keys, journal.
    pub store: Arc<Store>,
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
    /// Open trust streams.
    pub watches: Arc<tokio::sync::Semaphore>,
    /// How long a request may take, the disk included.
    pub answer_time: Duration,
    /// Ends the trust streams when the process stops.
    pub stopping: tokio::sync::watch::Receiver<bool>,
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
    fn challenge(&self, address: IpAddr) -> Result<ChallengeResponse, Refusal> {
        let now = self.clock.running();
        self.by_address.take(&address, now)?;
        let nonce = self.nonces.make(now).ok_or_else(|| Refusal::Internal("no randomness".into()))?;
        Ok(ChallengeResponse { nonce: nonce.to_vec() })
    }

    async fn register(self: Arc<Self>, address: IpAddr, request: RegisterRequest) -> Result<RegisterResponse, Refusal> {
        let claim = join_token::Claim::read(request)?;
        let running = self.clock.running();
        self.failures.peek(&address, running)?;
        self.by_address.take(&address, running)?;
        let now = self.clock.seconds();
        let parts = self.clone();
        let redemption = self
            .bench
            .run(move || {
                let wanted = &claim.redemption;
                if !parts.store.token_could_serve(&wanted.token_hash, &wanted.key_id, now)? {
                    parts.failed(address);
                    return Err(Refusal::Redeem(crate::store::RedeemError::Unknown));
                }
                claim.verify().inspect_err(|_| parts.failed(address))?;
                Ok(claim.redemption)
            })
            .await??;
        let host = self.store.redeem(redemption, now).await?;
        tracing::info!(identity = %host.identity, uid = %host.uid, host_key = %host.key_id, %address, "a host joined");
        Ok(RegisterResponse {
            host_key_id: host.key_id,
            spiffe_id: host.identity.to_string(),
            workload_uid: host.uid.to_string(),
        })
    }

    async fn issue(self: Arc<Self>, address: IpAddr, request: IssueRequest) -> Result<IssueResponse, Refusal> {
        let claim = match request.attestation {
            Some(Attestation::HostKey(proof)) => host_key::Claim::read(proof)?,
            Some(Attestation::Kubernetes(_)) => {
                return Err(Refusal::Unsupported(
                    "this CA does not attest Kubernetes tokens; join with a token and use the host key",
                ));
            }
            None => {
                return Err(Refusal::Field {
                    field: "attestation",
                    found: "missing".into(),
                    want: "send a host key proof",
                });
            }
        };
        let now = self.clock.running();
        self.failures.peek(&address, now)?;
        self.nonces.check(claim.nonce(), now).map_err(|_| Refusal::Nonce)?;
        let ticket = self.issuance.prepare().await?;
        let newest = self.publisher.newest();
        let (claimed, newest) = (request.trust_sequence_held, newest.state.sequence);
        let parts = self.clone();
        let leaf = self
            .bench
            .run(move || {
                let host = claim.find(&parts.store).inspect_err(|_| parts.failed(address))?;
                let uid = host.uid.clone();
                parts.by_workload.peek(&uid, now)?;
                let facts = claim.verify(host, &request.csr).inspect_err(|_| parts.failed(address))?;
                // From here on the caller is known: whatever it costs now is charged to its own bucket.
                parts.by_workload.take(&uid, now)?;
                parts.nonces.spend(claim.nonce(), now).map_err(|_| Refusal::Nonce)?;
                let key = public_key_of_request(&request.csr)?;
                if claimed > newest {
                    tracing::error!(%uid, claimed, newest, "a workload holds a newer trust state: is ours from a backup?");
                }
                ticket.sign(facts, &key, claimed.min(newest))
            })
            .await??;
        let chain = self.issuance.journal(leaf).await?;
        Ok(IssueResponse {
            chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
            trust: Some(self.publisher.newest().wire.clone()),
        })
    }

    /// A request that takes too long is given up here, with words, before the transport gives it up without any. What it asked
    /// of the store is carried out or not; a certificate that is journaled late is handed to nobody, and a join that is
    /// repeated with the same key gets the same answer.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let limit = self.answer_time;
        tokio::time::timeout(limit, work).await.unwrap_or(Err(Refusal::Slow(limit)))
    }

    /// Charges a failed proof to the address; that the bucket is empty now shows at the next request.
    fn failed(&self, address: IpAddr) {
        let _ = self.failures.take(&address, self.clock.running());
    }
}

/// The caller's address as a key of buckets.
fn address<T>(request: &Request<T>) -> IpAddr {
    address_key(caller(request).map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |caller| caller.remote.ip()))
}

#[tonic::async_trait]
impl CertificateAuthority for Service {
    type WatchTrustStream = watch::Stream;

    async fn challenge(&self, request: Request<ChallengeRequest>) -> Result<Response<ChallengeResponse>, Status> {
        let address = address(&request);
        self.answer("challenge", address, self.parts.challenge(address))
    }

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let address = address(&request);
        let outcome = self.parts.in_time(self.parts.clone().register(address, request.into_inner())).await;
        self.answer("register", address, outcome)
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let address = address(&request);
        let outcome = self.parts.in_time(self.parts.clone().issue(address, request.into_inner())).await;
        self.answer("issue", address, outcome)
    }

    async fn watch_trust(&self, request: Request<WatchTrustRequest>) -> Result<Response<watch::Stream>, Status> {
        let address = address(&request);
        self.answer("watch_trust", address, watch::open(&self.parts, address))
    }
}

/// One state of the stream; named here so that `watch` needs no wire types of its own.
type Update = Result<TrustState, Status>;
