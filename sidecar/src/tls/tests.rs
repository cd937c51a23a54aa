//! The record layer against peers that are not ours: rustls' own records (through tokio-rustls) at the other end.
use super::*;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

fn configs(suite: rustls::CipherSuite) -> Configs {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|s| s.suite() == suite);
    let provider = Arc::new(provider);
    let made = rcgen::generate_simple_self_signed(vec!["peer".into()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(tls13)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(tls13)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Tickets stay on: our end must pass over those that another implementation sends.
    server.enable_secret_extraction = true;
    client.enable_secret_extraction = true;
    Configs { server: Arc::new(server), client: Arc::new(client) }
}

fn name() -> ServerName<'static> {
    "peer".try_into().unwrap()
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (a.unwrap(), b.unwrap().0)
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed)).collect()
}

const SUITES: [rustls::CipherSuite; 3] = [
    rustls::CipherSuite::TLS13_AES_128_GCM_SHA256,
    rustls::CipherSuite::TLS13_AES_256_GCM_SHA384,
    rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// Sends both ways at once and expects what was sent, and an orderly end of each direction by itself.
async fn exchange<A, B>(a: A, b: B)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let (mut ar, mut aw) = tokio::io::split(a);
    let (mut br, mut bw) = tokio::io::split(b);
    let (there, back) = (pattern(3_000_000, 1), pattern(2_345_678, 2));
    let (mut got_there, mut got_back) = (Vec::new(), Vec::new());
    let send_there = async {
        aw.write_all(&there).await.unwrap();
        aw.shutdown().await.unwrap();
    };
    let send_back = async {
        bw.write_all(&back).await.unwrap();
        bw.shutdown().await.unwrap();
    };
    let ((), (), there_read, back_read) =
        tokio::join!(send_there, send_back, br.read_to_end(&mut got_there), ar.read_to_end(&mut got_back));
    there_read.unwrap();
    back_read.unwrap();
    assert!(got_there == there && got_back == back, "bytes differ");
}

#[tokio::test]
async fn our_client_and_rustls_server_understand_each_other_in_every_suite() {
    for suite in SUITES {
        let configs = configs(suite);
        let (a, b) = pair().await;
        let (ours, theirs) =
            tokio::join!(client(a, configs.client, name()), TlsAcceptor::from(configs.server).accept(b));
        exchange(ours.unwrap().records, theirs.unwrap()).await;
    }
}

#[tokio::test]
async fn our_server_and_rustls_client_understand_each_other_in_every_suite() {
    for suite in SUITES {
        let configs = configs(suite);
        let (a, b) = pair().await;
        let (theirs, ours) =
            tokio::join!(TlsConnector::from(configs.client).connect(name(), a), server(b, configs.server));
        exchange(ours.unwrap().records, theirs.unwrap()).await;
    }
}

#[tokio::test]
async fn both_ends_know_the_connection_by_the_same_value_and_no_two_connections_share_it() {
    let configs = configs(SUITES[1]);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        let (a, b) = pair().await;
        let (ours, theirs) = tokio::join!(client(a, configs.client.clone(), name()), server(b, configs.server.clone()));
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        assert_eq!(ours.binding, theirs.binding);
        assert!(seen.insert(ours.binding));
    }
}

#[tokio::test]
async fn bytes_that_arrive_with_the_end_of_the_handshake_are_not_lost() {
    let configs = configs(SUITES[0]);
    let (a, b) = pair().await;
    let client = async {
        let mut tls = TlsConnector::from(configs.client).connect(name(), a).await.unwrap();
        // In the same segment as Finished, mostly.
        tls.write_all(b"early bird").await.unwrap();
        tls.flush().await.unwrap();
        tls
    };
    let (_theirs, ours) = tokio::join!(client, server(b, configs.server));
    let mut got = [0; 10];
    ours.unwrap().records.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"early bird");
}

#[tokio::test]
async fn much_that_arrives_with_the_end_of_the_handshake_is_not_lost_even_under_a_new_key() {
    for new_key in [false, true] {
        let configs = configs(SUITES[0]);
        let (a, b) = pair().await;
        let sent = pattern(300_000, 9);
        let client = async {
            let mut tls = TlsConnector::from(configs.client).connect(name(), a).await.unwrap();
            if new_key {
                tls.get_mut().1.refresh_traffic_keys().unwrap();
            }
            tls.write_all(&sent).await.unwrap();
            tls.shutdown().await.unwrap();
            tls
        };
        let accept = async {
            let mut got = Vec::new();
            server(b, configs.server).await.unwrap().records.read_to_end(&mut got).await.unwrap();
            got
        };
        let (_theirs, got) = tokio::join!(client, accept);
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    }
}

#[tokio::test]
async fn keys_change_when_the_peer_asks_and_when_we_do() {
    let configs = configs(SUITES[0]);
    let (a, b) = pair().await;
    let (theirs, ours) = tokio::join!(TlsConnector::from(configs.client).connect(name(), a), server(b, configs.server));
    let (mut theirs, mut ours) = (theirs.unwrap(), ours.unwrap().records);
    let mut got = [0; 5];
    for _ in 0..3 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(b"there").await.unwrap();
        theirs.flush().await.unwrap();
        ours.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"there");
        ours.write_all(b"again").await.unwrap();
        ours.flush().await.unwrap();
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"again");
        ours.update_key().unwrap();
        ours.write_all(b"third").await.unwrap();
        ours.flush().await.unwrap();
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"third");
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_an_error() {
    let configs = configs(SUITES[0]);
    let (a, b) = pair().await;
    let (ours, theirs) = tokio::join!(client(a, configs.client, name()), TlsAcceptor::from(configs.server).accept(b));
    drop(theirs.unwrap().into_inner().0);
    let error = ours.unwrap().records.read(&mut [0; 8]).await.unwrap_err();
    assert!(matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset), "{error}");
}

#[tokio::test]
async fn one_direction_may_end_while_the_other_goes_on() {
    let configs = configs(SUITES[0]);
    let (a, b) = pair().await;
    let (ours, theirs) = tokio::join!(client(a, configs.client, name()), server(b, configs.server));
    let (mut ours, mut theirs) = (ours.unwrap().records, theirs.unwrap().records);
    ours.shutdown().await.unwrap();
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
    theirs.write_all(b"still here").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut got = Vec::new();
    ours.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"still here");
}

#[tokio::test]
async fn a_record_that_was_changed_on_the_way_is_refused() {
    let configs = configs(SUITES[0]);
    let (a, b) = pair().await;
    let (ours, theirs) = tokio::join!(client(a, configs.client, name()), TlsAcceptor::from(configs.server).accept(b));
    let (mut raw, _) = theirs.unwrap().into_inner();
    let mut forged = vec![23, 3, 3, 0, 40];
    forged.extend([7; 40]);
    raw.write_all(&forged).await.unwrap();
    let error = ours.unwrap().records.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.to_string(), "record does not authenticate");
}

#[tokio::test]
async fn a_failed_handshake_tells_why_and_does_not_hang() {
    let (mine, other) = (configs(SUITES[0]), configs(SUITES[0]));
    let (a, b) = pair().await;
    let both = async { tokio::join!(client(a, other.client, name()), server(b, mine.server)) };
    let (ours, theirs) = tokio::time::timeout(std::time::Duration::from_secs(5), both).await.expect("no end");
    let error = ours.err().unwrap();
    let of_rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    assert!(of_rustls.is_some(), "{error}");
    let told = theirs.err().unwrap();
    assert!(told.to_string().to_lowercase().contains("alert"), "{told}");
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let configs = configs(SUITES[0]);
    let (a, b) = pair().await;
    let (ours, theirs) = tokio::join!(client(a, configs.client, name()), server(b, configs.server));
    let (mut ours, mut theirs) = (ours.unwrap().records, theirs.unwrap().records);
    ours.write_all(&pattern(100_000, 3)).await.unwrap();
    ours.flush().await.unwrap();
    let mut got = vec![0; 100_000];
    theirs.read_exact(&mut got).await.unwrap();
    assert!(!ours.holds_buffer() && !theirs.holds_buffer());
}

#[tokio::test]
async fn keys_change_by_themselves_after_enough_records_in_both_roles() {
    let configs = configs(SUITES[0]);
    for we_are_client in [true, false] {
        let (a, b) = pair().await;
        let (mut ours, theirs): (_, tokio_rustls::TlsStream<TcpStream>) = if we_are_client {
            let acceptor = TlsAcceptor::from(configs.server.clone());
            let (ours, theirs) = tokio::join!(client(a, configs.client.clone(), name()), acceptor.accept(b));
            (ours.unwrap().records, theirs.unwrap().into())
        } else {
            let connector = TlsConnector::from(configs.client.clone());
            let (theirs, ours) = tokio::join!(connector.connect(name(), a), server(b, configs.server.clone()));
            (ours.unwrap().records, theirs.unwrap().into())
        };
        ours.update_after(3);
        exchange(ours, theirs).await;
    }
}

#[tokio::test]
async fn an_alert_of_the_peer_is_told_from_a_fault_of_the_record_layer() {
    let configs = configs(SUITES[0]);
    let (a, b) = pair().await;
    let (ours, theirs) = tokio::join!(client(a, configs.client.clone(), name()), server(b, configs.server));
    let (mut ours, mut theirs) = (ours.unwrap().records, theirs.unwrap().records);
    // bad_certificate: what a server says that refuses our certificate, after our half of the handshake.
    theirs.queue(cipher::ALERT, &[2, 42]).unwrap();
    theirs.flush().await.unwrap();
    for _ in 0..2 {
        let error = ours.read(&mut [0; 8]).await.unwrap_err();
        assert!(is_alert(&error), "{error}");
    }
}

#[tokio::test]
async fn nothing_is_read_past_a_record_that_was_refused_and_all_before_it_is() {
    use std::io::Write as _;
    let configs = configs(SUITES[0]);
    let (a, b) = pair().await;
    let (ours, theirs) = tokio::join!(client(a, configs.client, name()), TlsAcceptor::from(configs.server).accept(b));
    let (mut ours, (mut raw, mut theirs)) = (ours.unwrap().records, theirs.unwrap().into_inner());
    let mut sealed = Vec::new();
    for (words, forge) in [(b"one", false), (b"two", true), (b"3rd", false)] {
        theirs.writer().write_all(words).unwrap();
        let mut record = Vec::new();
        theirs.write_tls(&mut record).unwrap();
        *record.last_mut().unwrap() ^= u8::from(forge);
        sealed.extend(record);
    }
    raw.write_all(&sealed).await.unwrap();
    let mut got = Vec::new();
    let error = ours.read_to_end(&mut got).await.unwrap_err();
    assert_eq!((&got[..], &*error.to_string()), (&b"one"[..], "record does not authenticate"));
    let again = ours.read(&mut [0; 100]).await.unwrap_err();
    assert_eq!(again.to_string(), "record does not authenticate");
}

#[tokio::test]
async fn f29_a_flood_of_records_that_carry_nothing_ends_the_connection() {
    let key_update: &[u8] = &[24, 0, 0, 1, 1];
    let configs = configs(SUITES[0]);
    for (kind, content) in [(cipher::DATA, &[][..]), (cipher::HANDSHAKE, key_update), (cipher::ALERT, &[1, 90])] {
        let (a, b) = pair().await;
        let (ours, theirs) = tokio::join!(client(a, configs.client.clone(), name()), server(b, configs.server.clone()));
        let (mut ours, mut theirs) = (ours.unwrap().records, theirs.unwrap().records);
        for _ in 0..100 {
            theirs.queue(kind, content).unwrap();
            if content == key_update {
                theirs.change_key().unwrap();
            }
        }
        theirs.flush().await.unwrap();
        let error = ours.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.to_string(), "too many empty records", "type {kind}");
    }
}

#[tokio::test]
async fn what_follows_close_notify_is_ignored_and_not_kept() {
    let configs = configs(SUITES[0]);
    let (a, b) = pair().await;
    let (ours, theirs) = tokio::join!(client(a, configs.client, name()), server(b, configs.server));
    let (mut ours, mut theirs) = (ours.unwrap().records, theirs.unwrap().records);
    theirs.queue(cipher::ALERT, &[1, 0]).unwrap();
    theirs.queue(cipher::DATA, b"too late").unwrap();
    theirs.flush().await.unwrap();
    for _ in 0..2 {
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
    }
    assert!(!ours.holds_buffer());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// F20: whatever a peer seals with the right key is data, an orderly end or an error; never a panic, never for ever.
    #[test]
    fn f20_any_sealed_content_ends_in_data_an_end_or_an_error(
        records in proptest::collection::vec((20_u8..25, proptest::prop_oneof![
            proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
            proptest::strategy::Just(vec![24, 0, 0, 1, 0]),
            proptest::strategy::Just(vec![1, 0]),
            proptest::strategy::Just(vec![4, 0, 0, 0]),
        ]), 0..12),
        room in 1_usize..200,
        we_are_client in proptest::prelude::any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let configs = configs(SUITES[0]);
            let (a, b) = pair().await;
            let (one, other) = tokio::join!(client(a, configs.client, name()), server(b, configs.server));
            let (one, other) = (one.unwrap().records, other.unwrap().records);
            let (mut ours, mut theirs) = if we_are_client { (one, other) } else { (other, one) };
            let mut data: Vec<u8> = Vec::new();
            for (kind, content) in &records {
                theirs.queue(*kind, content).unwrap();
                if *kind == cipher::DATA {
                    data.extend(content);
                }
            }
            theirs.shutdown().await.unwrap();
            drop(theirs);
            let (mut got, mut piece) = (Vec::new(), vec![0; room]);
            let read = async {
                while let Ok(count @ 1..) = ours.read(&mut piece).await {
                    got.extend(&piece[..count]);
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(5), read).await.expect("no end");
            assert!(data.starts_with(&got), "what came out was not what was put in");
        });
    }
}

mod hostile {
    //! Every byte that a peer can send after the handshake, sealed with the right key, must end in data, an orderly end or an error.
    use super::super::cipher::{self, Cipher};
    use rustls::ConnectionTrafficSecrets;
    use rustls::crypto::cipher::{AeadKey, Iv};

    fn secrets() -> ConnectionTrafficSecrets {
        ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([7; 32]), iv: Iv::from([9; 12]) }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(5_000))]

        #[test]
        fn what_is_sealed_is_opened(kind in 20u8..25, content in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000), first in 0u64..1000) {
            let (mut seal, mut open) = (Cipher::new((first, &secrets())).unwrap(), Cipher::new((first, &secrets())).unwrap());
            let mut record = vec![0; cipher::sealed(content.len())];
            let length = seal.seal(kind, &content, &mut record).unwrap();
            proptest::prop_assert_eq!(length, record.len());
            proptest::prop_assert_eq!(cipher::record_length(&record).unwrap(), Some(length));
            let (got, range) = open.open(&mut record).unwrap();
            proptest::prop_assert_eq!(got, kind);
            proptest::prop_assert_eq!(&record[range], &content[..]);
        }

        /// F20.
        #[test]
        fn f20_any_bytes_are_refused_and_never_panic(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), data in proptest::prelude::any::<bool>()) {
            if data && !bytes.is_empty() {
                bytes[0] = cipher::DATA;
            }
            if let Ok(Some(length)) = cipher::record_length(&bytes)
                && bytes.len() >= length
            {
                let mut open = Cipher::new((0, &secrets())).unwrap();
                let mut out = vec![0; length];
                proptest::prop_assert!(open.open_into(&bytes[..length], &mut out).is_err());
                proptest::prop_assert!(open.open(&mut bytes[..length]).is_err());
            }
        }
    }
}
