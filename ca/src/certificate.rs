//! A certificate in three visible steps: `template` says what it shall hold, `sign` makes it, `validate` reads it back with
//! another parser and compares. Nothing leaves the CA that has not gone through all three.
//!
//! Called by `root` and `issuing` for CA certificates and by `issuance` for leaves. Pure: time, keys and serials come in.
mod request;
mod sign;
mod template;
mod validate;

pub use request::{RequestError, public_key_of_request};
pub use sign::{P256PublicKey, SignError, Signer, authority_key_id};
pub use template::{Role, Serial, Template};
pub use validate::{Mismatch, validate};

use rustls_pki_types::CertificateDer;
use signet_identity::PrivateKey;

/// Why no certificate came out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The second step.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The third: a defect of ours, never the caller's fault.
    #[error("the certificate that was made is not the one that was meant: {0}")]
    Validate(#[from] Mismatch),
}

/// Signs a template with an issuer and validates the result.
pub fn make(
    template: &Template,
    key: &P256PublicKey,
    issuer: &Signer,
) -> Result<CertificateDer<'static>, CertificateError> {
    let der = issuer.sign(template, key)?;
    validate(&der, template, key, issuer.subject_key_id())?;
    Ok(der)
}

/// The same for a root, which signs itself.
pub fn make_root(template: &Template, key: &PrivateKey) -> Result<CertificateDer<'static>, CertificateError> {
    let (der, public) = sign::self_sign(template, key)?;
    validate(&der, template, &public, &template.subject_key_id(&public))?;
    Ok(der)
}

#[cfg(test)]
mod tests;
