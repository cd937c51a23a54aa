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
    /// Who calls: NAMESPACE/SERVICEACCOUNT of this mesh, a whole SPIFFE ID together with --trust-domain, or plaintext:IP for
    /// a caller without an identity.
    #[arg(long, value_name = "NAMESPACE/SERVICEACCOUNT|ID|plaintext:IP")]
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
    /// The mesh's own trust domain, as in the operator's [ca] table: what `serviceAccount` and `namespace` in rules mean.
    /// Needed when a whole identity is given or a rule names one.
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
    /// Of the mesh's own trust domain.
    Own {
        namespace: String,
        service_account: String,
    },
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
        if let Some((namespace, service_account)) = text.split_once('/').filter(|_| !text.contains("://")) {
            // The grammar of an identity decides, whatever the trust domain will be.
            return match SpiffeId::workload(&placeholder()?, namespace, service_account) {
                Ok(_) => Ok(Self::Own { namespace: namespace.into(), service_account: service_account.into() }),
                Err(error) => Err(format!("{error}; {FORMS}")),
            };
        }
        text.parse().map(Self::Identity).map_err(|error| format!("{error}; {FORMS}"))
    }
}

/// What `--from` takes.
const FORMS: &str = "a caller of this mesh looks like shop/cart, any identity like spiffe://example.org/ns/shop/sa/cart, plaintext like plaintext:10.20.0.7";

/// Stands for the mesh's trust domain where its name changes nothing. RFC 2606 keeps it from being anybody's.
fn placeholder() -> Result<TrustDomain, String> {
    "mesh.invalid".parse().map_err(|error: signet_identity::IdError| error.to_string())
}

/// Who calls, in the mesh's trust domain.
enum Whom {
    Identity(SpiffeId),
    Plaintext(IpAddr),
}

impl Whom {
    fn caller(&self) -> Caller<'_> {
        match self {
            Self::Identity(identity) => Caller::Identity(identity.as_str()),
            Self::Plaintext(address) => Caller::Plaintext(*address),
        }
    }
}

impl From {
    fn within(&self, trust_domain: &TrustDomain) -> anyhow::Result<Whom> {
        Ok(match self {
            Self::Own { namespace, service_account } => {
                Whom::Identity(SpiffeId::workload(trust_domain, namespace, service_account)?)
            }
            Self::Identity(identity) => Whom::Identity(identity.clone()),
            Self::Plaintext(address) => Whom::Plaintext(*address),
        })
    }
    fn shown(&self) -> String {
        match self {
            Self::Own { namespace, service_account } => format!("{namespace}/{service_account}"),
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
    let trust_domain = trust_domain(arguments, &reading)?;
    let snapshot = snapshot(arguments, &trust_domain, &reading)?;
    let member = snapshot.find(&arguments.to).with_context(|| unknown(&arguments.to, &snapshot))?;
    let port = port(&arguments.port, member)?;
    let from = arguments.from.within(&trust_domain)?;
    let caller = from.caller();
    let verdict = member.table().judge(&caller, port);
    let remarks = remarks(member, &snapshot);
    let mut because = verdict.explain(&caller, port);
    if let (From::Own { .. }, None, Caller::Identity(identity)) = (&arguments.from, &arguments.trust_domain, &caller) {
        // The trust domain was not asked for: none is shown.
        because = because.replace(identity, &arguments.from.shown());
    }
    match arguments.output {
        Format::Json => print_json(&as_json(arguments, port, &verdict, &because, &remarks))?,
        Format::Text => print(&as_text(&verdict, &because, &remarks))?,
    }
    Ok(if verdict.allows() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The mesh's trust domain. It is asked for where it can change the verdict, and never guessed: a foreign caller whose namespace
/// and service account have the names of ours would be taken for ours.
fn trust_domain(arguments: &Explain, reading: &Reading) -> anyhow::Result<TrustDomain> {
    if let Some(given) = &arguments.trust_domain {
        return Ok(given.clone());
    }
    match &arguments.from {
        From::Identity(identity) => {
            let short = identity.path().strip_prefix("/ns/").and_then(|path| path.split_once("/sa/"));
            let short = short.map_or_else(String::new, |(namespace, account)| {
                format!(", or write --from {namespace}/{account} for a workload of this mesh")
            });
            bail!(
                "{identity} is this mesh's own or a foreign identity, which decides what rules mean by it: say the mesh's trust \
                 domain with --trust-domain, for example --trust-domain {}{short}",
                identity.trust_domain()
            )
        }
        From::Own { .. } => {
            if let Some(rule) = reading.documents.rules.iter().find(|rule| rule.item.names_identities()) {
                bail!(
                    "rule {} names whole identities, and whether one is the caller's hangs on the mesh's trust domain: say it \
                     with --trust-domain",
                    rule.item.key()
                )
            }
        }
        // A plaintext caller has no identity that a rule could compare with any trust domain.
        From::Plaintext(_) => {}
    }
    placeholder().map_err(anyhow::Error::msg)
}

fn snapshot(arguments: &Explain, trust_domain: &TrustDomain, reading: &Reading) -> anyhow::Result<Snapshot> {
    let settings = Settings {
        trust_domain: trust_domain.clone(),
        mesh_ranges: Vec::new(),
        inbound: arguments.default_posture,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    };
    let (snapshot, _) = Snapshot::build(&settings, &reading.documents, &Memory::default(), 1);
    match snapshot.faults().first() {
        Some(fault) => Err(fault.clone().into()),
        None => Ok(snapshot),
    }
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

fn remarks(member: &Member, snapshot: &Snapshot) -> Vec<String> {
    let mut remarks = Vec::new();
    if !member.workload.meshed {
        remarks.push(format!("{} has no sidecar (meshed: false): nothing judges its callers", member.workload.key));
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

fn as_text(verdict: &Verdict, because: &str, remarks: &[String]) -> String {
    let mut lines = vec![
        format!("verdict   {}", word(verdict.decision)),
        format!("reason    {}", verdict.reason.code()),
        format!("because   {because}"),
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

fn as_json(arguments: &Explain, port: u16, verdict: &Verdict, because: &str, remarks: &[String]) -> Value {
    json!({
        "from": arguments.from.shown(),
        "to": arguments.to.to_string(),
        "port": port,
        "verdict": word(verdict.decision),
        "reason": verdict.reason.code(),
        "explanation": because,
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
