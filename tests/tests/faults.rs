//! Design section 7: what happens when things fail. Each row that has no Kubernetes in it, and `kill -9` of each program.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::{
    mesh::{Join, Mesh, Workload, http_get},
    process::wait_for,
};
use signet_tests::{
    FAMILIES, SOON,
    apps::{End, Server, call, echoed, end_of, is_reset, reaches},
    beyond, connected, join, logged, mesh, mesh_with, pair, seconds,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// A mesh with the usual pair, and an echo server on 8080.
fn stage() -> (Mesh, Workload, Workload, Server) {
    stage_in(mesh())
}

fn stage_in(mut mesh: Mesh) -> (Mesh, Workload, Workload, Server) {
    let (checkout, orders) = pair(&mut mesh);
    let server = Server::echo(&orders.machine, 8080);
    wait_for("the rule is in force", SOON, || reaches(&checkout.machine, orders.machine.v4, 8080).ok()).unwrap();
    (mesh, checkout, orders, server)
}

#[test]
fn while_the_ca_is_away_everything_goes_on_and_the_first_failure_is_logged_and_counted() {
    // Renewed at 20 to 27 s of 40: between the first failure and the end there is time to look.
    let leaf = Duration::from_secs(40);
    let (mut mesh, checkout, orders, _server) = stage_in(mesh_with(|options| options.leaf_lifetime = Some(leaf)));
    assert_eq!(checkout.metric("signet_sidecar_certificate_failures_total").unwrap(), 0);
    mesh.ca.take().unwrap().kill();
    // From here on nobody issues another.
    let held = checkout.serial().unwrap();
    let end = checkout.metric("signet_sidecar_svid_not_after_seconds").unwrap();
    wait_for("a failed renewal is counted", leaf, || {
        reaches(&checkout.machine, orders.machine.v4, 8080).unwrap();
        (checkout.metric("signet_sidecar_certificate_failures_total").ok()? > 0).then_some(())
    })
    .unwrap();
    let log = checkout.log();
    let first = log.lines().find(|line| line.contains("no new certificate")).expect("the first failure is logged");
    assert!(first.contains("failures=1") && first.contains("retry_in=") && first.contains("WARN"), "{first}");
    assert!(
        log.lines().any(|line| line.contains("no new certificate") && line.contains(":15012")),
        "where the CA should be: {log}"
    );
    // What is in use stays in use.
    assert_eq!(checkout.serial().unwrap(), held);
    assert_eq!(checkout.metric("signet_sidecar_svid_not_after_seconds").unwrap(), end);
    reaches(&checkout.machine, orders.machine.v4, 8080).unwrap();
    mesh.start_ca().unwrap();
    wait_for("the next one, by itself", SOON * 6, || {
        (checkout.metric("signet_sidecar_svid_not_after_seconds").ok()? > end).then_some(())
    })
    .unwrap();
}

#[test]
fn while_the_operator_is_away_the_last_configuration_stays_in_force() {
    let (mut mesh, checkout, orders, _server) = stage();
    let stranger = join(&mut mesh, "stranger", &[]);
    mesh.operator.take().unwrap().kill();
    for _ in 0..5 {
        reaches(&checkout.machine, orders.machine.v4, 8080).unwrap();
        assert!(reaches(&stranger.machine, orders.machine.v4, 8080).is_err(), "no rule admits it, operator or not");
    }
}

#[test]
fn while_the_operator_is_away_new_destinations_inside_the_mesh_are_refused_after_five_seconds_and_others_are_not() {
    let (mut mesh, checkout, orders, _server) = stage();
    reaches(&checkout.machine, orders.machine.v6, 8080).unwrap();
    let other = mesh.world.machine("other").unwrap();
    let there = Server::echo(&other, 8080);
    let (outside, beyond) = beyond(&mut mesh, &[&checkout]);
    let _outside = Server::echo(&outside, 8080);
    mesh.operator.take().unwrap().kill();
    std::thread::scope(|scope| {
        for family in FAMILIES {
            let (checkout, other) = (&checkout, &other);
            scope.spawn(move || {
                assert!(reaches(&checkout.machine, other.address(family), 8080).is_err(), "unknown is not unmeshed");
            });
        }
        // Meanwhile, and without a wait: what is known of the mesh, and what is outside its ranges. The sidecar says what each
        // took.
        for to in [orders.machine.addresses(), beyond].concat() {
            let mut stream = call(&checkout.machine, to, 8080).unwrap_or_else(|e| panic!("{to}: {e}"));
            echoed(&mut stream, b"anybody there?").unwrap_or_else(|e| panic!("{to}: {e}"));
            let here = stream.local_addr().unwrap();
            drop(stream);
            let line = logged(&checkout, 0, &format!(" source={here} "));
            assert!(line.contains(" outbound carried ") && seconds(&line) < Duration::from_secs(4), "{to}: {line}");
        }
    });
    assert_eq!(there.accepted(), 0, "nothing reached what is unknown");
    let refused = || checkout.log().matches(" outbound refused reason=unknown_destination ").count();
    wait_for("both refusals are logged", SOON, || (refused() == FAMILIES.len()).then_some(())).unwrap();
    for family in FAMILIES {
        let log = checkout.log();
        let mut lines = log.lines().filter(|line| line.contains(" outbound refused reason=unknown_destination "));
        let words = format!(" destination={} ", SocketAddr::new(other.address(family), 8080));
        let line = lines.find(|line| line.contains(&words)).expect("each is logged");
        let five = Duration::from_secs(4)..Duration::from_secs(8);
        assert!(five.contains(&seconds(line)), "{family:?}: {line}");
    }
}

#[test]
fn f34_before_its_first_configuration_a_sidecar_denies_everything_inbound_and_is_not_ready() {
    let (mut mesh, checkout, _orders, _server) = stage();
    mesh.operator.take().unwrap().kill();
    let machine = mesh.world.machine("late").unwrap();
    let _there = Server::echo(&machine, 8080);
    let named = Join { name: "late", namespace: "shop", service_account: "late", ports: &[("http", 8080)] };
    let mut late = mesh.prepare(machine, &named).unwrap();
    late.capture("up").unwrap();
    late.start_sidecar().unwrap();
    let plain = mesh.world.machine("plain").unwrap();
    wait_for("it listens", SOON, || late.admin("/certificates").ok()).unwrap();
    assert!(late.ready(Duration::from_secs(3)).is_err(), "ready without a configuration");
    for family in FAMILIES {
        assert!(reaches(&plain, late.address(family), 8080).is_err(), "plaintext over {family:?}");
        assert!(reaches(&checkout.machine, late.address(family), 8080).is_err());
    }
    mesh.start_operator().unwrap();
    // It asks again ever more seldom while nobody answers.
    late.ready(Duration::from_mins(1)).unwrap();
}

#[test]
fn a_refused_caller_is_reset_and_both_sides_log_one_line_with_the_reason() {
    let (mut mesh, _checkout, orders, server) = stage();
    let stranger = join(&mut mesh, "stranger", &[]);
    let before = server.accepted();
    for family in FAMILIES {
        let (here, there) = (stranger.log().len(), orders.log().len());
        let ended = match call(&stranger.machine, orders.address(family), 8080) {
            Ok(mut stream) => end_of(&mut stream, SOON),
            Err(e) => {
                assert!(is_reset(&e), "{e}");
                End::Reset
            }
        };
        assert_eq!(ended, End::Reset, "{family:?}");
        let lines = |workload: &Workload, from: usize| {
            let log = workload.log();
            log.get(from..).unwrap_or_default().lines().filter(|l| l.contains("no_rule_matched")).count()
        };
        wait_for("the caller's side", SOON, || (lines(&stranger, here) == 1).then_some(())).unwrap();
        wait_for("the called side", SOON, || (lines(&orders, there) == 1).then_some(())).unwrap();
    }
    assert_eq!(server.accepted(), before, "nothing reached the application");
}

#[test]
fn a_killed_sidecar_that_starts_again_gives_the_same_verdicts_from_its_stored_configuration_without_the_operator() {
    let (mut mesh, mut checkout, mut orders, server) = stage();
    let stranger = join(&mut mesh, "stranger", &[]);
    assert!(reaches(&stranger.machine, orders.machine.v4, 8080).is_err(), "no rule admits it");
    mesh.operator.take().unwrap().kill();

    // The called side's: without it nobody is let in, and after it whoever was let in before.
    let from = checkout.log().len();
    orders.sidecar.take().unwrap().kill();
    assert!(reaches(&checkout.machine, orders.machine.v4, 8080).is_err(), "without its sidecar nobody reaches it");
    logged(&checkout, from, " outbound refused reason=connect_failed ");
    orders.start_sidecar().unwrap();
    let before = server.accepted();
    wait_for("it serves again", SOON * 3, || {
        assert!(reaches(&stranger.machine, orders.machine.v4, 8080).is_err(), "no rule admits it, restart or not");
        reaches(&checkout.machine, orders.machine.v4, 8080).ok()
    })
    .unwrap();
    orders.ready(SOON).unwrap();
    let from = orders.log().len();
    assert!(reaches(&stranger.machine, orders.machine.v4, 8080).is_err());
    logged(&orders, from, " inbound refused reason=no_rule_matched ");
    assert_eq!(server.accepted(), before + 1, "the one that passed");

    // The caller's: what it calls is captured all the same, and goes nowhere in plaintext.
    checkout.sidecar.take().unwrap().kill();
    for family in FAMILIES {
        assert!(
            reaches(&checkout.machine, orders.address(family), 8080).is_err(),
            "without its sidecar it calls nobody"
        );
    }
    assert_eq!(server.accepted(), before + 1, "not even in plaintext");
    checkout.start_sidecar().unwrap();
    wait_for("it calls again", SOON * 3, || reaches(&checkout.machine, orders.machine.v4, 8080).ok()).unwrap();
    checkout.ready(SOON).unwrap();
    assert!(reaches(&stranger.machine, orders.machine.v4, 8080).is_err());
}

#[test]
fn kill_9_of_the_operator_and_its_restart_leave_every_verdict_as_it_was() {
    let (mut mesh, checkout, orders, _server) = stage();
    let stranger = join(&mut mesh, "stranger", &[]);
    let mut open = call(&checkout.machine, orders.machine.v4, 8080).unwrap();
    echoed(&mut open, b"open").unwrap();
    for _ in 0..3 {
        mesh.operator.take().unwrap().kill();
        mesh.start_operator().unwrap();
        reaches(&checkout.machine, orders.machine.v4, 8080).unwrap();
        assert!(reaches(&stranger.machine, orders.machine.v4, 8080).is_err());
    }
    // It takes new rules afterwards, and the connection from before is judged by them.
    assert_eq!(echoed(&mut open, b"still").unwrap(), b"still");
    connected(&[&orders, &stranger]);
    mesh.allow("shop", "orders", &[8080], &["stranger"]).unwrap();
    assert_eq!(end_of(&mut open, SOON), End::Reset);
    wait_for("the new rule", SOON, || reaches(&stranger.machine, orders.machine.v4, 8080).ok()).unwrap();
}

#[test]
fn kill_9_of_the_ca_at_any_moment_lets_every_token_be_used_at_most_once_and_journals_every_certificate() {
    let quick = mesh_with(|options| options.leaf_lifetime = Some(Duration::from_secs(4)));
    let (mut mesh, checkout, orders, _server) = stage_in(quick);
    let stranger = join(&mut mesh, "stranger", &[]);
    let mut workloads = vec![checkout, orders, stranger];
    for n in 0..6 {
        let name = format!("w{n}");
        let machine = mesh.world.machine(&name).unwrap();
        let join = Join { name: &name, namespace: "shop", service_account: &name, ports: &[] };
        let mut workload = mesh.prepare(machine, &join).unwrap();
        workload.capture("up").unwrap();
        let [asked, issued] = [HANDSHAKES, ISSUED].map(|metric| ca_metric(&mesh, metric).unwrap());
        workload.start_sidecar().unwrap();
        // Before it has asked; as soon as the CA has taken its handshake, or another's that renews; and when the CA has journaled
        // a certificate and not much more.
        match n % 3 {
            0 => {}
            1 => moved(&mesh, HANDSHAKES, asked),
            _ => moved(&mesh, ISSUED, issued),
        }
        mesh.ca.take().unwrap().kill();
        // The last configuration is in force, and no verdict is another one.
        let [checkout, orders, stranger, ..] = workloads.as_slice() else { panic!("the first three") };
        assert!(reaches(&stranger.machine, orders.machine.v4, 8080).is_err());
        mesh.start_ca().unwrap();
        wait_for("the CA's absence is over", SOON * 3, || reaches(&checkout.machine, orders.machine.v4, 8080).ok())
            .unwrap();
        workloads.push(workload);
    }
    for workload in &mut workloads {
        workload.ready(Duration::from_mins(1)).unwrap();
    }
    mesh.ca.take().unwrap().kill();

    // Every certificate that anybody ever held, by his own word, is in the journal, once and under his name.
    let database = rusqlite::Connection::open(mesh.ca_dir().join("state.db")).unwrap();
    let mut rows = database.prepare("SELECT lower(hex(serial)), coalesce(uid, '') FROM journal").unwrap();
    let journal: Vec<(String, String)> =
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    let by_serial: BTreeMap<&str, &str> = journal.iter().map(|(s, uid)| (s.as_str(), uid.as_str())).collect();
    assert_eq!(by_serial.len(), journal.len(), "a serial was given twice");
    for workload in &workloads {
        let held = serials(&workload.log());
        assert!(!held.is_empty(), "{} held a certificate", workload.name);
        for serial in held {
            let uid = by_serial.get(serial.as_str()).copied();
            assert_eq!(uid, Some(format!("{}-1", workload.name).as_str()), "serial {serial}");
        }
    }
    for serial in serials(&mesh.operator.as_ref().unwrap().log()) {
        assert!(by_serial.contains_key(serial.as_str()), "the operator's {serial}");
    }
    // Every token registered one host key, and is gone.
    let count = |sql: &str| database.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap() as usize;
    assert_eq!(count("SELECT count(*) FROM join_tokens"), 0, "a token that was used can be used again");
    assert_eq!(
        count("SELECT count(*) FROM host_keys"),
        workloads.len() + 1,
        "one for each workload, one for the operator"
    );
    assert_eq!(count("SELECT count(DISTINCT token_hash) FROM host_keys"), workloads.len() + 1);
    assert_eq!(count("SELECT count(DISTINCT key_id) FROM host_keys"), workloads.len() + 1);
}

const HANDSHAKES: &str = "signet_ca_handshakes_accepted_total";
const ISSUED: &str = "signet_ca_certificates_issued_total";

/// A counter of the CA, over all of its labels; `None` when the CA does not answer.
fn ca_metric(mesh: &Mesh, name: &str) -> Option<u64> {
    let page = mesh.world.hub().enter(|| http_get(15022, "/metrics")).unwrap().ok()?;
    let lines = page.lines().filter(|line| line.starts_with(name));
    Some(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
}

fn moved(mesh: &Mesh, name: &str, from: u64) {
    wait_for(&format!("{name} moves"), SOON, || (ca_metric(mesh, name)? > from).then_some(())).unwrap();
}

/// The serials of all certificates that a program says it took in use.
fn serials(log: &str) -> BTreeSet<String> {
    let lines = log.lines().filter(|line| line.contains("certificate in use"));
    let serial = |line: &str| {
        let rest = line.split_once("serial=").expect("the line names the serial").1;
        rest.trim_start_matches('"').split(['"', ' ']).next().unwrap_or_default().to_owned()
    };
    lines.map(serial).collect()
}

#[test]
fn f22_a_program_that_goes_around_the_redirect_reaches_nobody_without_an_identity() {
    let (mesh, checkout, orders, server) = stage();
    let before = server.accepted();
    // As the sidecar's own user, whose connections are not captured.
    for target in [orders.machine.v4.to_string(), orders.machine.v6.to_string()] {
        let mut command = std::process::Command::new("setpriv");
        let script = format!("exec 3<>/dev/tcp/{target}/8080 && echo hello >&3 && timeout 3 cat <&3");
        command.args(["--reuid", "2137", "--regid", "2137", "--clear-groups", "bash", "-c", &script]);
        let out = checkout.machine.output(command).unwrap();
        assert!(!String::from_utf8_lossy(&out.stdout).contains("hello"), "plaintext was answered from {target}");
    }
    // To the sidecars' own ports, as the application.
    for port in [15001, 15006, 15020] {
        for address in [IpAddr::from(orders.machine.v4), orders.machine.v6.into()] {
            if let Ok(mut stream) = call(&checkout.machine, address, port) {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer);
                assert_eq!(answer, "", "{address}:{port}");
            }
        }
    }
    assert_eq!(server.accepted(), before);
    drop(mesh);
}

#[test]
fn a_broken_file_keeps_the_last_good_state_and_names_file_line_and_field() {
    let (mesh, checkout, orders, _server) = stage();
    mesh.write("zz-broken.yaml", "apiVersion: signet.dev/v1alpha1\nkind: Workload\nmetadata: {name: x, namespace: shop}\nspec:\n  adresses: []\n")
        .unwrap();
    let operator = mesh.operator.as_ref().unwrap();
    let line = operator.wait_for_line("zz-broken.yaml", SOON).unwrap();
    assert!(operator.log().contains("adresses"), "{line}");
    reaches(&checkout.machine, orders.machine.v4, 8080).unwrap();
    // While it is broken nothing of the directory changes.
    mesh.remove("rule-shop-orders.yaml").unwrap();
    reaches(&checkout.machine, orders.machine.v4, 8080).unwrap();
    mesh.allow("shop", "orders", &[8080], &["checkout"]).unwrap();
    mesh.remove("zz-broken.yaml").unwrap();
    let stranger_rule = || mesh.allow("shop", "orders", &[8080], &["nobody-at-all"]);
    stranger_rule().unwrap();
    wait_for("a good directory is taken again", SOON, || reaches(&checkout.machine, orders.machine.v4, 8080).err())
        .unwrap();
}
