//! Certificates for tests: a root, an issuing CA and leaves that keep the profile, made by rcgen, with a hook to break it.
//! Compiled for tests alone (feature `testing`); tests of other crates use it for peers they need.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
use crate::{Bundle, Credentials, PrivateKey, SpiffeId, Svid, TrustDomain, TrustState, profile};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::ops::Range;
use std::sync::Arc;

/// A CA of one trust domain: a root and one issuing CA below it.
#[derive(Debug)]
pub struct Authority {
    /// Whose leaves it issues.
    pub trust_domain: TrustDomain,
    /// The root.
    pub root: Signer,
    /// The issuing CA.
    pub issuing: Signer,
}

/// A CA certificate and its key.
#[derive(Debug)]
pub struct Signer {
    /// DER.
    pub certificate: CertificateDer<'static>,
    params: CertificateParams,
    key: KeyPair,
}

/// Unix seconds, now.
pub fn now() -> u64 {
    UnixTime::now().as_secs()
}

fn serial() -> SerialNumber {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn set_validity(params: &mut CertificateParams, validity: &Range<u64>) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + std::time::Duration::from_secs(validity.start);
    params.not_after = epoch + std::time::Duration::from_secs(validity.end);
}

/// A CA's certificate as the profile wants it.
pub fn ca_params(trust_domain: &TrustDomain, name: &str, path_length: Option<u8>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![SanType::URI(trust_domain.id().as_str().try_into().unwrap())];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, &(now() - 3600..now() + 7 * 86_400));
    params
}

/// A leaf as the profile wants it, with this validity in unix seconds.
pub fn leaf_params(id: &SpiffeId, uid: Option<&str>, validity: &Range<u64>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
    params.use_authority_key_identifier_extension = true;
    if let Some(uid) = uid {
        params.custom_extensions.push(uid_extension(uid.as_bytes()));
    }
    set_validity(&mut params, validity);
    params
}

/// The workload UID extension with this text, which must be shorter than 128 bytes.
pub fn uid_extension(text: &[u8]) -> CustomExtension {
    let content = [&[0x0c, u8::try_from(text.len()).unwrap()], text].concat();
    CustomExtension::from_oid_content(profile::UID_EXTENSION, content)
}

impl Signer {
    /// A root.
    pub fn root(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, params, key }
    }
    /// A CA below this one.
    #[must_use]
    pub fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = self.sign(&params, &key);
        Self { certificate, params, key }
    }
    /// Signs whatever `params` say.
    pub fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> CertificateDer<'static> {
        params.signed_by(key, &Issuer::from_params(&self.params, &self.key)).unwrap().der().clone()
    }
}

impl Authority {
    /// A CA for this trust domain.
    pub fn new(trust_domain: &str) -> Self {
        let trust_domain: TrustDomain = trust_domain.parse().unwrap();
        let root = Signer::root(ca_params(&trust_domain, "root", None));
        let issuing = root.below(ca_params(&trust_domain, "issuing", Some(0)));
        Self { trust_domain, root, issuing }
    }
    /// Its root.
    pub fn bundle(&self) -> Bundle {
        Bundle { roots: vec![self.root.certificate.clone()] }
    }
    /// A trust state with its bundle alone.
    pub fn trust_state(&self, sequence: u64) -> TrustState {
        let bundles = [(self.trust_domain.clone(), self.bundle())].into();
        TrustState { sequence, bundles, ..TrustState::default() }
    }
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub fn id(&self, namespace: &str, service_account: &str) -> SpiffeId {
        SpiffeId::workload(&self.trust_domain, namespace, service_account).unwrap()
    }
    /// Credentials that trust this CA and hold an SVID from it, valid for an hour.
    pub fn credentials(&self, namespace: &str, service_account: &str, uid: Option<&str>) -> Arc<Credentials> {
        let credentials = Credentials::new(self.trust_state(1)).unwrap();
        credentials.set_svid(self.svid(&self.id(namespace, service_account), uid));
        credentials
    }
    /// An SVID that is valid for an hour.
    pub fn svid(&self, id: &SpiffeId, uid: Option<&str>) -> Svid {
        let (chain, key) = self.issue(&leaf_params(id, uid, &(now() - 60..now() + 3600)));
        Svid::new(chain, &key).unwrap()
    }
    /// A new key and its chain, leaf first, for whatever `params` say.
    pub fn issue(&self, params: &CertificateParams) -> (Vec<CertificateDer<'static>>, PrivateKey) {
        let key = PrivateKey::generate().unwrap();
        (self.certify(params, &key.public_key_der()), key)
    }
    /// The chain, leaf first, for this SubjectPublicKeyInfo.
    pub fn certify(&self, params: &CertificateParams, public_key_der: &[u8]) -> Vec<CertificateDer<'static>> {
        let public_key = SubjectPublicKeyInfo::from_der(public_key_der).unwrap();
        vec![self.issuing.sign(params, &public_key), self.issuing.certificate.clone()]
    }
}
