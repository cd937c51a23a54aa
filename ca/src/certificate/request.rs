//! A workload's certificate request. Its own signature must verify, which proves possession of the key, and its public key is
//! all that is used; whatever else it asks for is refused, so that nobody believes it was granted (F32).
use super::{P256PublicKey, SignError};
use signet_identity::{KeyError, key};
use x509_parser::{certification_request::X509CertificationRequest, oid_registry as oids, prelude::FromDer};

/// The longest request that is looked at; one that asks for nothing has about 230 bytes.
pub(super) const MAX_REQUEST: usize = 1024;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Longer than any honest one.
    #[error("the request has {0} bytes; one that asks for nothing but a certificate has at most {MAX_REQUEST}")]
    TooLong(usize),
    /// Not PKCS#10 DER.
    #[error("the request is not a PKCS#10 certification request in DER")]
    Malformed,
    /// Not v1.
    #[error("the request's version is not v1")]
    Version,
    /// It wants a name.
    #[error("the request asks for a subject; identity comes from attestation, leave the subject empty")]
    Subject,
    /// It wants extensions or carries a challenge.
    #[error("the request carries attributes; nothing but the public key is used, leave them out")]
    Attributes,
    /// The wrong kind of signature.
    #[error("the request's signature is not ECDSA with SHA-256")]
    Algorithm,
    /// The wrong kind of key.
    #[error(transparent)]
    Key(#[from] SignError),
    /// The signature does not verify.
    #[error("the request's signature does not verify with its own public key")]
    Signature(#[source] KeyError),
}

/// Checks a request (PKCS#10, DER) and returns its public key. The bytes that are parsed are the bytes that are signed.
pub fn public_key_of_request(der: &[u8]) -> Result<P256PublicKey, RequestError> {
    if der.len() > MAX_REQUEST {
        return Err(RequestError::TooLong(der.len()));
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
    let info = &request.certification_request_info;
    if !rest.is_empty() || request.signature_value.unused_bits != 0 {
        return Err(RequestError::Malformed);
    }
    if info.version.0 != 0 {
        return Err(RequestError::Version);
    }
    if info.subject.iter_rdn().next().is_some() {
        return Err(RequestError::Subject);
    }
    if !info.attributes().is_empty() {
        return Err(RequestError::Attributes);
    }
    if request.signature_algorithm.algorithm != oids::OID_SIG_ECDSA_WITH_SHA256 {
        return Err(RequestError::Algorithm);
    }
    let public = P256PublicKey::from_spki(info.subject_pki.raw)?;
    // A request that asks for nothing has one encoding. Comparing it whole leaves no room between what the parser skipped
    // and what was signed (F24).
    if info.raw != plain_request_info(&public) {
        return Err(RequestError::Malformed);
    }
    key::verify_signature(public.spki(), info.raw, &request.signature_value.data).map_err(RequestError::Signature)?;
    Ok(public)
}

/// CertificationRequestInfo (RFC 2986 section 4.1) with version v1, no subject and no attributes.
fn plain_request_info(public: &P256PublicKey) -> Vec<u8> {
    let mut der = vec![0x30, 98, 0x02, 0x01, 0x00, 0x30, 0x00];
    der.extend_from_slice(public.spki());
    der.extend_from_slice(&[0xa0, 0x00]);
    der
}
