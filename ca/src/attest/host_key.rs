//! Attestor `host-key`: a registered host key signs the CA's fresh nonce together with the certificate request.
use super::{Attested, Refusal, join_token::sha256, length, nonces};
use crate::store::{HostKey, Store};
use signet_identity::key;
use signet_proto::ca::HostKeyProof;

/// The name in the journal.
pub const NAME: &str = "host-key";
/// What the host key signs, before the nonce and the request's hash.
const CONTEXT: &[u8] = b"signet issue v1\0";

/// A proof whose fields have the right form, and nothing more.
#[derive(Debug)]
pub struct Claim {
    key_id: String,
    nonce: Vec<u8>,
    signature: Vec<u8>,
}

impl Claim {
    /// Checks the form: cheap, before any look-up or signature.
    pub fn read(proof: HostKeyProof) -> Result<Self, Refusal> {
        length(
            "host_key_id",
            proof.host_key_id.len(),
            64..=64,
            "it is the lower-case hex SHA-256 of the host's public key",
        )?;
        length("nonce", proof.nonce.len(), nonces::LENGTH..=nonces::LENGTH, "ask Challenge for one of 32 bytes")?;
        length("signature", proof.signature.len(), 8..=80, "an ECDSA P-256 signature in ASN.1 has 8 to 80 bytes")?;
        Ok(Self { key_id: proof.host_key_id, nonce: proof.nonce, signature: proof.signature })
    }

    /// The nonce to check and to spend.
    pub fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    /// The registered key that this claim names.
    pub fn find(&self, store: &Store) -> Result<HostKey, Refusal> {
        store.host_key(&self.key_id)?.filter(|host| host.revoked_at.is_none()).ok_or(Refusal::HostKey)
    }

    /// Who the caller is, if the host key signed this nonce and this request.
    pub fn verify(&self, host: HostKey, csr: &[u8]) -> Result<Attested, Refusal> {
        let message = [CONTEXT, &self.nonce, &sha256(csr)].concat();
        key::verify_signature(&host.public_key, &message, &self.signature).map_err(|_| Refusal::Proof)?;
        Ok(Attested {
            id: host.identity,
            uid: Some(host.uid),
            attestor: NAME,
            host_key: Some(host.key_id),
            place: None,
        })
    }
}
