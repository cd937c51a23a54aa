//! The demo's steps, in the order in which they are told.
use super::{
    mesh::{Join, Mesh, Options, TRUST_DOMAIN, Workload, rule},
    process::{Process, wait_for},
    programs, sealed,
    stage::Stage,
    traffic::Traffic,
    wire::{self, Capture, Segment},
    world::{Namespace, World},
};
use anyhow::Context as _;
use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant, SystemTime},
};

/// What nobody between the machines may read.
const SECRET: &str = "card 4012-8888-8888-1881";
/// How long a leaf lives here; in a real mesh an hour.
const LEAF: Duration = Duration::from_secs(10);
/// How long a thing may take that should happen at once.
const SOON: Duration = Duration::from_secs(10);
/// Machines get their addresses in the order in which they are made.
const ORDERS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// Failure to connect, in sending and in receiving network data, as curl(1) lists its exit codes: a reset comes to whichever
/// it is at.
const CURL_MET_A_RESET: [i32; 3] = [7, 55, 56];
/// How many pages checkout has got before anybody is refused: without a mesh, to see that the rule is in force, and over TLS.
const FETCHED: usize = 3;
const PAGE_URL: &str = "http://orders.shop:8080/";
const PORTS: [(&str, u16); 2] = [("http", 8080), ("ssh", 22)];

/// Everything that the steps share.
struct Cast {
    mesh: Mesh,
    orders: Workload,
    checkout: Workload,
    reports: Workload,
    http: Process,
    _first: Process,
}

/// Tells it. The first claim that does not hold is the error.
pub(super) fn tell(stage: &mut Stage, programs: &Path, keep: bool) -> anyhow::Result<()> {
    let began = Instant::now();
    let outside = sealed::furnish(&[(ORDERS, "orders.shop")])?;
    stage.line(
        "Signet: a zero-trust mesh on one machine. Three network namespaces are three machines, joined by a bridge;",
    );
    stage.line(
        "curl, an HTTP server and a server that speaks first are the workloads, and none of them knows of the mesh.",
    );
    let mut cast = before_the_mesh(stage, programs)?;
    the_same_request_encrypted(stage, &cast)?;
    let mut session = speaks_first(stage, &cast)?;
    refused(stage, &cast)?;
    rotation(stage, &cast, &mut session)?;
    ca_away(stage, &mut cast, &mut session)?;
    rule_edited(stage, &cast, &mut session)?;
    stage.line(&format!("\nEvery claim held, in {} s.", Instant::now().duration_since(began).as_secs()));
    if keep {
        keep_running(stage, &cast, outside);
    }
    Ok(())
}

/// Steps 1 and 2: what is on the wire without a mesh; then the mesh starts.
fn before_the_mesh(stage: &mut Stage, programs: &Path) -> anyhow::Result<Cast> {
    stage.step(
        "Without a mesh, every machine in between reads along",
        "orders serves a page, checkout fetches it, and we listen on the bridge between them.",
    );
    let mut world = World::new()?;
    let (orders, checkout, reports) = (world.machine("orders")?, world.machine("checkout")?, world.machine("reports")?);
    let (http, http_server) = programs::http_server(&world, &orders, 8080, &format!("order 1 of 1: {SECRET}\n"))?;
    let (first, first_server) = programs::speaks_first(&world, &orders, 22)?;
    stage.shows(&format!("orders runs {http} on port 8080 and {first} on port 22"));
    let capture = Capture::start(world.hub())?;
    let out = fetch(stage, &checkout)?;
    let segments = capture.finish()?;
    stage.claim(out.status.success() && said(&out).contains(SECRET), "checkout gets the page")?;
    show_wire(stage, &segments, 8080, 2);
    stage.claim(wire::occurrences(&segments, SECRET) > 0, "and the words can be read on the wire")?;

    stage.step(
        "CA, operator, and a sidecar beside each workload",
        &format!(
            "Each machine gets a one-time token for one identity, a redirect of its TCP traffic, and a sidecar.\n\
             The workloads keep running untouched. Certificates live {} s here, so that we can watch them rotate.",
            LEAF.as_secs()
        ),
    );
    let began = Instant::now();
    let mut options = Options::new(programs);
    options.leaf_lifetime = Some(LEAF);
    let mut mesh = Mesh::start_in(world, options)?;
    mesh.write("orders-rule.yaml", &rule("shop", "orders", &[8080, 22], &["checkout"]))?;
    stage.command(
        "hub",
        &format!("signet token create --identity spiffe://{TRUST_DOMAIN}/ns/shop/sa/orders --uid orders-1"),
    );
    stage.command("orders", "signet-sidecar capture up");
    stage.command("orders", "signet-sidecar run --config sidecar.toml");
    let orders = mesh.join_machine(orders, &joins("orders", &PORTS))?;
    let checkout = mesh.join_machine(checkout, &joins("checkout", &[]))?;
    let reports = mesh.join_machine(reports, &joins("reports", &[]))?;
    let took = Instant::now().duration_since(began).as_millis();
    stage.claim(true, &format!("CA, operator and three sidecars are ready, after {took} ms"))?;
    Ok(Cast { mesh, orders, checkout, reports, http: http_server, _first: first_server })
}

/// Step 3.
fn the_same_request_encrypted(stage: &mut Stage, cast: &Cast) -> anyhow::Result<()> {
    stage.step(
        "The same request, now over mutual TLS",
        "The same curl, the same address, the same server. The rule in orders-rule.yaml admits checkout:",
    );
    stage.shows(&rule("shop", "orders", &[8080, 22], &["checkout"]));
    // The operator watches the directory: the rule is in force when the first request passes.
    wait_for("the rule is in force", SOON, || curl(&cast.checkout.machine, &[]).ok()?.status.success().then_some(()))?;
    let capture = Capture::start(cast.mesh.world.hub())?;
    let out = fetch(stage, &cast.checkout.machine)?;
    let segments = capture.finish()?;
    stage.claim(out.status.success() && said(&out).contains(SECRET), "checkout gets the page")?;
    show_wire(stage, &segments, 15008, 4);
    let tunnel = segments.iter().filter(|s| between(s, 15008)).count();
    stage.claim(
        tunnel > 0 && segments.iter().any(Segment::is_tls),
        "between the machines there is TLS 1.3 on port 15008",
    )?;
    stage.claim(wire::occurrences(&segments, SECRET) == 0, "and the words are nowhere on the wire")?;
    let line = wait_for("orders' sidecar logs the connection", SOON, || access_line(&cast.orders, "rule_matched"))?;
    stage.shows(&line);
    stage.claim(line.contains("/sa/checkout"), "orders' sidecar knows who called: by certificate, not by address")
}

/// Step 4. The session that it opens stays open until the last step.
fn speaks_first(stage: &mut Stage, cast: &Cast) -> anyhow::Result<Process> {
    stage.step(
        "A protocol in which the server speaks first",
        "Nothing is ever guessed from the first bytes, so nobody waits for them. This session stays open until the end.",
    );
    let began = Instant::now();
    let script = "exec 3<>/dev/tcp/orders.shop/22 && cat <&3";
    stage.command("checkout", &format!("bash -c '{script}'"));
    let mut command = Command::new("bash");
    command.args(["-c", script]);
    let session = cast.checkout.machine.spawn("session", command)?;
    let line = wait_for("the server's greeting", SOON, || session.log().lines().next().map(str::to_owned))?;
    let took = Instant::now().duration_since(began);
    stage.shows(&line);
    // The sidecar counts what it has handed on, a moment after.
    let moved = wait_for("orders' sidecar counts the greeting", SOON, || {
        session_proved(cast).filter(|session| session.received > 0)
    })?;
    stage.claim(
        moved.sent == 0,
        &format!("the greeting arrives after {} ms, and checkout has not said a byte", took.as_millis()),
    )?;
    Ok(session)
}

/// Step 5.
fn refused(stage: &mut Stage, cast: &Cast) -> anyhow::Result<()> {
    stage.step(
        "A caller that no rule admits",
        "reports is in the mesh, in the same namespace, with a good certificate. No rule names it.",
    );
    let requests = || cast.http.log().matches("GET").count();
    // It may note a request after it has answered.
    let noted = || Some(requests()).filter(|served| *served >= FETCHED);
    let served = wait_for("the HTTP server notes what it has served", SOON, noted)?;
    stage.claim(served > 0, "the HTTP server notes each request that reaches it")?;
    let (out, reset) = fetch_in_vain(stage, &cast.reports.machine)?;
    let code = out.status.code().is_some_and(|code| CURL_MET_A_RESET.contains(&code));
    stage.claim(code && reset, "its connection is reset")?;
    let here = wait_for("reports' sidecar logs the refusal", SOON, || access_line(&cast.reports, "no_rule_matched"))?;
    let there = wait_for("orders' sidecar logs the refusal", SOON, || access_line(&cast.orders, "no_rule_matched"))?;
    stage.line("    The caller's side says:");
    stage.shows(&here);
    stage.line("    The called side says, with the rule that came closest:");
    stage.shows(&there);
    stage.claim(there.contains("/sa/reports") && there.contains("orders-callers"), "both sides say why")?;
    let nothing = [&here, &there].iter().all(|line| line.contains(" sent=0 received=0 "));
    stage.claim(nothing && requests() == served, "not one byte reached the HTTP server")?;
    let documents = cast.mesh.documents();
    let documents = documents.to_str().context("a path in UTF-8")?;
    stage.command("hub", "signet rules explain --from shop/reports --to shop/orders --port 8080");
    let out = cast.mesh.signet(&[
        "rules",
        "explain",
        "--files",
        documents,
        "--from",
        "shop/reports",
        "--to",
        "shop/orders",
        "--port",
        "8080",
    ])?;
    stage.shows(said(&out).trim());
    stage.claim(
        said(&out).to_lowercase().contains("deny") || said(&out).contains("denied"),
        "and so does the command line, which asks the same function",
    )
}

/// Step 6.
fn rotation(stage: &mut Stage, cast: &Cast, session: &mut Process) -> anyhow::Result<()> {
    stage.step(
        "Certificates rotate under traffic",
        "checkout calls without a pause while every certificate, each with a new key, is replaced at about half of its life.",
    );
    let opened = session_proved(cast).context("orders' sidecar shows the session")?;
    let before = serials(cast)?;
    let traffic = Traffic::start(&cast.checkout.machine, PAGE_URL);
    let mut seen = vec![before];
    wait_for("both ends have new certificates twice", LEAF * 4, || {
        let now = serials(cast).ok()?;
        if seen.last().is_none_or(|last| last.iter().zip(&now).all(|(a, b)| a != b)) {
            seen.push(now);
        }
        (seen.len() > 2).then_some(())
    })?;
    let (requests, failures) = traffic.finish()?;
    for (n, pair) in seen.iter().enumerate() {
        stage.shows(&format!("certificates {}: checkout {}  orders {}", n + 1, short(&pair[0]), short(&pair[1])));
    }
    explain(stage, cast, &failures);
    stage.claim(
        failures.is_empty(),
        &format!("{requests} requests while both ends changed keys twice, {} failed", failures.len()),
    )?;
    let proved = wait_for("the session is proved by the new certificates", LEAF, || {
        session_proved(cast).filter(|now| now.number == opened.number && now.until > opened.until)
    })?;
    stage.claim(
        session.ended().is_none(),
        &format!(
            "and the session from before is still open: it was re-proved, which moved its end by {} s",
            proved.until - opened.until
        ),
    )
}

/// The session in the eyes of the called side.
struct Session {
    number: u64,
    /// Unix seconds: when it would end if it were not proved again.
    until: u64,
    /// Bytes from the caller.
    sent: u64,
    /// Bytes to the caller.
    received: u64,
}

/// What orders' sidecar shows of the one connection to port 22.
fn session_proved(cast: &Cast) -> Option<Session> {
    let page: serde_json::Value = serde_json::from_str(&cast.orders.admin("/connections").ok()?).ok()?;
    let to_ssh = |c: &&serde_json::Value| {
        c["direction"] == "inbound" && c["destination"].as_str().is_some_and(|d| d.ends_with(":22"))
    };
    let session = page["connections"].as_array()?.iter().find(to_ssh)?;
    let number = |field: &str| session[field].as_u64();
    Some(Session {
        number: number("number")?,
        until: number("proved_until")?,
        sent: number("sent")?,
        received: number("received")?,
    })
}

/// Step 7.
fn ca_away(stage: &mut Stage, cast: &mut Cast, session: &mut Process) -> anyhow::Result<()> {
    stage.step(
        "The CA is killed and comes back",
        "kill -9, three seconds of traffic without a CA, and a restart from its files.",
    );
    // Whoever must renew while the CA is away is late, and how late depends on the machine: no certificate ends for twice the
    // time for which it is away.
    wait_for("both ends have renewed", LEAF * 6, || {
        let fresh = |workload: &&Workload| certificate_left(workload).is_some_and(|left| left >= LEAF * 6 / 10);
        [&cast.checkout, &cast.orders].iter().all(fresh).then_some(())
    })?;
    let traffic = Traffic::start(&cast.checkout.machine, PAGE_URL);
    let mut ca = cast.mesh.ca.take().context("the CA runs")?;
    stage.command("hub", &format!("kill -9 {}   # signet-ca", ca.pid()));
    ca.kill();
    let away = Instant::now();
    let enough = traffic.so_far() + 1;
    wait_for("traffic without a CA", SOON, || {
        (Instant::now().duration_since(away) >= Duration::from_secs(3) && traffic.so_far() >= enough).then_some(())
    })?;
    let before = serials(cast)?;
    stage.command("hub", "signet-ca run --config ca.toml");
    cast.mesh.start_ca()?;
    wait_for("both ends have certificates from the CA that came back", LEAF * 3, || {
        serials(cast).ok()?.iter().zip(&before).all(|(now, then)| now != then).then_some(())
    })?;
    let (requests, failures) = traffic.finish()?;
    explain(stage, cast, &failures);
    stage.claim(failures.is_empty(), &format!("{requests} requests through all of it, {} failed", failures.len()))?;
    stage.claim(session.ended().is_none(), "and both ends have new certificates; nobody noticed")
}

/// Step 8.
fn rule_edited(stage: &mut Stage, cast: &Cast, session: &mut Process) -> anyhow::Result<()> {
    stage.step(
        "A rule edited in a file takes effect on an open connection",
        "checkout's session to port 22 is still open. We take that port out of the rule; what no rule admits is denied here.",
    );
    stage.command("hub", "sed -i 's/ports: .8080, 22./ports: [8080]/' orders-rule.yaml");
    let edited = Instant::now();
    cast.mesh.write("orders-rule.yaml", &rule("shop", "orders", &[8080], &["checkout"]))?;
    session.wait(SOON)?;
    let took = Instant::now().duration_since(edited);
    let last = session.log().lines().last().unwrap_or_default().to_owned();
    stage.shows(&last);
    stage.claim(took < Duration::from_secs(5), &format!("the session is cut after {} ms", took.as_millis()))?;
    let out = fetch(stage, &cast.checkout.machine)?;
    stage.claim(out.status.success(), "while port 8080 goes on for checkout")
}

fn keep_running(stage: &Stage, cast: &Cast, outside: u32) {
    let name = |machine: &Namespace| machine.name().to_owned();
    stage.line("\nThe mesh keeps running until Ctrl-C. In another terminal, as the same user:");
    let enter = format!("nsenter --target {outside} --all ip netns exec");
    stage.line(&format!("    {enter} {} curl {PAGE_URL}", name(&cast.checkout.machine)));
    stage.line(&format!("    {enter} {} curl {PAGE_URL}      # refused", name(&cast.reports.machine)));
    stage.line(&format!("    {enter} {} curl localhost:15020/connections", name(&cast.orders.machine)));
    stage.line(&format!(
        "    nsenter --target {outside} --all ls {}   # the rules: edit them",
        cast.mesh.documents().display()
    ));
    loop {
        std::thread::park();
    }
}

/// What is known of requests that failed, for whoever must find out why.
fn explain(stage: &Stage, cast: &Cast, failures: &[String]) {
    let Some(first) = failures.first() else { return };
    stage.shows(&format!("the first failure: {first}"));
    for workload in [&cast.checkout, &cast.orders] {
        let log = workload.log();
        for line in log
            .lines()
            .filter(|line| line.contains("refused") || line.contains("WARN") || line.contains("broke"))
            .take(5)
        {
            stage.shows(&format!("{}: {line}", workload.name));
        }
    }
}

fn joins<'a>(name: &'a str, ports: &'a [(&'a str, u16)]) -> Join<'a> {
    Join { name, namespace: "shop", service_account: name, ports }
}

/// `curl` on a machine, shown.
fn fetch(stage: &Stage, machine: &Namespace) -> anyhow::Result<Output> {
    stage.command(machine.label(), &format!("curl {PAGE_URL}"));
    let out = curl(machine, &[])?;
    stage.shows(&format!("{}{}", said(&out), String::from_utf8_lossy(&out.stderr)));
    Ok(out)
}

/// The same for a machine that is refused; and whether a reset was the reason, which curl says of a connection that it could
/// not make only when it is asked to say everything.
fn fetch_in_vain(stage: &Stage, machine: &Namespace) -> anyhow::Result<(Output, bool)> {
    stage.command(machine.label(), &format!("curl -v {PAGE_URL}"));
    let out = curl(machine, &["-v"])?;
    let everything = String::from_utf8_lossy(&out.stderr).into_owned();
    let why: Vec<&str> =
        everything.lines().filter(|line| line.contains("reset") || line.starts_with("curl: ")).collect();
    stage.shows(&format!("{}{}", said(&out), why.join("\n")));
    Ok((out, everything.contains("reset")))
}

fn curl(machine: &Namespace, options: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "10"]).args(options).arg(PAGE_URL);
    machine.output(command)
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn between(segment: &Segment, port: u16) -> bool {
    segment.from.port() == port || segment.to.port() == port
}

/// The first segments of what passed on a port.
fn show_wire(stage: &Stage, segments: &[Segment], port: u16, count: usize) {
    stage.line("    On the wire between them:");
    for segment in segments.iter().filter(|s| between(s, port)).take(count) {
        stage.shows(&segment.to_string());
    }
}

/// The newest access-log line of a sidecar that holds a reason code.
fn access_line(workload: &Workload, reason: &str) -> Option<String> {
    workload.log().lines().rev().find(|line| line.contains(reason)).map(str::to_owned)
}

/// The serial numbers of the certificates in use: checkout's, then orders'.
fn serials(cast: &Cast) -> anyhow::Result<[String; 2]> {
    Ok([cast.checkout.serial()?, cast.orders.serial()?])
}

/// How long the certificate in use is still good.
fn certificate_left(workload: &Workload) -> Option<Duration> {
    let end = workload.metric("signet_sidecar_svid_not_after_seconds").ok()?;
    (SystemTime::UNIX_EPOCH + Duration::from_secs(end)).duration_since(SystemTime::now()).ok()
}

fn short(serial: &str) -> &str {
    serial.get(..12).unwrap_or(serial)
}
