//! The webhook's own small CA: it certifies one name for the API server alone, and has nothing to do with the mesh's root.
//! Pure but for the keys it makes; times are unix seconds.
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::Duration;

const DAY: u64 = 24 * 3600;
/// Replaced after two thirds of it; then old and new stand in `caBundle` together.
pub(super) const LIFETIME: u64 = 90 * DAY;
/// Of the serving certificate, whose key is only in memory. Renewed after half of it.
pub(super) const LEAF_LIFETIME: u64 = 7 * DAY;
/// For clocks that differ.
const BACKDATE: u64 = 3600;

/// A CA certificate with its key.
pub(super) struct Authority {
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
    not_before: u64,
    pub(super) not_after: u64,
}

/// Why there is no authority or no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    #[error("not a certificate: {0}")]
    Certificate(String),
    #[error("the key is not the certificate's")]
    Mismatch,
    #[error(transparent)]
    Rcgen(#[from] rcgen::Error),
    #[error("the key cannot sign: {0}")]
    Key(#[from] rustls::Error),
    #[error("no random numbers")]
    Random,
}

impl Authority {
    /// A new one.
    pub(super) fn make(now: u64) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let (not_before, not_after) = (now.saturating_sub(BACKDATE), now + LIFETIME);
        let mut params = params("signet-webhook-ca", not_before, not_after)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), not_before, not_after })
    }

    /// One that was kept.
    pub(super) fn read(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let (not_before, not_after) = validity(certificate_pem)?;
        let key = KeyPair::from_pem(key_pem)?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(AuthorityError::Mismatch);
        }
        Ok(Self { certificate_pem: certificate_pem.to_owned(), key_pem: key_pem.to_owned(), not_before, not_after })
    }

    /// Whether it is time for the next one.
    pub(super) fn is_due(&self, now: u64) -> bool {
        now >= self.not_before + self.not_after.saturating_sub(self.not_before) / 3 * 2
    }

    /// A serving certificate for these names, with a new key.
    pub(super) fn issue(&self, names: &[String], now: u64) -> Result<Leaf, AuthorityError> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate_pem, KeyPair::from_pem(&self.key_pem)?)?;
        let key = KeyPair::generate()?;
        let not_after = (now + LEAF_LIFETIME).min(self.not_after);
        let mut params = params("signet-webhook", now.saturating_sub(BACKDATE).max(self.not_before), not_after)?;
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer)?;
        let secret = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&secret)?;
        Ok(Leaf {
            certified: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)),
            issuer_pem: self.certificate_pem.clone(),
            renew_at: now + not_after.saturating_sub(now) / 2,
        })
    }
}

/// A serving certificate in use.
pub(super) struct Leaf {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) issuer_pem: String,
    pub(super) renew_at: u64,
}

/// First and last second of a certificate's life.
pub(super) fn validity(certificate_pem: &str) -> Result<(u64, u64), AuthorityError> {
    let wrong = |error: String| AuthorityError::Certificate(error);
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|error| wrong(error.to_string()))?;
    let second = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Ok((second(certificate.validity().not_before), second(certificate.validity().not_after)))
}

fn params(name: &str, not_before: u64, not_after: u64) -> Result<CertificateParams, AuthorityError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| AuthorityError::Random)?;
    // Positive, and never short.
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
    Ok(params)
}
