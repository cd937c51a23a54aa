use super::*;

#[test]
fn a_connect_head_names_its_target_and_its_length() {
    let bytes = b"CONNECT 10.0.0.1:8080 HTTP/1.1\r\nHost: 10.0.0.1:8080\r\n\r\nrest";
    let head = request(bytes).unwrap().unwrap();
    assert_eq!(head.content, "10.0.0.1:8080".parse().unwrap());
    assert_eq!(&bytes[head.length..], b"rest");
}

#[test]
fn an_incomplete_head_asks_for_more() {
    assert!(request(b"CONNECT 10.0.0.1:80").unwrap().is_none());
}

#[test]
fn a_mapped_target_is_canonical() {
    assert_eq!(target("[::ffff:10.0.0.1]:80").unwrap(), "10.0.0.1:80".parse().unwrap());
}

#[test]
fn bad_targets_are_refused() {
    for bad in ["orders:80", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", "[fe80::1%2]:80", "", ":80", "10.0.0.1:80/x"] {
        assert_eq!(target(bad).unwrap_err().code(), "bad_target", "{bad}");
    }
}

#[test]
fn what_is_not_a_plain_connect_is_refused() {
    let code = |bytes: &[u8]| request(bytes).unwrap_err().code();
    assert_eq!(code(b"GET / HTTP/1.1\r\n\r\n"), "not_connect");
    assert_eq!(code(b"connect 1.1.1.1:1 HTTP/1.1\r\n\r\n"), "not_connect");
    assert_eq!(code(b"CONNECT 1.1.1.1:1 HTTP/1.1\r\nContent-Length: 3\r\n\r\n"), "head_malformed");
    assert_eq!(code(b"CONNECT 1.1.1.1:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), "head_malformed");
    assert_eq!(code(b"CONNECT 1.1.1.1:1 HTTP/1.1\r\nA\0: b\r\n\r\n"), "head_malformed");
    // F21: an upgrade to h2c is a GET, and a GET is refused.
    assert_eq!(code(b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n"), "not_connect");
}

#[test]
fn a_refusal_carries_its_code_and_no_rule() {
    let text = write_refusal(&Refusal::Denied("no_rule_matched"));
    let head = answer(text.as_bytes()).unwrap().unwrap();
    assert_eq!(head.content, (403, Some("no_rule_matched".into())));
    assert_eq!(head.length, text.len());
}

#[test]
fn a_peers_proxy_status_cannot_smuggle_text_into_the_log() {
    for bad in [&b"x; details=\"a\nb\""[..], b"x; details=\"<A>\"", b"x; details=\"\"", b"details=", b"\xff"] {
        assert_eq!(proxy_status_code(bad), None);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]

    /// F20: the parsers of peers' heads are total and never claim more bytes than they were given.
    #[test]
    fn f20_heads_of_any_bytes_never_panic(start in 0usize..4, tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let starts: [&[u8]; 4] = [b"", b"CONNECT ", b"CONNECT 10.0.0.1:80 HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\nProxy-Status: signet; details=\""];
        let bytes = [starts[start], &tail].concat();
        if let Ok(Some(head)) = request(&bytes) {
            assert!(head.length <= bytes.len());
        }
        if let Ok(Some(head)) = answer(&bytes) {
            assert!(head.length <= bytes.len());
        }
    }
}
