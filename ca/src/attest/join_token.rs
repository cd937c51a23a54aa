//! Attestor `join-token`: a token made by `signet token create`, bound to one identity and one UID, registers the host key of
//! the machine that shows it, once.
use super::{Refusal, length};
use crate::store::{NewToken, Redemption};
use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use signet_identity::{SpiffeId, WorkloadUid, hex, key, profile};
use signet_proto::ca::RegisterRequest;
use zeroize::Zeroizing;

/// What every token begins with, so that scanners for leaked secrets can know it.
pub const PREFIX: &str = "signet_join_";
/// What the host key signs, before the token's hash and the public key.
const CONTEXT: &[u8] = b"signet register v1\0";

/// A token's text with what the store keeps of it.
#[derive(Debug)]
pub struct Minted {
    /// Shown once, to whoever asked for it.
    pub text: Zeroizing<String>,
    /// For the store.
    pub record: NewToken,
}

/// Makes a token of 256 random bits; `None` without randomness.
pub fn mint(identity: SpiffeId, uid: WorkloadUid, control: bool, created_at: u64, expires_at: u64) -> Option<Minted> {
    let mut random = Zeroizing::new([0; 32]);
    rand::fill(random.as_mut_slice()).ok()?;
    let text = Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random.as_slice())));
    let hash = sha256(text.as_bytes());
    let id = hex(hash.get(..6)?);
    Some(Minted { text, record: NewToken { hash, id, identity, uid, control, created_at, expires_at } })
}

/// A registration whose fields have the right form, and nothing more.
#[derive(Debug)]
pub struct Claim {
    /// What `Store::redeem` takes.
    pub redemption: Redemption,
    proof: Vec<u8>,
}

impl Claim {
    /// Checks the form: cheap, before any look-up or signature. The token's text is wiped.
    pub fn read(request: RegisterRequest) -> Result<Self, Refusal> {
        let token = Zeroizing::new(request.join_token);
        length("join_token", token.len(), 16..=256, "a token has 16 to 256 characters")?;
        length(
            "host_public_key",
            request.host_public_key.len(),
            91..=91,
            "an uncompressed P-256 SubjectPublicKeyInfo has 91 bytes",
        )?;
        length("proof", request.proof.len(), 8..=80, "an ECDSA P-256 signature in ASN.1 has 8 to 80 bytes")?;
        profile::p256_point(&request.host_public_key).ok_or(Refusal::Field {
            field: "host_public_key",
            found: "another kind of key".into(),
            want: "it must be an uncompressed ECDSA P-256 SubjectPublicKeyInfo in DER",
        })?;
        let redemption = Redemption {
            token_hash: sha256(token.as_bytes()),
            key_id: key_id(&request.host_public_key),
            public_key: request.host_public_key,
        };
        Ok(Self { redemption, proof: request.proof })
    }

    /// Whether the caller holds the private half of the host key and the token together.
    pub fn verify(&self) -> Result<(), Refusal> {
        let message = [CONTEXT, &self.redemption.token_hash, &self.redemption.public_key].concat();
        key::verify_signature(&self.redemption.public_key, &message, &self.proof).map_err(|_| Refusal::Proof)
    }
}

/// The name of a host key: lower-case hex SHA-256 of its SubjectPublicKeyInfo.
pub fn key_id(public_key_der: &[u8]) -> String {
    hex(&sha256(public_key_der))
}

pub(super) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}
