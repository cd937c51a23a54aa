//! ECDSA P-256 keys: leaf keys that live only in memory, and host keys. Secrets are zeroized and never printed.
use std::sync::Arc;
use zeroize::Zeroizing;

/// A P-256 private key.
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
}

/// What is wrong with a key or a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// placeholder
    #[error("key generation failed")]
    Generate,
}

impl PrivateKey {
    /// A fresh key from the operating system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        todo!()
    }
    /// Reads PKCS#8 DER; anything but P-256 is refused.
    pub fn from_pkcs8_der(_der: &[u8]) -> Result<Self, KeyError> {
        todo!()
    }
    /// Reads one PKCS#8 PEM block.
    pub fn from_pem(_pem: &str) -> Result<Self, KeyError> {
        todo!()
    }
    /// PKCS#8 DER; the caller keeps it secret.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }
    /// PKCS#8 PEM; the caller keeps it secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        todo!()
    }
    /// SubjectPublicKeyInfo, DER.
    pub fn public_key_der(&self) -> Vec<u8> {
        todo!()
    }
    /// ECDSA P-256 with SHA-256, ASN.1 encoded.
    pub fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, KeyError> {
        todo!()
    }
    /// For rustls.
    pub fn signing_key(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, KeyError> {
        todo!()
    }
}

/// Checks an ECDSA P-256 SHA-256 ASN.1 signature with a SubjectPublicKeyInfo (DER).
pub fn verify_signature(_public_key_der: &[u8], _message: &[u8], _signature: &[u8]) -> Result<(), KeyError> {
    todo!()
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}
