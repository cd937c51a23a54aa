//! SIGTERM: no new inbound, what is open finishes within the grace, outbound works as long as anything is open, exit code 0. And
//! what the end of the grace, or nothing being open, makes of it.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::{
    mesh::{Mesh, Workload},
    process::{Signal, wait_for},
};
use signet_tests::{
    FAMILIES, SOON,
    apps::{End, Server, call, echoed, end_of, is_reset, reaches, receive, send_noise},
    freeze, logged, mesh_with, pair,
};
use std::{io::Read as _, net::Shutdown, sync::mpsc, time::Duration};

/// A mesh with these tables in each sidecar.toml, the usual pair, and an echo server on 8080.
fn stage(sidecar: &str) -> (Mesh, Workload, Workload, Server) {
    let mut mesh = mesh_with(|options| options.sidecar = sidecar.into());
    let (checkout, orders) = pair(&mut mesh);
    let server = Server::echo(&orders.machine, 8080);
    for family in FAMILIES {
        reaches(&checkout.machine, orders.address(family), 8080).unwrap();
    }
    // Then it is remembered what they moved, and the next may get tunnels of their own.
    let ended = || (checkout.log().matches(" outbound carried ").count() == FAMILIES.len()).then_some(());
    wait_for("both have ended", SOON, ended).unwrap();
    wait_for("neither side carries anything", SOON, || carry(&checkout, &orders, 0)).unwrap();
    (mesh, checkout, orders, server)
}

fn terminate(workload: &Workload) {
    workload.sidecar.as_ref().unwrap().signal(Signal::TERM);
}

fn ends_well(workload: &mut Workload, limit: Duration) {
    let status = workload.sidecar.as_mut().unwrap().wait(limit).unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
}

#[test]
fn f39_after_sigterm_outbound_works_and_open_connections_finish_and_the_exit_code_is_0() {
    let (_mesh, mut checkout, orders, _server) = stage("");
    let mut open = call(&checkout.machine, orders.machine.v4, 8080).unwrap();
    echoed(&mut open, b"before").unwrap();
    terminate(&checkout);
    for _ in 0..10 {
        assert_eq!(echoed(&mut open, b"during").unwrap(), b"during", "what is open finishes");
        reaches(&checkout.machine, orders.machine.v4, 8080).expect("outbound works while anything is open");
    }
    // Readiness is of the start: a workload that finishes its work is not taken for one that cannot.
    checkout.ready(SOON).unwrap();
    drop(open);
    ends_well(&mut checkout, Duration::from_secs(40));
}

#[test]
fn after_sigterm_a_called_sidecar_takes_nothing_new_and_lets_open_connections_finish() {
    let (_mesh, checkout, orders, _server) = stage("");
    let mut open = call(&checkout.machine, orders.machine.v4, 8080).unwrap();
    echoed(&mut open, b"before").unwrap();
    terminate(&orders);
    wait_for("new connections are refused", SOON, || {
        reaches(&checkout.machine, orders.machine.v4, 8080).is_err().then_some(())
    })
    .unwrap();
    assert_eq!(echoed(&mut open, b"after").unwrap(), b"after");
}

#[test]
fn with_nothing_open_a_sidecar_ends_at_once_and_what_is_called_after_it_is_refused_and_not_sent_in_plaintext() {
    let (_mesh, mut checkout, orders, server) = stage("[drain]\ngrace = \"1h\"\n");
    let open = || checkout.metric("signet_sidecar_connections_open{direction=\"outbound\"}").ok();
    let none = || (open()? == 0).then_some(());
    wait_for("nothing is open", SOON, none).unwrap();
    let before = server.accepted();
    terminate(&checkout);
    ends_well(&mut checkout, SOON);
    logged(&checkout, 0, "stopping: ");
    for family in FAMILIES {
        let error = reaches(&checkout.machine, orders.address(family), 8080).unwrap_err();
        assert!(is_reset(&error), "{family:?}: {error}");
    }
    assert_eq!(server.accepted(), before, "nothing left in plaintext");
}

#[test]
fn the_last_bytes_of_the_last_connection_arrive_though_the_sidecar_ends_with_it() {
    let (_mesh, mut checkout, orders, server) = stage("");
    drop(server);
    let (tell, hear) = mpsc::channel();
    let _server = Server::start(&orders.machine, 8080, move |stream| {
        // Nothing more comes from here: the connection is done when the caller has sent its last byte.
        stream.shutdown(Shutdown::Write).unwrap();
        tell.send(receive(&stream)).unwrap();
    });
    let mut stream = call(&checkout.machine, orders.machine.v4, 8080).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    terminate(&checkout);
    logged(&checkout, 0, "stopping: ");
    let sent = send_noise(&stream, 1, 4_000_000).unwrap();
    drop(stream);
    ends_well(&mut checkout, SOON);
    let (count, hash) = hear.recv_timeout(SOON).unwrap().expect("an orderly end, not a reset");
    assert_eq!((count, hash), (4_000_000, sent));
}

#[test]
fn what_outlives_the_grace_is_reset_on_both_sides_and_both_logs_say_so_whichever_side_stops() {
    for framing in ["pooled", "alone"] {
        let more = if framing == "alone" { "[tunnel]\nalone_above = \"0B\"\n" } else { "" };
        for called in [true, false] {
            let (_mesh, checkout, orders, server) = stage(&format!("[drain]\ngrace = \"1s\"\n{more}"));
            drop(server);
            let (tell, hear) = mpsc::channel();
            let _server = Server::start(&orders.machine, 8080, move |mut stream| {
                let _ = stream.read_exact(&mut [0; 4]);
                tell.send(end_of(&mut stream, SOON)).unwrap();
            });
            let mut open = FAMILIES.map(|family| call(&checkout.machine, orders.address(family), 8080).unwrap());
            for stream in &mut open {
                std::io::Write::write_all(stream, b"stay").unwrap();
            }
            // By both sides: the called one carries what the caller's may still be opening.
            wait_for("both are carried", SOON, || carry(&checkout, &orders, FAMILIES.len())).unwrap();
            let (mut stopped, mut other) = if called { (orders, checkout) } else { (checkout, orders) };
            let from = other.log().len();
            terminate(&stopped);
            let what = format!("{framing}, {} stops", stopped.name);
            for stream in &mut open {
                assert_eq!(end_of(stream, SOON), End::Reset, "{what}: the caller: {}", stopped.log());
                assert_eq!(hear.recv_timeout(SOON).unwrap(), End::Reset, "{what}: the called");
            }
            ends_well(&mut stopped, SOON);
            let (own, peers) = if called { ("inbound", "outbound") } else { ("outbound", "inbound") };
            let cut =
                |log: &str, direction: &str| log.matches(&format!(" {direction} carried reason=cut_drained ")).count();
            assert_eq!(cut(&stopped.log(), own), FAMILIES.len(), "{what}: {}", stopped.log());
            // A tunnel of its own has no place for the reason.
            let words = if framing == "alone" { " carried reason=" } else { " carried reason=cut_drained " };
            logged(&other, from, &format!(" {peers}{words}"));
            assert!(other.sidecar.as_mut().unwrap().ended().is_none());
        }
    }
}

#[test]
fn what_is_still_being_opened_when_the_grace_ends_is_waited_for_and_then_reset_and_its_log_says_so() {
    let (_mesh, mut checkout, orders, _server) = stage("[drain]\ngrace = \"1s\"\n");
    // From here on it takes connections and answers none.
    freeze(orders.sidecar.as_ref().unwrap());
    let mut open = FAMILIES.map(|family| call(&checkout.machine, orders.address(family), 8080).unwrap());
    let opening = || checkout.metric("signet_sidecar_connections_opening").ok();
    let opening = || (opening()? == FAMILIES.len() as u64).then_some(());
    wait_for("both are being opened", SOON, opening).unwrap();
    terminate(&checkout);
    for stream in &mut open {
        assert_eq!(end_of(stream, SOON), End::Reset, "{}", checkout.log());
    }
    ends_well(&mut checkout, SOON);
    assert_eq!(checkout.log().matches(" reason=draining ").count(), FAMILIES.len(), "{}", checkout.log());
}

/// Whether so many connections are carried now, in the eyes of the caller's sidecar and of the called one's.
fn carry(caller: &Workload, called: &Workload, count: usize) -> Option<()> {
    (carried(caller, "outbound")? == count && carried(called, "inbound")? == count).then_some(())
}

/// How many connections of a direction a sidecar carries now.
fn carried(workload: &Workload, direction: &str) -> Option<usize> {
    let page = workload.admin("/connections").ok()?;
    Some(page.matches(&format!("\"{direction}\"")).count())
}
