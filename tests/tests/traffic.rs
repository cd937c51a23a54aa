//! What applications get from a connection through the mesh: the bytes, the ends and the waits of a direct one.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::{
    mesh::{Family, Workload, service_document},
    process::wait_for,
    wire,
};
use signet_tests::{
    FAMILIES, SOON,
    apps::{End, Server, call, echoed, end_of, is_reset, reaches},
    carried, join, logged, mesh, mesh_with, pair,
};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, TcpStream},
    sync::{Arc, Barrier, mpsc},
    time::{Duration, Instant},
};

const MB: usize = 1_000_000;

#[test]
fn two_hundred_megabytes_each_way_at_once_arrive_unchanged() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    carried::bulk_both_ways_at_once(&checkout, &orders, 200 * MB);
}

#[test]
fn a_thousand_connections_are_open_at_once_and_all_work() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    let _server = Server::echo(&orders.machine, 8080);
    let mut open: Vec<TcpStream> = Vec::new();
    for n in 0..1000_u32 {
        let mut stream = call(&checkout.machine, orders.address(FAMILIES[n as usize % 2]), 8080).unwrap();
        assert_eq!(
            echoed(&mut stream, &n.to_be_bytes()).unwrap(),
            n.to_be_bytes(),
            "connection {n} when it was opened"
        );
        open.push(stream);
    }
    for (n, stream) in open.iter_mut().enumerate() {
        let words = format!("still here: {n}");
        assert_eq!(echoed(stream, words.as_bytes()).unwrap(), words.as_bytes(), "connection {n} among all others");
    }
}

#[test]
fn a_thousand_connections_are_opened_in_the_same_moment() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    let _server = Server::echo(&orders.machine, 8080);
    let go = Arc::new(Barrier::new(1000));
    let callers: Vec<_> = (0..1000)
        .map(|n| {
            let (machine, to, go) = (checkout.machine.clone(), orders.address(FAMILIES[n % 2]), Arc::clone(&go));
            let caller = move || {
                go.wait();
                reaches(&machine, to, 8080)
            };
            std::thread::Builder::new().stack_size(256 * 1024).spawn(caller).unwrap()
        })
        .collect();
    let failed: Vec<_> = callers.into_iter().filter_map(|c| c.join().unwrap().err()).collect();
    assert!(failed.is_empty(), "{} of 1000 failed, the first with: {}", failed.len(), failed[0]);
}

#[test]
fn forty_thousand_short_connections_in_a_row_do_not_run_out_of_ports() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    let _server = Server::start(&orders.machine, 8080, |mut stream| {
        let mut word = [0; 4];
        if stream.read_exact(&mut word).is_ok() {
            let _ = stream.write_all(&word);
        }
    });
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (machine, to) = (checkout.machine.clone(), orders.machine.v4);
            std::thread::spawn(move || {
                machine
                    .enter(|| {
                        for n in 0..5000 {
                            let mut stream =
                                TcpStream::connect((to, 8080)).map_err(|e| format!("connection {n}: {e}"))?;
                            stream.set_read_timeout(Some(SOON)).unwrap();
                            echoed(&mut stream, b"ping").map_err(|e| format!("connection {n}: {e}"))?;
                        }
                        Ok::<(), String>(())
                    })
                    .unwrap()
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap().unwrap();
    }
}

#[test]
fn half_close_arrives_as_half_close_in_both_directions() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    carried::half_close_in_both_directions(&checkout, &orders);
}

#[test]
fn a_reset_by_the_client_arrives_at_the_server_as_a_reset() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    carried::a_reset_by_the_client(&checkout, &orders);
}

#[test]
fn a_reset_by_the_server_arrives_at_the_client_as_a_reset() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    carried::a_reset_by_the_server(&checkout, &orders);
}

#[test]
fn a_port_that_nobody_listens_on_resets_the_caller_and_both_sides_say_why() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    for family in FAMILIES {
        let (here, there) = (checkout.log().len(), orders.log().len());
        match call(&checkout.machine, orders.address(family), 8080) {
            Ok(mut stream) => assert_eq!(end_of(&mut stream, SOON), End::Reset, "{family:?}"),
            Err(e) => assert!(is_reset(&e), "{family:?}: {e}"),
        }
        logged(&orders, there, " inbound refused reason=application_unreachable ");
        let line = logged(&checkout, here, " outbound refused reason=peer_answered ");
        assert!(line.contains("503"), "{line}");
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_without_added_wait() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    let _server = Server::banner(&orders.machine, 8080, "220 hello\r\n");
    // A wait for the client's words would be in every one of them; what else the machine does is not in all, nor is the
    // opening of the tunnel.
    for family in FAMILIES {
        let shortest = (0..20)
            .map(|_| {
                let start = Instant::now();
                let mut stream = call(&checkout.machine, orders.address(family), 8080).unwrap();
                let mut heard = [0; 11];
                stream.read_exact(&mut heard).unwrap();
                assert_eq!(&heard, b"220 hello\r\n");
                Instant::now().duration_since(start)
            })
            .min()
            .unwrap();
        assert!(
            shortest < Duration::from_millis(100),
            "{family:?}: the shortest of 20 waits is {shortest:?}: somebody waits for the client's words"
        );
    }
}

#[test]
fn a_reader_that_does_not_read_costs_bounded_memory_and_does_not_stop_its_neighbours() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    let stop = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let sent = Arc::clone(&stop);
    let _server = Server::start(&orders.machine, 8080, move |mut stream| {
        let mut asked = [0; 4];
        if stream.read_exact(&mut asked).is_err() {
            return;
        }
        if &asked == b"ping" {
            let _ = stream.write_all(&asked);
            return;
        }
        let noise = vec![7; 64 * 1024];
        while stream.write_all(&noise).is_ok() {
            sent.fetch_add(noise.len(), std::sync::atomic::Ordering::Relaxed);
        }
    });
    for family in FAMILIES {
        reaches_ping(&checkout, &orders, family);
    }
    // The neighbours share the pool: with tunnels of their own there would be nothing to stop.
    let pooled = || (checkout.log().matches("framing=pooled").count() == FAMILIES.len()).then_some(());
    wait_for("the pings are logged", SOON, pooled).unwrap();
    let before = resident(&checkout) + resident(&orders);
    let deaf: Vec<TcpStream> = (0..8)
        .map(|n| {
            let mut stream = call(&checkout.machine, orders.address(FAMILIES[n % 2]), 8080).unwrap();
            stream.write_all(b"flow").unwrap();
            stream
        })
        .collect();
    // It stands still when nothing more was taken for a second.
    let mut last = (0, Instant::now());
    wait_for("the flood stands still", Duration::from_mins(1), || {
        let now = stop.load(std::sync::atomic::Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > 0 && Instant::now().duration_since(last.1) > Duration::from_secs(1)).then_some(())
    })
    .unwrap();
    let grown = (resident(&checkout) + resident(&orders)).saturating_sub(before);
    assert!(grown < 64 * 1024, "8 connections that nobody reads cost {grown} KiB");
    for n in 0..20 {
        let start = Instant::now();
        reaches_ping(&checkout, &orders, FAMILIES[n % 2]);
        let took = Instant::now().duration_since(start);
        // Behind those who read nothing it would wait for ever.
        assert!(took < SOON, "a neighbour waited {took:?}");
    }
    // Counters move while connections are open, and those who read nothing opened all of these.
    let moved = checkout.admin("/verdicts").unwrap();
    let moved: serde_json::Value = serde_json::from_str(&moved).unwrap();
    let received: u64 = moved["verdicts"].as_array().unwrap().iter().filter_map(|v| v["received"].as_u64()).sum();
    assert!(received > 100_000, "only {received} bytes are counted while the flood is open");
    wait_for("the neighbours are logged", SOON, || {
        (checkout.log().lines().filter(|line| line.contains(" outbound carried ")).count() > 20).then_some(())
    })
    .unwrap();
    assert!(!checkout.log().contains("framing=alone"), "somebody was given a tunnel of his own");
    drop(deaf);
}

fn reaches_ping(checkout: &Workload, orders: &Workload, family: Family) {
    let mut stream = call(&checkout.machine, orders.address(family), 8080).unwrap();
    assert_eq!(echoed(&mut stream, b"ping").unwrap(), b"ping");
}

fn resident(workload: &Workload) -> u64 {
    workload.sidecar.as_ref().unwrap().resident_kib().unwrap()
}

#[test]
fn a_workload_calls_itself_by_its_own_and_by_its_service_address() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    let services = ["10.77.0.200", "fd77::200"].map(|address| address.parse::<IpAddr>().unwrap());
    mesh.write("service-orders.yaml", &service_document("shop", "orders", &services, &[(80, 8080)])).unwrap();
    let _server = Server::echo(&orders.machine, 8080);
    // No rule admits orders to itself: a workload may always call itself.
    for own in orders.machine.addresses() {
        reaches(&orders.machine, own, 8080).unwrap();
    }
    for service in services {
        wait_for("orders reaches itself by its Service", SOON, || reaches(&orders.machine, service, 80).ok()).unwrap();
        reaches(&checkout.machine, service, 80).unwrap();
    }
}

#[test]
fn several_workloads_behind_one_service_all_get_connections_and_a_dead_one_costs_none() {
    let mut mesh = mesh();
    let services = ["10.77.0.201", "fd77::201"].map(|address| address.parse::<IpAddr>().unwrap());
    let one = join(&mut mesh, "one", &[("http", 8080)]);
    let two = join(&mut mesh, "two", &[("http", 8080)]);
    let checkout = join(&mut mesh, "checkout", &[]);
    for workload in ["one", "two"] {
        let file = mesh.documents().join(format!("workload-shop-{workload}.yaml"));
        let text = std::fs::read_to_string(&file).unwrap().replace(&format!("app: {workload}"), "app: both");
        mesh.write(&format!("workload-shop-{workload}.yaml"), &text).unwrap();
    }
    mesh.write("service-both.yaml", &service_document("shop", "both", &services, &[(80, 8080)])).unwrap();
    mesh.allow("shop", "both", &[8080], &["checkout"]).unwrap();
    let (first, second) = (Server::echo(&one.machine, 8080), Server::echo(&two.machine, 8080));
    for workload in [&one, &two] {
        let in_force = || workload.log().contains("rules=1").then_some(());
        wait_for("the rule is in force", SOON, in_force).unwrap();
    }
    for service in services {
        let before = (first.accepted(), second.accepted());
        // Only then does the caller know both, and avoids neither for a failure of before.
        wait_for("both are reached by the Service", SOON, || {
            reaches(&checkout.machine, service, 80).ok()?;
            (first.accepted() > before.0 && second.accepted() > before.1).then_some(())
        })
        .unwrap();
        let before = (first.accepted(), second.accepted());
        for _ in 0..100 {
            reaches(&checkout.machine, service, 80).unwrap();
        }
        let (one, two) = (first.accepted() - before.0, second.accepted() - before.1);
        assert!(one > 10 && two > 10, "{service}: {one} and {two}");
    }
    // One machine is gone from the network: connects are tried again on the other.
    one.machine.plugged(false).unwrap();
    for n in 0..6 {
        reaches(&checkout.machine, services[n % 2], 80).unwrap();
    }
}

#[test]
fn a_capture_of_the_wire_holds_none_of_the_words() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    let _server = Server::echo(&orders.machine, 8080);
    let capture = wire::Capture::start(mesh.world.hub()).unwrap();
    for family in FAMILIES {
        let mut stream = call(&checkout.machine, orders.address(family), 8080).unwrap();
        for _ in 0..50 {
            echoed(&mut stream, b"the words that nobody else may read").unwrap();
        }
    }
    let segments = capture.finish().unwrap();
    let tunnel: Vec<_> = segments.iter().filter(|s| s.to.port() == 15008 || s.from.port() == 15008).collect();
    assert!(tunnel.len() > 50, "the capture saw the tunnel: {} segments", tunnel.len());
    assert_eq!(wire::occurrences(&segments, "nobody else"), 0);
    // The address that was called and the identities are inside TLS 1.3 as well.
    assert_eq!(wire::occurrences(&segments, "CONNECT"), 0);
    assert_eq!(wire::occurrences(&segments, "spiffe://"), 0);
}

#[test]
fn a_mesh_whose_ca_and_operator_have_ipv6_addresses_alone_for_their_callers_carries_both_families_and_renews() {
    // Renewed with a third of it left.
    let leaf = Duration::from_secs(12);
    let mut mesh = mesh_with(|options| {
        options.control = Family::V6;
        options.leaf_lifetime = Some(leaf);
    });
    let (checkout, orders) = pair(&mut mesh);
    let _server = Server::echo(&orders.machine, 8080);
    let configuration = std::fs::read_to_string(checkout.dir.join("sidecar.toml")).unwrap();
    assert!(configuration.contains("[fd77::fe]:15012") && !configuration.contains("10.77"), "{configuration}");
    for family in FAMILIES {
        reaches(&checkout.machine, orders.address(family), 8080).unwrap();
    }
    let first = orders.serial().unwrap();
    wait_for("a new certificate", leaf * 2, || (orders.serial().ok()? != first).then_some(())).unwrap();
    // The operator is heard as well.
    mesh.allow("shop", "orders", &[8080], &["somebody-else"]).unwrap();
    wait_for("the new rule", SOON, || reaches(&checkout.machine, orders.machine.v6, 8080).err()).unwrap();
}

#[test]
fn a_half_closed_connection_outlives_conntracks_patience() {
    // Conntrack's own timers, shortened from 60 and 120 s to 36: above the sidecar's keepalive of 30 s, which is what keeps
    // the entry alive, and which the kernel's timers round up to 32 s.
    let mut mesh = mesh_with(|_| {});
    let (checkout, orders) = pair(&mut mesh);
    for machine in [&checkout.machine, &orders.machine] {
        for timer in ["close_wait", "fin_wait", "last_ack"] {
            machine.set(&format!("net/netfilter/nf_conntrack_tcp_timeout_{timer}"), "36").unwrap();
        }
    }
    let (answer_now, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let _server = Server::start(&orders.machine, 8080, move |mut stream| {
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        told.lock().unwrap().recv().unwrap();
        let _ = stream.write_all(b"at last");
    });
    let mut stream = call(&checkout.machine, orders.machine.v4, 8080).unwrap();
    stream.write_all(b"take your time").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    // This wait is the test: nothing may happen for longer than the timers allow, twice.
    std::thread::sleep(Duration::from_secs(75));
    answer_now.send(()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "at last");
}
