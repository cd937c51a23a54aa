//! Rows L1 to L10, C1 to C7 and V1 to V6 of the SPIFFE checklist, with certificates made by rcgen. The same list made by
//! openssl is in `tests/openssl_certificates.rs`.
use super::*;
use crate::testing::{Authority, Signer, ca_params, leaf_params, now, uid_extension};
use crate::{PrivateKey, TrustState};
use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rstest::rstest;

type Change = fn(&mut CertificateParams);

fn time(unix: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(unix))
}

fn good_leaf(ca: &Authority) -> CertificateParams {
    leaf_params(&ca.id("shop", "orders"), Some("o-1"), &(now() - 60..now() + 600))
}

fn trust(ca: &Authority) -> Trust {
    Trust::new(ca.trust_state(1)).unwrap()
}

/// Both ends must refuse, and for the same reason.
fn refusal(chain: &[CertificateDer<'_>], trust: &Trust) -> Rejection {
    let as_server = verify_chain(chain, trust, time(now()), Side::Server).unwrap_err();
    let as_client = verify_chain(chain, trust, time(now()), Side::Client).unwrap_err();
    assert_eq!(as_server, as_client);
    as_server
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn v1_a_good_chain_is_accepted_on_both_sides_and_says_who_it_is() {
    let ca = Authority::new("prod.example");
    let (chain, _) = ca.issue(&good_leaf(&ca));
    let peer = verify_chain(&chain, &trust(&ca), time(now()), Side::Server).unwrap();
    assert_eq!(verify_chain(&chain, &trust(&ca), time(now()), Side::Client).unwrap(), peer);
    assert_eq!(peer.leaf.id, ca.id("shop", "orders"));
    assert_eq!(peer.leaf.uid, Some("o-1".parse().unwrap()));
    assert_eq!(peer.leaf.serial.len(), 16);
    assert_eq!(peer.issuers.len(), 2, "issuing CA and root");
    assert_eq!(peer.issuers[0], peer.leaf.authority_key);
    assert_eq!(Peer::claimed(&chain).unwrap(), peer);
}

/// A trust state that has verified this CA's issuing certificate before, and one that has not, say the same.
#[track_caller]
fn warm_as_cold(ca: &Authority, chain: &[CertificateDer<'_>], at: u64) -> Result<Peer, Rejection> {
    let (warm, cold) = (trust(ca), trust(ca));
    let (good, _) = ca.issue(&good_leaf(ca));
    verify_chain(&good, &warm, time(now()), Side::Client).unwrap();
    assert!(warm.roots(ca.trust_domain.as_str()).unwrap().vetted.find(&ca.issuing.certificate).is_some());
    let verdict = verify_chain(chain, &warm, time(at), Side::Client);
    assert_eq!(verdict, verify_chain(chain, &cold, time(at), Side::Client));
    verdict
}

#[test]
fn an_issuing_ca_that_was_verified_before_changes_no_verdict() {
    let (ca, other) = (Authority::new("prod.example"), Authority::new("prod.example"));
    let (good, _) = ca.issue(&good_leaf(&ca));
    warm_as_cold(&ca, &good, now()).unwrap();
    // The same issuing CA above a leaf that another one signed, which has the same name.
    let (foreign, _) = other.issue(&good_leaf(&ca));
    let chain = [foreign[0].clone(), good[1].clone()];
    assert_eq!(warm_as_cold(&ca, &chain, now()), Err(Rejection::BadSignature));
    assert_eq!(warm_as_cold(&ca, &foreign, now()).unwrap_err().code(), "peer_cert_issuer_untrusted");
    let year = 365 * 86_400;
    let (long, _) = ca.issue(&leaf_params(&ca.id("a", "b"), None, &(now() - 2 * year..now() + 2 * year)));
    assert_eq!(warm_as_cold(&ca, &long, now() + year).unwrap_err().code(), "peer_ca_expired");
    assert_eq!(warm_as_cold(&ca, &long, now() - year).unwrap_err().code(), "peer_ca_not_yet_valid");
}

#[test]
fn an_issuing_ca_with_another_name_above_a_leaf_is_no_issuer_warm_or_cold() {
    let mut ca = Authority::new("prod.example");
    let (good, _) = ca.issue(&good_leaf(&ca));
    let first = ca.issuing.certificate.clone();
    ca.issuing = ca.root.below(ca_params(&ca.trust_domain, "second", Some(0)));
    let (chain, _) = ca.issue(&good_leaf(&ca));
    assert_eq!(
        warm_as_cold(&ca, &[good[0].clone(), ca.issuing.certificate.clone()], now()).unwrap_err().code(),
        "peer_cert_issuer_untrusted"
    );
    warm_as_cold(&ca, &chain, now()).unwrap();
    warm_as_cold(&ca, &[good[0].clone(), first], now()).unwrap();
}

#[test]
fn v7_an_issuing_ca_verified_against_one_trust_state_is_unknown_to_the_next() {
    let (ca, other) = (Authority::new("prod.example"), Authority::new("prod.example"));
    let credentials = crate::Credentials::new(ca.trust_state(1)).unwrap();
    let (chain, _) = ca.issue(&good_leaf(&ca));
    verify_chain(&chain, &credentials.trust(), time(now()), Side::Client).unwrap();
    credentials.adopt_trust(other.trust_state(2)).unwrap();
    assert_eq!(refusal(&chain, &credentials.trust()).code(), "peer_cert_issuer_untrusted");
}

#[test]
fn only_so_many_issuing_cas_are_remembered_and_the_rest_verified_each_time() {
    let mut ca = Authority::new("prod.example");
    let trust = trust(&ca);
    for _ in 0..70 {
        ca.issuing = ca.root.below(ca_params(&ca.trust_domain, "issuing", Some(0)));
        let (chain, _) = ca.issue(&good_leaf(&ca));
        for _ in 0..2 {
            verify_chain(&chain, &trust, time(now()), Side::Client).unwrap();
        }
    }
    let roots = trust.roots("prod.example").unwrap();
    assert!(roots.vetted.find(&ca.issuing.certificate).is_none());
}

#[test]
fn the_parser_reads_what_a_second_parser_reads() {
    let ca = Authority::new("prod.example");
    let (chain, _) = ca.issue(&good_leaf(&ca));
    let leaf = parse_leaf(&chain[0]).unwrap();
    let (_, theirs) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert_eq!(leaf.not_before, u64::try_from(theirs.validity.not_before.timestamp()).unwrap());
    assert_eq!(leaf.not_after, u64::try_from(theirs.validity.not_after.timestamp()).unwrap());
    assert_eq!(leaf.serial, theirs.serial.to_bytes_be());
}

#[rstest]
#[case::l1_none(|p: &mut CertificateParams| p.subject_alt_names.clear(), "peer_cert_no_uri_san")]
#[case::l1_dns_alone(|p: &mut CertificateParams| p.subject_alt_names = vec![SanType::DnsName("a".try_into().unwrap())], "peer_cert_no_uri_san")]
#[case::l1_two(|p: &mut CertificateParams| p.subject_alt_names.push(uri("spiffe://prod.example/b")), "peer_cert_two_uri_sans")]
#[case::v3_two_of_another_scheme(|p: &mut CertificateParams| p.subject_alt_names.push(uri("https://prod.example/b")), "peer_cert_two_uri_sans")]
#[case::l2_no_path(|p: &mut CertificateParams| p.subject_alt_names = vec![uri("spiffe://prod.example")], "peer_cert_spiffe_id_without_path")]
#[case::v4_scheme(|p: &mut CertificateParams| p.subject_alt_names = vec![uri("https://prod.example/b")], "peer_cert_spiffe_id")]
#[case::id3_upper_case(|p: &mut CertificateParams| p.subject_alt_names = vec![uri("spiffe://PROD.example/b")], "peer_cert_spiffe_id")]
#[case::f5_nul(|p: &mut CertificateParams| p.subject_alt_names = vec![uri("spiffe://prod.example/b\0c")], "peer_cert_spiffe_id")]
#[case::f5_percent(|p: &mut CertificateParams| p.subject_alt_names = vec![uri("spiffe://prod.example/b%00c")], "peer_cert_spiffe_id")]
#[case::id5_too_long(|p: &mut CertificateParams| p.subject_alt_names = vec![uri(&format!("spiffe://prod.example/{}", "b".repeat(2048)))], "peer_cert_spiffe_id")]
#[case::subject(|p: &mut CertificateParams| p.distinguished_name.push(DnType::CommonName, "orders"), "peer_cert_subject_not_empty")]
#[case::l4_ca(|p: &mut CertificateParams| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained), "peer_cert_is_ca")]
#[case::l9_no_basic_constraints(|p: &mut CertificateParams| p.is_ca = IsCa::NoCa, "peer_cert_basic_constraints_missing")]
#[case::l5_no_key_usage(|p: &mut CertificateParams| p.key_usages.clear(), "peer_cert_key_usage_missing")]
#[case::l6_no_digital_signature(|p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::KeyAgreement], "peer_cert_key_usage")]
#[case::l6_key_cert_sign(|p: &mut CertificateParams| p.key_usages.push(KeyUsagePurpose::KeyCertSign), "peer_cert_key_usage")]
#[case::l6_crl_sign(|p: &mut CertificateParams| p.key_usages.push(KeyUsagePurpose::CrlSign), "peer_cert_key_usage")]
#[case::l7_key_encipherment(|p: &mut CertificateParams| p.key_usages.push(KeyUsagePurpose::KeyEncipherment), "peer_cert_key_usage")]
#[case::l8_no_extended_key_usage(|p: &mut CertificateParams| p.extended_key_usages.clear(), "peer_cert_extended_key_usage_missing")]
#[case::l8_client_alone(|p: &mut CertificateParams| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], "peer_cert_extended_key_usage")]
#[case::l8_server_alone(|p: &mut CertificateParams| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], "peer_cert_extended_key_usage")]
#[case::l10_no_authority_key(|p: &mut CertificateParams| p.use_authority_key_identifier_extension = false, "peer_cert_authority_key_missing")]
#[case::uid_empty(|p: &mut CertificateParams| p.custom_extensions = vec![uid_extension(b"")], "peer_cert_uid")]
#[case::uid_bytes(|p: &mut CertificateParams| p.custom_extensions = vec![uid_extension(b"a b")], "peer_cert_uid")]
#[case::uid_long(|p: &mut CertificateParams| p.custom_extensions = vec![uid_extension(&[b'a'; 65])], "peer_cert_uid")]
#[case::uid_twice(|p: &mut CertificateParams| p.custom_extensions.push(uid_extension(b"o-2")), "peer_cert_duplicate_extension")]
#[case::uid_critical(|p: &mut CertificateParams| p.custom_extensions[0].set_criticality(true), "peer_cert_extension_critical")]
#[case::unknown_critical(|p: &mut CertificateParams| {
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
    extension.set_criticality(true);
    p.custom_extensions.push(extension);
}, "peer_cert_unknown_critical_extension")]
#[case::unknown_twice(|p: &mut CertificateParams| for _ in 0..2 {
    p.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]));
}, "peer_cert_duplicate_extension")]
#[case::too_many_extensions(|p: &mut CertificateParams| for n in 0..40 {
    p.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 4 + n], vec![5, 0]));
}, "peer_cert_too_many_extensions")]
#[case::too_large(|p: &mut CertificateParams| p.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3], vec![5; 9000])), "peer_cert_too_large")]
fn v2_a_leaf_that_does_not_keep_the_profile_is_refused_whoever_signed_it(#[case] change: Change, #[case] code: &str) {
    let ca = Authority::new("prod.example");
    let mut params = good_leaf(&ca);
    change(&mut params);
    let (chain, key) = ca.issue(&params);
    let rejection = refusal(&chain, &trust(&ca));
    assert_eq!(rejection.code(), code, "{rejection}");
    assert!(rejection.code().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
    assert!(crate::Svid::new(chain, &key).is_err(), "and we would not present it");
}

#[rstest]
#[case::l1_names_beside_the_uri(|p: &mut CertificateParams| p.subject_alt_names.push(SanType::DnsName("operator.svc".try_into().unwrap())))]
#[case::no_uid(|p: &mut CertificateParams| p.custom_extensions.clear())]
#[case::unknown_extension(|p: &mut CertificateParams| p.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])))]
#[case::l8_more_usages(|p: &mut CertificateParams| p.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning))]
fn a_leaf_may_have_these(#[case] change: Change) {
    let ca = Authority::new("prod.example");
    let mut params = good_leaf(&ca);
    change(&mut params);
    let (chain, _) = ca.issue(&params);
    verify_chain(&chain, &trust(&ca), time(now()), Side::Client).unwrap();
}

#[rstest]
#[case::not_yet(-1, "peer_cert_not_yet_valid")]
#[case::first_second(0, "")]
#[case::last_second(100, "")]
#[case::expired(101, "peer_cert_expired")]
fn validity_holds_at_both_ends(#[case] offset: i64, #[case] code: &str) {
    let ca = Authority::new("prod.example");
    let start = now() - 1000;
    let (chain, _) = ca.issue(&leaf_params(&ca.id("a", "b"), None, &(start..start + 100)));
    let verified = verify_chain(&chain, &trust(&ca), time(start.checked_add_signed(offset).unwrap()), Side::Client);
    assert_eq!(verified.err().map_or("", |rejection| rejection.code()), code);
}

#[rstest]
#[case::c1_no_ca(|p: &mut CertificateParams| p.is_ca = IsCa::ExplicitNoCa, "peer_ca_is_not_ca")]
#[case::c1_no_key_cert_sign(|p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::CrlSign], "peer_ca_key_usage")]
#[case::c4_could_authenticate(|p: &mut CertificateParams| p.key_usages.push(KeyUsagePurpose::DigitalSignature), "peer_ca_key_usage")]
#[case::c3_path(|p: &mut CertificateParams| p.subject_alt_names = vec![uri("spiffe://prod.example/ca")], "peer_ca_spiffe_id_with_path")]
#[case::c3_other_trust_domain(|p: &mut CertificateParams| p.subject_alt_names = vec![uri("spiffe://other.example")], "peer_ca_other_trust_domain")]
#[case::c3_two_uris(|p: &mut CertificateParams| p.subject_alt_names.push(uri("spiffe://other.example")), "peer_ca_two_uri_sans")]
#[case::c5_no_key_usage(|p: &mut CertificateParams| p.key_usages.clear(), "peer_ca_key_usage_missing")]
#[case::c7_extended_key_usage(|p: &mut CertificateParams| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], "peer_ca_extended_key_usage")]
#[case::empty_subject(|p: &mut CertificateParams| p.distinguished_name = rcgen::DistinguishedName::new(), "peer_ca_subject_empty")]
#[case::no_authority_key(|p: &mut CertificateParams| p.use_authority_key_identifier_extension = false, "peer_ca_authority_key_missing")]
#[case::expired(|p: &mut CertificateParams| p.not_after = p.not_before + Duration::from_secs(9), "peer_ca_expired")]
fn c1_to_c7_an_issuing_ca_that_does_not_keep_the_profile_is_refused(#[case] change: Change, #[case] code: &str) {
    let mut ca = Authority::new("prod.example");
    let mut params = ca_params(&ca.trust_domain, "issuing", Some(0));
    change(&mut params);
    ca.issuing = ca.root.below(params);
    let (chain, _) = ca.issue(&good_leaf(&ca));
    assert_eq!(refusal(&chain, &trust(&ca)).code(), code);
}

#[test]
fn c6_a_name_constraint_on_names_that_a_leaf_lacks_does_not_matter() {
    let mut ca = Authority::new("prod.example");
    let mut params = ca_params(&ca.trust_domain, "issuing", Some(0));
    let permitted = vec![rcgen::GeneralSubtree::DnsName("example".into())];
    params.name_constraints = Some(rcgen::NameConstraints { permitted_subtrees: permitted, excluded_subtrees: vec![] });
    ca.issuing = ca.root.below(params);
    let (chain, _) = ca.issue(&good_leaf(&ca));
    verify_chain(&chain, &trust(&ca), time(now()), Side::Client).unwrap();
}

#[test]
fn c2_a_path_length_is_kept() {
    let mut ca = Authority::new("prod.example");
    let between = ca.root.below(ca_params(&ca.trust_domain, "between", Some(0)));
    ca.issuing = between.below(ca_params(&ca.trust_domain, "issuing", Some(0)));
    let (mut chain, _) = ca.issue(&good_leaf(&ca));
    chain.push(between.certificate);
    assert_eq!(refusal(&chain, &trust(&ca)).code(), "peer_ca_path_length");
}

#[test]
fn one_cross_signed_step_is_followed_and_a_longer_chain_is_not() {
    let (old, mut new) = (Authority::new("prod.example"), Authority::new("prod.example"));
    let between = old.root.below(ca_params(&new.trust_domain, "between", Some(1)));
    new.issuing = between.below(ca_params(&new.trust_domain, "issuing", Some(0)));
    let (mut chain, _) = new.issue(&good_leaf(&new));
    chain.push(between.certificate.clone());
    let peer = verify_chain(&chain, &trust(&old), time(now()), Side::Client).unwrap();
    assert_eq!(peer.issuers.len(), 3);
    assert_eq!(Peer::claimed(&chain).unwrap(), peer);
    chain.swap(1, 2);
    assert_eq!(verify_chain(&chain, &trust(&old), time(now()), Side::Client).unwrap(), peer, "in any order");
    chain.push(between.certificate);
    assert_eq!(refusal(&chain, &trust(&old)), Rejection::ChainTooLong(4));
    assert_eq!(refusal(&[], &trust(&old)), Rejection::NoCertificate);
}

#[test]
fn l10_the_authority_key_must_be_the_issuers() {
    let (ca, other) = (Authority::new("prod.example"), Authority::new("prod.example"));
    let mut params = good_leaf(&ca);
    params.use_authority_key_identifier_extension = false;
    let (_, theirs) = x509_parser::parse_x509_certificate(&other.issuing.certificate).unwrap();
    let ski = theirs.iter_extensions().find(|e| e.oid.to_string() == "2.5.29.14").unwrap().value;
    let mut content = vec![0x30, u8::try_from(ski.len()).unwrap(), 0x80];
    content.extend(&ski[1..]);
    params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 35], content));
    let (chain, _) = ca.issue(&params);
    assert_eq!(refusal(&chain, &trust(&ca)).code(), "peer_cert_authority_key_mismatch");
}

#[test]
fn v5_a_leaf_is_checked_against_the_bundle_of_its_own_trust_domain_alone() {
    let (ours, theirs) = (Authority::new("prod.example"), Authority::new("partner.example"));
    let bundles = [(ours.trust_domain.clone(), ours.bundle()), (theirs.trust_domain.clone(), theirs.bundle())].into();
    let both = Trust::new(TrustState { sequence: 1, bundles, ..TrustState::default() }).unwrap();
    // The partner's CA says that a leaf is ours.
    let forged = leaf_params(&ours.id("shop", "orders"), None, &(now() - 1..now() + 99));
    let (chain, _) = theirs.issue(&forged);
    assert_eq!(refusal(&chain, &both).code(), "peer_cert_issuer_untrusted");
    // No bundle at all for the trust domain of a good chain.
    let (chain, _) = theirs.issue(&leaf_params(&theirs.id("a", "b"), None, &(now() - 1..now() + 99)));
    assert_eq!(refusal(&chain, &trust(&ours)), Rejection::UnknownTrustDomain(theirs.trust_domain.clone()));
    verify_chain(&chain, &both, time(now()), Side::Client).expect("with the partner's bundle it is good");
}

#[test]
fn v6_an_empty_bundle_trusts_nothing() {
    let ca = Authority::new("prod.example");
    let (chain, _) = ca.issue(&good_leaf(&ca));
    let bundles = [(ca.trust_domain.clone(), crate::Bundle::default())].into();
    let empty = Trust::new(TrustState { sequence: 1, bundles, ..TrustState::default() }).unwrap();
    assert_eq!(refusal(&chain, &empty), Rejection::EmptyBundle(ca.trust_domain));
}

#[test]
fn a_root_that_is_out_of_date_is_refused_and_does_not_hide_one_that_is_not() {
    let mut ca = Authority::new("prod.example");
    let mut old = ca_params(&ca.trust_domain, "old root", None);
    old.not_after = old.not_before + Duration::from_mins(1);
    let expired = Signer::root(old);
    let between = expired.below(ca_params(&ca.trust_domain, "issuing", Some(0)));
    let good_root = std::mem::replace(&mut ca.root, expired);
    ca.issuing = between;
    let (chain, _) = ca.issue(&good_leaf(&ca));
    let both = |first: &Signer, second: &Signer| {
        let roots = vec![first.certificate.clone(), second.certificate.clone()];
        let bundles = [(ca.trust_domain.clone(), crate::Bundle { roots })].into();
        Trust::new(TrustState { sequence: 1, bundles, ..TrustState::default() }).unwrap()
    };
    let rejection = refusal(&chain, &both(&good_root, &ca.root));
    assert!(matches!(rejection, Rejection::Expired { at: At::Root, .. }), "{rejection}");
    let issuing = good_root.below(ca_params(&ca.trust_domain, "issuing", Some(0)));
    let key = PrivateKey::generate().unwrap();
    let public = rcgen::SubjectPublicKeyInfo::from_der(&key.public_key_der()).unwrap();
    let chain = [issuing.sign(&good_leaf(&ca), &public), issuing.certificate];
    verify_chain(&chain, &both(&ca.root, &good_root), time(now()), Side::Client).unwrap();
}

#[test]
fn v8_f38_a_live_tunnel_is_judged_by_the_trust_of_today_without_its_clock() {
    let ca = Authority::new("prod.example");
    let start = now() - 2000;
    let (chain, _) = ca.issue(&leaf_params(&ca.id("a", "b"), None, &(start..start + 60)));
    let peer = verify_chain(&chain, &trust(&ca), time(start + 10), Side::Client).unwrap();
    assert_eq!(still_trusted(&chain, &peer, &trust(&ca)), Ok(()), "expiry alone cuts nothing");
    let gone = Trust::new(TrustState { sequence: 2, ..TrustState::default() }).unwrap();
    assert_eq!(still_trusted(&chain, &peer, &gone).unwrap_err().code(), "peer_trust_domain_unknown");
    let other = Authority::new("prod.example");
    assert_eq!(still_trusted(&chain, &peer, &trust(&other)).unwrap_err().code(), "peer_cert_issuer_untrusted");
    let mut denied = ca.trust_state(3);
    denied.deny.identities.insert(peer.leaf.id.clone());
    let denied = Trust::new(denied).unwrap();
    assert_eq!(still_trusted(&chain, &peer, &denied).unwrap_err().code(), "peer_identity_denied");
}

#[rstest]
#[case::issuing(|state: &mut TrustState, peer: &Peer| _ = state.deny.issuers.insert(peer.issuers[0].clone()), "peer_issuer_denied")]
#[case::root(|state: &mut TrustState, peer: &Peer| _ = state.deny.issuers.insert(peer.issuers[1].clone()), "peer_issuer_denied")]
#[case::serial(|state: &mut TrustState, peer: &Peer| _ = state.deny.serials.insert(peer.leaf.serial.clone()), "peer_serial_denied")]
#[case::identity(|state: &mut TrustState, peer: &Peer| _ = state.deny.identities.insert(peer.leaf.id.clone()), "peer_identity_denied")]
fn what_the_deny_list_names_is_refused(#[case] deny: fn(&mut TrustState, &Peer), #[case] code: &str) {
    let ca = Authority::new("prod.example");
    let (chain, _) = ca.issue(&good_leaf(&ca));
    let peer = verify_chain(&chain, &trust(&ca), time(now()), Side::Client).unwrap();
    let mut state = ca.trust_state(2);
    deny(&mut state, &peer);
    assert_eq!(refusal(&chain, &Trust::new(state).unwrap()).code(), code);
}

#[test]
fn another_workload_with_the_same_identity_is_not_taken_for_the_one_that_was_meant() {
    let ca = Authority::new("prod.example");
    let (chain, _) = ca.issue(&good_leaf(&ca));
    let peer = Peer::claimed(&chain).unwrap();
    let (id, other) = (ca.id("shop", "orders"), ca.id("shop", "checkout"));
    let (uid, other_uid) = ("o-1".parse().unwrap(), "o-2".parse().unwrap());
    assert_eq!(peer.expect(&id, Some(&uid)), Ok(()));
    assert_eq!(peer.expect(&id, None), Ok(()));
    assert_eq!(peer.expect(&other, Some(&uid)).unwrap_err().code(), "peer_identity_mismatch");
    assert_eq!(peer.expect(&id, Some(&other_uid)).unwrap_err().code(), "peer_uid_mismatch");
    let (chain, _) = ca.issue(&leaf_params(&id, None, &(now() - 1..now() + 99)));
    assert_eq!(Peer::claimed(&chain).unwrap().expect(&id, Some(&uid)).unwrap_err().code(), "peer_uid_mismatch");
}

#[test]
fn other_key_algorithms_are_refused() {
    let ca = Authority::new("prod.example");
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let chain = [ca.issuing.sign(&good_leaf(&ca), &key), ca.issuing.certificate.clone()];
        assert_eq!(refusal(&chain, &trust(&ca)).code(), "peer_cert_key_algorithm");
    }
}

proptest! {
    /// F20: the parser and verifier on any bytes.
    #[test]
    fn f20_fuzz_any_bytes_are_a_leaf_or_a_rejection(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let der = CertificateDer::from(bytes);
        prop_assert!(parse_leaf(&der).is_err());
        prop_assert!(check_issuing(&der).is_err());
    }

    /// A good chain with bytes changed is refused, and never another identity, whatever is changed.
    #[test]
    fn f20_fuzz_no_changed_byte_gets_past_the_signature(
        which in 0..2_usize,
        changes in prop::collection::vec((0..2000_usize, any::<u8>()), 1..4)
    ) {
        let (ca, chain, trust) = fixture();
        let mut changed: Vec<Vec<u8>> = chain.iter().map(|der| der.to_vec()).collect();
        let length = changed[which].len();
        for (at, byte) in changes {
            changed[which][at % length] = byte;
        }
        let same = changed.iter().zip(chain).all(|(a, b)| a.as_slice() == b.as_ref());
        let changed: Vec<CertificateDer<'_>> = changed.into_iter().map(CertificateDer::from).collect();
        if let Ok(peer) = verify_chain(&changed, trust, time(now()), Side::Client) {
            // ECDSA signatures have no spare bits in DER, but for the second half's sign: the identity stays whatever happens.
            prop_assert_eq!(peer.leaf.id, ca.id("shop", "orders"));
            prop_assert!(same, "a changed chain was accepted");
        }
    }

    /// A leaf cut short or with something behind it is refused.
    #[test]
    fn f20_fuzz_truncated_and_extended_chains_are_refused(cut in 0..600_usize, tail in prop::collection::vec(any::<u8>(), 1..5)) {
        let (_, chain, trust) = fixture();
        let leaf = chain[0].as_ref();
        let short = CertificateDer::from(leaf[..cut % leaf.len()].to_vec());
        let long = CertificateDer::from([leaf, &tail].concat());
        for leaf in [short, long] {
            let chain = [leaf, chain[1].clone()];
            prop_assert!(verify_chain(&chain, trust, time(now()), Side::Client).is_err());
        }
    }
}

/// One CA and one chain for all inputs of a property.
fn fixture() -> (&'static Authority, &'static [CertificateDer<'static>], &'static Trust) {
    static FIXTURE: std::sync::LazyLock<(Authority, Vec<CertificateDer<'static>>, Trust)> =
        std::sync::LazyLock::new(|| {
            let ca = Authority::new("prod.example");
            let (chain, _) = ca.issue(&good_leaf(&ca));
            let trust = trust(&ca);
            (ca, chain, trust)
        });
    (&FIXTURE.0, &FIXTURE.1, &FIXTURE.2)
}
