use super::*;
use prost::Message;
use signet_proto::ca::{IssueRequest, RegisterRequest, issue_request::Attestation};

/// What the service does with bytes of strangers before it looks anything up, and then the cryptography on them.
#[test]
fn f20_fuzz_registrations() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(request) = RegisterRequest::decode(bytes)
            && let Ok(claim) = join_token::Claim::read(request)
        {
            assert_eq!(claim.redemption.public_key.len(), 91);
            assert_eq!(claim.redemption.key_id.len(), 64);
            claim.verify().expect_err("nobody guesses a signature");
        }
    });
}

#[test]
fn f20_fuzz_issue_requests() {
    let nonces = nonces::Nonces::new().unwrap();
    bolero::check!().for_each(|bytes: &[u8]| {
        let Ok(request) = IssueRequest::decode(bytes) else { return };
        // A refusal or a key; never a panic.
        let _ = crate::certificate::public_key_of_request(&request.csr);
        if let Some(Attestation::HostKey(proof)) = request.attestation
            && let Ok(claim) = host_key::Claim::read(proof)
        {
            nonces.check(claim.nonce(), std::time::Duration::ZERO).expect_err("nobody guesses a nonce");
        }
    });
}

/// The same with fields of the right shape, so that the fuzzer reaches what lies behind the length checks.
#[test]
fn f20_fuzz_well_formed_claims() {
    let key = signet_identity::PrivateKey::generate().unwrap();
    bolero::check!().with_type::<(Vec<u8>, [u8; 32], [u8; 64])>().for_each(|(signature, nonce, point)| {
        let mut host_public_key = key.public_key_der();
        host_public_key[27..].copy_from_slice(point);
        let request =
            RegisterRequest { join_token: "a token of some length".into(), host_public_key, proof: signature.clone() };
        if let Ok(claim) = join_token::Claim::read(request) {
            claim.verify().expect_err("a point and a signature that nobody made");
        }
        let proof = signet_proto::ca::HostKeyProof {
            host_key_id: "a".repeat(64),
            nonce: nonce.to_vec(),
            signature: signature.clone(),
        };
        let _ = host_key::Claim::read(proof);
    });
}

#[test]
fn the_exact_messages_of_the_protobuf_comments_are_signed() {
    let key = signet_identity::PrivateKey::generate().unwrap();
    let public = key.public_key_der();
    let token = "signet_join_0123456789";
    let message = [b"signet register v1\0".as_slice(), &join_token::sha256(token.as_bytes()), &public].concat();
    let request = RegisterRequest {
        join_token: token.into(),
        host_public_key: public.clone(),
        proof: key.sign(&message).unwrap(),
    };
    join_token::Claim::read(request).unwrap().verify().unwrap();

    let (nonce, csr) = ([7; 32], b"any request".as_slice());
    let message = [b"signet issue v1\0".as_slice(), &nonce, &join_token::sha256(csr)].concat();
    let proof = signet_proto::ca::HostKeyProof {
        host_key_id: join_token::key_id(&public),
        nonce: nonce.to_vec(),
        signature: key.sign(&message).unwrap(),
    };
    let host = crate::store::HostKey {
        key_id: join_token::key_id(&public),
        identity: "spiffe://example.org/ns/shop/sa/orders".parse().unwrap(),
        uid: "orders-1".parse().unwrap(),
        public_key: public,
        registered_at: 0,
        revoked_at: None,
    };
    let claim = host_key::Claim::read(proof).unwrap();
    let facts = claim.verify(host.clone(), csr).unwrap();
    assert_eq!((facts.id, facts.uid), (host.identity.clone(), Some(host.uid.clone())));
    assert!(matches!(claim.verify(host, b"another request"), Err(Refusal::Proof)));
}

#[test]
fn tokens_are_random_and_only_their_hash_is_kept() {
    let mint = || {
        let identity = "spiffe://example.org/ns/shop/sa/orders".parse().unwrap();
        join_token::mint(identity, "orders-1".parse().unwrap(), false, 1, 2).unwrap()
    };
    let (one, other) = (mint(), mint());
    assert_ne!(one.text, other.text);
    assert!(one.text.starts_with(join_token::PREFIX) && one.text.len() == 55);
    assert_eq!(one.record.hash, join_token::sha256(one.text.as_bytes()));
    let kept = format!("{:?}", one.record);
    assert!(!kept.contains(&one.text[12..]), "the record does not hold the token");
}

#[test]
fn reserved_identities_are_exact() {
    let reserved = Reserved::new(&"example.org".parse().unwrap(), "signet-system").unwrap();
    let holds = |text: &str| reserved.holds(&text.parse().unwrap());
    assert!(holds("spiffe://example.org/ns/signet-system/sa/signet-ca"));
    assert!(holds("spiffe://example.org/ns/signet-system/sa/signet-operator"));
    assert!(!holds("spiffe://example.org/ns/other/sa/signet-ca"));
    assert!(!holds("spiffe://example.org/ns/signet-system/sa/signet-c"));
    assert!(!holds("spiffe://example.com/ns/signet-system/sa/signet-ca"));
}
