//! Callers and destinations without a sidecar, outside Kubernetes: plaintext that a rule or the posture admits at the captured
//! port, and calls that leave the mesh as far as the egress posture lets them. In both families.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::{
    mesh::{Family, Mesh, rule},
    process::wait_for,
    world::Namespace,
};
use signet_tests::{
    FAMILIES, SOON,
    apps::{End, Server, call, echoed, end_of, is_reset, reaches},
    beyond, join, logged, mesh, pair,
};
use std::net::{IpAddr, SocketAddr};

/// A caller that must be reset before it hears a word.
fn is_refused(from: &Namespace, to: IpAddr, port: u16) {
    match call(from, to, port) {
        Ok(mut stream) => assert_eq!(end_of(&mut stream, SOON), End::Reset, "{to}:{port}"),
        Err(e) => assert!(is_reset(&e), "{to}:{port}: {e}"),
    }
}

/// A caller in a record, up to its port.
fn source(machine: &Namespace, family: Family) -> String {
    let address = SocketAddr::new(machine.address(family), 0).to_string();
    format!("source={}", address.trim_end_matches('0'))
}

fn posture(mesh: &Mesh, inbound: &str, egress: &str) {
    let text = format!(
        "apiVersion: signet.dev/v1alpha1\nkind: Posture\nmetadata: {{name: default, namespace: shop}}\n\
         spec:\n  inbound: {inbound}\n  egress:\n    {egress}\n"
    );
    mesh.write("posture-shop.yaml", &text).unwrap();
}

#[test]
fn a_plaintext_caller_is_admitted_by_a_clause_that_has_its_address_and_by_no_other_and_is_cut_with_it() {
    let mut mesh = mesh();
    let orders = join(&mut mesh, "orders", &[("http", 8080)]);
    let server = Server::echo(&orders.machine, 8080);
    let (known, other) = (mesh.world.machine("known").unwrap(), mesh.world.machine("other").unwrap());
    let admit = |cidrs: &str| {
        let clause = format!("  from:\n  - unauthenticated: {{cidrs: [{cidrs}]}}\n");
        mesh.write("orders.yaml", &rule("shop", "orders", &[8080], &[]).replace("  from: []\n", &clause)).unwrap();
    };
    admit(&format!("\"{}/32\", \"{}/128\"", known.v4, known.v6));
    for family in FAMILIES {
        wait_for("the rule is in force", SOON, || reaches(&known, orders.address(family), 8080).ok()).unwrap();
        let from = orders.log().len();
        let mut stream = call(&known, orders.address(family), 8080).unwrap();
        assert_eq!(echoed(&mut stream, b"in the clear").unwrap(), b"in the clear");
        let here = stream.local_addr().unwrap();
        drop(stream);
        let line = logged(&orders, from, &format!(" inbound carried reason=rule_matched source={here} "));
        let destination = SocketAddr::new(orders.address(family), 8080);
        for words in [&format!(" destination={destination} "), " rule=shop/orders-callers ", " sent=12 received=12 "] {
            assert!(line.contains(words), "{line}");
        }
        assert!(!line.contains(" peer=") && !line.contains(" framing="), "{line}");

        let (from, before) = (orders.log().len(), server.accepted());
        is_refused(&other, orders.address(family), 8080);
        logged(&orders, from, &format!(" inbound refused reason=no_rule_matched {}", source(&other, family)));
        assert_eq!(server.accepted(), before, "{family:?}: nothing reached the application");
    }
    // What is open is judged again when the clause goes.
    let mut open = FAMILIES.map(|family| call(&known, orders.address(family), 8080).unwrap());
    for stream in &mut open {
        echoed(stream, b"open").unwrap();
    }
    let from = orders.log().len();
    admit("192.0.2.0/24");
    for stream in &mut open {
        assert_eq!(end_of(stream, SOON), End::Reset);
    }
    logged(&orders, from, " inbound carried reason=cut_rule_gone ");
}

#[test]
fn an_unguarded_port_admits_plaintext_as_the_posture_says_and_what_audit_would_refuse_is_recorded() {
    let mut mesh = mesh();
    let (checkout, orders) = pair(&mut mesh);
    let _unguarded = Server::echo(&orders.machine, 9000);
    let plain = mesh.world.machine("plain").unwrap();
    // The posture, what becomes of plaintext, and what of a caller with an identity that no rule names.
    for (inbound, plaintext, identity) in [
        ("allow", "carried reason=posture_allow ", "carried reason=posture_allow "),
        ("audit", "carried reason=posture_audit ", "carried reason=posture_audit "),
        ("authenticated", "refused reason=posture_plaintext ", "carried reason=posture_authenticated "),
        ("deny", "refused reason=posture_deny ", "refused reason=posture_deny "),
    ] {
        posture(&mesh, inbound, "default: allow");
        let from = orders.log().len();
        wait_for(&format!("the posture {inbound} is in force"), SOON, || {
            // Either may be what the posture before said too: the reason tells them apart.
            let _ = reaches(&plain, orders.machine.v4, 9000);
            orders.log().get(from..)?.contains(plaintext).then_some(())
        })
        .unwrap();
        for family in FAMILIES {
            for (caller, outcome) in [(&plain, plaintext), (&checkout.machine, identity)] {
                let from = orders.log().len();
                if outcome.starts_with("carried") {
                    reaches(caller, orders.address(family), 9000).unwrap();
                } else {
                    is_refused(caller, orders.address(family), 9000);
                }
                let line = logged(&orders, from, &format!(" inbound {outcome}{}", source(caller, family)));
                assert_eq!(line.contains(" shadow=deny:posture_"), inbound == "audit", "{line}");
                assert_eq!(line.contains(" peer="), caller.name() != plain.name(), "{line}");
            }
            // A port with a rule is guarded whatever the posture is.
            is_refused(&plain, orders.address(family), 8080);
        }
    }
}

#[test]
fn calls_out_of_the_mesh_follow_the_egress_posture_and_its_exceptions_and_are_cut_with_them() {
    let mut mesh = mesh();
    let checkout = join(&mut mesh, "checkout", &[]);
    let (machine, addresses) = beyond(&mut mesh, &[&checkout]);
    let (_excepted, other) = (Server::echo(&machine, 8080), Server::echo(&machine, 8081));
    for to in addresses {
        let from = checkout.log().len();
        reaches(&checkout.machine, to, 8081).unwrap();
        let line = logged(&checkout, from, " outbound carried reason=not_meshed ");
        assert!(line.contains(&format!(" destination={} ", SocketAddr::new(to, 8081))), "{line}");
        assert!(!line.contains(" peer=") && !line.contains(" framing="), "{line}");
    }
    let exceptions = "default: deny\n    exceptions:\n    - {cidr: 192.0.2.0/24, ports: [8080]}\n    - {cidr: \"2001:db8::/32\", ports: [8080]}";
    posture(&mesh, "deny", exceptions);
    wait_for("the posture is in force", SOON, || reaches(&checkout.machine, addresses[0], 8081).err()).unwrap();
    // One whose count begins now: the last call may have been cut rather than refused.
    drop(other);
    let other = Server::echo(&machine, 8081);
    let mut open = Vec::new();
    for to in addresses {
        let from = checkout.log().len();
        is_refused(&checkout.machine, to, 8081);
        logged(&checkout, from, " outbound refused reason=egress_denied ");
        let from = checkout.log().len();
        reaches(&checkout.machine, to, 8080).unwrap();
        logged(&checkout, from, " outbound carried reason=not_meshed ");
        let mut stream = call(&checkout.machine, to, 8080).unwrap();
        echoed(&mut stream, b"open").unwrap();
        open.push(stream);
    }
    assert_eq!(other.accepted(), 0, "nothing reached what is denied");
    let from = checkout.log().len();
    posture(&mesh, "deny", "default: deny");
    for stream in &mut open {
        assert_eq!(end_of(stream, SOON), End::Reset);
    }
    logged(&checkout, from, " outbound carried reason=cut_egress_gone ");
}
