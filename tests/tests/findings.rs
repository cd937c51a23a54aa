//! Tests named after `F` ids: what others got wrong and needs more than one program to see. The rest of the list is tested in
//! the crate that it concerns, F17 and F1 in `tunnel_with_outside_peers`, F22 and F34 in `faults`, F39 in `stopping`, F38 in `rotation`.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::{
    mesh::{Join, Mesh, Workload},
    process::{Process, Signal, wait_for},
    world::Namespace,
};
use signet_tests::{
    SOON,
    apps::{End, Server, call, echoed, end_of, is_reset, reaches},
    freeze, join, logged, mesh, mesh_with,
    openssl::{Leaf, Pair, Workshop},
    outside, pair,
};
use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
    process::Command,
    time::Duration,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn stage(mesh: &mut Mesh) -> (Workload, Workload, Server) {
    let (checkout, orders) = pair(mesh);
    let server = Server::echo(&orders.machine, 8080);
    wait_for("the rule is in force", SOON, || reaches(&checkout.machine, orders.machine.v4, 8080).ok()).unwrap();
    (checkout, orders, server)
}

/// TCP ports on which anything of a machine listens: loopback alone, and the rest.
fn listening(machine: &Namespace) -> (BTreeSet<u16>, BTreeSet<u16>) {
    let mut ports = (BTreeSet::new(), BTreeSet::new());
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = machine.enter(|| std::fs::read_to_string(table)).unwrap().unwrap();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (address, port) = fields[1].split_once(':').unwrap();
            if fields[3] == "0A" {
                let port = u16::from_str_radix(port, 16).unwrap();
                let loopback = address == "0100007F" || address == "00000000000000000000000001000000";
                if loopback {
                    ports.0.insert(port)
                } else {
                    ports.1.insert(port)
                };
            }
        }
    }
    ports
}

/// Sockets of other kinds that anything of a machine holds: UDP and raw.
fn other_sockets(machine: &Namespace) -> usize {
    let tables = ["udp", "udp6", "udplite", "udplite6", "raw", "raw6"];
    let lines = |table: &str| {
        let path = format!("/proc/thread-self/net/{table}");
        // A kernel without a protocol has no table for it.
        machine.enter(|| std::fs::read_to_string(path)).unwrap().map_or(0, |text| text.lines().skip(1).count())
    };
    tables.into_iter().map(lines).sum()
}

#[test]
fn f8_every_open_port_of_every_program_is_mutual_tls_or_health_or_loopback() {
    let mut mesh = mesh();
    // Nothing but ours listens on these machines: the server of the usual stage would be one more.
    let (checkout, orders) = pair(&mut mesh);
    let hub = mesh.world.hub().clone();
    // One that is still without a certificate and a configuration, too.
    let machine = mesh.world.machine("late").unwrap();
    let mut late =
        mesh.prepare(machine, &Join { name: "late", namespace: "shop", service_account: "late", ports: &[] }).unwrap();
    freeze(mesh.ca.as_ref().unwrap());
    late.capture("up").unwrap();
    late.start_sidecar().unwrap();
    wait_for("it listens", SOON, || late.admin("/certificates").ok()).unwrap();
    // 15006 takes captured connections only; see F22 for what a direct one gets.
    for workload in [&checkout, &orders, &late] {
        let (loopback, open) = listening(&workload.machine);
        assert_eq!(open, BTreeSet::from([15006, 15008, 15021]), "{}", workload.name);
        assert_eq!(loopback, BTreeSet::from([15001, 15020]), "{}", workload.name);
        assert_eq!(other_sockets(&workload.machine), 0, "{}", workload.name);
    }
    mesh.ca.as_ref().unwrap().signal(Signal::CONT);
    let (loopback, open) = listening(&hub);
    assert_eq!(open, BTreeSet::from([15010, 15012]));
    assert_eq!(loopback, BTreeSet::from([15022, 15023]));
    assert_eq!(other_sockets(&hub), 0);

    let pages = [
        "/",
        "/certificates",
        "/connections",
        "/config",
        "/verdicts",
        "/status",
        "/debug/pprof",
        "/quitquitquit",
        "/stop",
    ];
    let outside = mesh.world.machine("outside").unwrap();
    for target in [&checkout, &orders] {
        for address in target.machine.addresses() {
            // From another machine health answers health and metrics alone.
            for page in ["/healthz", "/readyz", "/metrics"] {
                assert!(http_to(&outside, address, 15021, page).starts_with("HTTP/1.1 200"), "{address} {page}");
            }
            for page in pages {
                assert!(http_to(&outside, address, 15021, page).starts_with("HTTP/1.1 404"), "{address} {page}");
            }
            // And without a certificate the tunnel says nothing but TLS, and ends the handshake.
            assert!(!http_to(&outside, address, 15008, "/").contains("HTTP"), "{address}");
            assert!(refuses_the_nameless(&outside, address, 15008), "{address}");
            // Loopback ports are on loopback.
            for port in [15001, 15020] {
                assert_eq!(http_to(&outside, address, port, "/config"), "", "{address}:{port}");
            }
        }
    }
    for address in [IpAddr::from(hub.v4)] {
        for port in [15010, 15012] {
            assert!(!http_to(&outside, address, port, "/").contains("HTTP"), "{address}:{port}");
        }
        assert!(refuses_the_nameless(&outside, address, 15010), "the operator knows its callers");
        // Whoever joins has no certificate yet: the CA's port is TLS, and what is asked there carries its own proof.
        assert!(!refuses_the_nameless(&outside, address, 15012));
        for port in [15022, 15023] {
            assert_eq!(http_to(&outside, address, port, "/metrics"), "", "{address}:{port}");
        }
    }
    // On loopback: what can be read is a list, and nothing else is there.
    for (machine, port, more) in [
        (&hub, 15022, &[][..]),
        (&hub, 15023, &["/status"][..]),
        (&orders.machine, 15020, &["/certificates", "/connections", "/config", "/verdicts"][..]),
    ] {
        for page in pages.into_iter().filter(|page| !more.contains(page)) {
            let answer = machine.enter(|| http_here(port, "GET", page)).unwrap();
            assert!(answer.starts_with("HTTP/1.1 404"), "{port}{page}: {answer}");
        }
    }
    // The rules that are in force can be read there.
    let config = orders.admin("/config").unwrap();
    assert!(config.contains("shop/orders-callers") && config.contains("/sa/checkout"), "{config}");
}

/// Whether TLS ends with a caller that shows no certificate. In TLS 1.3 the refusal comes after the handshake, in the place of
/// the server's first bytes.
fn refuses_the_nameless(from: &Namespace, to: IpAddr, port: u16) -> bool {
    let to = std::net::SocketAddr::new(to, port);
    let mut command = Command::new("openssl");
    // It has nothing to say, and stays all the same.
    command.args(["s_client", "-connect", &to.to_string(), "-tls1_3", "-alpn", "h2", "-msg", "-ign_eof"]);
    let mut client = from.spawn(&format!("s_client-{to}"), command).unwrap();
    // A refusal ends it. HTTP/2's first frame begins with zeros, which are in nothing that openssl says itself.
    let answered = || (client.ended().is_some() || client.log().contains('\0')).then_some(());
    let answer = wait_for("a refusal or the first bytes", SOON * 2, answered);
    let said = client.log();
    answer.unwrap_or_else(|e| panic!("{to}: {e}: {said}"));
    assert!(said.contains("ServerHello"), "{to} speaks no TLS 1.3: {said}");
    said.contains("certificate required") || said.contains("certificate_required")
}

#[test]
fn f13_no_request_on_any_port_stops_or_changes_the_sidecar() {
    let mut mesh = mesh();
    let (checkout, mut orders, _server) = stage(&mut mesh);
    let paths = [
        "/quitquitquit",
        "/stop",
        "/shutdown",
        "/drain",
        "/config",
        "/reload",
        "/healthcheck/fail",
        "/logging?level=trace",
        "/",
    ];
    for port in [15020, 15021] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            for path in paths {
                let answer = orders.machine.enter(|| http_here(port, method, path)).unwrap();
                assert!(!answer.starts_with("HTTP/1.1 2"), "{method} {path} on {port}: {answer}");
            }
        }
    }
    assert!(orders.sidecar.as_mut().unwrap().ended().is_none());
    reaches(&checkout.machine, orders.machine.v4, 8080).unwrap();
}

#[test]
fn f14_metrics_show_counts_and_nothing_of_a_peers_bytes_and_no_profile_is_served() {
    let mut mesh = mesh();
    let (_checkout, orders, _server) = stage(&mut mesh);
    let outside = mesh.world.machine("outside").unwrap();
    let shop = Workshop::with_root(
        &mesh.world.dir().join("openssl"),
        &mesh.ca_dir().join("bundle.pem"),
        &mesh.ca_dir().join("root.key"),
    );
    let loud = shop.leaf("loud", &Leaf::good("spiffe://demo.signet.dev/ns/shop/sa/SHOUTING", "LOUD-UID"));
    runtime().block_on(async {
        let mut tls = outside::tls(&outside, orders.machine.v4.into(), 15008, &loud, b"http/1.1").await.unwrap();
        tls.write_all(b"CONNECT 10.77.0.1:8080 HTTP/1.1\r\nHost: PEERBYTES\r\nUser-Agent: PEERBYTES\r\n\r\n")
            .await
            .unwrap();
        let _ = tls.read(&mut [0; 512]).await;
    });
    for (machine, port) in [(&orders.machine, 15020), (&orders.machine, 15021)].into_iter().chain(hub_ports(&mesh)) {
        for page in ["/debug/pprof", "/debug/pprof/", "/debug/pprof/profile", "/debug/pprof/heap"] {
            let answer = machine.enter(|| http_here(port, "GET", page)).unwrap();
            assert!(answer.starts_with("HTTP/1.1 404"), "{page} on {port}: {answer}");
        }
    }
    let metrics = http(&outside, orders.machine.v4, 15021, "GET", "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("signet_"), "{metrics}");
    for bytes in ["SHOUTING", "LOUD-UID", "PEERBYTES"] {
        assert!(!metrics.contains(bytes), "{metrics}");
    }
}

/// Where CA and operator answer plain HTTP.
fn hub_ports(mesh: &Mesh) -> [(&Namespace, u16); 2] {
    [(mesh.world.hub(), 15022), (mesh.world.hub(), 15023)]
}

#[test]
fn connections_above_the_limit_are_reset_and_counted_and_those_below_it_go_on() {
    let mut mesh = mesh();
    let orders = join(&mut mesh, "orders", &[("http", 8080)]);
    // The caller's sidecar alone.
    mesh.options.sidecar = "[limits]\nconnections = 4\n".into();
    let checkout = join(&mut mesh, "checkout", &[]);
    mesh.allow("shop", "orders", &[8080], &["checkout"]).unwrap();
    let server = Server::echo(&orders.machine, 8080);
    let refused = r#"signet_sidecar_limit_refusals_total{limit="connections"}"#;
    // The rule may not be in force yet, and a call that was refused may not have given its place back.
    let one_more = |address| {
        let open = || {
            let mut stream = call(&checkout.machine, address, 8080).ok()?;
            echoed(&mut stream, b"below").is_ok().then_some(stream)
        };
        wait_for("a place", SOON, open).unwrap()
    };
    let mut open: Vec<TcpStream> = orders.machine.addresses().into_iter().cycle().take(4).map(one_more).collect();
    let (before, held) = (checkout.metric(refused).unwrap(), server.accepted());
    for address in orders.machine.addresses() {
        match call(&checkout.machine, address, 8080) {
            Ok(mut stream) => assert_eq!(end_of(&mut stream, SOON), End::Reset, "{address}"),
            Err(e) => assert!(is_reset(&e), "{address}: {e}"),
        }
    }
    assert_eq!(checkout.metric(refused).unwrap(), before + 2, "counted");
    assert_eq!(server.accepted(), held, "nothing reached the application");
    for stream in &mut open {
        assert_eq!(echoed(stream, b"still").unwrap(), b"still");
    }
    // A place that is free again is given away again.
    drop(open);
    wait_for("there is room again", SOON, || reaches(&checkout.machine, orders.machine.v4, 8080).ok()).unwrap();
}

#[test]
fn f18_what_a_peer_sends_cannot_forge_a_line_of_the_log() {
    let mut mesh = mesh();
    let (_checkout, orders, _server) = stage(&mut mesh);
    let outside = mesh.world.machine("outside").unwrap();
    let good = good_peer(&mesh);
    runtime().block_on(async {
        for target in ["10.77.0.1:8080\x1b[31mred", "forged\rline", "x\u{202e}y", "%0aforged"] {
            let mut tls = outside::tls(&outside, orders.machine.v4.into(), 15008, &good, b"http/1.1").await.unwrap();
            let head = format!("CONNECT {target} HTTP/1.1\r\nHost: \x1b[2Jgone\r\n\r\n");
            let _ = tls.write_all(head.as_bytes()).await;
            let _ = tls.read(&mut [0; 512]).await;
        }
    });
    let refused = || orders.log().lines().filter(|line| line.contains("refused") && line.contains("10.77.0.3")).count();
    wait_for("the refusals are logged", SOON, || (refused() >= 4).then_some(())).unwrap();
    assert!(!orders.log().contains(['\x1b', '\r', '\u{202e}']), "control characters in the log");
}

#[test]
fn f26_a_million_distinct_names_leave_memory_and_metrics_flat() {
    let mut mesh = mesh();
    let (_checkout, orders, _server) = stage(&mut mesh);
    let outside = mesh.world.machine("outside").unwrap();
    let good = good_peer(&mesh);
    let metrics = || http(&outside, orders.machine.v4, 15021, "GET", "/metrics").lines().count();
    let resident = || orders.sidecar.as_ref().unwrap().resident_kib().unwrap();
    let names = |from: u32, count: u32| {
        runtime().block_on(async {
            let tls = outside::tls(&outside, orders.machine.v4.into(), 15008, &good, b"h2").await.unwrap();
            let (mut client, connection) = h2::client::handshake(tls).await.unwrap();
            tokio::spawn(connection);
            let mut waiting = std::collections::VecDeque::new();
            for n in from..from + count {
                client = client.ready().await.unwrap();
                let request = http::Request::connect(format!("name-{n}.example:{}", 1 + n % 60000)).body(()).unwrap();
                waiting.push_back(client.send_request(request, true).unwrap().0);
                if waiting.len() >= 64 {
                    let _ = waiting.pop_front().unwrap().await;
                }
            }
            for answer in waiting {
                let _ = answer.await;
            }
        });
    };
    names(0, 20_000);
    let (lines, kib) = (metrics(), resident());
    for part in 1..50 {
        names(part * 20_000, 20_000);
    }
    assert_eq!(metrics(), lines, "metrics grew with the peer's names");
    // Less than a pointer for each. Records that wait to be written are 5 MB at most, whoever sends them.
    let grown = resident().saturating_sub(kib);
    assert!(grown < 980_000 * 8 / 1024, "{grown} KiB for 980,000 names");
}

#[test]
fn f29_resets_by_the_hundred_thousand_and_endless_headers_cost_bounded_memory_and_stop_nobody() {
    let mut mesh = mesh();
    let (checkout, orders, _server) = stage(&mut mesh);
    let outside = mesh.world.machine("outside").unwrap();
    let good = good_peer(&mesh);
    let resident = || orders.sidecar.as_ref().unwrap().resident_kib().unwrap();
    let before = resident();
    runtime().block_on(async {
        for _ in 0..10 {
            // Rapid reset (CVE-2023-44487): as many as the peer takes before it ends the connection.
            let tls = outside::tls(&outside, orders.machine.v4.into(), 15008, &good, b"h2").await.unwrap();
            let (mut client, connection) = h2::client::handshake(tls).await.unwrap();
            let driver = tokio::spawn(connection);
            for _ in 0..10_000 {
                client = match client.ready().await {
                    Ok(client) => client,
                    Err(_) => break,
                };
                let request = http::Request::connect("10.77.0.1:8080").body(()).unwrap();
                let Ok((_, mut stream)) = client.send_request(request, false) else { break };
                stream.send_reset(h2::Reason::CANCEL);
                tokio::task::yield_now().await;
            }
            driver.abort();
            // CONTINUATION flood (CVE-2024-27316): a head that never ends.
            let mut tls = outside::tls(&outside, orders.machine.v4.into(), 15008, &good, b"h2").await.unwrap();
            tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            tls.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            tls.write_all(&[0, 0, 0, 1, 0, 0, 0, 0, 1]).await.unwrap();
            // A literal header without indexing: name "a", value of 16,000 bytes.
            let mut block = vec![0x00, 0x01, b'a', 0x7f, 0x81, 0x7c];
            block.resize(6 + 16_000, b'x');
            let length = u32::try_from(block.len()).unwrap().to_be_bytes();
            let mut frame = vec![length[1], length[2], length[3], 9, 0, 0, 0, 0, 1];
            frame.extend(block);
            let mut sent = 0;
            while sent < 10_000 && tls.write_all(&frame).await.is_ok() {
                sent += 1;
            }
            assert!(sent < 10_000, "160 MB of headers were taken");
        }
    });
    for _ in 0..20 {
        reaches(&checkout.machine, orders.machine.v4, 8080).unwrap();
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
}

#[test]
fn a_slow_an_oversized_and_a_silent_head_are_refused_within_their_limits() {
    // Half as long as an end is waited for. A head that is whole comes within it.
    let mut mesh = mesh_with(|o| o.sidecar = "[limits]\nhead_time = \"5s\"\n".into());
    let (checkout, orders, _server) = stage(&mut mesh);
    let outside = mesh.world.machine("outside").unwrap();
    let good = good_peer(&mesh);
    runtime().block_on(async {
        let ended = |mut tls: tokio_rustls::client::TlsStream<tokio::net::TcpStream>| async move {
            let mut all = Vec::new();
            tokio::time::timeout(SOON, tls.read_to_end(&mut all)).await.is_ok()
        };
        let connect = || outside::tls(&outside, orders.machine.v4.into(), 15008, &good, b"http/1.1");
        assert!(ended(connect().await.unwrap()).await, "a silent peer is let go");
        let mut slow = connect().await.unwrap();
        slow.write_all(b"CONNECT ").await.unwrap();
        assert!(ended(slow).await, "a slow head is let go");
        let mut large = connect().await.unwrap();
        // Whole, so that its size alone is wrong; refused before its last byte.
        let head = format!("CONNECT 10.77.0.1:8080 HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(100_000));
        let _ = large.write_all(head.as_bytes()).await;
        assert!(ended(large).await, "a head of 100 kB is refused");
    });
    for reason in ["head_timeout", "head_too_large"] {
        logged(&orders, 0, &format!(" inbound refused reason={reason} "));
        let counted = format!(
            "signet_sidecar_connections_total{{direction=\"inbound\",outcome=\"refused\",reason=\"{reason}\"}}"
        );
        let count = orders.metric(&counted).unwrap();
        assert_eq!(count, if reason == "head_timeout" { 2 } else { 1 }, "{reason} is counted");
    }
    // A peer that never begins its handshake.
    let mut dumb = call(&outside, orders.machine.v4, 15008).unwrap();
    assert_ne!(end_of(&mut dumb, SOON), End::Open);
    reaches(&checkout.machine, orders.machine.v4, 8080).unwrap();
}

#[test]
fn f36_a_program_without_free_descriptors_backs_off_recovers_and_counts() {
    let mut mesh = mesh();
    let (checkout, orders, _server) = stage(&mut mesh);
    let sidecar = orders.sidecar.as_ref().unwrap();
    let outside = mesh.world.machine("outside").unwrap();
    for (program, address, port) in [
        (sidecar, orders.machine.v4, 15008),
        (mesh.ca.as_ref().unwrap(), mesh.world.hub().v4, 15012),
        (mesh.operator.as_ref().unwrap(), mesh.world.hub().v4, 15010),
    ] {
        let open = std::fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count();
        limit_descriptors(program, open + 20);
        let from = program.log().len();
        let flood: Vec<TcpStream> = (0..100).filter_map(|_| call(&outside, address, port).ok()).collect();
        wait_for("it cannot accept and says so", SOON, || {
            let log = program.log();
            let says = |words: &str| log.get(from..).is_some_and(|since| since.contains(words));
            (says("accept failed; waiting") || says("cannot accept a connection")).then_some(())
        })
        .unwrap_or_else(|e| panic!("{}: {e}", program.name()));
        let before = cpu_ticks(program);
        std::thread::sleep(Duration::from_secs(2));
        let spent = cpu_ticks(program) - before;
        assert!(spent < 100, "{} spins: {spent} ticks of 200 while it cannot accept", program.name());
        drop(flood);
        limit_descriptors(program, 10_000);
    }
    wait_for("everything is served again", SOON * 2, || reaches(&checkout.machine, orders.machine.v4, 8080).ok())
        .unwrap();
    let metrics = http(&outside, orders.machine.v4, 15021, "GET", "/metrics");
    let counted = metrics.lines().any(|l| !l.starts_with('#') && l.contains("accept") && !l.trim_end().ends_with(" 0"));
    assert!(counted, "failed accepts are counted: {metrics}");
}

#[test]
fn f10_a_rule_in_another_namespace_changes_no_verdict() {
    let mut mesh = mesh();
    let (checkout, orders, _server) = stage(&mut mesh);
    let foreign = "apiVersion: signet.dev/v1alpha1\nkind: AllowRule\nmetadata: {name: foreign, namespace: elsewhere}\nspec:\n  \
                   target: {all: true}\n  from: []\n";
    mesh.write("foreign.yaml", foreign).unwrap();
    // A marker of ours in the same moment shows when the directory was read.
    mesh.allow("shop", "orders", &[8080, 8081], &["checkout"]).unwrap();
    let _marker = Server::echo(&orders.machine, 8081);
    wait_for("the directory was read", SOON, || reaches(&checkout.machine, orders.machine.v4, 8081).ok()).unwrap();
    reaches(&checkout.machine, orders.machine.v4, 8080).unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A certificate for checkout's identity, made outside.
fn good_peer(mesh: &Mesh) -> Pair {
    let dir = mesh.world.dir().join("openssl");
    let shop = Workshop::with_root(&dir, &mesh.ca_dir().join("bundle.pem"), &mesh.ca_dir().join("root.key"));
    shop.leaf("good", &Leaf::good("spiffe://demo.signet.dev/ns/shop/sa/checkout", "outside-1"))
}

fn http_to(from: &Namespace, to: IpAddr, port: u16, path: &str) -> String {
    let Ok(mut stream) = call(from, to, port) else { return String::new() };
    stream.set_read_timeout(Some(SOON)).unwrap();
    ask(&mut stream, "GET", path)
}

fn http(from: &Namespace, to: std::net::Ipv4Addr, port: u16, method: &str, path: &str) -> String {
    let Ok(mut stream) = call(from, to, port) else { return String::new() };
    ask(&mut stream, method, path)
}

fn http_here(port: u16, method: &str, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    stream.set_read_timeout(Some(SOON)).unwrap();
    ask(&mut stream, method, path)
}

fn ask(stream: &mut TcpStream, method: &str, path: &str) -> String {
    let _ = write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn limit_descriptors(program: &Process, count: usize) {
    let pid = program.pid().to_string();
    // The soft limit alone: the hard one may not be raised again everywhere.
    // As the program's own user, who needs no capability for that.
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}")).unwrap()).to_string();
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        &uid,
        "--regid",
        &uid,
        "--clear-groups",
        "prlimit",
        "--pid",
        &pid,
        &format!("--nofile={count}:"),
    ]);
    let status = command.status().unwrap();
    assert!(status.success());
}

fn cpu_ticks(program: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn f22_a_caller_outside_the_mesh_reaches_the_redirect_and_no_application() {
    // A caller outside the mesh, in plaintext: it lands on 15006 and has no identity.
    let mut mesh = mesh();
    let (_checkout, orders, server) = stage(&mut mesh);
    let outside = mesh.world.machine("outside").unwrap();
    let before = server.accepted();
    for address in orders.machine.addresses() {
        let reached = call(&outside, address, 8080).and_then(|mut stream| echoed(&mut stream, b"plain"));
        assert!(reached.is_err(), "{address}");
    }
    assert_eq!(server.accepted(), before);
}
