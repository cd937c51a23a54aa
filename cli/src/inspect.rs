//! `signet inspect`: what certificates say, and whether they keep the mesh's profile. Reads a PEM file, a SPIFFE bundle (JSON),
//! or the admin address of a running sidecar.
pub(crate) mod certificate;
mod source;

use crate::output::{Format, note, plain, print, print_json};
use certificate::Shown;
use clap::Args;
use jiff::Timestamp;
use std::process::ExitCode;

/// Arguments of `signet inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: 0 when all is well, 1 when a certificate has ended or breaks the profile, 2 when nothing can be read.

Example:
  signet inspect svid.pem
  signet inspect bundle.json
  signet inspect http://127.0.0.1:15020")]
pub struct InspectArgs {
    /// A PEM file, a SPIFFE bundle (JSON), or http://127.0.0.1:15020 for a running sidecar.
    #[arg(value_name = "FILE|BUNDLE|URL")]
    what: String,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Runs it.
pub fn run(arguments: &InspectArgs) -> anyhow::Result<ExitCode> {
    let found = source::read(&arguments.what)?;
    let now = Timestamp::now();
    let shown: Vec<Shown> =
        found.certificates.iter().map(|(from, der)| certificate::read(from, der, now.as_second())).collect();
    match arguments.output {
        Format::Json => print_json(&serde_json::json!({"certificates": shown, "notes": found.notes}))?,
        Format::Text => {
            let blocks: Vec<String> = shown.iter().map(|certificate| block(certificate, now)).collect();
            print(&blocks.join("\n\n"))?;
        }
    }
    for remark in &found.notes {
        note(remark);
    }
    Ok(if shown.iter().all(|certificate| certificate.problems.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn block(certificate: &Shown, now: Timestamp) -> String {
    let mut lines = vec![format!("{} ({})", plain(&certificate.from), certificate.role)];
    let mut line = |name: &str, value: &str| lines.push(format!("  {name:<9} {}", plain(value)));
    for identity in &certificate.identities {
        line("identity", identity);
    }
    if let Some(uid) = &certificate.uid {
        line("uid", uid);
    }
    if !certificate.dns_names.is_empty() {
        line("dns", &certificate.dns_names.join(", "));
    }
    if !certificate.subject.is_empty() {
        line("subject", &certificate.subject);
    }
    line("issuer", &certificate.issuer);
    line("serial", &certificate.serial);
    line("valid", &validity(certificate, now));
    line("usage", &certificate.usages.join(", "));
    if certificate.problems.is_empty() {
        line("problems", "none");
    }
    for problem in &certificate.problems {
        line("problem", problem);
    }
    lines.join("\n")
}

pub(crate) fn validity(certificate: &Shown, now: Timestamp) -> String {
    let time = |seconds: i64| Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.to_string());
    let left = certificate.not_after - now.as_second();
    let rest = match left {
        ..0 => format!("ended {} ago", duration(-left)),
        _ if certificate.not_before > now.as_second() => {
            format!("begins in {}", duration(certificate.not_before - now.as_second()))
        }
        _ => format!("{} left", duration(left)),
    };
    format!("{} to {}: {rest}", time(certificate.not_before), time(certificate.not_after))
}

/// The two largest units, which is as exact as anybody reads it.
fn duration(seconds: i64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in units {
        if rest >= size && parts.len() < 2 {
            parts.push(format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if parts.is_empty() { "0s".into() } else { parts.join(" ") }
}
