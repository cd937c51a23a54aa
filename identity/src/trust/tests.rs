//! Bundles: PEM, the SPIFFE format (rows B1 to B9), and what may be a root.
use super::*;
use crate::testing::{Authority, Signer, ca_params, leaf_params, now};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rstest::rstest;

#[test]
fn a_bundle_survives_pem() {
    let (one, two) = (Authority::new("a.example"), Authority::new("a.example"));
    let bundle = Bundle { roots: [one.bundle().roots, two.bundle().roots].concat() };
    assert_eq!(Bundle::from_pem(&bundle.to_pem()), Ok(bundle));
}

#[test]
fn text_without_a_certificate_is_no_bundle() {
    assert_eq!(Bundle::from_pem(""), Err(TrustError::NoPemBlock));
    let key = crate::PrivateKey::generate().unwrap().to_pem();
    assert_eq!(Bundle::from_pem(&key), Err(TrustError::NoPemBlock));
    assert!(matches!(
        Bundle::from_pem("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"),
        Err(TrustError::Pem(_))
    ));
    assert!(matches!(Bundle::from_pem(&" ".repeat(MAX_BUNDLE_TEXT + 1)), Err(TrustError::TooLong(_))));
}

type Change = fn(&mut CertificateParams);

#[rstest]
#[case::c1_no_ca(|p: &mut CertificateParams| p.is_ca = IsCa::ExplicitNoCa, "peer_ca_is_not_ca")]
#[case::c1_no_basic_constraints(|p: &mut CertificateParams| p.is_ca = IsCa::NoCa, "peer_ca_basic_constraints_missing")]
#[case::c1_cannot_sign(|p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::CrlSign], "peer_ca_key_usage")]
#[case::c1_can_more_than_sign(|p: &mut CertificateParams| p.key_usages.push(KeyUsagePurpose::DigitalSignature), "peer_ca_key_usage")]
#[case::c3_path(|p: &mut CertificateParams| p.subject_alt_names = vec![SanType::URI("spiffe://prod.example/ca".try_into().unwrap())], "peer_ca_spiffe_id_with_path")]
#[case::c3_no_spiffe_id(|p: &mut CertificateParams| p.subject_alt_names = vec![SanType::URI("https://prod.example".try_into().unwrap())], "peer_ca_spiffe_id")]
#[case::c5_no_key_usage(|p: &mut CertificateParams| p.key_usages.clear(), "peer_ca_key_usage_missing")]
#[case::c7_extended_key_usage(|p: &mut CertificateParams| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], "peer_ca_extended_key_usage")]
#[case::path_length(|p: &mut CertificateParams| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(1)), "peer_ca_path_length")]
#[case::empty_subject(|p: &mut CertificateParams| p.distinguished_name = rcgen::DistinguishedName::new(), "peer_ca_subject_empty")]
fn a_root_must_keep_the_profile(#[case] change: Change, #[case] code: &str) {
    let good = Authority::new("prod.example");
    let mut params = ca_params(&good.trust_domain, "root", None);
    change(&mut params);
    let roots = vec![good.root.certificate.clone(), Signer::root(params).certificate];
    let bundle = Bundle { roots };
    match Bundle::from_pem(&bundle.to_pem()) {
        Err(TrustError::Root { number: 2, problem }) => assert_eq!(problem.code(), code, "{problem}"),
        other => panic!("{other:?}"),
    }
    let state = TrustState { sequence: 1, bundles: [(good.trust_domain, bundle)].into(), ..TrustState::default() };
    assert!(Trust::new(state).is_err(), "one bad root refuses the whole trust state");
}

#[rstest]
#[case::no_cr_lsign(|p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::KeyCertSign])]
#[case::no_spiffe_id(|p: &mut CertificateParams| p.subject_alt_names.clear())]
#[case::no_authority_key(|p: &mut CertificateParams| p.use_authority_key_identifier_extension = false)]
fn c2_a_root_may_leave_these_out(#[case] change: Change) {
    let mut params = ca_params(&"prod.example".parse().unwrap(), "root", None);
    change(&mut params);
    let bundle = Bundle { roots: vec![Signer::root(params).certificate] };
    assert_eq!(Bundle::from_pem(&bundle.to_pem()), Ok(bundle));
}

#[test]
fn an_issuing_ca_and_a_leaf_are_no_roots() {
    let ca = Authority::new("prod.example");
    let (chain, _) = ca.issue(&leaf_params(&ca.id("a", "b"), None, &(now()..now() + 9)));
    for certificate in chain {
        let bundle = Bundle { roots: vec![certificate] };
        assert!(matches!(Bundle::from_pem(&bundle.to_pem()), Err(TrustError::Root { number: 1, .. })));
    }
}

#[test]
fn c3_a_root_of_another_trust_domain_is_no_root_of_this_one() {
    let other = Authority::new("other.example");
    let bundles = [("prod.example".parse().unwrap(), other.bundle())].into();
    let state = TrustState { sequence: 1, bundles, ..TrustState::default() };
    assert!(matches!(Trust::new(state), Err(TrustError::OtherTrustDomain { number: 1, .. })));
}

#[test]
fn bundles_and_states_are_bounded() {
    let root = Authority::new("prod.example").root.certificate;
    let bundle = Bundle { roots: vec![root; MAX_ROOTS + 1] };
    assert_eq!(Bundle::from_pem(&bundle.to_pem()), Err(TrustError::TooManyRoots(MAX_ROOTS + 1)));
    let bundles = (0..=MAX_TRUST_DOMAINS).map(|n| (format!("td{n}").parse().unwrap(), Bundle::default())).collect();
    let state = TrustState { sequence: 1, bundles, ..TrustState::default() };
    assert_eq!(Trust::new(state).err(), Some(TrustError::TooManyTrustDomains(MAX_TRUST_DOMAINS + 1)));
}

/// A JWK of a root, with one thing changed.
fn jwk(ca: &Authority) -> serde_json::Value {
    let json: serde_json::Value = serde_json::from_str(&ca.bundle().to_spiffe_json(7, 300)).unwrap();
    json["keys"][0].clone()
}

fn bundle_json(keys: &[serde_json::Value]) -> String {
    serde_json::json!({ "keys": keys }).to_string()
}

#[test]
fn b1_an_empty_key_list_revokes_everything_and_a_missing_one_is_refused() {
    assert_eq!(Bundle::from_spiffe_json(r#"{"keys":[]}"#), Ok((Bundle::default(), None, None)));
    for text in ["{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, "[]", "7", ""] {
        assert!(Bundle::from_spiffe_json(text).is_err(), "{text}");
    }
}

#[test]
fn b2_b3_sequence_and_refresh_hint_are_whole_numbers_of_64_bits() {
    let read = |text: &str| Bundle::from_spiffe_json(text).map(|(_, sequence, hint)| (sequence, hint));
    let largest = format!(r#"{{"keys":[],"spiffe_sequence":{},"spiffe_refresh_hint":60}}"#, u64::MAX);
    assert_eq!(read(&largest), Ok((Some(u64::MAX), Some(60))));
    for wrong in ["-1", "1.5", "\"7\"", "null", "18446744073709551616"] {
        for field in ["spiffe_sequence", "spiffe_refresh_hint"] {
            let text = format!(r#"{{"keys":[],"{field}":{wrong}}}"#);
            assert!(matches!(read(&text), Err(TrustError::Shape { field: found, .. }) if found == field), "{text}");
        }
    }
}

#[rstest]
#[case::no_kty("kty", None)]
#[case::no_use("use", None)]
#[case::jwt_use("use", Some("jwt-svid"))]
#[case::unknown_use("use", Some("wit-svid"))]
#[case::use_is_case_sensitive("use", Some("X509-SVID"))]
#[case::b6_no_x5c("x5c", None)]
fn b4_b6_an_entry_that_is_not_for_us_is_passed_over(#[case] field: &str, #[case] value: Option<&str>) {
    let ca = Authority::new("prod.example");
    let mut changed = jwk(&ca);
    match value {
        Some(value) => changed[field] = value.into(),
        None => _ = changed.as_object_mut().unwrap().remove(field),
    }
    let (bundle, ..) = Bundle::from_spiffe_json(&bundle_json(&[changed, jwk(&ca)])).unwrap();
    assert_eq!(bundle, ca.bundle(), "the good entry stays");
}

#[test]
fn b6_an_empty_x5c_is_passed_over_and_of_more_only_the_first_counts() {
    let (ca, other) = (Authority::new("prod.example"), Authority::new("prod.example"));
    let (mut empty, mut two) = (jwk(&ca), jwk(&ca));
    empty["x5c"] = serde_json::json!([]);
    two["x5c"] = serde_json::json!([jwk(&ca)["x5c"][0], jwk(&other)["x5c"][0]]);
    assert_eq!(Bundle::from_spiffe_json(&bundle_json(&[empty, two])).unwrap().0, ca.bundle());
}

#[test]
fn b5_a_bundle_is_written_with_one_certificate_in_standard_base64_and_no_kid_and_read_back() {
    let (one, two) = (Authority::new("a.example"), Authority::new("a.example"));
    let bundle = Bundle { roots: [one.bundle().roots, two.bundle().roots].concat() };
    let text = bundle.to_spiffe_json(9, 120);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in json["keys"].as_array().unwrap() {
        assert_eq!(key["x5c"].as_array().unwrap().len(), 1);
        assert!(key.get("kid").is_none());
        let names: Vec<&str> = key.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["kty", "use", "crv", "x", "y", "x5c"], "b8: nothing undefined is added");
        assert_eq!((key["x"].as_str().unwrap().len(), key["y"].as_str().unwrap().len()), (43, 43));
    }
    assert_eq!(Bundle::from_spiffe_json(&text), Ok((bundle, Some(9), Some(120))));
}

#[test]
fn b5_x5c_is_standard_base64_of_a_root() {
    let ca = Authority::new("prod.example");
    for wrong in ["!", "AAAA", "-_-_"] {
        let mut changed = jwk(&ca);
        changed["x5c"][0] = wrong.into();
        assert!(Bundle::from_spiffe_json(&bundle_json(&[changed])).is_err(), "{wrong}");
    }
}

#[test]
fn b7_jwt_keys_beside_x509_keys_are_passed_over() {
    let ca = Authority::new("prod.example");
    let jwt = serde_json::json!({"kty": "EC", "use": "jwt-svid", "kid": "1", "crv": "P-256", "x": "AA", "y": "AA"});
    assert_eq!(Bundle::from_spiffe_json(&bundle_json(&[jwt, jwk(&ca)])).unwrap().0, ca.bundle());
}

#[rstest]
#[case::outside(r#"{"keys":[],"keys":[]}"#)]
#[case::sequence(r#"{"keys":[],"spiffe_sequence":1,"spiffe_sequence":2}"#)]
#[case::in_an_entry(r#"{"keys":[{"kty":"EC","use":"x509-svid","use":"jwt-svid"}]}"#)]
#[case::deep(r#"{"keys":[],"x":[{"y":{"z":1,"z":1}}]}"#)]
#[case::escaped(r#"{"keys":[],"ke\u0079s":[]}"#)]
fn b9_duplicate_keys_are_refused(#[case] text: &str) {
    match Bundle::from_spiffe_json(text) {
        Err(TrustError::Json(error)) => assert!(error.contains("twice"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn b9_a_bundle_map_keeps_trust_domains_apart_and_drops_hints() {
    let (a, b) = (Authority::new("a.example"), Authority::new("b.example"));
    let text = format!(
        r#"{{"trust_domains":{{"a.example":{},"b.example":{}}}}}"#,
        a.bundle().to_spiffe_json(1, 60),
        b.bundle().to_spiffe_json(2, 60)
    );
    let map = Bundle::map_from_spiffe_json(&text).unwrap();
    assert_eq!(map[&a.trust_domain], (a.bundle(), Some(1)));
    assert_eq!(map[&b.trust_domain], (b.bundle(), Some(2)));
    assert!(Bundle::map_from_spiffe_json(r#"{"trust_domains":{"A":{"keys":[]}}}"#).is_err());
    assert!(Bundle::map_from_spiffe_json(r#"{"trust_domains":{"a":{"keys":[]},"a":{"keys":[]}}}"#).is_err());
    assert!(Bundle::map_from_spiffe_json(r#"{"keys":[]}"#).is_err());
}

proptest::proptest! {
    /// F20.
    #[test]
    fn f20_fuzz_any_text_is_a_bundle_or_an_error(text in "[\\[\\]{}\":,a-z0-9 \\\\]{0,60}") {
        // An error is an answer: only a panic fails.
        let _ = Bundle::from_spiffe_json(&text);
        let _ = Bundle::map_from_spiffe_json(&text);
    }
    /// A good bundle with one byte changed.
    #[test]
    fn f20_fuzz_a_changed_byte_never_adds_a_root(at in 0..2000_usize, byte in 0x20..0x7f_u8) {
        let ca = Authority::new("prod.example");
        let mut text = ca.bundle().to_spiffe_json(1, 1).into_bytes();
        let at = at % text.len();
        text[at] = byte;
        if let Ok((bundle, ..)) = Bundle::from_spiffe_json(std::str::from_utf8(&text).unwrap()) {
            proptest::prop_assert!(bundle.roots.len() <= 1);
        }
    }
}
