//! The certificate request, which must ask for nothing.
use super::*;

#[test]
fn f32_the_request_is_signed_by_the_new_key_and_asks_for_nothing() {
    let key = PrivateKey::generate().unwrap();
    let request = certificate_request(&key).unwrap();
    // rcgen's reader checks the signature.
    let read = rcgen::CertificateSigningRequestParams::from_der(&request.clone().into()).unwrap();
    assert_eq!(read.public_key.subject_public_key_info(), key.public_key_der());
    assert!(read.params.subject_alt_names.is_empty());
    assert!(read.params.key_usages.is_empty());
    assert_eq!(read.params.distinguished_name.iter().count(), 0);
    // Version 1, no subject, the key, no attributes: the only encoding of a request that asks for nothing.
    let info = [&[0x02, 1, 0, 0x30, 0], key.public_key_der().as_slice(), &[0xa0, 0]].concat();
    assert!(request.windows(info.len()).any(|part| part == info), "{request:02x?}");
    let mut broken = request;
    *broken.last_mut().unwrap() ^= 1;
    assert!(rcgen::CertificateSigningRequestParams::from_der(&broken.into()).is_err());
}

#[test]
fn only_an_exhausted_ca_is_asked_again_after_its_own_delay() {
    let refused = |code, value: &'static str| {
        let mut status = Status::new(code, "x");
        status.metadata_mut().insert("retry-after-ms", value.parse().unwrap());
        CallError::Refused { call: "Issue", status: Box::new(status) }
    };
    assert_eq!(refused(Code::ResourceExhausted, "250").asked_delay(), Some(Duration::from_millis(250)));
    for unusable in ["", "-1", "1.5", "soon", "99999999999999999999"] {
        assert_eq!(refused(Code::ResourceExhausted, unusable).asked_delay(), None, "{unusable:?}");
    }
    assert_eq!(refused(Code::Unavailable, "250").asked_delay(), None);
    assert_eq!(CallError::TimedOut("Issue").asked_delay(), None);
}

#[test]
fn f18_words_of_the_ca_are_escaped_and_shortened() {
    let status = Status::permission_denied(format!("no\r\n\x1b[31m{}", "x".repeat(5000)));
    let shown = CallError::Refused { call: "Issue", status: Box::new(status) }.to_string();
    assert!(shown.starts_with("Issue: PermissionDenied: no\\r\\n\\u{1b}[31m"), "{shown}");
    assert!(shown.len() < 400, "{}", shown.len());
}
