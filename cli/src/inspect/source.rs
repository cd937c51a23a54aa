//! Where the certificates come from.
use anyhow::{Context as _, bail};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde_json::Value;
use signet_identity::Bundle;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// Nothing that holds certificates of a mesh is larger.
const MAX: u64 = 16 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Each with a name for where it stood.
    pub(super) certificates: Vec<(String, CertificateDer<'static>)>,
    /// What the reader should know beside.
    pub(super) notes: Vec<String>,
}

/// Reads a file or a sidecar.
pub(super) fn read(what: &str) -> anyhow::Result<Found> {
    let text = match what.strip_prefix("http://") {
        Some(rest) => fetch(rest).with_context(|| format!("cannot read the certificates of {what}"))?,
        None if what.starts_with("https://") => {
            bail!("a sidecar's admin address is http://127.0.0.1:15020, on loopback")
        }
        None => {
            let mut bytes = Vec::new();
            let file = File::open(what).with_context(|| format!("cannot open {what}"))?;
            file.take(MAX).read_to_end(&mut bytes).with_context(|| format!("cannot read {what}"))?;
            String::from_utf8(bytes)
                .with_context(|| format!("{what} is neither PEM nor JSON (DER? openssl x509 -inform der)"))?
        }
    };
    let mut found = Found::default();
    if text.trim_start().starts_with('{') {
        json(&text, &mut found).with_context(|| format!("{what} is JSON"))?;
    } else {
        pem(&text, "certificate", &mut found)?;
    }
    if found.certificates.is_empty() {
        bail!("{what} holds no certificate");
    }
    Ok(found)
}

fn pem(text: &str, name: &str, found: &mut Found) -> anyhow::Result<()> {
    let mut number = 0;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        let (kind, der) = section.map_err(|error| anyhow::anyhow!("PEM: {error:?}"))?;
        match kind {
            SectionKind::Certificate => {
                number += 1;
                found.certificates.push((format!("{name} {number}"), der.into()));
            }
            SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey => {
                found.notes.push("there is a private key beside the certificates; it is not shown".into());
            }
            _ => found.notes.push("there is a PEM block that is neither certificate nor key; it is not shown".into()),
        }
    }
    Ok(())
}

/// A SPIFFE bundle, a bundle map, or what a sidecar answers.
fn json(text: &str, found: &mut Found) -> anyhow::Result<()> {
    let value: Value = serde_json::from_str(text)?;
    if value.get("keys").is_some() {
        let (bundle, sequence, hint) = Bundle::from_spiffe_json(text)?;
        let known = |number: Option<u64>| number.map_or_else(|| "none".into(), |n| n.to_string());
        found.notes.push(format!("SPIFFE bundle, sequence {}, refresh hint {} s", known(sequence), known(hint)));
        roots("root", &bundle, found);
    } else if value.get("trust_domains").is_some() {
        for (domain, (bundle, _)) in Bundle::map_from_spiffe_json(text)? {
            roots(&format!("root of {domain}"), &bundle, found);
        }
    } else {
        sidecar(&value, found)?;
    }
    Ok(())
}

fn roots(name: &str, bundle: &Bundle, found: &mut Found) {
    let numbered = bundle.roots.iter().zip(1..).map(|(der, number)| (format!("{name} {number}"), der.clone()));
    found.certificates.extend(numbered);
}

/// `/certificates` of a sidecar: its chain, and the roots that it trusts.
fn sidecar(value: &Value, found: &mut Found) -> anyhow::Result<()> {
    let chain = value.pointer("/svid/chain_pem").or_else(|| value.get("chain_pem")).and_then(Value::as_str);
    match chain {
        Some(chain) => pem(chain, "svid", found)?,
        None => found.notes.push("the sidecar has no certificate yet".into()),
    }
    for bundle in value.pointer("/trust/bundles").and_then(Value::as_array).into_iter().flatten() {
        let domain = bundle.get("trust_domain").and_then(Value::as_str).unwrap_or("?");
        if let Some(text) = bundle.get("roots_pem").and_then(Value::as_str) {
            pem(text, &format!("root of {domain}"), found)?;
        }
    }
    if let Some(sequence) = value.pointer("/trust/sequence").and_then(Value::as_u64) {
        found.notes.push(format!("trust sequence {sequence}"));
    }
    Ok(())
}

/// GET over plain HTTP/1.0, which the admin address of a sidecar speaks; no redirect is followed (F9).
fn fetch(rest: &str) -> anyhow::Result<String> {
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let path = if path.is_empty() { "certificates" } else { path };
    if authority.contains(['@', ' ', '\r', '\n']) || path.contains([' ', '\r', '\n']) {
        bail!("not a plain URL");
    }
    let address = if authority.contains(':') && !authority.ends_with(']') {
        authority.into()
    } else {
        format!("{authority}:15020")
    };
    let address = address.to_socket_addrs()?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /{path} HTTP/1.0\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or("no status");
    if status != "200" {
        bail!("the answer is {}", crate::output::plain(head.lines().next().unwrap_or_default()));
    }
    Ok(body.to_owned())
}
