//! The second step: bytes from a template, with rcgen. Every field is set; rcgen's defaults (1975 to 4096, a serial from the
//! key, no basicConstraints) are never relied on.
use super::{Role, Template};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use signet_identity::{PrivateKey, profile};
use std::time::Duration;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// Not the kind of key that this mesh uses.
    #[error("the public key is not an uncompressed ECDSA P-256 SubjectPublicKeyInfo of 91 bytes")]
    PublicKey,
    /// The certificate that shall sign belongs to another key.
    #[error("the signing key is not the one of its certificate")]
    KeyMismatch,
    /// The certificate that shall sign cannot be read.
    #[error("the signing certificate cannot be read: {0}")]
    Issuer(String),
    /// rcgen refused.
    #[error("the certificate could not be written: {0}")]
    Write(#[from] rcgen::Error),
}

/// An ECDSA P-256 public key in uncompressed form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct P256PublicKey {
    spki: Vec<u8>,
}

impl P256PublicKey {
    /// Reads a SubjectPublicKeyInfo, DER. That the point lies on the curve shows when a signature is verified with it.
    pub fn from_spki(der: &[u8]) -> Result<Self, SignError> {
        profile::p256_point(der).map(|_| Self { spki: der.to_vec() }).ok_or(SignError::PublicKey)
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The uncompressed point.
    pub fn point(&self) -> &[u8] {
        profile::p256_point(&self.spki).unwrap_or_default()
    }
}

impl PublicKeyData for P256PublicKey {
    fn der_bytes(&self) -> &[u8] {
        self.point()
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A CA certificate with its key.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    subject_key_id: Vec<u8>,
    not_after: u64,
}

impl Signer {
    /// Joins a CA certificate and its key; they must belong together.
    pub fn new(certificate: CertificateDer<'static>, key: &PrivateKey) -> Result<Self, SignError> {
        let (subject_key_id, not_after) = {
            let unreadable = |what: &str| SignError::Issuer(what.into());
            let (_, parsed) =
                x509_parser::parse_x509_certificate(&certificate).map_err(|e| SignError::Issuer(e.to_string()))?;
            if parsed.public_key().raw != key.public_key_der() {
                return Err(SignError::KeyMismatch);
            }
            let id = parsed
                .iter_extensions()
                .find_map(|extension| match extension.parsed_extension() {
                    x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                    _ => None,
                })
                .ok_or_else(|| unreadable("it has no subject key identifier"))?;
            let end = u64::try_from(parsed.validity().not_after.timestamp())
                .map_err(|_| unreadable("it ends before 1970"))?;
            (id, end)
        };
        let issuer = Issuer::from_ca_cert_der(&certificate, key_pair(key)?)?;
        Ok(Self { issuer, certificate, subject_key_id, not_after })
    }

    /// Signs a template for a public key.
    pub fn sign(&self, template: &Template, key: &P256PublicKey) -> Result<CertificateDer<'static>, SignError> {
        Ok(params(template, key)?.signed_by(key, &self.issuer)?.into())
    }

    /// The CA certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its subject key identifier.
    pub fn subject_key_id(&self) -> &[u8] {
        &self.subject_key_id
    }

    /// Its end, unix seconds: nothing that it signs may live longer.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// A certificate signed by its own key, with the public half of that key.
pub(super) fn self_sign(
    template: &Template,
    key: &PrivateKey,
) -> Result<(CertificateDer<'static>, P256PublicKey), SignError> {
    let public = P256PublicKey::from_spki(&key.public_key_der())?;
    let certificate = params(template, &public)?.self_signed(&key_pair(key)?)?;
    Ok((certificate.into(), public))
}

/// The authority key identifier of a certificate: the subject key identifier of what signed it.
pub fn authority_key_id(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, SignError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|e| SignError::Issuer(e.to_string()))?;
    parsed
        .iter_extensions()
        .find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                Some(id.key_identifier.as_ref()?.0.to_vec())
            }
            _ => None,
        })
        .ok_or_else(|| SignError::Issuer("it has no authority key identifier".into()))
}

fn key_pair(key: &PrivateKey) -> Result<KeyPair, SignError> {
    let pkcs8 = key.to_pkcs8_der();
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()), &PKCS_ECDSA_P256_SHA256)?)
}

fn params(template: &Template, key: &P256PublicKey) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(template.not_before);
    params.not_after = epoch + Duration::from_secs(template.not_after);
    params.serial_number = Some(SerialNumber::from_slice(&template.serial.0));
    params.subject_alt_names = vec![SanType::URI(template.id.as_str().try_into()?)];
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = template.common_name(key) {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.key_identifier_method = KeyIdMethod::PreSpecified(template.subject_key_id(key));
    params.use_authority_key_identifier_extension = true;
    match &template.role {
        Role::Root => {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        }
        Role::Issuing => {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        }
        Role::Leaf { uid } => {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.custom_extensions = uid
                .iter()
                .map(|uid| CustomExtension::from_oid_content(profile::UID_EXTENSION, utf8_string(uid.as_str())))
                .collect();
        }
    }
    Ok(params)
}

/// DER UTF8String; a workload UID has at most 64 bytes, so that one byte holds the length.
pub(super) fn utf8_string(text: &str) -> Vec<u8> {
    let mut der = vec![0x0c, text.len() as u8];
    der.extend_from_slice(text.as_bytes());
    der
}
