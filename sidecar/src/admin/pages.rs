//! The pages: what is in force and what is open right now, as JSON. Plain reads; nothing here holds the data path up for
//! longer than copying a list.
use super::{Door, Page, Readiness};
use crate::live::{Direction, Live, Tunnel};
use crate::observe::{AccessLog, Metrics, Present};
use crate::replay::Replay;
use crate::shared::Shared;
use crate::view::{Behind, Destination, Endpoint};
use http::StatusCode;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use signet_enroll::Status as Enrolment;
use signet_identity::{Bundle, SpiffeId, hex};
use signet_policy::{Admits, Decision, EgressException, Mode, Ports, Source as Callers, WorkloadRule};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::watch;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that the pages show.
#[derive(Clone)]
pub struct Source {
    /// Credentials, view and what is open.
    pub shared: Arc<Shared>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// For the number of dropped records.
    pub access_log: Option<AccessLog>,
    /// Whether the control stream stands; the control client sets it.
    pub operator_connected: Arc<AtomicBool>,
    /// How it gets its certificates.
    pub enrolment: watch::Receiver<Enrolment>,
    /// What `/readyz` answers.
    pub readiness: Arc<Readiness>,
    /// What the health door does for `/app-probe/...`; nothing outside a pod.
    pub replay: Option<Replay>,
    /// The node's addresses, as far as they are known: the kubelet may call from one.
    pub node: Vec<IpAddr>,
}

/// The page under this path.
pub(super) fn page(source: &Source, door: Door, path: &str) -> Page {
    let json = |value: &Value| ok(JSON, format!("{value:#}\n"));
    match (door, path) {
        (_, "/metrics") => {
            source.metrics.catch_up(&source.shared.live.connections());
            ok(OPEN_METRICS, source.metrics.encode(present(source)))
        }
        (Door::Admin, "/config") => json(&config(source)),
        (Door::Admin, "/certificates") => json(&certificates(source)),
        (Door::Admin, "/connections") => json(&connections(source)),
        (Door::Admin, "/verdicts") => json(&verdicts(source)),
        (Door::Health, "/healthz") => ok(TEXT, "ok\n".into()),
        (Door::Health, "/readyz") => match source.readiness.missing() {
            missing if missing.is_empty() => ok(TEXT, "ready\n".into()),
            missing => {
                let body = missing.iter().fold(String::new(), |body, why| body + why + "\n");
                Page { status: StatusCode::SERVICE_UNAVAILABLE, kind: TEXT, body }
            }
        },
        _ => {
            let paths = match door {
                Door::Admin => "/config /certificates /connections /verdicts /metrics",
                Door::Health => "/healthz /readyz /metrics",
            };
            Page { status: StatusCode::NOT_FOUND, kind: TEXT, body: format!("not here; there are: {paths}\n") }
        }
    }
}

fn ok(kind: &'static str, body: String) -> Page {
    Page { status: StatusCode::OK, kind, body }
}

fn present(source: &Source) -> Present {
    let shared = &source.shared;
    Present {
        svid_not_after: shared.credentials.svid().map(|svid| svid.not_after()),
        trust_sequence: shared.credentials.trust().state().sequence,
        configuration_revision: shared.view.state().map(|state| state.version.revision),
        certificate_failures: source.enrolment.borrow().failures,
        operator_connected: source.operator_connected.load(Relaxed),
        opening: shared.live.count_opening(),
        tunnels: shared.live.tunnels().len(),
        log_dropped: source.access_log.as_ref().map_or(0, AccessLog::dropped),
        ready: source.readiness.ready(),
    }
}

/// The configuration in force, as the operator sent it, and the destinations that were asked about.
fn config(source: &Source) -> Value {
    let shared = &source.shared;
    let state = shared.view.state();
    let decision = |decision: Decision| if decision == Decision::Allow { "allow" } else { "deny" };
    let exception = |e: &EgressException| json!({"network": e.network.to_string(), "ports": e.ports});
    let mut known = shared.view.destinations();
    known.sort_by_key(|(address, _)| *address);
    json!({
        "operator_connected": source.operator_connected.load(Relaxed),
        "configuration": state.map(|state| {
            let mut addresses: Vec<_> = state.addresses.iter().collect();
            addresses.sort();
            json!({
                "revision": state.version.revision,
                "digest": state.version.digest,
                "workload": state.workload,
                "addresses": addresses,
                "mesh_ranges": state.mesh_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "inbound": state.inbound.as_str(),
                "rules": state.rules.iter().map(rule).collect::<Vec<_>>(),
                "egress": {
                    "default": decision(state.egress.default),
                    "exceptions": state.egress.exceptions.iter().map(exception).collect::<Vec<_>>(),
                },
            })
        }),
        "destinations": known.into_iter().map(|(address, what)| {
            json!({"address": address, "is": destination(&what)})
        }).collect::<Vec<_>>(),
    })
}

/// A rule as this sidecar enforces it: ports by number, callers by whole identities.
fn rule(rule: &WorkloadRule) -> Value {
    let source = |source: &Callers| match source {
        Callers::Identity(id) => json!({"identity": id}),
        Callers::Namespace { trust_domain, namespace } => {
            json!({"namespace": namespace, "trust_domain": trust_domain})
        }
        Callers::AnyAuthenticated => json!({"any_authenticated": true}),
        Callers::Plaintext(networks) => {
            json!({"plaintext": networks.iter().map(ToString::to_string).collect::<Vec<_>>()})
        }
    };
    let (admits, refused) = match &rule.admits {
        Admits::Sources(sources) => (sources.iter().map(source).collect(), None),
        Admits::Nobody(why) => (Vec::new(), Some(why)),
    };
    json!({
        "rule": rule.key.to_string(),
        "generation": rule.generation,
        "ports": match &rule.ports {
            Ports::All => json!("all"),
            Ports::These(ports) => json!(ports),
        },
        "mode": match rule.mode {
            Mode::Enforce => "Enforce",
            Mode::Audit => "Audit",
        },
        "admits": admits,
        "refused": refused,
        "features": rule.features,
    })
}

fn destination(destination: &Destination) -> Value {
    match destination {
        Destination::Unknown => json!("unknown"),
        Destination::Unmeshed => json!("unmeshed"),
        Destination::Workload(endpoint) => json!({"workload": self::endpoint(endpoint)}),
        Destination::Service(ports) | Destination::Node(ports) => {
            let mut ports: Vec<_> = ports.iter().collect();
            ports.sort_by_key(|(port, _)| **port);
            let all = |endpoints: &[Endpoint]| endpoints.iter().map(endpoint).collect::<Vec<_>>();
            let one = |(port, behind): (&u16, &Behind)| {
                let affinity =
                    behind.sticky.as_ref().map(|s| json!({"seconds": s.timeout.as_secs(), "others": all(&s.others)}));
                json!({"port": port, "endpoints": all(&behind.endpoints), "affinity": affinity})
            };
            let kind = if matches!(destination, Destination::Node(_)) { "node" } else { "service" };
            json!({kind: ports.into_iter().map(one).collect::<Vec<_>>()})
        }
    }
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let peer = endpoint.peer.as_ref();
    json!({
        "address": endpoint.address,
        "port": endpoint.port,
        "identity": peer.map(|p| p.id.as_str()),
        "uid": peer.and_then(|p| p.uid.as_ref()).map(signet_identity::WorkloadUid::as_str),
        "tunnel_port": peer.map(|p| p.tunnel_port),
    })
}

/// This workload's certificates and the trust in force. Never a key.
fn certificates(source: &Source) -> Value {
    let credentials = &source.shared.credentials;
    let trust = credentials.trust();
    let state = trust.state();
    json!({
        "svid": credentials.svid().map(|svid| json!({
            "identity": svid.id().as_str(),
            "uid": svid.uid().map(signet_identity::WorkloadUid::as_str),
            "serial": hex(svid.serial()),
            "not_before": svid.not_before(),
            "not_after": svid.not_after(),
            "chain_pem": pem(svid.chain()),
        })),
        "trust": {
            "sequence": state.sequence,
            "bundles": state.bundles.iter().map(|(domain, bundle): (_, &Bundle)| json!({
                "trust_domain": domain.as_str(),
                "roots_pem": bundle.to_pem(),
            })).collect::<Vec<_>>(),
            "denied": {
                "issuers": state.deny.issuers.iter().map(|key| hex(key)).collect::<Vec<_>>(),
                "serials": state.deny.serials.iter().map(|serial| hex(serial)).collect::<Vec<_>>(),
                "identities": state.deny.identities.iter().map(SpiffeId::as_str).collect::<Vec<_>>(),
            },
        },
    })
}

fn pem(chain: &[CertificateDer<'static>]) -> String {
    Bundle { roots: chain.to_vec() }.to_pem()
}

/// What is open right now.
fn connections(source: &Source) -> Value {
    let live = &source.shared.live;
    let mut connections = live.connections();
    connections.sort_by_key(|connection| connection.number);
    json!({
        "connections": connections.iter().map(|c| connection(c)).collect::<Vec<_>>(),
        "tunnels": live.tunnels().iter().map(|t| tunnel(t)).collect::<Vec<_>>(),
    })
}

fn connection(live: &Live) -> Value {
    let inbound = live.direction == Direction::Inbound;
    let tunnel = live.tunnel.as_ref();
    json!({
        "number": live.number,
        "direction": if inbound { "inbound" } else { "outbound" },
        "source": live.source,
        "destination": live.destination,
        "peer": tunnel.map(|t| t.peer.leaf.id.as_str()),
        "own": tunnel.map(|t| t.own.as_str()),
        "sent": live.sent.load(Relaxed),
        "received": live.received.load(Relaxed),
        "proved_until": tunnel.map(|t| t.deadline()),
        "cut": live.cut.thrown().map(crate::live::CutReason::code),
    })
}

fn tunnel(tunnel: &Tunnel) -> Value {
    json!({
        "remote": tunnel.remote,
        "opened_by_us": tunnel.outbound,
        "peer": tunnel.peer.leaf.id.as_str(),
        "peer_uid": tunnel.peer.leaf.uid.as_ref().map(signet_identity::WorkloadUid::as_str),
        "own": tunnel.own.as_str(),
        "proved_until": tunnel.deadline(),
        "prove_again_at": tunnel.prove_at(),
        "cut": tunnel.cut.thrown().map(crate::live::CutReason::code),
    })
}

/// How often each verdict was given.
fn verdicts(source: &Source) -> Value {
    source.metrics.catch_up(&source.shared.live.connections());
    let counted = source.metrics.tallies().into_iter().map(|((direction, outcome, reason), tally)| {
        json!({
            "direction": direction,
            "outcome": outcome.name(),
            "reason": reason,
            "connections": tally.connections,
            "sent": tally.sent,
            "received": tally.received,
        })
    });
    let shadows = source
        .metrics
        .shadows()
        .into_iter()
        .map(|((decision, reason), count)| json!({"decision": decision, "reason": reason, "connections": count}));
    json!({"verdicts": counted.collect::<Vec<_>>(), "shadows": shadows.collect::<Vec<_>>()})
}
