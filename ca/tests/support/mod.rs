//! A CA in a temporary directory and a small client for it, shared by the tests and the benchmark.
#![allow(dead_code, reason = "each user takes its part")]
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use signet_ca::{
    admin::{Request, Response, client},
    attest::join_token::key_id,
    clock::Clock,
    config::Config,
    program::{self, Running},
};
use signet_identity::{Bundle, Credentials, PrivateKey, SpiffeId, Svid, TrustState};
use signet_proto::ca::{
    ChallengeRequest, HostKeyProof, IssueRequest, IssueResponse, RegisterRequest, RegisterResponse,
    certificate_authority_client::CertificateAuthorityClient, issue_request::Attestation,
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use tonic::{Status, transport::Channel};

pub(crate) type Client = CertificateAuthorityClient<Channel>;

pub(crate) const ORDERS: &str = "spiffe://example.org/ns/shop/sa/orders";
pub(crate) const CHECKOUT: &str = "spiffe://example.org/ns/shop/sa/checkout";
/// Two of three ports by the system's choice, so that tests run beside each other.
const BASE: &str =
    "trust_domain = \"example.org\"\nlisten = \"127.0.0.1:0\"\nhealth = \"127.0.0.1:0\"\nstate_dir = \"state\"\n";

/// A running CA and the hand on its clock.
pub(crate) struct TestCa {
    pub(crate) dir: TempDir,
    pub(crate) running: Running,
    shift: Arc<AtomicI64>,
}

/// The machine's clock, moved by so many seconds.
pub(crate) fn shifted_clock(shift: Arc<AtomicI64>) -> Clock {
    Clock::from_fn(move || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let shift = shift.load(Ordering::Relaxed);
        let by = Duration::from_secs(shift.unsigned_abs());
        if shift < 0 { now.saturating_sub(by) } else { now + by }
    })
}

/// Writes a configuration below `dir` and returns its path.
pub(crate) fn write_config(dir: &Path, more: &str) -> PathBuf {
    let path = dir.join("ca.toml");
    std::fs::write(&path, format!("{BASE}{more}")).unwrap();
    path
}

impl TestCa {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more lines for the configuration file.
    pub(crate) async fn start_with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, more).await.unwrap()
    }

    pub(crate) async fn start_in(dir: TempDir, more: &str) -> anyhow::Result<Self> {
        let shift = Arc::new(AtomicI64::new(0));
        let clock = shifted_clock(shift.clone());
        let config = Config::read(&write_config(dir.path(), more)).unwrap();
        let running = program::start(config, clock).await?;
        Ok(Self { dir, running, shift })
    }

    /// Sets the CA's clock this many seconds beside the machine's.
    pub(crate) fn shift_clock(&self, seconds: i64) {
        self.shift.store(seconds, Ordering::Relaxed);
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.running.stop().await;
        self.dir
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn client(&self) -> Client {
        connect(&self.state(), &self.running.listen.to_string())
    }

    /// Asks over the admin socket.
    pub(crate) async fn admin(&self, request: Request) -> Result<Response, String> {
        ask(&self.state(), request).await
    }

    pub(crate) async fn token(&self, identity: &str, uid: &str) -> String {
        token(&self.state(), identity, uid).await
    }

    /// A machine that has joined.
    pub(crate) async fn joined(&self, identity: &str, uid: &str) -> Host {
        let host = Host::new();
        host.join(&mut self.client(), &self.token(identity, uid).await).await.unwrap();
        host
    }

    /// A second connection to the store, as another process has it.
    pub(crate) fn database(&self) -> rusqlite::Connection {
        database(&self.state())
    }
}

pub(crate) fn database(state: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(state.join("state.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
}

pub(crate) async fn ask(state: &Path, request: Request) -> Result<Response, String> {
    let socket = state.join("admin.sock");
    let asked = tokio::task::spawn_blocking(move || client::call(&socket, &request).map_err(|error| error.to_string()));
    asked.await.unwrap()
}

pub(crate) async fn token(state: &Path, identity: &str, uid: &str) -> String {
    let request = Request::CreateToken {
        identity: identity.into(),
        uid: Some(uid.into()),
        ttl_seconds: None,
        control: identity.contains("/ns/signet-system/"),
    };
    match ask(state, request).await.unwrap() {
        Response::Token { token, .. } => token,
        other => panic!("not a token: {other:?}"),
    }
}

/// Dials the CA and pins its reserved identity, as every workload does.
pub(crate) fn connect(state: &Path, address: &str) -> Client {
    connect_as(&trusting(state), address)
}

/// The same with the certificate that these credentials hold.
pub(crate) fn connect_as(credentials: &Arc<Credentials>, address: &str) -> Client {
    let ca: SpiffeId = "spiffe://example.org/ns/signet-system/sa/signet-ca".parse().unwrap();
    CertificateAuthorityClient::new(signet_enroll::channel(credentials, ca, address).unwrap())
}

/// Credentials that trust the bundle that the CA wrote.
pub(crate) fn trusting(state: &Path) -> Arc<Credentials> {
    let bundle = Bundle::from_pem(&std::fs::read_to_string(state.join("bundle.pem")).unwrap()).unwrap();
    let bundles = [("example.org".parse().unwrap(), bundle)].into();
    Credentials::new(TrustState { bundles, ..TrustState::default() }).unwrap()
}

/// A machine with its host key.
pub(crate) struct Host {
    pub(crate) key: PrivateKey,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { key: PrivateKey::generate().unwrap() }
    }

    pub(crate) fn id(&self) -> String {
        key_id(&self.key.public_key_der())
    }

    pub(crate) fn register_request(&self, token: &str) -> RegisterRequest {
        let public = self.key.public_key_der();
        let message = [b"signet register v1\0".as_slice(), &sha256(token.as_bytes()), &public].concat();
        RegisterRequest { join_token: token.into(), proof: self.key.sign(&message).unwrap(), host_public_key: public }
    }

    pub(crate) async fn join(&self, client: &mut Client, token: &str) -> Result<RegisterResponse, Status> {
        client.register(self.register_request(token)).await.map(tonic::Response::into_inner)
    }

    pub(crate) fn issue_request(&self, nonce: &[u8], csr: Vec<u8>) -> IssueRequest {
        let message = [b"signet issue v1\0".as_slice(), nonce, &sha256(&csr)].concat();
        let proof =
            HostKeyProof { host_key_id: self.id(), nonce: nonce.to_vec(), signature: self.key.sign(&message).unwrap() };
        IssueRequest { csr, trust_sequence_held: 0, attestation: Some(Attestation::HostKey(proof)), renewal: None }
    }

    /// Credentials with a certificate of this machine.
    pub(crate) async fn credentials(&self, ca: &TestCa) -> Arc<Credentials> {
        let mut client = ca.client();
        let key = KeyPair::generate().unwrap();
        let nonce = nonce(&mut client).await.unwrap();
        let issued = client.issue(self.issue_request(&nonce, csr_for(&key, |_| {}))).await.unwrap().into_inner();
        let chain = issued.chain.into_iter().map(Into::into).collect();
        let credentials = trusting(&ca.state());
        let key = PrivateKey::from_pkcs8_der(&key.serialize_der()).unwrap();
        credentials.set_svid(Svid::new(chain, &key).unwrap());
        credentials
    }

    /// Challenge and issuance with a new key.
    pub(crate) async fn issue(&self, client: &mut Client) -> Result<IssueResponse, Status> {
        let nonce = nonce(client).await?;
        client.issue(self.issue_request(&nonce, csr())).await.map(tonic::Response::into_inner)
    }
}

pub(crate) async fn nonce(client: &mut Client) -> Result<Vec<u8>, Status> {
    Ok(client.challenge(ChallengeRequest {}).await?.into_inner().nonce)
}

/// A request that asks for nothing, for a new key.
pub(crate) fn csr() -> Vec<u8> {
    csr_with(|_| {})
}

pub(crate) fn csr_with(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    csr_for(&KeyPair::generate().unwrap(), change)
}

fn csr_for(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}
