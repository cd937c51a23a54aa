//! The tunnel spoken by programs that we did not write: curl and openssl as callers, openssl as the one that is called. Their
//! certificates are made by openssl below the mesh's root, good ones and ones with exactly one fault.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::{
    mesh::{Family, Join, Mesh, TRUST_DOMAIN, Workload, workload_document},
    process::{Process, wait_for},
    world::Namespace,
};
use signet_tests::{
    FAMILIES, SOON,
    apps::{End, Server, call, end_of, is_reset},
    join, logged, mesh, mesh_with,
    openssl::{EXPIRED, FUTURE, Leaf, Pair, UID_EXTENSION, Workshop},
};
use std::{
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
};

const CALLER: &str = "spiffe://demo.signet.dev/ns/shop/sa/outsider";

/// A workshop that signs with the mesh's own root.
fn workshop(mesh: &Mesh) -> Workshop {
    Workshop::with_root(
        &mesh.world.dir().join("openssl"),
        &mesh.ca_dir().join("bundle.pem"),
        &mesh.ca_dir().join("root.key"),
    )
}

/// `curl --proxytunnel` through a sidecar's tunnel port, with a client certificate, over IPv4.
fn curl_through(from: &Namespace, orders: &Workload, pair: &Pair, url: &str) -> Output {
    curl_over(Family::V4, from, orders, pair, url)
}

/// The same over either family.
fn curl_over(family: Family, from: &Namespace, orders: &Workload, pair: &Pair, url: &str) -> Output {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "10", "--proxytunnel", "--proxy-insecure", "--proxy-cert"]).arg(&pair.chain);
    command.arg("--proxy-key").arg(&pair.key).args([
        "--proxy",
        &format!("https://{}", SocketAddr::new(orders.address(family), 15008)),
        "-v",
        url,
    ]);
    from.output(command).expect("curl runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Orders behind a sidecar, and a machine without one from which outside programs call.
fn stage() -> (Mesh, Workload, Namespace, Workshop, Server) {
    // Of CA and operator too both addresses are there to be called.
    let mut mesh = mesh_with(|options| options.control = Family::V6);
    let orders = join(&mut mesh, "orders", &[("http", 8080)]);
    mesh.allow("shop", "orders", &[8080], &["outsider"]).unwrap();
    let outside = mesh.world.machine("outside").unwrap();
    let server = Server::http(&orders.machine, 8080, "hello");
    let shop = workshop(&mesh);
    let good = shop.leaf("first", &Leaf::good(CALLER, "outsider-1"));
    let url = format!("http://{}:8080/", orders.machine.v4);
    wait_for("the rule is in force", SOON, || {
        curl_through(&outside, &orders, &good, &url).status.success().then_some(())
    })
    .unwrap();
    (mesh, orders, outside, shop, server)
}

#[test]
fn curl_speaks_the_tunnel_over_both_families() {
    let (_mesh, orders, outside, shop, _server) = stage();
    let good = shop.leaf("good", &Leaf::good(CALLER, "outsider-1"));
    for (tunnel, target) in FAMILIES.into_iter().flat_map(|tunnel| FAMILIES.map(|target| (tunnel, target))) {
        let url = format!("http://{}/", SocketAddr::new(orders.address(target), 8080));
        let out = curl_over(tunnel, &outside, &orders, &good, &url);
        assert!(text(&out).contains("hello"), "{target:?} over {tunnel:?}: {}", text(&out));
    }
}

#[test]
fn curl_learns_from_the_status_that_no_rule_admits_it() {
    let (_mesh, orders, outside, shop, server) = stage();
    let stranger = shop.leaf("stranger", &Leaf::good("spiffe://demo.signet.dev/ns/shop/sa/stranger", "stranger-1"));
    let before = server.accepted();
    for family in FAMILIES {
        let url = format!("http://{}/", SocketAddr::new(orders.address(family), 8080));
        let out = curl_over(family, &outside, &orders, &stranger, &url);
        let said = text(&out);
        assert!(!out.status.success(), "{said}");
        assert!(
            said.contains("403") && said.to_lowercase().contains("proxy-status") && said.contains("no_rule_matched"),
            "{said}"
        );
        assert!(!said.contains("orders-callers"), "a refused peer learns no rule names: {said}");
    }
    assert_eq!(server.accepted(), before, "nothing reached the application");
}

#[test]
fn a_target_that_is_not_this_workloads_own_port_is_refused() {
    let (mesh, orders, outside, shop, _server) = stage();
    mesh.write(
        "all-ports.yaml",
        "apiVersion: signet.dev/v1alpha1\nkind: AllowRule\nmetadata: {name: all, namespace: shop}\nspec:\n  target: {all: true}\n  from: [{anyAuthenticated: true}]\n",
    )
    .unwrap();
    let good = shop.leaf("good", &Leaf::good(CALLER, "outsider-1"));
    let own = orders.machine.v4;
    wait_for("the rule is in force", SOON, || {
        let said = text(&curl_through(&outside, &orders, &good, &format!("http://{own}:9999/")));
        (!said.contains("no_rule_matched")).then_some(())
    })
    .unwrap();
    for target in ["127.0.0.1:15020", "[::1]:15020", "10.77.0.254:15012", "169.254.1.1:8080", "[fe80::1]:8080"] {
        let said = text(&curl_through(&outside, &orders, &good, &format!("http://{target}/")));
        assert!(!said.contains("HTTP/1.1 200"), "{target}: {said}");
    }
    for port in [15001, 15006, 15008, 15020, 15021] {
        let said = text(&curl_through(&outside, &orders, &good, &format!("http://{own}:{port}/")));
        assert!(!said.contains("HTTP/1.1 200"), "a port of the sidecar, {port}: {said}");
    }
}

#[test]
fn f17_tls_1_2_is_refused_on_every_listener() {
    let (mesh, orders, outside, shop, _server) = stage();
    let good = shop.leaf("good", &Leaf::good(CALLER, "outsider-1"));
    for (what, address) in listeners(&mesh, &orders) {
        let old = text(&s_client(&outside, &address, Some(&good), &["-tls1_2"]));
        assert!(
            !old.contains("Verification") || old.contains("Cipher is (NONE)"),
            "{what} at {address} took TLS 1.2: {old}"
        );
        let new = text(&s_client(&outside, &address, Some(&good), &["-tls1_3", "-alpn", "h2"]));
        assert!(new.contains("TLSv1.3, Cipher is TLS_"), "{what} at {address} takes TLS 1.3: {new}");
    }
}

/// Every port of every program that speaks TLS, at every address.
fn listeners(mesh: &Mesh, orders: &Workload) -> Vec<(&'static str, String)> {
    let ports =
        [("tunnel", &orders.machine, 15008), ("CA", mesh.world.hub(), 15012), ("operator", mesh.world.hub(), 15010)];
    let at = |(what, machine, port): (_, &Namespace, _)| {
        machine.addresses().map(|address| (what, SocketAddr::new(address, port).to_string()))
    };
    ports.into_iter().flat_map(at).collect()
}

#[test]
fn f1_no_session_ticket_is_ever_sent_so_that_there_is_no_session_to_resume() {
    let (mesh, orders, outside, shop, _server) = stage();
    let good = shop.leaf("good", &Leaf::good(CALLER, "outsider-1"));
    for (what, address) in listeners(&mesh, &orders) {
        let session = mesh.world.dir().join("session.pem");
        let file = session.to_str().unwrap();
        let said = text(&s_client(&outside, &address, Some(&good), &["-tls1_3", "-alpn", "h2", "-sess_out", file]));
        assert!(
            said.contains("New, TLSv1.3, Cipher is TLS_"),
            "{what} at {address}: no handshake to send a ticket after: {said}"
        );
        assert!(!said.contains("Post-Handshake New Session Ticket"), "{what} at {address} sent a ticket: {said}");
        assert!(!session.exists(), "{what} at {address}: openssl had a session to store");
    }
}

/// `openssl s_client`, ended by the end of its input. It stays a moment, so that what comes after the handshake is seen.
fn s_client(from: &Namespace, address: &str, pair: Option<&Pair>, more: &[&str]) -> Output {
    let mut command = Command::new("sh");
    let certificate = pair.map(|p| format!("-cert {} -key {}", p.chain.display(), p.key.display())).unwrap_or_default();
    let more = more.join(" ");
    command.args([
        "-c",
        &format!("(timeout 1 tail -f /dev/null) | timeout 10 openssl s_client -connect {address} {certificate} {more}"),
    ]);
    from.output(command).expect("openssl runs")
}

/// What is wrong, the leaf, the reason code and the field.
type Fault = (&'static str, Pair, &'static str, &'static str);

/// Whether a record of the access log has this reason and names this field.
fn says(log: &str, code: &str, field: &str) -> bool {
    log.lines().any(|line| {
        let text = line.split_once(" text=").map_or("", |(_, text)| text);
        line.contains(&format!("reason={code} ")) && text.contains(field)
    })
}

/// Leaves with one fault each, and what the sidecar's log must say of it: the reason code, and words that name the field.
fn faults(shop: &Workshop, mesh: &Mesh, identity: &str, uid: &str) -> Vec<Fault> {
    let good = || Leaf::good(identity, uid);
    let leaf = |name: &str, leaf: &Leaf<'_>| shop.leaf(name, leaf);
    let other_root = Workshop::new(&mesh.world.dir().join("other-root"), TRUST_DOMAIN);
    let other_domain = Workshop::new(&mesh.world.dir().join("other-domain"), "elsewhere.example");
    let san = |value: &str| format!("critical,{value}");
    let intermediate = |name: &str, below: Option<&Pair>| {
        let mut ca = Leaf::good("", "").without("extendedKeyUsage");
        ca.set("basicConstraints", "critical,CA:TRUE");
        ca.set("keyUsage", "critical,keyCertSign");
        ca.set("subjectAltName", &format!("URI:spiffe://{TRUST_DOMAIN}"));
        ca.subject = "/O=between";
        match below {
            Some(below) => shop.signed(name, &ca, below),
            None => shop.leaf(name, &ca),
        }
    };
    let mut long = intermediate("i0", None);
    for n in 1..8 {
        long = intermediate(&format!("i{n}"), Some(&long));
    }
    let mut subject = good();
    subject.subject = "/O=a subject";
    let mut expired = good();
    expired.validity = EXPIRED;
    let mut future = good();
    future.validity = FUTURE;
    let wrong_domain = identity.replace(TRUST_DOMAIN, "elsewhere.example");
    let upper = identity.replace("spiffe://demo", "spiffe://DEMO");
    let encoded = identity.replace("/sa/", "/%73a/");
    let nul = "critical,DER:30:22:86:20:73:70:69:66:66:65:3a:2f:2f:64:65:6d:6f:2e:73:69:67:6e:65:74:2e:64:65:76:2f:6e:73:00:73:68:6f:70";
    let two = san(&format!("URI:{identity},URI:spiffe://demo.signet.dev/x"));
    let ca_bits = "critical,digitalSignature,keyCertSign";
    let as_ca = good().with("basicConstraints", "critical,CA:TRUE").with("keyUsage", ca_bits);
    vec![
        (
            "a trust domain without a bundle",
            other_domain.leaf("domain", &Leaf::good(&wrong_domain, uid)),
            "peer_trust_domain_unknown",
            "trust domain elsewhere.example",
        ),
        (
            "our trust domain from another's root",
            other_root.leaf("stranger", &good()),
            "peer_cert_issuer_untrusted",
            "issuer",
        ),
        (
            "another trust domain below our root",
            leaf("td", &Leaf::good(&wrong_domain, uid)),
            "peer_trust_domain_unknown",
            "trust domain elsewhere.example",
        ),
        ("two URI SANs", leaf("two", &good().with("subjectAltName", &two)), "peer_cert_two_uri_sans", "subjectAltName"),
        ("no SAN", leaf("none", &good().without("subjectAltName")), "peer_cert_no_uri_san", "subjectAltName"),
        (
            "a DNS SAN alone",
            leaf("dns", &good().with("subjectAltName", &san("DNS:orders"))),
            "peer_cert_no_uri_san",
            "subjectAltName",
        ),
        ("a CA as leaf", leaf("ca", &as_ca), "peer_cert_is_ca", "basicConstraints"),
        (
            "CA:TRUE alone",
            leaf("ca-alone", &good().with("basicConstraints", "critical,CA:TRUE")),
            "peer_cert_is_ca",
            "basicConstraints",
        ),
        ("keyCertSign in a leaf", leaf("signs", &good().with("keyUsage", ca_bits)), "peer_cert_key_usage", "keyUsage"),
        ("expired", leaf("expired", &expired), "peer_cert_expired", "notAfter"),
        ("not yet valid", leaf("future", &future), "peer_cert_not_yet_valid", "notBefore"),
        (
            "no EKU",
            leaf("eku", &good().without("extendedKeyUsage")),
            "peer_cert_extended_key_usage_missing",
            "extendedKeyUsage",
        ),
        (
            "half an EKU",
            leaf("half", &good().with("extendedKeyUsage", "clientAuth")),
            "peer_cert_extended_key_usage",
            "extendedKeyUsage",
        ),
        ("no keyUsage", leaf("ku", &good().without("keyUsage")), "peer_cert_key_usage_missing", "keyUsage"),
        (
            "keyUsage not critical",
            leaf("kunc", &good().with("keyUsage", "digitalSignature")),
            "peer_cert_key_usage_not_critical",
            "keyUsage",
        ),
        (
            "an unknown critical extension",
            leaf("critical", &good().with("1.2.3.4.5", "critical,ASN1:UTF8String:x")),
            "peer_cert_unknown_critical_extension",
            "1.2.3.4.5",
        ),
        ("a NUL in the SAN", leaf("nul", &good().with("subjectAltName", nul)), "peer_cert_spiffe_id", "subjectAltName"),
        (
            "upper case in the trust domain",
            leaf("upper", &good().with("subjectAltName", &san(&format!("URI:{upper}")))),
            "peer_cert_spiffe_id",
            "subjectAltName",
        ),
        (
            "percent-encoding in the path",
            leaf("percent", &good().with("subjectAltName", &san(&format!("URI:{encoded}")))),
            "peer_cert_spiffe_id",
            "subjectAltName",
        ),
        ("a subject", leaf("subject", &subject), "peer_cert_subject_not_empty", "subject"),
        ("a chain that is too long", shop.signed("long", &good(), &long), "peer_cert_chain_too_long", "chain"),
    ]
}

#[test]
fn a_caller_with_a_faulty_certificate_is_refused_by_the_called_side() {
    let (mesh, orders, outside, shop, server) = stage();
    let mut wrong = Vec::new();
    // In turn over both families.
    for ((what, pair, code, field), family) in
        faults(&shop, &mesh, CALLER, "outsider-1").into_iter().zip(FAMILIES.into_iter().cycle())
    {
        let (reached, logged) = (server.accepted(), orders.log().len());
        let url = format!("http://{}/", SocketAddr::new(orders.address(family), 8080));
        let out = curl_over(family, &outside, &orders, &pair, &url);
        if out.status.success() || server.accepted() != reached {
            wrong.push(format!("{what}: was let in"));
            continue;
        }
        let new = || orders.log().get(logged..).unwrap_or_default().to_owned();
        if wait_for(what, SOON, || says(&new(), code, field).then_some(())).is_err() {
            wrong.push(format!("{what}: the log does not say {code} and {field}: {}", new()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An `openssl s_server` on a tunnel port, that presents a certificate as if it were a sidecar's.
fn impostor(machine: &Namespace, pair: &Pair, root: &Path) -> Process {
    let mut command = Command::new("openssl");
    command
        .args([
            "s_server",
            "-accept",
            "*:15008",
            "-tls1_3",
            "-alpn",
            "h2,http/1.1",
            "-verify_return_error",
            "-Verify",
            "4",
            "-CAfile",
        ])
        .arg(root);
    command.arg("-cert").arg(&pair.chain).arg("-key").arg(&pair.key).arg("-quiet");
    if let Some(between) = &pair.between {
        command.arg("-cert_chain").arg(between);
    }
    command.stdin(Stdio::null());
    let server = machine.spawn("s_server", command).unwrap();
    let address = (std::net::IpAddr::from(machine.v4), 15008).into();
    let limit = std::time::Duration::from_millis(200);
    wait_for("s_server listens", SOON, || {
        machine.enter(|| std::net::TcpStream::connect_timeout(&address, limit)).ok()?.ok()
    })
    .unwrap();
    server
}

#[test]
fn a_called_side_with_a_faulty_certificate_is_refused_by_the_caller() {
    let mut mesh = mesh();
    let checkout = join(&mut mesh, "checkout", &[]);
    let fake = mesh.world.machine("fake").unwrap();
    let named = Join { name: "fake", namespace: "shop", service_account: "fake", ports: &[("http", 8080)] };
    mesh.write("workload-fake.yaml", &workload_document(&named, &fake.addresses())).unwrap();
    let shop = workshop(&mesh);
    let identity = format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/fake");
    let mut cases = faults(&shop, &mesh, &identity, "fake-1");
    let other = shop.leaf("id", &Leaf::good(&format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/other"), "fake-1"));
    cases.push(("another identity than the operator named", other, "peer_identity_mismatch", "sa/other"));
    let other = shop.leaf("uid", &Leaf::good(&identity, "fake-2"));
    cases.push(("another workload's UID", other, "peer_uid_mismatch", "fake-2"));
    let none = shop.leaf("nouid", &Leaf::good(&identity, "fake-1").without(UID_EXTENSION));
    cases.push(("no workload UID", none, "peer_uid_mismatch", "uid"));
    let root = mesh.ca_dir().join("bundle.pem");
    let mut wrong = Vec::new();
    // In turn over both families.
    for ((what, pair, code, field), family) in cases.into_iter().zip(FAMILIES.into_iter().cycle()) {
        let server = impostor(&fake, &pair, &root);
        let logged = checkout.log().len();
        match call(&checkout.machine, fake.address(family), 8080) {
            Ok(mut stream) => {
                // A reset is told once: to the write, when it was quicker.
                let end = match stream.write_all(b"do not read this") {
                    Err(e) if is_reset(&e) => End::Reset,
                    _ => end_of(&mut stream, SOON),
                };
                if end != End::Reset {
                    wrong.push(format!("{what}: the application's connection was not reset but {end:?}"));
                }
            }
            Err(e) => assert!(is_reset(&e), "{what}: {e}"),
        }
        if server.log().contains("do not read this") || server.log().contains("CONNECT") {
            wrong.push(format!("{what}: the impostor was spoken to"));
        }
        let new = || checkout.log().get(logged..).unwrap_or_default().to_owned();
        if wait_for(what, SOON, || says(&new(), code, field).then_some(())).is_err() {
            wrong.push(format!("{what}: the log does not say {code} and {field}: {}", new()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_peer_that_refuses_our_certificate_resets_the_application_and_the_log_says_that_it_was_the_peer() {
    let mut mesh = mesh();
    let checkout = join(&mut mesh, "checkout", &[]);
    let fake = mesh.world.machine("fake").unwrap();
    let named = Join { name: "fake", namespace: "shop", service_account: "fake", ports: &[("http", 8080)] };
    mesh.write("workload-fake.yaml", &workload_document(&named, &fake.addresses())).unwrap();
    let good = workshop(&mesh).leaf("fake", &Leaf::good(&format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/fake"), "fake-1"));
    // It trusts another root, so that checkout is untrusted to it.
    let other = Workshop::new(&mesh.world.dir().join("other-root"), TRUST_DOMAIN);
    let _server = impostor(&fake, &good, &other.root().chain);
    for family in FAMILIES {
        let from = checkout.log().len();
        match call(&checkout.machine, fake.address(family), 8080) {
            Ok(mut stream) => assert_eq!(end_of(&mut stream, SOON), End::Reset, "{family:?}"),
            Err(e) => assert!(is_reset(&e), "{family:?}: {e}"),
        }
        logged(&checkout, from, " outbound refused reason=refused_by_peer ");
    }
}

#[test]
fn a_destination_that_is_known_to_be_meshed_is_never_dialled_in_plaintext() {
    let mut mesh = mesh();
    let checkout = join(&mut mesh, "checkout", &[]);
    let fake = mesh.world.machine("fake").unwrap();
    let named = Join { name: "fake", namespace: "shop", service_account: "fake", ports: &[("http", 8080)] };
    mesh.write("workload-fake.yaml", &workload_document(&named, &fake.addresses())).unwrap();
    // It listens, in plaintext, on the very port; nothing listens on 15008.
    let server = Server::echo(&fake, 8080);
    for family in FAMILIES {
        let from = checkout.log().len();
        match call(&checkout.machine, fake.address(family), 8080) {
            Ok(mut stream) => assert_eq!(end_of(&mut stream, SOON), End::Reset, "{family:?}"),
            Err(e) => assert!(is_reset(&e), "{family:?}: {e}"),
        }
        logged(&checkout, from, " outbound refused reason=connect_failed ");
    }
    assert_eq!(server.accepted(), 0, "not one byte in plaintext");
}
