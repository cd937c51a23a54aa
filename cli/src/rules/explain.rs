//! `signet rules explain`.
use crate::output::{Format, note, print, print_json};
use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use signet_identity::{SpiffeId, TrustDomain};
use signet_operator::documents::{Key, Reading, read_directory};
use signet_operator::index::{Member, Memory, Settings, Snapshot};
use signet_policy::{Caller, Decision, Egress, Posture, Verdict};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// Arguments of `signet rules explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Who calls: a SPIFFE ID, or plaintext:IP for a caller without an identity.
    #[arg(long, value_name = "ID|plaintext:IP")]
    from: From,
    /// Whom: the workload, as NAMESPACE/NAME.
    #[arg(long, value_name = "NAMESPACE/WORKLOAD")]
    to: Key,
    /// The workload's own port, by number or by name.
    #[arg(long, value_name = "PORT")]
    port: String,
    /// The directory of documents that the operator reads.
    #[arg(long, value_name = "DIR")]
    files: PathBuf,
    /// The mesh's own trust domain [default: that of --from].
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// What the operator's configuration gives namespaces without a Posture: allow, audit, authenticated or deny.
    #[arg(long, value_name = "WORD", default_value = "audit")]
    default_posture: Posture,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Who calls.
#[derive(Debug, Clone)]
enum From {
    Identity(SpiffeId),
    Plaintext(IpAddr),
}

impl FromStr for From {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix("plaintext:") {
            let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is not an address"))?;
            return Ok(Self::Plaintext(address.to_canonical()));
        }
        text.parse().map(Self::Identity).map_err(|error| {
            format!("{error}; an identity looks like spiffe://example.org/ns/shop/sa/cart, plaintext like plaintext:10.20.0.7")
        })
    }
}

impl From {
    fn caller(&self) -> Caller<'_> {
        match self {
            Self::Identity(identity) => Caller::Identity(identity.as_str()),
            Self::Plaintext(address) => Caller::Plaintext(*address),
        }
    }
    fn shown(&self) -> String {
        match self {
            Self::Identity(identity) => identity.to_string(),
            Self::Plaintext(address) => format!("plaintext:{address}"),
        }
    }
}

pub(super) fn run(arguments: &Explain) -> anyhow::Result<ExitCode> {
    let reading = read_directory(&arguments.files).reading;
    for finding in &reading.findings {
        note(&finding.to_string());
    }
    if !reading.is_safe() {
        bail!("the documents have problems; an operator that starts with them would give no sidecar a configuration");
    }
    let trust_domain = trust_domain(arguments)?;
    let snapshot = snapshot(arguments, &trust_domain, &reading)?;
    let member = snapshot.find(&arguments.to).with_context(|| unknown(&arguments.to, &snapshot))?;
    let port = port(&arguments.port, member)?;
    let caller = arguments.from.caller();
    let verdict = member.table().judge(&caller, port);
    let remarks = remarks(arguments, &trust_domain, member, &snapshot);
    match arguments.output {
        Format::Json => print_json(&as_json(arguments, port, &verdict, &remarks))?,
        Format::Text => print(&as_text(arguments, port, &verdict, &remarks))?,
    }
    Ok(if verdict.allows() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn trust_domain(arguments: &Explain) -> anyhow::Result<TrustDomain> {
    match (&arguments.trust_domain, &arguments.from) {
        (Some(given), _) => Ok(given.clone()),
        (None, From::Identity(identity)) => Ok(identity.trust_domain()),
        // A plaintext caller has no identity that a rule could compare with any trust domain.
        (None, From::Plaintext(_)) => Ok("mesh.invalid".parse()?),
    }
}

fn snapshot(arguments: &Explain, trust_domain: &TrustDomain, reading: &Reading) -> anyhow::Result<Snapshot> {
    let settings = Settings {
        trust_domain: trust_domain.clone(),
        mesh_ranges: Vec::new(),
        inbound: arguments.default_posture,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    };
    Ok(Snapshot::build(&settings, &reading.documents, &Memory::default(), 1)?.0)
}

fn unknown(key: &Key, snapshot: &Snapshot) -> String {
    let mut names: Vec<String> = snapshot.members().map(|member| member.workload.key.to_string()).take(11).collect();
    let more = if names.len() > 10 { ", ..." } else { "" };
    names.truncate(10);
    format!("there is no Workload {key}; there are: {}{more}", names.join(", "))
}

fn port(text: &str, member: &Member) -> anyhow::Result<u16> {
    if let Ok(number) = text.parse::<u16>()
        && number != 0
    {
        return Ok(number);
    }
    let named = member.workload.ports.iter().find(|port| port.name == text && !text.is_empty());
    let names: Vec<&str> = member.workload.ports.iter().map(|port| port.name.as_str()).collect();
    named.map(|port| port.port).with_context(|| {
        format!("{text:?} is neither a port nor the name of one of {}'s: {}", member.workload.key, names.join(", "))
    })
}

fn remarks(arguments: &Explain, trust_domain: &TrustDomain, member: &Member, snapshot: &Snapshot) -> Vec<String> {
    let mut remarks = Vec::new();
    if !member.workload.meshed {
        remarks.push(format!("{} has no sidecar (meshed: false): nothing judges its callers", member.workload.key));
    }
    if arguments.trust_domain.is_none() && matches!(arguments.from, From::Identity(_)) {
        remarks.push(format!("the mesh's trust domain is taken to be the caller's, {trust_domain} (--trust-domain)"));
    }
    let here = format!("{}/", member.workload.key.namespace);
    for note in snapshot.notes().iter().filter(|note| note.rule.starts_with(&here)) {
        remarks.extend(note.remarks.iter().map(|remark| format!("rule {}: {remark}", note.rule)));
    }
    remarks
}

fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    }
}

fn as_text(arguments: &Explain, port: u16, verdict: &Verdict, remarks: &[String]) -> String {
    let mut lines = vec![
        format!("verdict   {}", word(verdict.decision)),
        format!("reason    {}", verdict.reason.code()),
        format!("because   {}", verdict.explain(&arguments.from.caller(), port)),
    ];
    if let Some(rule) = &verdict.rule {
        let role = if verdict.allows() { "decided" } else { "came closest" };
        lines.push(format!("rule      {rule} ({role})"));
    }
    if let Some((decision, reason, rule)) = &verdict.shadow {
        let rule = rule.as_ref().map(|rule| format!(", rule {rule}")).unwrap_or_default();
        lines.push(format!("shadow    {} ({}{rule})", word(*decision), reason.code()));
    }
    lines.extend(remarks.iter().map(|remark| format!("note      {remark}")));
    lines.join("\n")
}

fn as_json(arguments: &Explain, port: u16, verdict: &Verdict, remarks: &[String]) -> Value {
    json!({
        "from": arguments.from.shown(),
        "to": arguments.to.to_string(),
        "port": port,
        "verdict": word(verdict.decision),
        "reason": verdict.reason.code(),
        "explanation": verdict.explain(&arguments.from.caller(), port),
        "rule": verdict.rule.as_ref().map(ToString::to_string),
        "difference": verdict.difference,
        "shadow": verdict.shadow.as_ref().map(|(decision, reason, rule)| json!({
            "verdict": word(*decision),
            "reason": reason.code(),
            "rule": rule.as_ref().map(ToString::to_string),
        })),
        "notes": remarks,
    })
}
