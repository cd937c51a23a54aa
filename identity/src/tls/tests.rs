//! Handshakes between rustls configurations as every program makes them.
use super::*;
use crate::testing::{Authority, leaf_params, now};
use rustls::{ClientConnection, ServerConnection};
use std::io::{self, Read, Write};

/// Drives both ends in memory until neither has anything to say; gives each end's error, if any.
fn drive(client: &mut ClientConnection, server: &mut ServerConnection) -> (io::Result<()>, io::Result<()>) {
    let (mut client_end, mut server_end) = (Ok(()), Ok(()));
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let sent = wire.len();
        feed(&mut wire.as_slice(), |r| server.read_tls(r));
        if let Err(error) = server.process_new_packets() {
            server_end = server_end.and(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let received = wire.len();
        feed(&mut wire.as_slice(), |r| client.read_tls(r));
        if let Err(error) = client.process_new_packets() {
            client_end = client_end.and(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        if sent + received == 0 {
            break;
        }
    }
    (client_end, server_end)
}

fn feed(wire: &mut &[u8], mut read: impl FnMut(&mut dyn Read) -> io::Result<usize>) {
    while !wire.is_empty() {
        read(wire).unwrap();
    }
}

fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (ClientConnection, ServerConnection) {
    let client = ClientConnection::new(client.clone(), unnamed()).unwrap();
    (client, ServerConnection::new(server.clone()).unwrap())
}

#[test]
fn both_ends_learn_identity_and_uid_of_the_other() {
    let ca = Authority::new("prod.example");
    let (caller, called) =
        (ca.credentials("shop", "checkout", Some("c-1")), ca.credentials("shop", "orders", Some("o-1")));
    let (mut client, mut server) =
        connect(&caller.client_config(&[b"h2"]), &called.server_config(ClientAuth::Required, &[b"h2", b"http/1.1"]));
    let (client_end, server_end) = drive(&mut client, &mut server);
    client_end.unwrap();
    server_end.unwrap();
    let seen_by_client = peer(client.peer_certificates()).unwrap();
    let seen_by_server = peer(server.peer_certificates()).unwrap();
    seen_by_client.expect(&ca.id("shop", "orders"), Some(&"o-1".parse().unwrap())).unwrap();
    seen_by_server.expect(&ca.id("shop", "checkout"), Some(&"c-1".parse().unwrap())).unwrap();
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    let now = rustls_pki_types::UnixTime::now();
    let verified =
        crate::verify::verify_chain(client.peer_certificates().unwrap(), &caller.trust(), now, crate::Side::Server);
    assert_eq!(verified.unwrap(), seen_by_client, "`peer` says what the verifier said");
}

#[test]
fn the_hybrid_group_is_agreed_on_first() {
    let ca = Authority::new("prod.example");
    let credentials = ca.credentials("a", "b", None);
    let (mut client, mut server) =
        connect(&credentials.client_config(&[]), &credentials.server_config(ClientAuth::Required, &[]));
    drive(&mut client, &mut server).1.unwrap();
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn f1_no_ticket_is_sent_and_a_second_connection_verifies_against_the_trust_of_today() {
    let ca = Authority::new("prod.example");
    let credentials = ca.credentials("a", "b", None);
    let server_side = ca.credentials("a", "server", None);
    let (client_config, server_config) =
        (credentials.client_config(&[]), server_side.server_config(ClientAuth::Required, &[]));
    for round in 1..=2 {
        let (mut client, mut server) = connect(&client_config, &server_config);
        let (client_end, server_end) = drive(&mut client, &mut server);
        client_end.unwrap();
        server_end.unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full), "round {round}");
        assert_eq!(client.tls13_tickets_received(), 0, "round {round}");
    }
    // The root goes, on the server alone and then on the client alone.
    let gone = TrustState { sequence: 2, ..TrustState::default() };
    server_side.adopt_trust(gone.clone()).unwrap();
    let (mut client, mut server) = connect(&client_config, &server_config);
    let error = drive(&mut client, &mut server).1.unwrap_err();
    assert_eq!(rejection(&error).map(|r| r.code()), Some("peer_trust_domain_unknown"));
    credentials.adopt_trust(gone).unwrap();
    let (mut client, mut server) = connect(&client_config, &server_config);
    let error = drive(&mut client, &mut server).0.unwrap_err();
    assert_eq!(rejection(&error).map(|r| r.code()), Some("peer_trust_domain_unknown"));
}

#[test]
fn v7_neither_configuration_can_resume_or_send_early_data() {
    let credentials = Authority::new("prod.example").credentials("a", "b", None);
    for auth in [ClientAuth::Required, ClientAuth::Optional] {
        let server = credentials.server_config(auth, &[]);
        assert_eq!(server.send_tls13_tickets, 0);
        assert_eq!(server.max_early_data_size, 0);
        assert!(!server.session_storage.can_cache());
        assert!(!server.ticketer.enabled());
    }
    let client = credentials.client_config(&[]);
    assert!(!client.enable_early_data);
    assert!(!client.enable_sni);
}

#[test]
fn a_new_key_and_a_new_root_are_used_by_the_next_handshake_without_a_new_configuration() {
    let (old, new) = (Authority::new("prod.example"), Authority::new("prod.example"));
    let (caller, called) = (old.credentials("a", "caller", None), old.credentials("a", "called", None));
    let (client_config, server_config) = (caller.client_config(&[]), called.server_config(ClientAuth::Required, &[]));
    called.set_svid(new.svid(&new.id("a", "called"), None));
    let (mut client, mut server) = connect(&client_config, &server_config);
    let error = drive(&mut client, &mut server).0.unwrap_err();
    assert_eq!(rejection(&error).map(|r| r.code()), Some("peer_cert_issuer_untrusted"));
    let mut both = old.trust_state(2);
    both.bundles.get_mut(&old.trust_domain).unwrap().roots.extend(new.bundle().roots);
    caller.adopt_trust(both).unwrap();
    let (mut client, mut server) = connect(&client_config, &server_config);
    drive(&mut client, &mut server).0.unwrap();
    let mut chain = Vec::new();
    chain.extend(client.peer_certificates().unwrap().iter().map(AsRef::as_ref));
    assert_eq!(chain[1], new.issuing.certificate.as_ref());
}

#[test]
fn without_an_svid_servers_refuse_and_clients_present_nothing() {
    let ca = Authority::new("prod.example");
    let (full, empty) = (ca.credentials("a", "b", None), Credentials::new(ca.trust_state(1)).unwrap());
    let (mut client, mut server) = connect(&full.client_config(&[]), &empty.server_config(ClientAuth::Optional, &[]));
    assert!(drive(&mut client, &mut server).1.is_err(), "a server without an SVID accepts nobody");
    let (mut client, mut server) = connect(&empty.client_config(&[]), &full.server_config(ClientAuth::Required, &[]));
    assert!(drive(&mut client, &mut server).1.is_err(), "a client without an SVID is not accepted");
    let (mut client, mut server) = connect(&empty.client_config(&[]), &full.server_config(ClientAuth::Optional, &[]));
    drive(&mut client, &mut server).1.expect("the CA's listener takes clients without an SVID");
}

#[test]
fn a_client_without_a_protocol_of_the_list_is_refused() {
    let credentials = Authority::new("prod.example").credentials("a", "b", None);
    let server_config = credentials.server_config(ClientAuth::Required, &[b"h2"]);
    for (offered, accepted) in [(&[][..], false), (&[&b"smtp"[..]][..], false), (&[&b"smtp"[..], b"h2"][..], true)] {
        let (mut client, mut server) = connect(&credentials.client_config(offered), &server_config);
        assert_eq!(drive(&mut client, &mut server).1.is_ok(), accepted, "{offered:?}");
    }
    let server_config = credentials.server_config(ClientAuth::Required, &[b"h2", b"http/1.1"]);
    let (mut client, mut server) = connect(&credentials.client_config(&[]), &server_config);
    assert!(drive(&mut client, &mut server).1.is_ok(), "TLS without ALPN is http/1.1");
}

#[test]
fn a_server_learns_why_it_refused_a_client_and_the_client_gets_an_alert() {
    let ca = Authority::new("prod.example");
    let caller = ca.credentials("a", "caller", None);
    let (chain, key) = ca.issue(&leaf_params(&ca.id("a", "caller"), None, &(now() - 100..now() - 10)));
    caller.set_svid(Svid::new(chain, &key).unwrap());
    let called = ca.credentials("a", "called", None);
    let (mut client, mut server) =
        connect(&caller.client_config(&[]), &called.server_config(ClientAuth::Required, &[]));
    let (client_end, server_end) = drive(&mut client, &mut server);
    assert_eq!(rejection(&server_end.unwrap_err()).map(|r| r.code()), Some("peer_cert_expired"));
    let alert = client_end.unwrap_err();
    assert!(alert.to_string().contains("alert"), "{alert}");
    assert_eq!(rejection(&alert), None, "only the server knows why");
}

#[test]
fn a_rejection_is_found_below_other_errors() {
    #[derive(Debug, thiserror::Error)]
    #[error("transport")]
    struct Transport(#[source] io::Error);
    let inner = rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Rejection::NoUriSan))));
    let error = Transport(io::Error::other(io::Error::new(io::ErrorKind::InvalidData, inner)));
    assert_eq!(find_rejection(&error), Some(Rejection::NoUriSan));
    assert_eq!(find_rejection(&io::Error::other("something else")), None);
    assert_eq!(rejection(&io::Error::from(io::ErrorKind::TimedOut)), None);
}

#[test]
fn trust_never_goes_back() {
    let ca = Authority::new("prod.example");
    let credentials = Credentials::new(ca.trust_state(5)).unwrap();
    let empty = |sequence| TrustState { sequence, ..TrustState::default() };
    assert_eq!(credentials.adopt_trust(ca.trust_state(5)), Ok(Adoption::Unchanged));
    assert_eq!(credentials.adopt_trust(empty(5)), Err(TrustError::Conflict(5)));
    assert_eq!(credentials.adopt_trust(empty(4)), Err(TrustError::Older { offered: 4, held: 5 }));
    assert_eq!(credentials.trust().state().sequence, 5);
    assert_eq!(credentials.adopt_trust(empty(6)), Ok(Adoption::Adopted));
    assert_eq!(credentials.adopt_trust(ca.trust_state(5)), Err(TrustError::Older { offered: 5, held: 6 }));
}

#[test]
fn trust_adopted_by_many_threads_ends_at_the_newest() {
    let credentials = Credentials::new(TrustState::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let credentials = &credentials;
            scope.spawn(move || {
                for step in 0..100 {
                    let sequence = step * 4 + thread + 1;
                    match credentials.adopt_trust(TrustState { sequence, ..TrustState::default() }) {
                        Ok(Adoption::Adopted) | Err(TrustError::Older { .. }) => {}
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert_eq!(credentials.trust().state().sequence, 400);
}

#[test]
fn application_bytes_pass_after_the_handshake() {
    let credentials = Authority::new("prod.example").credentials("a", "b", None);
    let (mut client, mut server) =
        connect(&credentials.client_config(&[]), &credentials.server_config(ClientAuth::Required, &[]));
    drive(&mut client, &mut server).1.unwrap();
    client.writer().write_all(b"hello").unwrap();
    drive(&mut client, &mut server).1.unwrap();
    let mut text = [0; 5];
    server.reader().read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
}
