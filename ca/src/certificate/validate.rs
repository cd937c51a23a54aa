//! The third step: the bytes are read by a parser that did not write them and compared, field by field, with what was meant.
//! A difference is a defect of ours (or of a library below us), and the certificate never leaves.
use super::{P256PublicKey, Role, Template, sign::utf8_string};
use rustls_pki_types::CertificateDer;
use signet_identity::{profile, verify};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{ExtendedKeyUsage, GeneralName, ParsedExtension, X509Extension},
    oid_registry as oids,
    x509::X509Version,
};

/// The field that differs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {found}")]
pub struct Mismatch {
    /// Which field.
    pub field: &'static str,
    /// What was found there.
    pub found: String,
}

fn require(holds: bool, field: &'static str, found: impl std::fmt::Debug) -> Result<(), Mismatch> {
    if holds { Ok(()) } else { Err(Mismatch { field, found: format!("{found:?}").chars().take(200).collect() }) }
}

/// Compares a certificate with its template; `issuer_key_id` is the issuer's subject key identifier.
pub fn validate(
    der: &CertificateDer<'_>,
    template: &Template,
    key: &P256PublicKey,
    issuer_key_id: &[u8],
) -> Result<(), Mismatch> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(der)
        .map_err(|error| Mismatch { field: "encoding", found: error.to_string() })?;
    require(rest.is_empty(), "encoding", "bytes after the certificate")?;
    require(certificate.version() == X509Version::V3, "version", certificate.version())?;
    require(certificate.raw_serial().trim_leading_zero() == template.serial.0, "serial", certificate.raw_serial())?;
    require(certificate.public_key().raw == key.spki(), "public key", certificate.public_key().raw)?;
    require(certificate.signature_algorithm.algorithm == oids::OID_SIG_ECDSA_WITH_SHA256, "signature algorithm", ())?;
    validity(&certificate, template)?;
    subject(&certificate, template, key)?;
    extensions(&certificate, template, key, issuer_key_id)?;
    // What every peer will read must be what was meant.
    let verifier = |error: verify::Rejection| Mismatch { field: "the verifier's reading", found: error.to_string() };
    match &template.role {
        Role::Leaf { uid } => {
            let leaf = verify::parse_leaf(der).map_err(verifier)?;
            require(leaf.id == template.id, "identity as the verifier reads it", &leaf.id)?;
            require(leaf.uid == *uid, "workload uid as the verifier reads it", &leaf.uid)
        }
        Role::Issuing => verify::check_issuing(der).map_err(verifier),
        // A root is read by `Trust::new` before it is published.
        Role::Root => Ok(()),
    }
}

trait TrimLeadingZero {
    fn trim_leading_zero(&self) -> &[u8];
}

impl TrimLeadingZero for [u8] {
    /// DER puts a zero before a positive number whose first bit is set.
    fn trim_leading_zero(&self) -> &[u8] {
        self.strip_prefix(&[0]).unwrap_or(self)
    }
}

fn validity(certificate: &X509Certificate<'_>, template: &Template) -> Result<(), Mismatch> {
    let (from, to) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    require(u64::try_from(from) == Ok(template.not_before), "notBefore", from)?;
    require(u64::try_from(to) == Ok(template.not_after), "notAfter", to)?;
    require(from < to, "validity", (from, to))
}

fn subject(certificate: &X509Certificate<'_>, template: &Template, key: &P256PublicKey) -> Result<(), Mismatch> {
    let names: Vec<_> = certificate.subject().iter_attributes().map(|name| name.as_str().unwrap_or("?")).collect();
    let want: Vec<_> = template.common_name(key).into_iter().collect();
    require(names == want, "subject", &names)?;
    require(certificate.issuer().iter_attributes().count() == 1, "issuer", certificate.issuer())
}

/// Exactly the extensions of the profile, each once, each with its criticality and its value.
fn extensions(
    certificate: &X509Certificate<'_>,
    template: &Template,
    key: &P256PublicKey,
    issuer_key_id: &[u8],
) -> Result<(), Mismatch> {
    let leaf_uid = match &template.role {
        Role::Leaf { uid } => uid.as_ref(),
        Role::Root | Role::Issuing => None,
    };
    let want = 5 + usize::from(!template.is_ca()) + usize::from(leaf_uid.is_some());
    let found: Vec<_> = certificate.iter_extensions().map(|extension| extension.oid.to_id_string()).collect();
    require(found.len() == want, "extensions", &found)?;
    let distinct: std::collections::BTreeSet<_> = found.iter().collect();
    require(distinct.len() == want, "extensions", &found)?;
    for extension in certificate.iter_extensions() {
        one(extension, template, key, issuer_key_id, leaf_uid.map(signet_identity::WorkloadUid::as_str))?;
    }
    Ok(())
}

fn one(
    extension: &X509Extension<'_>,
    template: &Template,
    key: &P256PublicKey,
    issuer_key_id: &[u8],
    uid: Option<&str>,
) -> Result<(), Mismatch> {
    let is_ca = template.is_ca();
    let critical = |want: bool, field| require(extension.critical == want, field, "criticality");
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => {
            critical(!is_ca, "subject alternative name")?;
            let only =
                matches!(names.general_names.as_slice(), [GeneralName::URI(uri)] if *uri == template.id.as_str());
            require(only, "subject alternative name", &names.general_names)
        }
        ParsedExtension::KeyUsage(usage) => {
            critical(true, "key usage")?;
            // Bit 0 is digitalSignature, bit 5 keyCertSign (RFC 5280 section 4.2.1.3).
            require(usage.flags == if is_ca { 1 << 5 } else { 1 }, "key usage", usage)
        }
        ParsedExtension::ExtendedKeyUsage(usage) if !is_ca => {
            critical(false, "extended key usage")?;
            let want = ExtendedKeyUsage {
                any: false,
                server_auth: true,
                client_auth: true,
                code_signing: false,
                email_protection: false,
                time_stamping: false,
                ocsp_signing: false,
                other: Vec::new(),
            };
            require(*usage == want, "extended key usage", usage)
        }
        ParsedExtension::BasicConstraints(constraints) => {
            critical(true, "basic constraints")?;
            let path = if template.role == Role::Issuing { Some(0) } else { None };
            require(
                constraints.ca == is_ca && constraints.path_len_constraint == path,
                "basic constraints",
                constraints,
            )
        }
        ParsedExtension::SubjectKeyIdentifier(id) => {
            critical(false, "subject key identifier")?;
            require(id.0 == template.subject_key_id(key), "subject key identifier", id)
        }
        ParsedExtension::AuthorityKeyIdentifier(id) => {
            critical(false, "authority key identifier")?;
            let alone = id.authority_cert_issuer.is_none() && id.authority_cert_serial.is_none();
            let right = id.key_identifier.as_ref().is_some_and(|id| id.0 == issuer_key_id);
            require(alone && right, "authority key identifier", id)
        }
        _ => {
            let ours = extension.oid.iter().is_some_and(|arcs| arcs.eq(profile::UID_EXTENSION.iter().copied()));
            require(ours, "extensions", extension.oid.to_id_string())?;
            critical(false, "workload uid")?;
            require(uid.is_some_and(|uid| extension.value == utf8_string(uid)), "workload uid", extension.value)
        }
    }
}
