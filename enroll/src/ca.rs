//! The CA's client: one function for each call of `signet.ca.v1`, with its signatures, its time limit and the checks of its
//! answer that need no trust.
use crate::connect::{self, ConnectError, Connector};
use crate::pod::Renewal;
use crate::state_dir::Registration;
use crate::{escaped, printable};
use aws_lc_rs::digest::{SHA256, digest};
use rcgen::PublicKeyData;
use signet_identity::{Credentials, KeyError, PrivateKey, SpiffeId, TrustDomain, hex};
use signet_proto::ca::certificate_authority_client::CertificateAuthorityClient;
use signet_proto::ca::issue_request::Attestation;
use signet_proto::ca::{
    self as wire, ChallengeRequest, HostKeyProof, IssueRequest, KubernetesProof, RegisterRequest, RenewalProof,
    WatchTrustRequest,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// How long one call may take, connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer: a trust state of many trust domains.
const MAX_ANSWER: usize = 16 << 20;
const REGISTER_LABEL: &[u8] = b"signet register v1\0";
const ISSUE_LABEL: &[u8] = b"signet issue v1\0";
const RENEW_LABEL: &[u8] = b"signet renew v1\0";

/// Why a call gave nothing that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The CA refused, or was not reached.
    #[error("{call}: {}", shown(.status))]
    Refused {
        /// Which call.
        call: &'static str,
        /// What came instead of an answer.
        status: Box<Status>,
    },
    /// No answer in time.
    #[error("{0}: no answer within 15 s")]
    TimedOut(&'static str),
    /// An answer that a CA would not give.
    #[error("{call}: the answer's {field} is not usable: {problem}")]
    Answer {
        /// Which call.
        call: &'static str,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A key of ours failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate request could not be made.
    #[error("cannot make a certificate request: {0}")]
    Request(#[from] rcgen::Error),
}

fn shown(status: &Status) -> String {
    use std::error::Error;
    // A failure to connect says "transport error" and why below it.
    match status.source() {
        Some(source) => escaped(source),
        None => format!("{:?}: {}", status.code(), printable(status.message(), 300)),
    }
}

impl CallError {
    /// The delay that a busy CA asked for.
    pub(crate) fn asked_delay(&self) -> Option<Duration> {
        self.retry_after(Code::ResourceExhausted)
    }

    /// The delay of a CA that expects to be able to answer soon: it waits for something of ours to be published.
    pub(crate) fn soon(&self) -> Option<Duration> {
        self.retry_after(Code::Unavailable)
    }

    /// Whether another process of the CA may do better.
    pub(crate) fn is_of_this_replica(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::Refused { status, .. } => {
                matches!(status.code(), Code::Unavailable | Code::Internal | Code::Unknown | Code::DeadlineExceeded)
                    && self.soon().is_none()
            }
            _ => false,
        }
    }

    fn retry_after(&self, code: Code) -> Option<Duration> {
        let Self::Refused { status, .. } = self else { return None };
        if status.code() != code {
            return None;
        }
        let asked = status.metadata().get("retry-after-ms")?.to_str().ok()?;
        asked.parse().ok().map(Duration::from_millis)
    }

    /// Whether asking again with the same words would get the same answer.
    pub(crate) fn is_final(&self) -> bool {
        let Self::Refused { status, .. } = self else { return false };
        matches!(
            status.code(),
            Code::PermissionDenied
                | Code::Unauthenticated
                | Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::FailedPrecondition
        )
    }
}

/// A connection to the CA, made when first used.
#[derive(Debug)]
pub(crate) struct Ca {
    client: Mutex<CertificateAuthorityClient<Channel>>,
    connector: Connector,
    address: String,
    trust_domain: TrustDomain,
}

impl Ca {
    pub(crate) fn new(credentials: &Arc<Credentials>, identity: SpiffeId, address: &str) -> Result<Self, ConnectError> {
        let trust_domain = identity.trust_domain();
        let connector = connect::connector(credentials, identity, connect::ALPN);
        let client = Mutex::new(client_over(connector.clone(), address)?);
        Ok(Self { client, connector, address: address.to_owned(), trust_domain })
    }

    fn client(&self) -> CertificateAuthorityClient<Channel> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the next call open a new connection, to another address of the CA's name where it has several.
    pub(crate) fn turn_elsewhere(&self) {
        // The address was good when the first client was made of it.
        if let Ok(client) = client_over(self.connector.clone(), &self.address) {
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
        }
    }

    /// Exchanges a join token for the registration of `key`.
    pub(crate) async fn register(&self, token: &str, key: PrivateKey) -> Result<Registration, CallError> {
        const CALL: &str = "Register";
        let token_hash = digest(&SHA256, token.as_bytes());
        let host_public_key = key.public_key_der();
        let proof = key.sign(&[REGISTER_LABEL, token_hash.as_ref(), &host_public_key].concat())?;
        let id_of_key = hex(digest(&SHA256, &host_public_key).as_ref());
        let request = RegisterRequest { join_token: token.to_owned(), host_public_key, proof };
        let mut client = self.client();
        let answer = within(CALL, client.register(request)).await?;
        let wrong = |field, problem: String| CallError::Answer { call: CALL, field, problem };
        if answer.host_key_id != id_of_key {
            return Err(wrong("host_key_id", "not the hash of the key that was sent".into()));
        }
        let id: SpiffeId =
            answer.spiffe_id.parse().map_err(|e: signet_identity::IdError| wrong("spiffe_id", e.to_string()))?;
        if id.trust_domain() != self.trust_domain {
            return Err(wrong("spiffe_id", format!("{id} is not of trust domain {}", self.trust_domain)));
        }
        let uid = answer.workload_uid.parse();
        let uid = uid.map_err(|e: signet_identity::UidError| wrong("workload_uid", e.to_string()))?;
        Ok(Registration { key, host_key_id: id_of_key, id, uid, token_hash: hex(token_hash.as_ref()) })
    }

    /// Asks for a leaf for `leaf_key`; the registered key answers for this host.
    pub(crate) async fn issue(
        &self,
        registration: &Registration,
        leaf_key: &PrivateKey,
        trust_sequence_held: u64,
    ) -> Result<wire::IssueResponse, CallError> {
        let mut client = self.client();
        let nonce = challenge(&mut client).await?;
        let csr = certificate_request(leaf_key)?;
        let signed = [ISSUE_LABEL, &nonce, digest(&SHA256, &csr).as_ref()].concat();
        let signature = registration.key.sign(&signed)?;
        let proof = HostKeyProof { host_key_id: registration.host_key_id.clone(), nonce, signature };
        let attestation = Some(Attestation::HostKey(proof));
        within("Issue", client.issue(IssueRequest { csr, trust_sequence_held, attestation, renewal: None })).await
    }

    /// Asks for a leaf for `leaf_key`; the cluster answers for this pod, and where it cannot, the SVID that is held.
    pub(crate) async fn issue_to_pod(
        &self,
        token: &str,
        renewal: Option<&Renewal>,
        leaf_key: &PrivateKey,
        trust_sequence_held: u64,
    ) -> Result<wire::IssueResponse, CallError> {
        let mut client = self.client();
        let csr = certificate_request(leaf_key)?;
        let renewal = match renewal {
            None => None,
            Some(Renewal { svid, receipt }) => {
                let nonce = challenge(&mut client).await?;
                let signature = svid.sign(&[RENEW_LABEL, &nonce, digest(&SHA256, &csr).as_ref()].concat())?;
                let chain = svid.chain().iter().map(|certificate| certificate.to_vec()).collect();
                Some(RenewalProof { chain, receipt: receipt.clone(), nonce, signature })
            }
        };
        let attestation = Some(Attestation::Kubernetes(KubernetesProof { token: token.to_owned() }));
        within("Issue", client.issue(IssueRequest { csr, trust_sequence_held, attestation, renewal })).await
    }

    /// The stream of trust states newer than the one held.
    pub(crate) async fn watch_trust(&self, sequence_held: u64) -> Result<Streaming<wire::TrustState>, CallError> {
        let mut client = self.client();
        within("WatchTrust", client.watch_trust(WatchTrustRequest { sequence_held })).await
    }
}

fn client_over(connector: Connector, address: &str) -> Result<CertificateAuthorityClient<Channel>, ConnectError> {
    let channel = connect::channel_with(connector, address)?;
    Ok(CertificateAuthorityClient::new(channel).max_decoding_message_size(MAX_ANSWER))
}

/// A fresh nonce, good where this client is connected.
async fn challenge(client: &mut CertificateAuthorityClient<Channel>) -> Result<Vec<u8>, CallError> {
    let nonce = within("Challenge", client.challenge(ChallengeRequest {})).await?.nonce;
    if nonce.len() != 32 {
        let problem = format!("{} bytes, not 32", nonce.len());
        return Err(CallError::Answer { call: "Challenge", field: "nonce", problem });
    }
    Ok(nonce)
}

async fn within<T>(
    call: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::Refused { call, status: Box::new(status) }),
        Err(_) => Err(CallError::TimedOut(call)),
    }
}

/// Lower-case hex SHA-256 of a join token, as a registration keeps it.
pub(crate) fn token_hash(token: &str) -> String {
    hex(digest(&SHA256, token.as_bytes()).as_ref())
}

/// A PKCS#10 request for a key that asks for nothing: no subject, no extension.
fn certificate_request(key: &PrivateKey) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let spki = key.public_key_der();
    let point = signet_identity::profile::p256_point(&spki).ok_or(rcgen::Error::KeyGenerationUnavailable)?;
    Ok(params.serialize_request(&RequestKey { key, point })?.der().to_vec())
}

/// Lends a key to rcgen without giving it away.
struct RequestKey<'a> {
    key: &'a PrivateKey,
    point: &'a [u8],
}

impl PublicKeyData for RequestKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.point
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for RequestKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod tests;
