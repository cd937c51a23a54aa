//! A small CA for tests: real TLS, real gRPC, real certificates, and knobs to misbehave. The real one is tested against
//! `enroll` in the workspace's `tests`.
use crate::serve::{Limits, serve_tls};
use crate::wire::trust_state_to_wire;
use aws_lc_rs::digest::{SHA256, digest};
use rcgen::PublicKeyData;
use signet_identity::testing::{Authority, leaf_params, now};
use signet_identity::{ClientAuth, TrustState, key};
use signet_proto::ca::certificate_authority_server::{CertificateAuthority, CertificateAuthorityServer};
use signet_proto::ca::issue_request::Attestation;
use signet_proto::ca::{self as wire, *};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Request, Response, Status};

pub(crate) const TOKEN: &str = "token-of-orders-1";

/// How it behaves, and what it has seen.
#[derive(Default)]
pub(crate) struct Book {
    /// Of leaves, in seconds.
    pub(crate) lifetime: u64,
    /// Identity and UID by token.
    pub(crate) tokens: HashMap<String, (String, String)>,
    /// Identity and UID by host key id, with its public key.
    pub(crate) hosts: HashMap<String, (Vec<u8>, String, String)>,
    /// Public keys that were registered or tried, in order.
    pub(crate) registered: Vec<Vec<u8>>,
    /// Public keys of leaves issued, in order.
    pub(crate) issued: Vec<Vec<u8>>,
    /// Trust sequences that requests said they held, in order.
    pub(crate) held: Vec<u64>,
    /// Answers the next calls of Register with these.
    pub(crate) refuse_register: Vec<Status>,
    /// Answers the next calls of Issue with these.
    pub(crate) refuse_issue: Vec<Status>,
    /// Identity and UID by a pod's token.
    pub(crate) pods: HashMap<String, (String, String)>,
    /// Receipts that renewals carried, in order; their signatures verified.
    pub(crate) renewed: Vec<Vec<u8>>,
    /// Changes what Issue certifies.
    pub(crate) tamper: Option<fn(&mut IssueResponse, &Authority)>,
    nonces: Vec<Vec<u8>>,
}

impl Book {
    /// Uses up a nonce and checks a signature over it and the request.
    fn signed(&mut self, label: &[u8], key: &[u8], nonce: &[u8], csr: &[u8], signature: &[u8]) -> Result<(), Status> {
        let known = self.nonces.iter().position(|known| known == nonce);
        self.nonces.remove(known.ok_or(Status::permission_denied("nonce"))?);
        let message = [label, nonce, digest(&SHA256, csr).as_ref()].concat();
        key::verify_signature(key, &message, signature).map_err(|e| Status::permission_denied(e.to_string()))
    }
}

/// The public key of a leaf, whose private half stays with the host.
pub(crate) fn spki(der: &rustls::pki_types::CertificateDer<'_>) -> Vec<u8> {
    let at = der.windows(26).position(|w| w == signet_identity::profile::P256_SPKI_PREFIX).unwrap();
    der[at..at + 91].to_vec()
}

pub(crate) struct FakeCa {
    pub(crate) authority: Arc<Authority>,
    pub(crate) book: Arc<Mutex<Book>>,
    pub(crate) trust: watch::Sender<wire::TrustState>,
    pub(crate) address: SocketAddr,
    /// The service account of its own SVID.
    account: &'static str,
    /// Of its own, so that a crash takes every connection with it.
    runtime: Option<tokio::runtime::Runtime>,
}

impl FakeCa {
    pub(crate) async fn start() -> Self {
        Self::start_as("signet-ca").await
    }
    pub(crate) async fn start_as(account: &'static str) -> Self {
        let authority = Arc::new(Authority::new("prod.example"));
        let id = authority.id("shop", "orders").to_string();
        let tokens = [(TOKEN.to_owned(), (id, "orders-1".to_owned()))].into();
        let book = Arc::new(Mutex::new(Book { lifetime: 3600, tokens, ..Book::default() }));
        let (trust, _) = watch::channel(trust_state_to_wire(&authority.trust_state(1000)));
        let address = "127.0.0.1:0".parse().unwrap();
        let mut ca = Self { authority, book, trust, address, account, runtime: None };
        ca.resume().await;
        ca
    }
    /// Listens, at the same address as before.
    pub(crate) async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap().into_std().unwrap();
        self.address = listener.local_addr().unwrap();
        let credentials = self.authority.credentials("signet-system", self.account, Some("ca-1"));
        let service = Service { authority: self.authority.clone(), book: self.book.clone(), trust: self.trust.clone() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let incoming = serve_tls(
                TcpListener::from_std(listener).unwrap(),
                &credentials,
                ClientAuth::Optional,
                Limits::default(),
            );
            let service = CertificateAuthorityServer::new(service);
            tonic::transport::Server::builder().serve_with_incoming(service, incoming).await.unwrap();
        });
        self.runtime = Some(runtime);
    }
    /// Closes the listener and every connection.
    pub(crate) fn crash(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
    pub(crate) fn publish(&self, state: &TrustState) {
        self.trust.send_replace(trust_state_to_wire(state));
    }
    pub(crate) fn with_book<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        change(&mut self.book.lock().unwrap())
    }
}

impl Drop for FakeCa {
    fn drop(&mut self) {
        if self.runtime.is_some() {
            self.crash();
        }
    }
}

struct Service {
    authority: Arc<Authority>,
    book: Arc<Mutex<Book>>,
    trust: watch::Sender<wire::TrustState>,
}

#[tonic::async_trait]
impl CertificateAuthority for Service {
    async fn challenge(&self, _: Request<ChallengeRequest>) -> Result<Response<ChallengeResponse>, Status> {
        let nonce: [u8; 32] = rand::random();
        self.book.lock().unwrap().nonces.push(nonce.to_vec());
        Ok(Response::new(ChallengeResponse { nonce: nonce.to_vec() }))
    }

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let request = request.into_inner();
        let mut book = self.book.lock().unwrap();
        book.registered.push(request.host_public_key.clone());
        if let Some(status) = book.refuse_register.pop() {
            return Err(status);
        }
        let token = digest(&SHA256, request.join_token.as_bytes());
        let signed = [b"signet register v1\0", token.as_ref(), &request.host_public_key].concat();
        key::verify_signature(&request.host_public_key, &signed, &request.proof)
            .map_err(|e| Status::permission_denied(e.to_string()))?;
        let (spiffe_id, workload_uid) =
            book.tokens.get(&request.join_token).cloned().ok_or(Status::permission_denied("no such token"))?;
        let host_key_id = signet_identity::hex(digest(&SHA256, &request.host_public_key).as_ref());
        book.hosts.insert(host_key_id.clone(), (request.host_public_key, spiffe_id.clone(), workload_uid.clone()));
        Ok(Response::new(RegisterResponse { host_key_id, spiffe_id, workload_uid }))
    }

    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let request = request.into_inner();
        let mut book = self.book.lock().unwrap();
        book.held.push(request.trust_sequence_held);
        if let Some(status) = book.refuse_issue.pop() {
            return Err(status);
        }
        let (id, uid) = match &request.attestation {
            Some(Attestation::HostKey(proof)) => {
                let (public_key, id, uid) =
                    book.hosts.get(&proof.host_key_id).cloned().ok_or(Status::permission_denied("no such host key"))?;
                book.signed(b"signet issue v1\0", &public_key, &proof.nonce, &request.csr, &proof.signature)?;
                (id, uid)
            }
            Some(Attestation::Kubernetes(proof)) => {
                if let Some(renewal) = &request.renewal {
                    let leaf = renewal.chain[0].clone().into();
                    let spki = spki(&leaf);
                    book.signed(b"signet renew v1\0", &spki, &renewal.nonce, &request.csr, &renewal.signature)?;
                    book.renewed.push(renewal.receipt.clone());
                }
                book.pods.get(&proof.token).cloned().ok_or(Status::permission_denied("no such pod"))?
            }
            None => return Err(Status::invalid_argument("attestation")),
        };
        let csr = rcgen::CertificateSigningRequestParams::from_der(&request.csr.into())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        if !csr.params.subject_alt_names.is_empty() || csr.params.distinguished_name.iter().next().is_some() {
            return Err(Status::invalid_argument("the request asks for something"));
        }
        let spki = csr.public_key.subject_public_key_info();
        let validity = now() - book.lifetime / 4..now() + book.lifetime;
        let chain = self.authority.certify(&leaf_params(&id.parse().unwrap(), Some(&uid), &validity), &spki);
        book.issued.push(spki);
        let chain = chain.into_iter().map(|der| der.to_vec()).collect();
        let receipt = format!("receipt {}", book.issued.len()).into_bytes();
        let mut response = IssueResponse { chain, trust: Some(self.trust.borrow().clone()), receipt };
        if let Some(tamper) = book.tamper {
            tamper(&mut response, &self.authority);
        }
        Ok(Response::new(response))
    }

    type WatchTrustStream = Pin<Box<dyn Stream<Item = Result<wire::TrustState, Status>> + Send>>;
    async fn watch_trust(&self, _: Request<WatchTrustRequest>) -> Result<Response<Self::WatchTrustStream>, Status> {
        Ok(Response::new(Box::pin(WatchStream::new(self.trust.subscribe()).map(Ok))))
    }
}
