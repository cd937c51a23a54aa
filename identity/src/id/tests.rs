//! Rows ID1 to ID8 of the SPIFFE checklist, findings F3, F5 and F23.
use super::*;
use proptest::prelude::*;
use rstest::rstest;

fn id(text: &str) -> Result<SpiffeId, IdError> {
    text.parse()
}

#[rstest]
#[case::no_path("spiffe://a")]
#[case::dotted_ipv4("spiffe://1.2.3.4/b")]
#[case::every_kind_of_character("spiffe://a_b.c-d/E_f.g-h")]
#[case::dots_in_a_segment("spiffe://a/..b/b../.../.b")]
#[case::kubernetes("spiffe://prod.example/ns/shop/sa/orders")]
fn id0_valid_ids_keep_every_byte(#[case] text: &str) {
    assert_eq!(id(text).unwrap().as_str(), text);
}

#[rstest]
#[case::id1_scheme_upper("SPIFFE://a/b", IdError::Scheme)]
#[case::id1_scheme_other("https://a/b", IdError::Scheme)]
#[case::id1_scheme_one_slash("spiffe:/a/b", IdError::Scheme)]
#[case::id1_scheme_missing("a/b", IdError::Scheme)]
#[case::id1_space_before(" spiffe://a/b", IdError::Scheme)]
#[case::id1_query("spiffe://a/b?c", IdError::PathByte(b'?'))]
#[case::id1_query_without_path("spiffe://a?c", IdError::TrustDomainByte(b'?'))]
#[case::id1_fragment("spiffe://a/b#c", IdError::PathByte(b'#'))]
#[case::id1_fragment_without_path("spiffe://a#c", IdError::TrustDomainByte(b'#'))]
#[case::id0_empty("", IdError::Empty)]
#[case::id2_nothing_behind_the_scheme("spiffe://", IdError::TrustDomainEmpty)]
#[case::id2_no_trust_domain("spiffe:///b", IdError::TrustDomainEmpty)]
#[case::id2_port("spiffe://a:1/b", IdError::TrustDomainByte(b':'))]
#[case::id2_user("spiffe://u@a/b", IdError::TrustDomainByte(b'@'))]
#[case::id3_upper_case("spiffe://A/b", IdError::TrustDomainByte(b'A'))]
#[case::id3_ipv6("spiffe://[::1]/b", IdError::TrustDomainByte(b'['))]
#[case::id3_percent("spiffe://a%41/b", IdError::TrustDomainByte(b'%'))]
#[case::id3_non_ascii("spiffe://\u{e4}/b", IdError::TrustDomainByte(0xc3))]
#[case::id4_percent("spiffe://a/%41", IdError::PathByte(b'%'))]
#[case::id4_trailing_slash("spiffe://a/b/", IdError::TrailingSlash)]
#[case::id4_only_slash("spiffe://a/", IdError::TrailingSlash)]
#[case::id4_empty_segment("spiffe://a//b", IdError::EmptySegment)]
#[case::id4_empty_segment_inside("spiffe://a/b//c", IdError::EmptySegment)]
#[case::id4_dot("spiffe://a/./b", IdError::DotSegment)]
#[case::id4_dot_dot("spiffe://a/..", IdError::DotSegment)]
#[case::id4_dot_dot_inside("spiffe://a/b/../c", IdError::DotSegment)]
#[case::id4_non_ascii("spiffe://a/\u{e4}", IdError::PathByte(0xc3))]
#[case::id4_backslash("spiffe://a/b\\c", IdError::PathByte(b'\\'))]
#[case::id4_space("spiffe://a/b c", IdError::PathByte(b' '))]
#[case::f5_nul_in_the_path("spiffe://a/b\0c", IdError::PathByte(0))]
#[case::f5_nul_in_the_trust_domain("spiffe://a\0.example/b", IdError::TrustDomainByte(0))]
#[case::f5_percent_nul("spiffe://a/b%00c", IdError::PathByte(b'%'))]
#[case::f5_newline("spiffe://a/b\n", IdError::PathByte(b'\n'))]
fn f23_whatever_would_need_normalising_is_refused(#[case] text: &str, #[case] want: IdError) {
    assert_eq!(id(text), Err(want), "{text:?}");
}

#[test]
fn f5_a_trailing_dot_is_another_trust_domain() {
    let (plain, dotted) = (id("spiffe://prod.example/b").unwrap(), id("spiffe://prod.example./b").unwrap());
    assert_ne!(plain, dotted);
    assert_ne!(plain.trust_domain(), dotted.trust_domain());
}

#[test]
fn id5_an_id_has_at_most_2048_bytes() {
    let longest = format!("spiffe://a/{}", "b".repeat(2048 - 11));
    assert_eq!(longest.len(), 2048);
    assert_eq!(id(&longest).unwrap().path().len(), 2048 - 10);
    assert_eq!(id(&format!("{longest}b")), Err(IdError::TooLong(2049)));
    assert_eq!(id(&"b".repeat(1 << 20)), Err(IdError::TooLong(1 << 20)));
}

#[test]
fn id6_a_trust_domain_has_at_most_255_bytes() {
    let longest = "t".repeat(255);
    assert_eq!(longest.parse::<TrustDomain>().unwrap().as_str(), longest);
    assert_eq!(id(&format!("spiffe://{longest}/b")).unwrap().trust_domain_str(), longest);
    assert_eq!("t".repeat(256).parse::<TrustDomain>(), Err(IdError::TrustDomainTooLong(256)));
    assert_eq!(id(&format!("spiffe://{}/b", "t".repeat(256))), Err(IdError::TrustDomainTooLong(256)));
}

#[test]
fn id7_paths_differ_by_case_and_a_trust_domain_has_only_one() {
    assert_ne!(id("spiffe://a/b"), id("spiffe://a/B"));
    assert_eq!(id("spiffe://A/b"), Err(IdError::TrustDomainByte(b'A')));
}

#[test]
fn id8_a_signing_authority_has_its_trust_domain_and_no_path() {
    let td: TrustDomain = "prod.example".parse().unwrap();
    assert_eq!(td.id().as_str(), "spiffe://prod.example");
    assert_eq!(td.id(), id("spiffe://prod.example").unwrap());
    assert_eq!((td.id().path(), td.id().trust_domain()), ("", td));
}

#[test]
fn a_trust_domain_alone_is_no_url_and_nothing_more() {
    for text in ["", "spiffe://a", "a/b", "A", "a b", "a%", "\u{e4}"] {
        assert!(text.parse::<TrustDomain>().is_err(), "{text:?}");
    }
}

#[test]
fn f3_dots_are_dots() {
    let a = SpiffeId::workload(&"a".parse().unwrap(), "shop", "or.ders").unwrap();
    for other in ["or_ders", "orxders", "orders"] {
        assert_ne!(a, SpiffeId::workload(&"a".parse().unwrap(), "shop", other).unwrap());
    }
}

#[rstest]
#[case("spiffe://a/ns/shop/sa/orders", Some(("shop", "orders")))]
#[case("spiffe://a/ns/shop/sa/orders/x", None)]
#[case("spiffe://a/x/ns/shop/sa/orders", None)]
#[case("spiffe://a/ns/shop/orders", None)]
#[case("spiffe://a/ns/shop", None)]
#[case("spiffe://a/ns/shop/sa", None)]
#[case("spiffe://a/NS/shop/sa/orders", None)]
#[case("spiffe://a", None)]
fn namespace_and_service_account_come_only_from_the_exact_shape(
    #[case] text: &str,
    #[case] want: Option<(&str, &str)>,
) {
    assert_eq!(id(text).unwrap().namespace_and_service_account(), want);
}

#[rstest]
#[case("a/b", "c")]
#[case("a", "b/c")]
#[case("", "c")]
#[case("a", "")]
#[case("..", "c")]
#[case("a", "b%2f")]
#[case("a", "b\u{0}")]
fn a_name_cannot_reach_into_the_path(#[case] namespace: &str, #[case] account: &str) {
    assert!(SpiffeId::workload(&"td".parse().unwrap(), namespace, account).is_err());
}

proptest! {
    /// The rust-spiffe crate as a second opinion: what we take, it takes, and reads the same.
    #[test]
    fn f23_what_is_accepted_is_what_the_spiffe_crate_reads_byte_for_byte(
        text in "(spiffe://)?[a-zA-Z0-9._:/@%?#\\[\\]-]{0,40}(/[a-zA-Z0-9._%/-]{0,12}){0,3}"
    ) {
        if let Ok(ours) = id(&text) {
            prop_assert_eq!(ours.as_str(), text.as_str());
            let theirs: spiffe::SpiffeId = text.parse().unwrap();
            prop_assert_eq!(theirs.to_string(), text.as_str());
            prop_assert_eq!(theirs.path(), ours.path());
            prop_assert_eq!(theirs.trust_domain().to_string(), ours.trust_domain_str());
        }
    }

    /// F3: two identities match exactly when their bytes do.
    #[test]
    fn f3_identities_are_equal_exactly_when_their_bytes_are(a in "spiffe://[a-c.]{1,3}/[a-cA-C.]{1,3}", b in "spiffe://[a-c.]{1,3}/[a-cA-C.]{1,3}") {
        if let (Ok(first), Ok(second)) = (id(&a), id(&b)) {
            prop_assert_eq!(first == second, a == b);
        }
    }

    /// F20: any bytes at all.
    #[test]
    fn f20_fuzz_any_text_is_an_id_or_an_error(text in any::<String>()) {
        if let Ok(parsed) = id(&text) {
            prop_assert_eq!(format!("spiffe://{}{}", parsed.trust_domain_str(), parsed.path()), text);
        }
    }

    /// A valid ID with one byte changed is another ID or none, never the same.
    #[test]
    fn one_changed_byte_is_never_the_same_identity(at in 0..39_usize, byte in 0..128_u8) {
        let text = "spiffe://prod.example/ns/shop/sa/orders";
        let mut changed = text.as_bytes().to_vec();
        changed[at] = byte;
        if changed != text.as_bytes() && let Ok(other) = id(std::str::from_utf8(&changed).unwrap()) {
            prop_assert_ne!(other, id(text).unwrap());
        }
    }
}
