//! One certificate, as it is shown. Parsed with a parser that is not the verifier's; the verifier's own reading gives the
//! problems, so that what is shown as good is what the mesh would take.
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use signet_identity::{Bundle, hex, profile, verify};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

/// What is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    /// Where it stood: `svid 1`.
    pub(crate) from: String,
    /// `leaf`, `issuing CA` or `root`.
    pub(crate) role: &'static str,
    /// Every URI SAN; good certificates have one.
    pub(crate) identities: Vec<String>,
    pub(crate) uid: Option<String>,
    pub(crate) dns_names: Vec<String>,
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// Lower-case hex.
    pub(crate) serial: String,
    /// Unix seconds.
    pub(crate) not_before: i64,
    /// Unix seconds.
    pub(crate) not_after: i64,
    pub(crate) usages: Vec<String>,
    /// Why the mesh would refuse it.
    pub(crate) problems: Vec<String>,
}

/// Reads one; whatever the bytes, there is something to show. `now` in unix seconds.
pub(crate) fn read(from: &str, der: &CertificateDer<'static>, now: i64) -> Shown {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return broken(from) };
    let ca = certificate.is_ca();
    let root = ca && certificate.subject() == certificate.issuer();
    let mut shown = Shown {
        role: if root {
            "root"
        } else if ca {
            "issuing CA"
        } else {
            "leaf"
        },
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        serial: serial(certificate.raw_serial()),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        ..broken(from)
    };
    shown.problems.clear();
    names(&certificate, &mut shown);
    usages(&certificate, &mut shown);
    let problem = match (root, ca) {
        (true, _) => Bundle::from_pem(&Bundle { roots: vec![der.clone()] }.to_pem()).err().map(|e| e.to_string()),
        (false, true) => verify::check_issuing(der).err().map(|e| e.to_string()),
        (false, false) => verify::parse_leaf(der).err().map(|e| e.to_string()),
    };
    shown.problems.extend(problem);
    if shown.not_after < now {
        shown.problems.push("it has ended".into());
    }
    if shown.not_before > now {
        shown.problems.push("it is not valid yet".into());
    }
    shown
}

fn broken(from: &str) -> Shown {
    Shown {
        from: from.into(),
        role: "no certificate",
        identities: Vec::new(),
        uid: None,
        dns_names: Vec::new(),
        subject: String::new(),
        issuer: String::new(),
        serial: String::new(),
        not_before: 0,
        not_after: 0,
        usages: Vec::new(),
        problems: vec!["these bytes are no X.509 certificate".into()],
    }
}

fn names(certificate: &X509Certificate<'_>, shown: &mut Shown) {
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => shown.identities.push((*uri).to_owned()),
                GeneralName::DNSName(name) => shown.dns_names.push((*name).to_owned()),
                other => shown.dns_names.push(format!("{other:?}")),
            }
        }
    }
    let uid = profile::UID_EXTENSION.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
    let extension = certificate.extensions().iter().find(|extension| extension.oid.to_id_string() == uid);
    // A DER UTF8String: tag, one byte of length, text.
    let text = extension.and_then(|extension| extension.value.get(2..));
    shown.uid = text.map(|text| String::from_utf8_lossy(text).into_owned());
}

fn usages(certificate: &X509Certificate<'_>, shown: &mut Shown) {
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => {
                let bits = [
                    (usage.digital_signature(), "digitalSignature"),
                    (usage.non_repudiation(), "nonRepudiation"),
                    (usage.key_encipherment(), "keyEncipherment"),
                    (usage.data_encipherment(), "dataEncipherment"),
                    (usage.key_agreement(), "keyAgreement"),
                    (usage.key_cert_sign(), "keyCertSign"),
                    (usage.crl_sign(), "cRLSign"),
                ];
                shown.usages.extend(bits.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned()));
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let bits = [(usage.any, "any"), (usage.server_auth, "serverAuth"), (usage.client_auth, "clientAuth")];
                shown.usages.extend(bits.into_iter().filter(|(set, _)| *set).map(|(_, name)| name.to_owned()));
                shown.usages.extend(usage.other.iter().map(ToString::to_string));
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                let length = constraints.path_len_constraint;
                shown.usages.push(length.map_or_else(|| "CA".into(), |n| format!("CA, path length {n}")));
            }
            _ => {}
        }
    }
}

/// Without leading zeros.
fn serial(bytes: &[u8]) -> String {
    let significant = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
    hex(bytes.get(significant..).unwrap_or_default())
}
