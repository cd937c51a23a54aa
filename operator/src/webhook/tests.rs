//! The webhook's own CA. What needs an API server is in `operator/tests/chart`.
use super::authority::{self, Authority, AuthorityError, LEAF_LIFETIME, LIFETIME};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{RootCertStore, client::WebPkiServerVerifier};
use std::sync::Arc;
use std::time::Duration;

const NOW: u64 = 1_800_000_000;

fn names() -> Vec<String> {
    vec!["signet-webhook.signet-system.svc".to_owned(), "127.0.0.1".to_owned()]
}

/// Whether a client that trusts these certificates takes this leaf for that name, as the API server decides.
fn takes(trusted: &[&str], leaf: &authority::Leaf, name: &str, now: u64) -> bool {
    let mut roots = RootCertStore::empty();
    for pem in trusted {
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), signet_identity::tls::provider());
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let verifier = verifier.build().unwrap();
    rustls::client::danger::ServerCertVerifier::verify_server_cert(
        &*verifier,
        &leaf.certified.cert[0],
        &[],
        &name,
        &[],
        now,
    )
    .is_ok()
}

#[test]
fn the_api_server_takes_the_certificate_for_its_names_and_no_other() {
    let ca = Authority::make(NOW).unwrap();
    let leaf = ca.issue(&names(), NOW).unwrap();
    for name in names() {
        assert!(takes(&[&ca.certificate_pem], &leaf, &name, NOW), "{name}");
    }
    assert!(!takes(&[&ca.certificate_pem], &leaf, "signet-operator.signet-system.svc", NOW));
    assert!(!takes(&[&Authority::make(NOW).unwrap().certificate_pem], &leaf, &names()[0], NOW), "another CA");
}

#[test]
fn a_certificate_is_renewed_long_before_it_ends_and_never_outlives_its_issuer() {
    let ca = Authority::make(NOW).unwrap();
    let leaf = ca.issue(&names(), NOW).unwrap();
    assert_eq!(leaf.renew_at, NOW + LEAF_LIFETIME / 2);
    let late = NOW + LIFETIME - 3600;
    let last = ca.issue(&names(), late).unwrap();
    assert!(takes(&[&ca.certificate_pem], &last, &names()[0], late + 3599));
    assert!(!takes(&[&ca.certificate_pem], &last, &names()[0], late + 3601));
}

#[test]
fn the_ca_is_due_after_two_thirds_and_old_and_new_are_trusted_together() {
    let old = Authority::make(NOW).unwrap();
    assert!(!old.is_due(NOW + LIFETIME * 2 / 3 - 7200));
    let later = NOW + LIFETIME * 2 / 3;
    assert!(old.is_due(later));
    let new = Authority::make(later).unwrap();
    let bundle = [new.certificate_pem.as_str(), old.certificate_pem.as_str()];
    for leaf in [old.issue(&names(), later).unwrap(), new.issue(&names(), later).unwrap()] {
        assert!(takes(&bundle, &leaf, &names()[0], later), "replicas change at different moments");
    }
}

#[test]
fn what_was_kept_is_taken_again_and_a_foreign_key_is_not() {
    let (kept, other) = (Authority::make(NOW).unwrap(), Authority::make(NOW).unwrap());
    let read = Authority::read(&kept.certificate_pem, &kept.key_pem).unwrap();
    assert_eq!(read.not_after, NOW + LIFETIME);
    let leaf = read.issue(&names(), NOW).unwrap();
    assert!(takes(&[&kept.certificate_pem], &leaf, &names()[0], NOW));
    assert!(matches!(Authority::read(&kept.certificate_pem, &other.key_pem), Err(AuthorityError::Mismatch)));
    for (certificate, key) in [("", ""), ("x", kept.key_pem.as_str()), (kept.certificate_pem.as_str(), "x")] {
        assert!(Authority::read(certificate, key).is_err());
    }
}
