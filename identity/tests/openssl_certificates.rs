//! Certificates that were made by the openssl command line, not by anything of ours: the good one is accepted, and each bad one
//! is refused by both ends with a reason that names the field.
#![allow(clippy::unwrap_used, clippy::format_collect, reason = "in a test, what cannot be made ends the test")]
mod openssl;

use openssl::{Ca, LEAF, OpenSsl};
use rustls_pki_types::{CertificateDer, UnixTime};
use signet_identity::verify::{Side, parse_leaf, verify_chain};
use signet_identity::{Bundle, Peer, Rejection, Trust, TrustState, tls};

fn trust(cas: &[&Ca]) -> Trust {
    let bundles = cas.iter().map(|ca| {
        let bundle = Bundle::from_pem(&ca.root_pem).expect("a root made by openssl keeps the profile");
        (ca.trust_domain.parse().unwrap(), bundle)
    });
    Trust::new(TrustState { sequence: 1, bundles: bundles.collect(), ..TrustState::default() }).unwrap()
}

/// What both ends say of a chain.
fn verdict(chain: &[CertificateDer<'_>], trust: &Trust) -> Result<Peer, Rejection> {
    let as_server = verify_chain(chain, trust, UnixTime::now(), Side::Server);
    let as_client = verify_chain(chain, trust, UnixTime::now(), Side::Client);
    assert_eq!(as_server, as_client, "both ends must say the same");
    as_server
}

#[test]
fn a_good_chain_is_accepted_and_read_as_openssl_wrote_it() {
    let openssl = OpenSsl::new();
    let ca = openssl.ca("prod.example");
    let chain = ca.leaf(&openssl, LEAF, &[]);
    let peer = verdict(&chain, &trust(&[&ca])).unwrap();
    assert_eq!(peer.leaf.id.as_str(), "spiffe://prod.example/ns/shop/sa/orders");
    assert_eq!(peer.leaf.uid.unwrap().as_str(), "orders-1");
    let printed = openssl.run(&["x509", "-inform", "DER", "-noout", "-serial"], chain[0].as_ref());
    let serial: String = peer.leaf.serial.iter().map(|b| format!("{b:02X}")).collect();
    assert_eq!(String::from_utf8(printed).unwrap().trim(), format!("serial={serial}"));
}

/// LEAF with one line replaced, or taken out when nothing takes its place.
fn without(line: &str, instead: &str) -> String {
    let start = format!("{line} ");
    assert!(LEAF.lines().any(|l| l.starts_with(&start)), "{line}");
    let lines = LEAF.lines().map(|l| if l.starts_with(&start) { instead } else { l });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_bad_leaf_of_the_list_is_refused_and_the_field_named() {
    let openssl = OpenSsl::new();
    let ca = openssl.ca("prod.example");
    let trust = trust(&[&ca]);
    let san = |names: &str| without("subjectAltName", &format!("subjectAltName = critical,{names}"));
    let table: &[(&str, String, &str, &str)] = &[
        (
            "two URI SANs",
            san("URI:spiffe://prod.example/a,URI:spiffe://prod.example/b"),
            "peer_cert_two_uri_sans",
            "subjectAltName",
        ),
        ("no SAN", without("subjectAltName", ""), "peer_cert_no_uri_san", "subjectAltName"),
        ("no URI in the SAN", san("DNS:orders.shop.svc"), "peer_cert_no_uri_san", "subjectAltName"),
        (
            "SAN not critical",
            without("subjectAltName", "subjectAltName = URI:spiffe://prod.example/a"),
            "peer_cert_san_not_critical",
            "subjectAltName",
        ),
        ("upper case in the trust domain", san("URI:spiffe://Prod.example/a"), "peer_cert_spiffe_id", "subjectAltName"),
        ("upper case in the scheme", san("URI:SPIFFE://prod.example/a"), "peer_cert_spiffe_id", "subjectAltName"),
        ("percent-encoding", san("URI:spiffe://prod.example/%61"), "peer_cert_spiffe_id", "subjectAltName"),
        ("trailing slash", san("URI:spiffe://prod.example/a/"), "peer_cert_spiffe_id", "subjectAltName"),
        ("no path", san("URI:spiffe://prod.example"), "peer_cert_spiffe_id_without_path", "subjectAltName"),
        (
            // URI:spiffe://prod.example/ns/shop/sa/orders NUL .evil
            "NUL in the SAN",
            without("subjectAltName", &format!("subjectAltName = critical,DER:{}", nul_san())),
            "peer_cert_spiffe_id",
            "subjectAltName",
        ),
        (
            "another trust domain",
            san("URI:spiffe://other.example/ns/shop/sa/orders"),
            "peer_trust_domain_unknown",
            "other.example",
        ),
        (
            "a CA as leaf",
            without("basicConstraints", "basicConstraints = critical,CA:TRUE"),
            "peer_cert_is_ca",
            "basicConstraints",
        ),
        (
            "no basicConstraints",
            without("basicConstraints", ""),
            "peer_cert_basic_constraints_missing",
            "basicConstraints",
        ),
        ("no keyUsage", without("keyUsage", ""), "peer_cert_key_usage_missing", "keyUsage"),
        (
            "keyUsage not critical",
            without("keyUsage", "keyUsage = digitalSignature"),
            "peer_cert_key_usage_not_critical",
            "keyUsage",
        ),
        (
            "keyUsage with keyCertSign",
            without("keyUsage", "keyUsage = critical,digitalSignature,keyCertSign"),
            "peer_cert_key_usage",
            "keyUsage",
        ),
        (
            "keyUsage with another bit",
            without("keyUsage", "keyUsage = critical,digitalSignature,keyAgreement"),
            "peer_cert_key_usage",
            "keyUsage",
        ),
        (
            "no extendedKeyUsage",
            without("extendedKeyUsage", ""),
            "peer_cert_extended_key_usage_missing",
            "extendedKeyUsage",
        ),
        (
            "clientAuth alone",
            without("extendedKeyUsage", "extendedKeyUsage = clientAuth"),
            "peer_cert_extended_key_usage",
            "extendedKeyUsage",
        ),
        (
            "serverAuth alone",
            without("extendedKeyUsage", "extendedKeyUsage = serverAuth"),
            "peer_cert_extended_key_usage",
            "extendedKeyUsage",
        ),
        (
            "no subjectKeyIdentifier",
            without("subjectKeyIdentifier", "subjectKeyIdentifier = none"),
            "peer_cert_subject_key_missing",
            "subjectKeyIdentifier",
        ),
        (
            "no authorityKeyIdentifier",
            without("authorityKeyIdentifier", "authorityKeyIdentifier = none"),
            "peer_cert_authority_key_missing",
            "authorityKeyIdentifier",
        ),
        (
            "unknown critical extension",
            format!("{LEAF}\n1.2.3.4 = critical,ASN1:UTF8String:x"),
            "peer_cert_unknown_critical_extension",
            "1.2.3.4",
        ),
        (
            "unusable workload UID",
            without("2.25.211395830.1", "2.25.211395830.1 = ASN1:UTF8String:a b"),
            "peer_cert_uid",
            "workload uid",
        ),
        (
            "workload UID of another type",
            without("2.25.211395830.1", "2.25.211395830.1 = ASN1:INTEGER:7"),
            "peer_cert_malformed",
            "workload uid",
        ),
    ];
    for (what, extensions, code, field) in table {
        let chain = ca.leaf(&openssl, extensions, &[]);
        let rejection = verdict(&chain, &trust).expect_err(what);
        assert_eq!(rejection.code(), *code, "{what}: {rejection}");
        assert!(rejection.to_string().contains(field), "{what}: {field} is not named in: {rejection}");
    }
}

/// A GeneralNames with one URI that has a NUL in it, in hex.
fn nul_san() -> String {
    let uri = b"spiffe://prod.example/ns/shop/sa/orders\0.evil";
    let length = u8::try_from(uri.len()).unwrap();
    let der = [&[0x30, length + 2, 0x86, length], uri.as_slice()].concat();
    der.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

#[test]
fn a_subject_beside_the_spiffe_id_is_refused() {
    let openssl = OpenSsl::new();
    let ca = openssl.ca("prod.example");
    let chain = ca.leaf(&openssl, LEAF, &["-subj", "/CN=orders"]);
    assert_eq!(verdict(&chain, &trust(&[&ca])).unwrap_err().code(), "peer_cert_subject_not_empty");
}

#[test]
fn expired_and_not_yet_valid_are_refused() {
    let openssl = OpenSsl::new();
    let ca = openssl.ca("prod.example");
    let trust = trust(&[&ca]);
    for (from, to, code) in [
        ("20200101000000Z", "20200102000000Z", "peer_cert_expired"),
        ("20990101000000Z", "20990102000000Z", "peer_cert_not_yet_valid"),
        // A year past 2049 is a GeneralizedTime.
        ("20200101000000Z", "20600101000000Z", ""),
    ] {
        let chain = ca.leaf_valid(&openssl, from, to);
        let found = verdict(&chain, &trust).err();
        assert_eq!(found.as_ref().map_or("", Rejection::code), code, "{from} to {to}: {found:?}");
    }
}

#[test]
fn a_leaf_signed_by_a_bundle_of_another_trust_domain_is_refused() {
    let openssl = OpenSsl::new();
    let (ours, theirs) = (openssl.ca("prod.example"), openssl.ca("partner.example"));
    // A good certificate of ours, but for who signed it.
    let chain = theirs.leaf(&openssl, LEAF, &[]);
    let rejection = verdict(&chain, &trust(&[&ours, &theirs])).unwrap_err();
    assert_eq!(rejection.code(), "peer_cert_issuer_untrusted", "{rejection}");
    assert!(rejection.to_string().contains("prod.example"), "{rejection}");
}

#[test]
fn a_chain_that_is_too_long_or_too_short_is_refused() {
    let openssl = OpenSsl::new();
    let ca = openssl.ca("prod.example");
    let chain = ca.leaf(&openssl, LEAF, &[]);
    let trust = trust(&[&ca]);
    let root = CertificateDer::from(openssl.run(&["x509", "-outform", "DER"], ca.root_pem.as_bytes()));
    let with_root = [chain[0].clone(), chain[1].clone(), root.clone()];
    assert!(verdict(&with_root, &trust).is_ok(), "a root behind the chain says nothing new");
    let long = [chain[0].clone(), chain[1].clone(), root.clone(), root.clone()];
    assert_eq!(verdict(&long, &trust).unwrap_err().code(), "peer_cert_chain_too_long");
    assert_eq!(verdict(&chain[..1], &trust).unwrap_err().code(), "peer_cert_issuer_untrusted");
    assert_eq!(verdict(&[chain[1].clone(), root], &trust).unwrap_err().code(), "peer_cert_is_ca");
    assert_eq!(verdict(&[], &trust).unwrap_err().code(), "peer_cert_missing");
}

#[test]
fn c6_a_uri_name_constraint_on_the_issuing_ca_is_refused() {
    let openssl = OpenSsl::new();
    let ca = openssl.ca_with("prod.example", "nameConstraints = critical,permitted;URI:.prod.example");
    let chain = ca.leaf(&openssl, LEAF, &[]);
    assert_eq!(verdict(&chain, &trust(&[&ca])).unwrap_err().code(), "peer_cert_path");
}

#[test]
fn another_workloads_uid_is_refused_when_one_is_expected() {
    let openssl = OpenSsl::new();
    let ca = openssl.ca("prod.example");
    let other = without("2.25.211395830.1", "2.25.211395830.1 = ASN1:UTF8String:orders-2");
    let chain = ca.leaf(&openssl, &other, &[]);
    let peer = verdict(&chain, &trust(&[&ca])).expect("the chain is good");
    assert_eq!(tls::peer(Some(&chain)), Ok(peer.clone()));
    let rejection = peer.expect(&peer.leaf.id, Some(&"orders-1".parse().unwrap())).unwrap_err();
    assert_eq!(rejection.code(), "peer_uid_mismatch");
    assert!(rejection.to_string().contains("orders-2"), "{rejection}");
}

#[test]
fn keys_that_are_not_p256_are_refused() {
    let openssl = OpenSsl::new();
    let ca = openssl.ca("prod.example");
    for key in [&["rsa", "rsa_keygen_bits:2048"][..], &["ec", "ec_paramgen_curve:P-384"], &["ed25519"]] {
        let chain = ca.leaf_with_key(&openssl, key);
        assert_eq!(verdict(&chain, &trust(&[&ca])).unwrap_err().code(), "peer_cert_key_algorithm", "{key:?}");
    }
}

#[test]
fn a_version_1_certificate_is_refused() {
    let openssl = OpenSsl::new();
    let ca = openssl.ca("prod.example");
    let key = openssl.key(&["ec", "ec_paramgen_curve:P-256"]);
    let request = openssl.run(&["req", "-new", "-key", &key, "-subj", "/CN=x"], b"");
    let der = openssl.run(
        &["x509", "-req", "-CA", &ca.issuing, "-CAkey", &ca.issuing_key, "-days", "1", "-outform", "DER"],
        &request,
    );
    let rejection = parse_leaf(&der.into()).unwrap_err();
    assert_eq!(rejection.code(), "peer_cert_malformed");
    assert!(rejection.to_string().contains("version"), "{rejection}");
}
