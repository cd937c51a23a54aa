use super::*;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, KeyUsagePurpose, SanType};
use signet_identity::{SpiffeId, TrustDomain};
use std::{process::Command, time::Duration};
use x509_parser::prelude::FromDer;

const NOW: u64 = 1_800_000_000;
const HOUR: Duration = Duration::from_hours(1);

fn td() -> TrustDomain {
    "example.org".parse().unwrap()
}

fn orders() -> SpiffeId {
    "spiffe://example.org/ns/shop/sa/orders".parse().unwrap()
}

fn public(key: &PrivateKey) -> P256PublicKey {
    P256PublicKey::from_spki(&key.public_key_der()).unwrap()
}

fn root_at(now: u64, lifetime: Duration) -> Signer {
    let key = PrivateKey::generate().unwrap();
    let template = Template::root(&td(), Serial::random().unwrap(), now, lifetime);
    Signer::new(make_root(&template, &key).unwrap(), &key).unwrap()
}

fn issuing_below(root: &Signer, now: u64, lifetime: Duration) -> Signer {
    let key = PrivateKey::generate().unwrap();
    let template = Template::issuing(&td(), Serial::random().unwrap(), now, lifetime, root.not_after());
    Signer::new(make(&template, &public(&key), root).unwrap(), &key).unwrap()
}

fn leaf_template(uid: Option<&str>, issuer: &Signer) -> Template {
    let uid = uid.map(|uid| uid.parse().unwrap());
    Template::leaf(orders(), uid, Serial::random().unwrap(), NOW, HOUR, issuer.not_after())
}

fn leaf(uid: Option<&str>, issuer: &Signer) -> CertificateDer<'static> {
    make(&leaf_template(uid, issuer), &public(&PrivateKey::generate().unwrap()), issuer).unwrap()
}

#[test]
fn caps_every_lifetime_to_the_issuers() {
    let root = root_at(NOW, HOUR * 2);
    let issuing = issuing_below(&root, NOW, HOUR * 24);
    assert_eq!(issuing.not_after(), root.not_after());
    let short = issuing_below(&root, NOW, HOUR / 2);
    assert_eq!(leaf_template(None, &short).not_after, short.not_after());
    assert_eq!(leaf_template(None, &issuing).not_after, NOW + 3600);
}

#[test]
fn back_dates_a_leaf_by_two_minutes_or_a_quarter_of_its_life() {
    for (life, want) in [(3600, 120), (480, 120), (479, 119), (8, 2), (3, 0)] {
        let life = Duration::from_secs(life);
        let template = Template::leaf(orders(), None, Serial::random().unwrap(), NOW, life, u64::MAX);
        assert_eq!(NOW - template.not_before, want, "life {life:?}");
    }
}

#[test]
fn f32_serials_are_random_and_never_start_with_a_zero() {
    let serials: std::collections::HashSet<_> = (0..10_000).map(|_| Serial::random().unwrap()).collect();
    assert_eq!(serials.len(), 10_000);
    assert!(serials.iter().all(|serial| serial.0[0] != 0));
}

#[test]
fn a_signer_needs_the_key_of_its_certificate() {
    let root = root_at(NOW, HOUR);
    let other = PrivateKey::generate().unwrap();
    assert!(matches!(Signer::new(root.certificate().clone(), &other), Err(SignError::KeyMismatch)));
}

/// Each is what a defect below us could produce; the second parser must notice.
#[test]
fn l1_to_l10_a_certificate_that_differs_from_its_template_does_not_leave() {
    let root = root_at(NOW, HOUR * 2);
    let issuing = issuing_below(&root, NOW, HOUR);
    let key = public(&PrivateKey::generate().unwrap());
    let template = leaf_template(Some("orders-1"), &issuing);
    let der = issuing.sign(&template, &key).unwrap();
    validate(&der, &template, &key, issuing.subject_key_id()).unwrap();
    let other_key = public(&PrivateKey::generate().unwrap());
    let wrong = |template: Template, key: &P256PublicKey, issuer: &[u8]| {
        validate(&der, &template, key, issuer).unwrap_err().field
    };
    let id = issuing.subject_key_id();
    assert_eq!(wrong(Template { serial: Serial([1; 16]), ..template.clone() }, &key, id), "serial");
    assert_eq!(wrong(Template { not_after: NOW, ..template.clone() }, &key, id), "notAfter");
    assert_eq!(wrong(Template { not_before: NOW, ..template.clone() }, &key, id), "notBefore");
    assert_eq!(wrong(Template { id: td().id(), ..template.clone() }, &key, id), "subject alternative name");
    assert_eq!(wrong(Template { role: Role::Leaf { uid: None }, ..template.clone() }, &key, id), "extensions");
    let other_uid = Role::Leaf { uid: Some("orders-2".parse().unwrap()) };
    assert_eq!(wrong(Template { role: other_uid, ..template.clone() }, &key, id), "workload uid");
    assert_eq!(wrong(Template { role: Role::Issuing, ..template.clone() }, &key, id), "subject");
    assert_eq!(wrong(template.clone(), &other_key, id), "public key");
    assert_eq!(wrong(template, &key, b"another issuer"), "authority key identifier");
}

fn openssl(dir: &std::path::Path, arguments: &[&str]) -> String {
    let out = Command::new("openssl").args(arguments).current_dir(dir).output().expect("openssl is installed");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "openssl {arguments:?}: {text}");
    text
}

fn pem(der: &CertificateDer<'_>) -> String {
    signet_identity::Bundle { roots: vec![der.clone().into_owned()] }.to_pem()
}

#[test]
fn openssl_verifies_the_chain_and_reads_every_field_of_the_profile() {
    let dir = tempfile::tempdir().unwrap();
    let root = root_at(NOW, HOUR * 4);
    let issuing = issuing_below(&root, NOW, HOUR * 2);
    let leaf = leaf(Some("orders-1"), &issuing);
    for (name, der) in [("root", root.certificate()), ("issuing", issuing.certificate()), ("leaf", &leaf)] {
        std::fs::write(dir.path().join(name), pem(der)).unwrap();
    }
    let at = NOW.to_string();
    for purpose in ["sslserver", "sslclient"] {
        openssl(
            dir.path(),
            &[
                "verify",
                "-x509_strict",
                "-attime",
                &at,
                "-purpose",
                purpose,
                "-CAfile",
                "root",
                "-untrusted",
                "issuing",
                "leaf",
            ],
        );
    }
    let text = |name: &str| openssl(dir.path(), &["x509", "-in", name, "-noout", "-text"]);
    let has = |name: &str, wants: &[&str]| {
        let text = text(name);
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for want in wants {
            assert!(flat.contains(want), "{name} lacks {want:?}:\n{text}");
        }
    };
    has(
        "root",
        &[
            "X509v3 Basic Constraints: critical CA:TRUE",
            "X509v3 Key Usage: critical Certificate Sign",
            "URI:spiffe://example.org ",
            "X509v3 Subject Key Identifier",
            "X509v3 Authority Key Identifier",
            "CN = Signet root",
        ],
    );
    has("issuing", &["CA:TRUE, pathlen:0", "X509v3 Key Usage: critical Certificate Sign", "CN = Signet issuing CA"]);
    has(
        "leaf",
        &[
            "X509v3 Basic Constraints: critical CA:FALSE",
            "X509v3 Key Usage: critical Digital Signature",
            "TLS Web Server Authentication, TLS Web Client Authentication",
            "X509v3 Subject Alternative Name: critical URI:spiffe://example.org/ns/shop/sa/orders",
            "2.25.211395830.1: ..orders-1",
            "ecdsa-with-SHA256",
        ],
    );
    assert!(!text("root").contains("pathlen"), "a root has no path length");
    assert!(!text("root").contains("Extended Key Usage") && !text("issuing").contains("Extended Key Usage"));
    assert!(
        openssl(dir.path(), &["x509", "-in", "leaf", "-noout", "-subject"])
            .trim()
            .trim_start_matches("subject=")
            .trim()
            .is_empty()
    );
}

fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[test]
fn a_request_that_asks_for_nothing_gives_its_public_key() {
    let der = request(|_| {});
    let key = public_key_of_request(&der).unwrap();
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&der).unwrap();
    assert_eq!(parsed.certification_request_info.subject_pki.raw, key.spki());
}

#[test]
fn f32_a_request_with_a_broken_signature_or_any_wish_is_refused() {
    let good = request(|_| {});
    let mut broken = good.clone();
    *broken.last_mut().unwrap() ^= 1;
    assert!(matches!(public_key_of_request(&broken), Err(RequestError::Signature(_) | RequestError::Malformed)));
    let mut other_key = request(|_| {});
    // The key of one request below the signature of another.
    other_key.splice(4..104, good[4..104].iter().copied());
    assert!(public_key_of_request(&other_key).is_err());
    let named = request(|p| p.distinguished_name.push(DnType::CommonName, "orders"));
    assert!(matches!(public_key_of_request(&named), Err(RequestError::Subject)));
    let san =
        request(|p| p.subject_alt_names = vec![SanType::URI("spiffe://example.org/ns/a/sa/b".try_into().unwrap())]);
    assert!(matches!(public_key_of_request(&san), Err(RequestError::Attributes)));
    let usage = request(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    assert!(matches!(public_key_of_request(&usage), Err(RequestError::Attributes)));
    let ca = request(|p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert!(matches!(public_key_of_request(&ca), Err(RequestError::Attributes)));
    let ed25519 = {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    };
    assert!(matches!(public_key_of_request(&ed25519), Err(RequestError::Algorithm)));
    let p384 = {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    };
    assert!(public_key_of_request(&p384).is_err());
}

#[test]
fn f25_both_sides_of_the_length_limit() {
    let good = request(|_| {});
    for length in [request::MAX_REQUEST, request::MAX_REQUEST + 1] {
        let mut long = good.clone();
        long.resize(length, 0);
        let error = public_key_of_request(&long).unwrap_err();
        assert_eq!(matches!(error, RequestError::TooLong(_)), length > request::MAX_REQUEST, "{length}: {error}");
    }
    for length in 0..good.len() {
        assert!(public_key_of_request(&good[..length]).is_err(), "a request cut to {length} bytes");
    }
    let mut trailing = good;
    trailing.push(0);
    assert!(matches!(public_key_of_request(&trailing), Err(RequestError::Malformed)));
}

#[test]
fn f32_openssl_requests_work_too() {
    let dir = tempfile::tempdir().unwrap();
    openssl(dir.path(), &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key"]);
    openssl(dir.path(), &["req", "-new", "-key", "key", "-subj", "/", "-outform", "DER", "-out", "csr"]);
    public_key_of_request(&std::fs::read(dir.path().join("csr")).unwrap()).unwrap();
}

#[test]
fn fuzz_requests() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(key) = public_key_of_request(bytes) {
            assert_eq!(key.spki().len(), 91);
        }
    });
}
