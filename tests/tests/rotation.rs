//! Certificates that live for seconds, under traffic: nobody notices but the logs. And what must be noticed at once.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::{
    mesh::{Mesh, Workload},
    process::wait_for,
};
use signet_tests::{
    SOON,
    apps::{End, Server, call, echoed, end_of, is_reset, reaches},
    connected, mesh_with, pair,
};
use std::{
    collections::BTreeSet,
    io::Read as _,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Twice the shortest that a CA gives: certificates count whole seconds.
const LEAF: Duration = Duration::from_secs(4);

fn quick_mesh() -> Mesh {
    mesh_with(|options| options.leaf_lifetime = Some(LEAF))
}

#[test]
fn a_hundred_renewals_under_traffic_fail_no_request_and_one_connection_outlives_them_all() {
    let mut mesh = quick_mesh();
    let (checkout, orders) = pair(&mut mesh);
    let _server = Server::echo(&orders.machine, 8080);
    wait_for("the rule is in force", SOON, || reaches(&checkout.machine, orders.machine.v4, 8080).ok()).unwrap();
    let mut open = call(&checkout.machine, orders.machine.v4, 8080).unwrap();
    echoed(&mut open, b"before all of it").unwrap();
    let alone = || (inbound(&orders)?.len() == 1).then(|| oldest(&orders)).flatten();
    let first = wait_for("it alone is open", SOON, alone).unwrap();

    // Each caller ends its connection first and so keeps its port for a minute: as many callers' machines do.
    checkout.machine.set("net/ipv4/tcp_tw_reuse", "1").unwrap();
    checkout.machine.set("net/ipv4/ip_local_port_range", "10240 65000").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (machine, to, stop) = (checkout.machine.clone(), orders.machine.v4, Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut done = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    reaches(&machine, to, 8080).map_err(|e| format!("request {done}: {e}"))?;
                    done += 1;
                    // At most 400 a second from all four: 60 s of ports in TIME_WAIT must fit into the range.
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok::<u32, String>(done)
            })
        })
        .collect();
    // A hundred of each: every renewal is seen, because each certificate is in use for at least half of its life.
    let (mut own, mut theirs, mut proofs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let limit = LEAF * 150;
    let hundred = wait_for("100 renewals of both", limit, || {
        own.extend(checkout.serial().ok());
        theirs.extend(orders.serial().ok());
        // By its number it is the connection that was opened before all of this.
        proofs.extend(oldest(&orders).map(|oldest| oldest["proved_until"].as_u64().unwrap()));
        let all = own.len() > 100 && theirs.len() > 100;
        (all || callers.iter().any(std::thread::JoinHandle::is_finished)).then_some(())
    });
    stop.store(true, Ordering::Relaxed);
    let mut requests = 0;
    for caller in callers {
        requests += caller.join().unwrap().unwrap();
    }
    hundred.unwrap();
    // Once for each pair of certificates at most, and never so late that it was cut.
    assert!(proofs.len() > 40, "proved again {} times while it was open", proofs.len());
    assert_eq!(oldest(&orders).unwrap()["number"], first["number"], "it is the same connection");
    assert!(requests > 1000, "only {requests} requests");
    assert_eq!(
        echoed(&mut open, b"after all of it").unwrap(),
        b"after all of it",
        "the connection that was open through it"
    );

    // The same connection is cut when its rule goes.
    mesh.allow("shop", "orders", &[8080], &["somebody-else"]).unwrap();
    assert_eq!(end_of(&mut open, Duration::from_secs(5)), End::Reset, "no rule admits it");
    for (side, workload) in [("called", &orders), ("caller's", &checkout)] {
        let why = || workload.log().contains("reason=cut_rule_gone").then_some(());
        wait_for(&format!("the {side} side says why"), SOON, why).unwrap();
    }
}

/// The inbound connections that are open.
fn inbound(workload: &Workload) -> Option<Vec<serde_json::Value>> {
    let page: serde_json::Value = serde_json::from_str(&workload.admin("/connections").ok()?).ok()?;
    let connections = page["connections"].as_array()?;
    Some(connections.iter().filter(|c| c["direction"] == "inbound").cloned().collect())
}

/// The one of them that has been open for longest.
fn oldest(workload: &Workload) -> Option<serde_json::Value> {
    inbound(workload)?.into_iter().min_by_key(|c| c["number"].as_u64())
}

#[test]
fn f38_open_connections_are_cut_within_five_seconds_when_their_rule_goes_and_others_are_not() {
    let mut mesh = mesh_with(|_| {});
    let (checkout, orders) = pair(&mut mesh);
    let _one = Server::echo(&orders.machine, 8080);
    let _two = Server::echo(&orders.machine, 9090);
    mesh.allow("shop", "orders", &[8080, 9090], &["checkout"]).unwrap();
    let both: Vec<TcpStream> = [8080, 9090]
        .map(|port| {
            wait_for("the rule is in force", SOON, || reaches(&checkout.machine, orders.machine.v4, port).ok())
                .unwrap();
            let mut stream = call(&checkout.machine, orders.machine.v4, port).unwrap();
            echoed(&mut stream, b"open").unwrap();
            stream
        })
        .into();
    let [mut kept, mut lost]: [TcpStream; 2] = both.try_into().unwrap();
    let edited = Instant::now();
    let text = signet::demo::mesh::rule("shop", "orders", &[8080], &["checkout"]);
    let nobody = signet::demo::mesh::rule("shop", "orders", &[9090], &[]).replace("orders-callers", "nobody");
    mesh.write("rule-shop-orders.yaml", &format!("{text}---\n{nobody}")).unwrap();
    assert_eq!(end_of(&mut lost, Duration::from_secs(5)), End::Reset);
    let took = Instant::now().duration_since(edited);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(echoed(&mut kept, b"still").unwrap(), b"still");
    let error = reaches(&checkout.machine, orders.machine.v4, 9090).unwrap_err();
    assert!(is_reset(&error) || error.kind() == std::io::ErrorKind::UnexpectedEof, "{error}");
}

#[test]
fn a_ca_that_was_away_for_longer_than_a_leaf_lives_is_taken_back_by_everyone_by_itself() {
    let mut mesh = quick_mesh();
    let (checkout, orders) = pair(&mut mesh);
    let _server = Server::echo(&orders.machine, 8080);
    wait_for("the rule is in force", SOON, || reaches(&checkout.machine, orders.machine.v4, 8080).ok()).unwrap();
    mesh.ca.take().unwrap().kill();
    // Whichever leaf ends first, in the end the caller's own has.
    let refused = || {
        let failed = reaches(&checkout.machine, orders.machine.v4, 8080).is_err();
        let log = checkout.log();
        let line = log.lines().find(|line| line.contains(" outbound refused reason=svid_expired "))?;
        failed.then(|| line.to_owned())
    };
    let line = wait_for("new connections fail when the leaf has ended", LEAF * 5, refused).unwrap();
    assert!(line.contains("the CA has not renewed it"), "the reason names the CA: {line}");
    // The operator has no certificate for its streams any more either.
    mesh.start_ca().unwrap();
    wait_for("everything is back", Duration::from_secs(90), || {
        reaches(&checkout.machine, orders.machine.v4, 8080).ok()
    })
    .unwrap();
    connected(&[&checkout, &orders]);
    // And what the operator says is heard again.
    mesh.allow("shop", "orders", &[8080], &["somebody-else"]).unwrap();
    wait_for("a rule of after the return", SOON * 3, || {
        // The first that fails may have been cut rather than refused.
        let _ = reaches(&checkout.machine, orders.machine.v4, 8080);
        checkout.log().contains(" outbound refused reason=no_rule_matched ").then_some(())
    })
    .unwrap();
}

#[test]
fn a_connection_that_waits_in_silence_is_not_ended_by_the_clock() {
    let mut mesh = quick_mesh();
    let (checkout, orders) = pair(&mut mesh);
    let _server = Server::echo(&orders.machine, 8080);
    wait_for("the rule is in force", SOON, || reaches(&checkout.machine, orders.machine.v4, 8080).ok()).unwrap();
    let mut quiet = call(&checkout.machine, orders.machine.v4, 8080).unwrap();
    echoed(&mut quiet, b"and now silence").unwrap();
    // Five lives of a leaf without a byte.
    quiet.set_read_timeout(Some(LEAF * 5)).unwrap();
    let error = quiet.read(&mut [0; 1]).expect_err("nobody says anything");
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{error}");
    quiet.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(echoed(&mut quiet, b"hello again").unwrap(), b"hello again");
}
