//! A host that joins the CA with a token and has certificates issued, for the benchmarks: what a sidecar does at its start,
//! without its waits.
use aws_lc_rs::digest::{SHA256, digest};
use signet::demo::mesh::{Mesh, TRUST_DOMAIN};
use signet_identity::{Bundle, Credentials, PrivateKey, SpiffeId, TrustDomain, TrustState};
use signet_proto::ca::{
    ChallengeRequest, HostKeyProof, IssueRequest, IssueResponse, RegisterRequest,
    certificate_authority_client::CertificateAuthorityClient, issue_request::Attestation,
};
use std::{fs, path::Path, process::Command, sync::Arc};
use tonic::transport::Channel;

/// Buckets that no benchmark empties.
pub const UNLIMITED: &str = "[limits]\nper_workload = 1000000\nper_workload_burst = 1000000\nper_address = 1000000\nper_address_burst = 1000000\n";

/// A registered host key.
pub struct Host {
    client: CertificateAuthorityClient<Channel>,
    key: PrivateKey,
    id: String,
}

impl Host {
    /// Exchanges the token for a registration.
    pub async fn join(channel: Channel, token: String) -> Self {
        let mut client = CertificateAuthorityClient::new(channel);
        let key = PrivateKey::generate().expect("a key");
        let host_public_key = key.public_key_der();
        let message = [b"signet register v1\0", digest(&SHA256, token.as_bytes()).as_ref(), &host_public_key].concat();
        let proof = key.sign(&message).expect("a signature");
        let register = RegisterRequest { join_token: token, host_public_key, proof };
        let id = client.register(register).await.expect("registered").into_inner().host_key_id;
        Self { client, key, id }
    }

    /// One certificate for the request's key.
    pub async fn issue(&mut self, csr: &[u8]) -> IssueResponse {
        let nonce = self.client.challenge(ChallengeRequest {}).await.expect("a nonce").into_inner().nonce;
        let message = [b"signet issue v1\0", &nonce[..], digest(&SHA256, csr).as_ref()].concat();
        let signature = self.key.sign(&message).expect("a signature");
        let proof = HostKeyProof { host_key_id: self.id.clone(), nonce, signature };
        let request = IssueRequest {
            csr: csr.to_vec(),
            trust_sequence_held: 0,
            attestation: Some(Attestation::HostKey(proof)),
            renewal: None,
        };
        self.client.issue(request).await.expect("a certificate").into_inner()
    }
}

/// Credentials that know the mesh's first bundle and hold nothing.
pub fn bootstrap(mesh: &Mesh) -> Arc<Credentials> {
    let pem = fs::read_to_string(mesh.ca_dir().join("bundle.pem")).expect("the bundle");
    let bundles = [(trust_domain(), Bundle::from_pem(&pem).expect("a bundle"))].into();
    Credentials::new(TrustState { sequence: 0, bundles, ..TrustState::default() }).expect("credentials")
}

/// A channel to the CA; for the CA's own network namespace.
pub fn ca(credentials: &Arc<Credentials>) -> Channel {
    let ca = SpiffeId::workload(&trust_domain(), "signet-system", "signet-ca").expect("an identity");
    signet_enroll::channel(credentials, ca, "127.0.0.1:15012").expect("a channel")
}

/// The trust domain of every mesh that the demo makes.
pub fn trust_domain() -> TrustDomain {
    TRUST_DOMAIN.parse().expect("a trust domain")
}

/// A key and a request for it, made by openssl, in this directory: what it costs to make one is not what is measured.
pub fn csr(dir: &Path) -> (PrivateKey, Vec<u8>) {
    let openssl = |args: &[&str]| {
        let out = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "leaf.key"]);
    openssl(&["req", "-new", "-key", "leaf.key", "-subj", "/", "-outform", "DER", "-out", "leaf.csr"]);
    let key = fs::read_to_string(dir.join("leaf.key")).expect("the key");
    (PrivateKey::from_pem(&key).expect("a key"), fs::read(dir.join("leaf.csr")).expect("the request"))
}

/// CPU time that a process has used, in seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc");
    let fields: Vec<u64> =
        stat.rsplit_once(')').expect("stat").1.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    // Clock ticks are hundredths of a second on every Linux.
    (fields[11] + fields[12]) as f64 / 100.0
}
