//! `signet check`: whether Signet is well in a cluster, as named checks, each with what mends it.
//!
//! ```text
//! cluster ──(facts: read once)──▶ Facts ──(api, install, certificates, trust, programs, pods, rules, network: pure)──▶ Report
//! ```
mod access;
mod api;
mod certificates;
mod facts;
mod install;
mod network;
mod pods;
mod programs;
mod report;
mod rules;
mod selector;
#[cfg(test)]
mod tests;
mod trust;

use crate::cluster::{self, ClusterArgs};
use crate::identity::meant;
use crate::output::{Format, print, print_json};
use anyhow::bail;
use certificates::Held;
use clap::Args;
use facts::Facts;
use kube::ResourceExt;
use report::{Finding, Report, Sign};
use std::io::IsTerminal as _;
use std::process::ExitCode;

/// Arguments of `signet check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: 0 when no check failed, 1 when one did, 2 when it could not be carried out: no cluster, no usable kubeconfig, or
something that is looked at may not be read (with -n: something of that namespace; the rest is skipped).

Example:
  signet check
  signet check -n shop -o json | jq '.checks[] | select(.sign == \"fail\")'")]
pub struct CheckArgs {
    /// Look at the pods, rules and NetworkPolicies of this namespace alone.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs it.
pub fn run(arguments: &CheckArgs) -> anyhow::Result<ExitCode> {
    let facts = cluster::run(async {
        let cluster = arguments.cluster.connect().await?;
        let (control, only) = (arguments.cluster.control_namespace.as_deref(), arguments.namespace.as_deref());
        // Many lists at once make a large future.
        Box::pin(Facts::read(&cluster, control, only)).await
    })?;
    if let (Some(only), Ok(namespaces)) = (&facts.only, &facts.namespaces)
        && !namespaces.iter().any(|namespace| namespace.name_any() == *only)
    {
        let known: Vec<String> = namespaces.iter().map(ResourceExt::name_any).collect();
        bail!("there is no namespace {only}{}", meant(only, &known));
    }
    let report = Report::new(facts.control.clone(), all(&facts));
    match arguments.output {
        Format::Json => print_json(&report)?,
        Format::Text => {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            print(&report.text(colour))?;
        }
    }
    Ok(ExitCode::from(report.exit_code()))
}

/// Whoever chose a namespace asked about these; the rest is about the whole mesh, and may be beyond what he may read.
const OF_A_NAMESPACE: [&str; 6] =
    ["api.permissions", "pods.injected", "pods.ready", "rules.status", "rules.targets", "network.tunnel"];

/// What signs, in the memory of each CA.
const ISSUING: Held = Held {
    id: "certificates.issuing",
    program: "ca",
    what: "the issuing certificate",
    metric: "signet_ca_issuing_not_after_seconds",
    begin: None,
    life: ("issuing", 7 * 24 * 3600),
};
/// By which sidecars know each operator.
const OPERATOR: Held = Held {
    id: "certificates.operator",
    program: "operator",
    what: "the certificate",
    metric: "signet_operator_svid_not_after_seconds",
    begin: Some("signet_operator_svid_not_before_seconds"),
    life: ("leaf", 3600),
};

/// One check.
type Check = fn(&Facts) -> Finding;

/// Every check, in the order in which they are to be read.
fn all(facts: &Facts) -> Vec<Finding> {
    let mut findings =
        vec![api::version(facts), api::groups(facts), api::permissions(facts), install::namespace(facts)];
    let of_an_installation: [(&'static str, Check); 25] = [
        ("install.crd", install::definition),
        ("install.webhook", install::webhook),
        ("install.guard", install::guard),
        ("certificates.webhook", install::webhook_certificate),
        ("certificates.root", trust::root),
        (ISSUING.id, |facts| certificates::held(facts, &ISSUING)),
        (OPERATOR.id, |facts| certificates::held(facts, &OPERATOR)),
        ("trust.bundles", trust::copies),
        ("trust.sequence", trust::sequence),
        ("ca.available", |facts| programs::available(facts, "ca.available", "ca")),
        ("ca.health", |facts| programs::healthy(facts, "ca.health", "ca")),
        ("operator.available", |facts| programs::available(facts, "operator.available", "operator")),
        ("operator.health", |facts| programs::healthy(facts, "operator.health", "operator")),
        ("pods.injected", pods::injected),
        ("pods.ready", pods::ready),
        ("pods.current", pods::current),
        ("rules.status", rules::status),
        ("rules.targets", rules::targets),
        ("network.tunnel", network::tunnel),
        ("network.ca", network::ca),
        ("network.operator", network::operator),
        ("network.webhook", network::webhook),
        ("network.addresses", network::addresses),
        ("network.ranges", network::ranges),
        ("versions.skew", programs::skew),
    ];
    // Without an installation the rest would only say the same again.
    let there = findings.iter().all(|finding| finding.id != "install.namespace" || finding.sign != Sign::Fail);
    findings.extend(of_an_installation.into_iter().map(|(id, check)| {
        if there {
            check(facts)
        } else {
            Finding::skipped(id, "there is no one installation to look at", "see install.namespace")
        }
    }));
    if facts.only.is_some() {
        for finding in findings.iter_mut().filter(|finding| !OF_A_NAMESPACE.contains(&finding.id)) {
            finding.not_allowed = false;
        }
    }
    findings
}
