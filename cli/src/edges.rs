//! `signet edges`: who calls whom, from the counters of every sidecar, which the holder of the operators' lease has in one place.
//! It is asked on its loopback, through the API server.
use crate::cluster::{self, Cluster, ClusterArgs, Lack, OPERATOR_HEALTH, api, ask, get, list};
use crate::identity::meant;
use crate::output::{Format, note, plain, print, print_json};
use anyhow::{Context as _, bail};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Arguments of `signet edges`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every connection that has ended or was refused since the operators started, as the called side judged it; calls that leave the
mesh or never reached a sidecar, as the caller's side saw them. Sidecars report every 10 s.

Exit code: 0, or 2 when nothing can be said: no cluster, no operator.

Example:
  signet edges
  signet edges -n shop -o json | jq '.edges[] | select(.denied > 0)'")]
pub struct EdgesArgs {
    /// Only edges that begin or end in this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Only edges with something that was denied or failed.
    #[arg(long)]
    refused: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What an operator shows at `/edges`.
#[derive(Debug, Deserialize)]
struct Shown {
    version: u32,
    other_replicas: Vec<String>,
    edges: Vec<Line>,
}

/// A row of one workload.
#[derive(Debug, Deserialize)]
struct Line {
    workload: String,
    identity: Option<String>,
    /// `plaintext`, `other`, or an identity.
    peer: String,
    port: u16,
    outbound: bool,
    reason: String,
    framing: String,
    connections: u64,
    bytes_received: u64,
    bytes_sent: u64,
    last_seen: i64,
}

/// Who called whom: the same for all pods of an identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Between {
    source: String,
    destination: String,
    /// 0: not known.
    port: u16,
    /// `mTLS pooled`, `mTLS alone`, `plaintext`, `none`.
    via: &'static str,
}

/// An edge as it is printed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Counts {
    allowed: u64,
    denied: u64,
    /// Neither: broken off before there was a verdict, or for another reason.
    failed: u64,
    /// From the caller to the called.
    bytes_there: u64,
    bytes_back: u64,
    /// Unix seconds.
    last_seen: i64,
    /// By reason code.
    reasons: BTreeMap<String, u64>,
    /// The pods behind the side that reported.
    pods: Vec<String>,
}

#[derive(Serialize)]
struct Edge<'a> {
    #[serde(flatten)]
    between: &'a Between,
    #[serde(flatten)]
    counts: &'a Counts,
}

/// Runs it.
pub fn run(arguments: &EdgesArgs) -> anyhow::Result<ExitCode> {
    let (holder, shown) = cluster::run(async {
        let cluster = arguments.cluster.connect().await?;
        let namespace = cluster.control_namespace(&arguments.cluster).await?;
        if let Some(only) = &arguments.namespace {
            let namespaces = Api::<Namespace>::all(cluster.client.clone());
            // Who may not ask has to know it.
            if let Ok(None) = ask("get", "namespaces", namespaces.get_opt(only)).await {
                let known = list(namespaces, "namespaces", ListParams::default()).await.unwrap_or_default();
                let known: Vec<String> = known.iter().map(ResourceExt::name_any).collect();
                bail!("there is no namespace {only}{}", meant(only, &known));
            }
        }
        ask_holder(&cluster, &namespace).await
    })?;
    let mut edges = sum(&shown.edges);
    edges.retain(|between, counts| {
        arguments.namespace.as_deref().is_none_or(|namespace| between.touches(namespace))
            && (!arguments.refused || counts.denied + counts.failed > 0)
    });
    match arguments.output {
        Format::Json => {
            let all: Vec<Edge<'_>> = edges.iter().map(|(between, counts)| Edge { between, counts }).collect();
            let mut operators = shown.other_replicas.clone();
            operators.push(holder);
            print_json(&serde_json::json!({"version": 1, "operators": operators, "edges": all}))?;
        }
        Format::Text if edges.is_empty() => note("no connection has been reported yet; sidecars report every 10 s"),
        Format::Text => print(&table(&edges, Timestamp::now().as_second()))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask_holder(cluster: &Cluster, namespace: &str) -> anyhow::Result<(String, Shown)> {
    let leases = api::<Lease>(&cluster.client, Some(namespace));
    let lease = ask("get", "leases.coordination.k8s.io", leases.get_opt("signet-operator")).await?;
    let holder = lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty());
    let holder =
        holder.with_context(|| format!("no operator holds the lease signet-operator in {namespace}: signet check"))?;
    let (of, pod) = holder.split_once('/').unwrap_or((namespace, &holder));
    let page = match get(&cluster.client, of, pod, OPERATOR_HEALTH, "/edges").await {
        Err(lack @ Lack::Forbidden { .. }) => bail!(
            "{lack}: edges are shown on the operator's loopback alone, and reached by port-forward. Somebody who may grant it \
             runs: kubectl -n {namespace} create role signet-edges --verb=create --resource=pods/portforward"
        ),
        Err(lack) => bail!("{lack}: {holder} holds the lease; another operator takes it within 15 s"),
        Ok(page) if page.status != 200 => bail!("{holder} answers {}: {}", page.status, plain(page.body.trim())),
        Ok(page) => page,
    };
    let shown: Shown = serde_json::from_str(&page.body).with_context(|| {
        format!("{holder} shows edges in a form that signet {} does not know", env!("CARGO_PKG_VERSION"))
    })?;
    if shown.version != 1 {
        bail!("{holder} shows edges in version {}, and this signet knows 1", shown.version);
    }
    Ok((holder, shown))
}

impl Between {
    fn touches(&self, namespace: &str) -> bool {
        [&self.source, &self.destination].iter().any(|end| end.split_once('/').is_some_and(|(of, _)| of == namespace))
    }
}

/// What became of connections with this reason.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Became {
    Allowed,
    Denied,
    Failed,
}

fn became(reason: &str) -> Became {
    match reason {
        "rule_matched" | "posture_allow" | "posture_audit" | "posture_authenticated" | "meshed" | "not_meshed" => {
            Became::Allowed
        }
        "other" => Became::Failed,
        _ => Became::Denied,
    }
}

/// Sums the rows of all pods by identities, and counts each connection once.
fn sum(lines: &[Line]) -> BTreeMap<Between, Counts> {
    let mut edges: BTreeMap<Between, Counts> = BTreeMap::new();
    for line in lines {
        // What reached another sidecar was judged and is counted there.
        if line.outbound && line.reason != "not_meshed" && line.reason != "other" {
            continue;
        }
        let own = line.identity.as_deref().map_or_else(|| line.workload.clone(), short);
        // A call that reached nobody has no peer either: nothing of it left in plaintext.
        let unreached = line.outbound && line.peer == "plaintext" && line.reason != "not_meshed";
        let peer = match (line.peer.as_str(), line.outbound) {
            _ if unreached => "nobody".to_owned(),
            ("plaintext", true) => "outside the mesh".to_owned(),
            ("plaintext", false) => "plaintext".to_owned(),
            ("other", _) => "somebody unknown".to_owned(),
            (identity, _) => short(identity),
        };
        let via = match (line.peer.as_str(), line.framing.as_str()) {
            _ if unreached => "none",
            ("plaintext", _) => "plaintext",
            (_, "pooled") => "mTLS pooled",
            (_, "alone") => "mTLS alone",
            (_, _) => "mTLS",
        };
        let (source, destination) = if line.outbound { (own, peer) } else { (peer, own) };
        let counts = edges.entry(Between { source, destination, port: line.port, via }).or_default();
        let count = match became(&line.reason) {
            Became::Allowed => &mut counts.allowed,
            Became::Denied => &mut counts.denied,
            Became::Failed => &mut counts.failed,
        };
        *count = count.saturating_add(line.connections);
        let (there, back) =
            if line.outbound { (line.bytes_sent, line.bytes_received) } else { (line.bytes_received, line.bytes_sent) };
        counts.bytes_there = counts.bytes_there.saturating_add(there);
        counts.bytes_back = counts.bytes_back.saturating_add(back);
        counts.last_seen = counts.last_seen.max(line.last_seen);
        let by_reason = counts.reasons.entry(line.reason.clone()).or_default();
        *by_reason = by_reason.saturating_add(line.connections);
        if !counts.pods.contains(&line.workload) {
            counts.pods.push(line.workload.clone());
        }
    }
    edges
}

/// `shop/orders` of `spiffe://mesh.example/ns/shop/sa/orders`; anything else as it is.
fn short(identity: &str) -> String {
    let path = identity.strip_prefix("spiffe://").and_then(|rest| rest.split_once("/ns/")).map(|(_, path)| path);
    match path.and_then(|path| path.split_once("/sa/")) {
        Some((namespace, account)) => format!("{namespace}/{account}"),
        None => identity.to_owned(),
    }
}

fn table(edges: &BTreeMap<Between, Counts>, now: i64) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["FROM", "TO", "PORT", "VIA", "ALLOWED", "DENIED", "FAILED", "LAST SEEN", "WHY"]);
    for column in [2, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (between, counts) in edges {
        let port = if between.port == 0 { "?".to_owned() } else { between.port.to_string() };
        let why: Vec<&str> = counts.reasons.keys().map(String::as_str).collect();
        table.add_row([
            plain(&between.source),
            plain(&between.destination),
            port,
            between.via.to_owned(),
            counts.allowed.to_string(),
            counts.denied.to_string(),
            counts.failed.to_string(),
            ago(now - counts.last_seen),
            plain(&why.join(", ")),
        ]);
    }
    table.trim_fmt()
}

fn ago(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{}s ago", seconds.max(0)),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    //! Sums over pods, directions and reasons; and peers' text.
    #![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
    use super::*;
    use serde_json::json;

    const ORDERS: &str = "spiffe://mesh.example/ns/shop/sa/orders";
    const CHECKOUT: &str = "spiffe://mesh.example/ns/shop/sa/checkout";

    fn line(workload: &str, identity: &str, peer: &str, outbound: bool, reason: &str, connections: u64) -> Line {
        serde_json::from_value(json!({
            "workload": workload, "identity": identity, "peer": peer, "port": 8080, "outbound": outbound, "reason": reason,
            "framing": "pooled", "connections": connections, "bytes_received": 10, "bytes_sent": 20, "last_seen": 100,
        }))
        .unwrap()
    }

    fn between(source: &str, destination: &str, via: &'static str) -> Between {
        Between { source: source.into(), destination: destination.into(), port: 8080, via }
    }

    #[test]
    fn pods_of_one_identity_are_summed_and_each_connection_counts_once() {
        let edges = sum(&[
            line("shop/orders-1", ORDERS, CHECKOUT, false, "rule_matched", 3),
            line("shop/orders-2", ORDERS, CHECKOUT, false, "rule_matched", 4),
            line("shop/orders-2", ORDERS, CHECKOUT, false, "no_rule_matched", 2),
            // The same connections, as the caller saw them.
            line("shop/checkout-1", CHECKOUT, ORDERS, true, "meshed", 7),
            line("shop/checkout-1", CHECKOUT, ORDERS, true, "no_rule_matched", 2),
        ]);
        let counts = &edges[&between("shop/checkout", "shop/orders", "mTLS pooled")];
        assert_eq!((edges.len(), counts.allowed, counts.denied, counts.failed), (1, 7, 2, 0));
        assert_eq!(counts.pods, ["shop/orders-1", "shop/orders-2"]);
    }

    #[test]
    fn plaintext_callers_and_calls_out_of_the_mesh_are_edges_too() {
        let edges = sum(&[
            line("shop/orders-1", ORDERS, "plaintext", false, "posture_plaintext", 1),
            line("shop/orders-1", ORDERS, "plaintext", true, "not_meshed", 5),
            line("shop/orders-1", ORDERS, "plaintext", true, "other", 2),
            line("shop/orders-1", ORDERS, "other", false, "other", 1),
        ]);
        assert_eq!(edges[&between("plaintext", "shop/orders", "plaintext")].denied, 1);
        let outside = &edges[&between("shop/orders", "outside the mesh", "plaintext")];
        assert_eq!((outside.allowed, outside.failed), (5, 0));
        assert_eq!(edges[&between("shop/orders", "nobody", "none")].failed, 2, "what left for nobody was no plaintext");
        assert_eq!(edges[&between("somebody unknown", "shop/orders", "mTLS pooled")].failed, 1);
    }

    #[test]
    fn f18_what_others_named_cannot_steer_the_terminal() {
        let edges = sum(&[line("shop/x\u{1b}[2J", "spiffe://mesh.example/odd\u{7}", CHECKOUT, false, "a\nb", 1)]);
        let table = table(&edges, 130);
        assert!(table.contains("odd\\u{7}") && table.contains("a\\nb") && table.contains("30s ago"), "{table}");
        assert_eq!(table.lines().count(), 2, "{table}");
    }

    #[test]
    fn an_edge_is_of_the_namespaces_at_both_ends() {
        let edge = between("shop/checkout", "edge/gateway", "mTLS pooled");
        assert!(edge.touches("shop") && edge.touches("edge") && !edge.touches("sho"));
    }
}
