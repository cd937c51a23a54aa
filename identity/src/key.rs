//! ECDSA P-256 keys: leaf keys that live only in memory, and host keys. Secrets are zeroized and never printed.
//!
//! P-256 with SHA-256 is the one algorithm of the mesh. Another one joins here, in `profile` (which SubjectPublicKeyInfo a
//! certificate may carry) and in `verify` (which signatures a path may carry).
use crate::profile::{self, P256_POINT, P256_SPKI_PREFIX};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use zeroize::Zeroizing;

/// A P-256 private key. The pair holds the parsed key, which aws-lc wipes when it is freed.
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: EcdsaKeyPair,
}

/// What is wrong with a key or a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The operating system gave no randomness, or the library failed.
    #[error("key generation failed")]
    Generate,
    /// The bytes are no PKCS#8 private key for P-256.
    #[error("private key is not PKCS#8 for ECDSA P-256")]
    NotP256Pkcs8,
    /// The text holds no `PRIVATE KEY` block.
    #[error("no PEM block \"PRIVATE KEY\" was found")]
    NoPemBlock,
    /// The public key is not the SubjectPublicKeyInfo of an uncompressed P-256 point.
    #[error("public key is not a SubjectPublicKeyInfo for ECDSA P-256")]
    PublicKey,
    /// Signing failed inside the library.
    #[error("signing failed")]
    Sign,
    /// The signature is not this key's over this message.
    #[error("signature does not verify")]
    BadSignature,
}

impl PrivateKey {
    /// A fresh key from the operating system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Generate)?;
        let document = pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        Ok(Self { pkcs8: Zeroizing::new(document.as_ref().to_vec()), pair })
    }
    /// Reads PKCS#8 DER; anything but P-256 is refused.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(|_| KeyError::NotP256Pkcs8)?;
        Ok(Self { pkcs8: Zeroizing::new(der.to_vec()), pair })
    }
    /// Reads one PKCS#8 PEM block.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::NoPemBlock)?;
        let key = Zeroizing::new(key);
        Self::from_pkcs8_der(key.secret_pkcs8_der())
    }
    /// PKCS#8 DER; the caller keeps it secret.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }
    /// PKCS#8 PEM; the caller keeps it secret.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let body = Zeroizing::new(STANDARD.encode(self.pkcs8.as_slice()));
        // Room for everything at once: a string that grows leaves copies behind.
        let mut pem = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 64));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        for line in body.as_bytes().chunks(64) {
            pem.extend(line.iter().copied().map(char::from));
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }
    /// SubjectPublicKeyInfo, DER.
    pub fn public_key_der(&self) -> Vec<u8> {
        [P256_SPKI_PREFIX, self.pair.public_key().as_ref()].concat()
    }
    /// ECDSA P-256 with SHA-256, ASN.1 encoded.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Sign)?;
        Ok(signature.as_ref().to_vec())
    }
    /// For rustls.
    pub fn signing_key(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, KeyError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.as_slice()));
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).map_err(|_| KeyError::NotP256Pkcs8)
    }
}

/// Checks an ECDSA P-256 SHA-256 ASN.1 signature with a SubjectPublicKeyInfo (DER).
pub fn verify_signature(public_key_der: &[u8], message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
    let point = profile::p256_point(public_key_der).ok_or(KeyError::PublicKey)?;
    debug_assert_eq!(point.len(), P256_POINT);
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(message, signature)
        .map_err(|_| KeyError::BadSignature)
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

#[cfg(test)]
mod tests;
