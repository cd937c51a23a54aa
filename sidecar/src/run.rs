//! The composition root of `signet-sidecar run`: what is built from what, who runs on which thread, and how it stops.
//!
//! ```text
//! control thread:  enrolment -> Credentials     control stream -> View     keeper, reports, admin, health, signals
//! worker threads:  path::Path (accept ... copy), one runtime each, fed by Credentials and View
//! ```
//! SIGTERM or SIGINT: no new inbound, peers are told, what is open may finish within the grace; outbound works as long as anything
//! is open. Whoever stops an application and its sidecar stops the application first, as Kubernetes does.
use crate::admin::{self, Door, Source, Step};
use crate::capture;
use crate::config::Config;
use crate::control::{Control, Store};
use crate::keeper::{self, Ages};
use crate::live::CutReason;
use crate::observe::AccessLog;
use crate::path::listen::Purpose;
use crate::path::socket::{self, Sources};
use crate::path::{Path, Phase};
use crate::replay::{Declared, Replay};
use crate::report::Reporter;
use crate::shared::{Settings, Shared};
use crate::view::View;
use anyhow::Context as _;
use signet_enroll::Enroller;
use signet_identity::SpiffeId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Runs the sidecar until it is told to stop. Blocks.
pub fn run(config: &Config) -> anyhow::Result<()> {
    // Every connection is two descriptors; the soft limit is often 1,024.
    raise_open_files()?;
    let runtime_dir = &config.runtime_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(runtime_dir)
        .with_context(|| format!("cannot make {}", runtime_dir.display()))?;
    // The control thread is this one: the data path cannot starve it, nor it the data path.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let enroller = Enroller::new(config.ca.clone()).context("enrolment")?;
    let credentials = enroller.credentials();
    let (view, questions) = View::new();
    let access_log = config
        .access_log
        .map(|format| AccessLog::start(format, std::io::stdout()))
        .transpose()
        .context("access log")?;
    let reporter = Reporter { access_log: access_log.clone(), ..Reporter::default() };
    let sources = Sources::new(capture::sources(config.capture.source_addresses));
    let shared = Shared::new(settings(config), credentials.clone(), view.clone(), sources, reporter.clone());
    let operator = SpiffeId::workload(&config.ca.trust_domain, &config.ca.control_namespace, "signet-operator")
        .context("the operator's identity")?;
    let (replay, node) = (replay(config)?, node()?);
    let store = Store::new(runtime_dir);
    let connected = Arc::new(AtomicBool::new(false));
    let control = Control {
        address: config.operator.clone(),
        operator,
        credentials,
        view,
        store,
        connected: connected.clone(),
        edges: reporter.edges.clone(),
    };

    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let phase = watch::Sender::new(Phase::Serving);
        let (stop, stopping) = watch::channel(false);
        let workers = start_workers(config, &shared, &phase, &stopping)?;
        let source = Arc::new(Source {
            shared: shared.clone(),
            metrics: reporter.metrics.clone(),
            access_log: access_log.clone(),
            enrolment: enroller.status(),
            operator_connected: connected,
            readiness: shared.readiness.clone(),
            replay,
            node,
        });
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        tokio::spawn(admin::serve(Door::Admin, doors(&loopback, config.ports.admin)?, source.clone()));
        tokio::spawn(admin::serve(Door::Health, doors(&config.addresses, config.ports.health)?, source));
        tokio::spawn(become_ready(shared.clone(), enroller.status()));
        tokio::spawn(control.run(questions, enroller.status()));
        tokio::spawn(enroller.run());
        let ages = Ages { grace: config.tunnel.grace, foreign: config.tunnel.max_age_foreign };
        tokio::spawn(keeper::keep(shared.clone(), ages));
        tokio::spawn(look_for_redirect(shared.clone()));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(grace = ?config.drain_grace, open = shared.live.count(), "stopping: no new inbound connections; what is open may finish, and outbound works until then");
        phase.send_replace(Phase::Draining);
        let end = tokio::time::Instant::now() + config.drain_grace;
        let patience = tokio::select! {
            () = shared.live.emptied() => end.saturating_duration_since(tokio::time::Instant::now()),
            () = tokio::time::sleep_until(end) => Duration::ZERO,
            // Asked twice: at once.
            _ = terminate.recv() => Duration::ZERO,
            _ = interrupt.recv() => Duration::ZERO,
        };
        leave(&shared, &phase, patience.clamp(LAST_WORDS, LAST_BYTES)).await;
        stop.send_replace(true);
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a data path thread panicked"))??;
        }
        if let Some(log) = &access_log
            && !log.flush(LAST_RECORDS)
        {
            tracing::warn!(patience = ?LAST_RECORDS, "the last records of the access log were not taken, and are lost");
        }
        anyhow::Ok(())
    })
}

/// How long the last words may take: resets, what is still on its way through tunnels, and their ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The same as long as the grace is not over: what was sent last may wait for a peer that is slow.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// How long whoever reads the access log may take for what was written last.
const LAST_RECORDS: Duration = Duration::from_secs(5);

/// Cuts what is still open, and waits until both its ends have been told. A data path thread that just ended would leave them with
/// what looks like an orderly end, and what was sent last on a pooled tunnel with nobody to send it.
async fn leave(shared: &Shared, phase: &watch::Sender<Phase>, patience: Duration) {
    phase.send_replace(Phase::Leaving);
    let told = async {
        loop {
            for live in shared.live.connections() {
                live.cut.throw(CutReason::Drained);
            }
            // Again, for what was being opened.
            if tokio::time::timeout(LAST_WORDS / 10, shared.live.emptied()).await.is_ok() {
                return shared.live.closed().await;
            }
        }
    };
    // A peer that takes nothing is not waited for.
    drop(tokio::time::timeout(patience, told).await);
}

/// In a pod, what injection declared in the environment; elsewhere nothing.
fn replay(config: &Config) -> anyhow::Result<Option<Replay>> {
    let (probes, addresses) = (variable("SIGNET_PROBES")?, variable("SIGNET_POD_IPS")?);
    if probes.is_empty() {
        return Ok(None);
    }
    let declared = Declared::read(&probes, &variable("SIGNET_PROBE_KEY")?, &addresses, &config.ports.all())?;
    Ok(Some(Replay::new(declared, Sources::new(capture::sources(config.capture.source_addresses)))))
}

/// The node's own addresses, where the environment names them.
fn node() -> anyhow::Result<Vec<IpAddr>> {
    let addresses = variable("SIGNET_HOST_IPS")?;
    let parts = addresses.split(',').map(str::trim).filter(|part| !part.is_empty());
    let parse = |part: &str| part.parse::<IpAddr>().with_context(|| format!("SIGNET_HOST_IPS: {part:?} is no address"));
    parts.map(|part| Ok(parse(part)?.to_canonical())).collect()
}

/// A variable of the environment; empty when it is not set.
fn variable(name: &str) -> anyhow::Result<String> {
    match std::env::var(name) {
        Ok(text) => Ok(text),
        Err(std::env::VarError::NotPresent) => Ok(String::new()),
        Err(error) => Err(error).context(name.to_owned()),
    }
}

/// Notes the first certificate and the first configuration.
async fn become_ready(shared: Arc<Shared>, mut status: watch::Receiver<signet_enroll::Status>) {
    let mut changes = shared.view.changes();
    // An ended sender means that the process is ending.
    if status.wait_for(|status| status.serial.is_some()).await.is_ok() {
        shared.readiness.reached(Step::Certificate);
    }
    while shared.view.state().is_none() {
        if changes.changed().await.is_err() {
            return;
        }
    }
    shared.readiness.reached(Step::Configuration);
}

/// A listener for each of these addresses that this host has a family for.
fn doors(addresses: &[IpAddr], port: u16) -> anyhow::Result<Vec<tokio::net::TcpListener>> {
    let mut listeners = Vec::new();
    for ip in addresses {
        let address = SocketAddr::new(*ip, port);
        listeners.extend(unless_no_ipv6(address, admin::open(address))?);
    }
    Ok(listeners)
}

/// Calls itself through the redirect until such a call has arrived: before that the sidecar is not ready.
async fn look_for_redirect(shared: Arc<Shared>) {
    let mut pause = Duration::from_millis(20);
    while !shared.readiness.has_reached(Step::Redirect) {
        // Refused or unanswered while there is no redirect; what counts is what arrives.
        drop(tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(capture::PROBE)).await);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

type Worker = thread::JoinHandle<anyhow::Result<()>>;

/// Opens every worker's listeners before the first thread starts, so that a taken port is an error of the start.
fn start_workers(
    config: &Config,
    shared: &Arc<Shared>,
    phase: &watch::Sender<Phase>,
    stopping: &watch::Receiver<bool>,
) -> anyhow::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for number in 0..config.workers {
        let mut listeners = Vec::new();
        for (purpose, address) in addresses(config) {
            let listener = unless_no_ipv6(address, socket::listen(address)).with_context(|| format!("{purpose:?}"))?;
            listeners.extend(listener.map(|listener| (purpose, listener)));
        }
        let (shared, phase, mut stopping) = (shared.clone(), phase.subscribe(), stopping.clone());
        let body = move || -> anyhow::Result<()> {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
            let stop = async move {
                // A sender that is gone means that the process is ending.
                drop(stopping.wait_for(|stop| *stop).await);
            };
            runtime.block_on(Path::run(shared, listeners, phase, stop)).context("data path")
        };
        workers.push(thread::Builder::new().name(format!("path-{number}")).spawn(body)?);
    }
    Ok(workers)
}

/// What was opened; nothing on a host without IPv6, which has nothing to listen on there.
fn unless_no_ipv6<T>(address: SocketAddr, opened: std::io::Result<T>) -> anyhow::Result<Option<T>> {
    use rustix::io::Errno;
    match opened {
        Err(error)
            if address.is_ipv6()
                && matches!(Errno::from_io_error(&error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) =>
        {
            Ok(None)
        }
        opened => opened.map(Some).with_context(|| format!("cannot listen on {address}")),
    }
}

fn addresses(config: &Config) -> Vec<(Purpose, SocketAddr)> {
    let ports = &config.ports;
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let outbound = loopback.iter().map(|ip| (Purpose::Outbound, SocketAddr::new(*ip, ports.outbound)));
    let inbound = config.addresses.iter().flat_map(|ip| {
        [
            (Purpose::Plaintext, SocketAddr::new(*ip, ports.plaintext)),
            (Purpose::Tunnel, SocketAddr::new(*ip, ports.tunnel)),
        ]
    });
    outbound.chain(inbound).collect()
}

fn settings(config: &Config) -> Settings {
    Settings {
        connect_time: config.limits.connect_time,
        head_time: config.limits.head_time,
        head_bytes: config.limits.head_bytes,
        unknown_wait: config.limits.unknown_wait,
        idle_tunnel: config.tunnel.idle,
        streams: config.tunnel.streams,
        alone_above: config.tunnel.alone_above,
        connections: config.limits.connections as usize,
        per_identity: config.limits.connections_per_identity as usize,
        handshakes: config.limits.handshakes as usize,
        own_ports: config.ports.all().to_vec(),
    }
}

fn raise_open_files() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("cannot raise the limit of open files")
}
