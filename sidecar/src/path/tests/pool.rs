//! The pool of tunnels: who must answer, what many callers share, and what leaves it.
use super::*;
use crate::refusal::Refusal;
use signet_identity::Rejection;

#[test]
fn connections_share_a_tunnel_and_reach_the_application() {
    local(async {
        let mesh = Mesh::start().await;
        let named = mesh.orders.named();
        let mut open = Vec::new();
        for number in 0..10_u8 {
            let mut opened = mesh.call(&named).await.unwrap();
            opened.stream.write_all(&[number]).await.unwrap();
            open.push(opened);
        }
        for (number, opened) in open.iter_mut().enumerate() {
            assert_eq!(usize::from(opened.stream.read_u8().await.unwrap()), number);
        }
        assert_eq!((mesh.orders.accepted.get(), mesh.calls.get()), (1, 10));
    });
}

#[test]
fn only_the_identity_and_the_uid_that_the_operator_named_are_spoken_to() {
    local(async {
        let mesh = Mesh::start().await;
        let named = mesh.orders.named();
        let other_uid = Named { uid: Some("orders-2".parse().unwrap()), ..named.clone() };
        let other_id = Named { id: mesh.authority.id("shop", "payments"), ..named };
        for framing in [Framing::Pooled, Framing::Alone, Framing::Proof] {
            let target = |peer| Target { peer, application: mesh.application };
            let uid = dial_tunnel(&mesh.web.shared, &target(&other_uid), framing).await.err().unwrap();
            assert!(matches!(uid, Refusal::PeerCertificate(Rejection::OtherUid { .. })), "{uid}");
            let id = dial_tunnel(&mesh.web.shared, &target(&other_id), framing).await.err().unwrap();
            assert!(matches!(id, Refusal::PeerCertificate(Rejection::OtherIdentity { .. })), "{id}");
        }
        assert_eq!(mesh.call(&other_uid).await.err().unwrap().code(), "peer_uid_mismatch");
        assert_eq!(mesh.calls.get(), 0);
        assert!(mesh.web.path.pool.is_empty(), "a peer that was never reached stays in the pool");
    });
}

#[test]
fn many_callers_of_a_peer_that_is_silent_wait_for_one_timeout() {
    local(async {
        // The peer that answers below has this time too.
        let mesh = Mesh::with(Settings { connect_time: Duration::from_secs(3), ..settings() }).await;
        // Takes connections and says nothing.
        let silent = TcpListener::bind((own_ip(), 0)).await.unwrap();
        let named = Named { tunnel_port: silent.local_addr().unwrap().port(), ..mesh.orders.named() };
        let reached = Rc::new(Cell::new(0));
        let count = reached.clone();
        spawn_local(async move {
            let mut held = Vec::new();
            while let Ok((tcp, _)) = silent.accept().await {
                held.push(tcp);
                count.set(held.len());
            }
        });
        let calls = (0..50).map(|_| mesh.call(&named));
        for refused in futures::future::join_all(calls).await {
            assert_eq!(refused.err().unwrap().code(), "handshake_timeout");
        }
        until("the one dial arrived", || reached.get() > 0).await;
        assert_eq!(reached.get(), 1, "all of them wait for the same dial");
        // Whoever comes later tries for himself.
        let again = mesh.orders.named();
        mesh.call(&again).await.unwrap();
        assert_eq!(mesh.call(&named).await.err().unwrap().code(), "handshake_timeout");
        until("his own dial arrived", || reached.get() == 2).await;
    });
}

#[test]
fn a_peer_that_refuses_our_certificate_is_told_from_a_tunnel_that_broke() {
    local(async {
        let mesh = Mesh::start().await;
        let stranger = Authority::new("example.org");
        let both = [mesh.authority.bundle(), stranger.bundle()].into_iter().flat_map(|b| b.roots).collect();
        let mut trust = mesh.authority.trust_state(2);
        trust.bundles.values_mut().for_each(|bundle| bundle.roots = Vec::clone(&both));
        let credentials = Credentials::new(trust).unwrap();
        credentials.set_svid(stranger.svid(&stranger.id("shop", "web"), Some("web-1")));
        let web = Sidecar::start(&credentials, settings()).await;
        let (named, application) = (mesh.orders.named(), mesh.application);
        let target = Target { peer: &named, application };
        for _ in 0..5 {
            let refused = Pool::open(&web.path, &target).await.err().unwrap();
            assert_eq!(refused.code(), "refused_by_peer", "{refused}");
            assert!(refused.to_string().contains("alert"), "the alert was lost: {refused}");
        }
    });
}

#[test]
fn a_process_that_leaves_asks_for_nothing_new_and_its_tunnels_close_when_what_they_carry_has_ended() {
    local(async {
        let mesh = Mesh::start().await;
        let named = mesh.orders.named();
        let mut call = mesh.call(&named).await.unwrap();
        mesh.web.phase.send_replace(Phase::Leaving);
        until("nobody can ask", || !mesh.web.path.pool.takes_more()).await;
        call.stream.write_all(b"last").await.unwrap();
        assert_eq!(call.stream.read_u8().await.unwrap(), b'l');
        assert_eq!(mesh.web.shared.live.tunnels().len(), 1, "what is carried goes on");
        drop(call);
        mesh.web.shared.live.closed().await;
        assert!(mesh.web.path.pool.is_empty());
    });
}

#[test]
fn a_tunnel_that_said_goodbye_gets_no_new_connections_and_keeps_those_it_has() {
    local(async {
        let mesh = Mesh::start().await;
        let named = mesh.orders.named();
        let mut old = mesh.call(&named).await.unwrap();
        // The next sidecar of the same workload takes over the port while the old one finishes.
        let (next, _phase) = path(&mesh.orders.shared);
        mesh.orders.serving.replace(next);
        mesh.orders.phase.send_replace(Phase::Draining);
        until("GOAWAY was heard", || !mesh.web.path.pool.takes_more()).await;
        for _ in 0..3 {
            let mut new = mesh.call(&named).await.unwrap();
            new.stream.write_all(b"n").await.unwrap();
            assert_eq!(new.stream.read_u8().await.unwrap(), b'n');
        }
        old.stream.write_all(b"o").await.unwrap();
        assert_eq!(old.stream.read_u8().await.unwrap(), b'o');
        assert_eq!(mesh.orders.accepted.get(), 2);
    });
}

#[test]
fn a_pooled_tunnel_that_is_idle_leaves_the_pool_and_the_registry() {
    local(async {
        let mesh = Mesh::with(Settings { idle_tunnel: Duration::from_millis(100), ..settings() }).await;
        let opened = mesh.call(&mesh.orders.named()).await.unwrap();
        assert_eq!((mesh.web.shared.live.tunnels().len(), mesh.orders.shared.live.tunnels().len()), (1, 1));
        drop(opened);
        until("the tunnel is gone", || {
            mesh.web.path.pool.is_empty()
                && mesh.web.shared.live.tunnels().is_empty()
                && mesh.orders.shared.live.tunnels().is_empty()
        })
        .await;
    });
}

#[test]
fn a_new_certificate_takes_a_new_tunnel_and_the_old_one_finishes() {
    local(async {
        let mesh = Mesh::start().await;
        let named = mesh.orders.named();
        let mut old = mesh.call(&named).await.unwrap();
        mesh.web.shared.credentials.set_svid(mesh.authority.svid(&mesh.authority.id("shop", "web"), Some("web-1")));
        let _new = mesh.call(&named).await.unwrap();
        assert_eq!(mesh.orders.accepted.get(), 2);
        old.stream.write_all(b"o").await.unwrap();
        assert_eq!(old.stream.read_u8().await.unwrap(), b'o');
    });
}

#[test]
fn a_call_that_is_given_up_leaves_the_way_free_for_the_next() {
    local(async {
        let mesh = Mesh::start().await;
        let named = mesh.orders.named();
        for pause in 0..40 {
            let call = mesh.call(&named);
            drop(timeout(Duration::from_micros(pause * 100), call).await);
        }
        let mut opened = timeout(SOON, mesh.call(&named)).await.unwrap().unwrap();
        opened.stream.write_all(b"x").await.unwrap();
        assert_eq!(opened.stream.read_u8().await.unwrap(), b'x');
        drop(opened);
        until("every slot is free", || mesh.web.path.pool.carried() == 0).await;
    });
}

#[test]
fn a_uid_of_ours_at_an_address_that_is_not_ours_is_never_called_in_plaintext() {
    local(async {
        let mesh = Mesh::start().await;
        // The machine that had this workload's UID before: another address, and its sidecar may be gone.
        let loopback = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let named = Named { tunnel_port: 1, ..mesh.web.named() };
        let shared = mesh.web.shared.clone();
        let mut record = crate::record::Record::new(&shared, crate::live::Direction::Outbound, mesh.application);
        let target = Target { peer: &named, application: loopback.local_addr().unwrap() };
        let opened = outbound::open_tunnel(&mesh.web.path, &target, &mut record).await;
        assert_eq!(opened.err().map(|refusal| refusal.code()), Some("connect_failed"));
    });
}

/// What the task of an outbound connection holds; its side of the tunnel and its sockets come on top.
#[test]
fn a_carried_connection_is_small() {
    local(async {
        let mesh = Mesh::start().await;
        let (tcp, from) = (TcpStream::connect(mesh.application).await.unwrap(), mesh.application);
        let size = std::mem::size_of_val(&outbound::serve(mesh.web.path.clone(), tcp, from));
        assert!(size <= 1024, "{size} bytes");
    });
}
