//! What a peer asks for, and when: heads, targets, and the time before a configuration.
use super::*;

#[test]
fn a_peer_that_speaks_plain_http_connect_over_foreign_records_is_carried() {
    local(async {
        let mesh = Mesh::start().await;
        let mut tls = mesh.foreign(Framing::Alone).await;
        // The first words of the application come with the head.
        tls.write_all(format!("CONNECT {} HTTP/1.1\r\nHost: x\r\n\r\nhello", mesh.application).as_bytes())
            .await
            .unwrap();
        let mut answer = vec![0; head::OPEN.len() + 5];
        timeout(SOON, tls.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, [head::OPEN, b"hello"].concat());
        // Half-close comes back as half-close.
        tls.shutdown().await.unwrap();
        assert_eq!(timeout(SOON, tls.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    });
}

#[test]
fn f34_before_the_first_configuration_nobody_is_admitted() {
    local(async {
        let mesh = Mesh::start().await;
        let bare = Sidecar::start(&mesh.orders.shared.credentials, settings()).await;
        let named = bare.named();
        let refused = mesh.call(&named).await.err().unwrap();
        assert_eq!(refused.to_string(), "the peer answered 403: no_configuration");
        assert_eq!(mesh.calls.get(), 0);
    });
}

#[test]
fn f21_an_upgrade_and_everything_else_that_is_not_connect_is_refused() {
    local(async {
        let mesh = Mesh::start().await;
        let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
        assert!(mesh.say(upgrade.as_bytes()).await.starts_with("HTTP/1.1 405 "));
        assert!(mesh.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        assert!(mesh.say(b"POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        assert_eq!(mesh.calls.get(), 0);
    });
}

#[test]
fn targets_that_are_not_this_workloads_are_refused() {
    local(async {
        let mesh = Mesh::start().await;
        let own = own_ip();
        let targets = [
            ("127.0.0.1:80".to_owned(), "403", "foreign_target"),
            ("169.254.169.254:80".to_owned(), "403", "foreign_target"),
            ("[::1]:80".to_owned(), "403", "foreign_target"),
            ("203.0.113.9:80".to_owned(), "403", "foreign_target"),
            (format!("{own}:15001"), "403", "own_port"),
            (format!("{own}:0"), "400", "bad_target"),
            (format!("user@{own}:80"), "400", "bad_target"),
            ("localhost:80".to_owned(), "400", "bad_target"),
        ];
        for (target, status, code) in targets {
            let answer = mesh.say(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(code), "{target}: {answer}");
        }
        assert_eq!(mesh.calls.get(), 0);
    });
}

#[test]
fn a_head_that_trickles_ends_in_time_and_one_that_is_too_long_at_once() {
    local(async {
        let mesh = Mesh::with(Settings { head_time: BRIEF, ..settings() }).await;
        let mut slow = mesh.foreign(Framing::Alone).await;
        let started = tokio::time::Instant::now();
        let mut rest = b"CONNECT 192.0.2.1:80 HTTP/1.1\r\nX: ".iter().copied().chain(std::iter::repeat(b'x'));
        let trickle = async {
            // Until the other end has had enough.
            for byte in rest.by_ref() {
                if slow.write_all(&[byte]).await.is_err() || slow.flush().await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, trickle).await.expect("it may trickle for ever");
        assert!(started.elapsed() >= BRIEF);
        // Refused for its length, and not because its time is over.
        let mesh = Mesh::start().await;
        let long = format!("CONNECT {} HTTP/1.1\r\nX: {}", mesh.application, "x".repeat(20_000));
        assert!(mesh.say(long.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    });
}

#[test]
fn many_handshakes_at_once_take_turns() {
    local(async {
        // Each has this long for its turn and its handshake, and they share one thread.
        let mesh = Mesh::with(Settings { handshakes: 8, connect_time: SOON * 4, ..settings() }).await;
        let named = mesh.orders.named();
        let target = Target { peer: &named, application: mesh.application };
        let all = (0..30).map(|_| dial_tunnel(&mesh.web.shared, &target, Framing::Alone));
        for tunnel in futures::future::join_all(all).await {
            tunnel.map_err(|refusal| refusal.to_string()).unwrap();
        }
    });
}

#[test]
fn only_a_pooled_tunnel_ends_when_its_other_end_does_not_read() {
    local(async {
        let mesh = Mesh::start().await;
        let timeout_of = |tcp: &TcpStream| socket2::SockRef::from(tcp).tcp_user_timeout().unwrap().unwrap_or_default();
        let plain = socket::dial(mesh.application, SOON).await.unwrap();
        assert_eq!(timeout_of(&plain), Duration::ZERO, "an application may stop reading for as long as it likes");
        let named = mesh.orders.named();
        let target = Target { peer: &named, application: mesh.application };
        let (alone, _) = dial_tunnel(&mesh.web.shared, &target, Framing::Alone).await.unwrap();
        assert_eq!(timeout_of(alone.tcp()), Duration::ZERO);
        socket::must_read(&plain).unwrap();
        assert_eq!(timeout_of(&plain), Duration::from_secs(30));
    });
}

/// An application that says nothing, and the one connection that it accepted.
async fn silent() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind((own_ip(), 0)).await.unwrap();
    (listener.local_addr().unwrap(), listener)
}

#[test]
fn a_reset_of_the_tunnel_reaches_the_application_as_a_reset_whatever_was_half_closed_before() {
    local(async {
        let mesh = Mesh::start().await;
        for half_closed in [false, true] {
            let (address, listener) = silent().await;
            let mut tls = mesh.foreign(Framing::Alone).await;
            tls.write_all(format!("CONNECT {address} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
            let (mut app, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
            tls.read_exact(&mut vec![0; head::OPEN.len()]).await.unwrap();
            if half_closed {
                tls.shutdown().await.unwrap();
                assert_eq!(timeout(SOON, app.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
            }
            tls.get_ref().0.set_zero_linger().unwrap();
            drop(tls);
            if half_closed {
                // Nothing is left to read: the socket's own state tells.
                until("the reset arrived", || app.take_error().unwrap().is_some()).await;
            } else {
                let error = timeout(SOON, app.read(&mut [0; 8])).await.unwrap().unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
        }
    });
}

#[test]
fn a_reset_of_the_application_and_an_end_without_goodbye_are_resets_on_the_other_side() {
    local(async {
        let mesh = Mesh::start().await;
        let (address, listener) = silent().await;
        let open = async || {
            let mut tls = mesh.foreign(Framing::Alone).await;
            tls.write_all(format!("CONNECT {address} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
            let (app, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
            tls.read_exact(&mut vec![0; head::OPEN.len()]).await.unwrap();
            (tls, app)
        };
        let (mut tls, app) = open().await;
        app.set_zero_linger().unwrap();
        drop(app);
        let error = timeout(SOON, tls.read(&mut [0; 8])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        // TCP's end alone, which anybody on the way could forge.
        let (tls, mut app) = open().await;
        drop(tls.into_inner().0);
        let error = timeout(SOON, app.read(&mut [0; 8])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_drain_lets_open_connections_finish_and_the_callee_says_goodbye() {
    local(async {
        let mesh = Mesh::start().await;
        let mut pooled = mesh.call(&mesh.orders.named()).await.unwrap();
        let mut alone = mesh.foreign(Framing::Alone).await;
        alone.write_all(format!("CONNECT {} HTTP/1.1\r\n\r\n", mesh.application).as_bytes()).await.unwrap();
        alone.read_exact(&mut vec![0; head::OPEN.len()]).await.unwrap();
        mesh.orders.phase.send_replace(Phase::Draining);
        until("GOAWAY was heard", || !mesh.web.path.pool.takes_more()).await;
        pooled.stream.write_all(b"p").await.unwrap();
        assert_eq!(pooled.stream.read_u8().await.unwrap(), b'p');
        alone.write_all(b"a").await.unwrap();
        assert_eq!(alone.read_u8().await.unwrap(), b'a');
        // With its last connection the tunnel ends by itself.
        pooled.stream.shutdown().await.unwrap();
        assert_eq!(pooled.stream.read(&mut [0; 8]).await.unwrap(), 0);
        drop(pooled);
        until("the pooled tunnel has ended", || mesh.orders.shared.live.tunnels().len() == 1).await;
    });
}
