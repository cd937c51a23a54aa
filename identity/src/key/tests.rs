//! Keys: P-256 alone, secrets never shown.
use super::*;

#[test]
fn a_key_survives_der_and_pem() {
    let key = PrivateKey::generate().unwrap();
    let from_der = PrivateKey::from_pkcs8_der(&key.to_pkcs8_der()).unwrap();
    let from_pem = PrivateKey::from_pem(&key.to_pem()).unwrap();
    assert_eq!(from_der.public_key_der(), key.public_key_der());
    assert_eq!(from_pem.public_key_der(), key.public_key_der());
    assert_eq!(key.to_pem().lines().map(str::len).max(), Some(64), "PEM lines have 64 characters (RFC 7468)");
}

#[test]
fn two_keys_differ() {
    assert_ne!(PrivateKey::generate().unwrap().public_key_der(), PrivateKey::generate().unwrap().public_key_der());
}

#[test]
fn a_signature_verifies_with_its_key_and_message_alone() {
    let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let signature = key.sign(b"message").unwrap();
    let public = key.public_key_der();
    assert_eq!(verify_signature(&public, b"message", &signature), Ok(()));
    assert_eq!(verify_signature(&public, b"massage", &signature), Err(KeyError::BadSignature));
    assert_eq!(verify_signature(&other.public_key_der(), b"message", &signature), Err(KeyError::BadSignature));
    assert_eq!(verify_signature(&public, b"message", &[]), Err(KeyError::BadSignature));
    assert_eq!(verify_signature(&public[..90], b"message", &signature), Err(KeyError::PublicKey));
    assert_eq!(verify_signature(&[public.as_slice(), &[0]].concat(), b"message", &signature), Err(KeyError::PublicKey));
    assert_eq!(verify_signature(&[], b"message", &signature), Err(KeyError::PublicKey));
}

#[test]
fn other_curves_are_refused() {
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(
            PrivateKey::from_pkcs8_der(&key.serialize_der()).err(),
            Some(KeyError::NotP256Pkcs8),
            "{algorithm:?}"
        );
        assert_eq!(PrivateKey::from_pem(&key.serialize_pem()).err(), Some(KeyError::NotP256Pkcs8), "{algorithm:?}");
    }
}

#[test]
fn what_is_no_key_is_refused() {
    assert_eq!(PrivateKey::from_pem("").err(), Some(KeyError::NoPemBlock));
    assert_eq!(
        PrivateKey::from_pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").err(),
        Some(KeyError::NoPemBlock)
    );
    assert_eq!(PrivateKey::from_pkcs8_der(&[0x30, 0]).err(), Some(KeyError::NotP256Pkcs8));
}

#[test]
fn no_key_material_is_printed() {
    let key = PrivateKey::generate().unwrap();
    assert_eq!(format!("{key:?}"), "PrivateKey(..)");
}
