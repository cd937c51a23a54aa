//! The grammars of names, ports, identities, networks and paths. Nothing is normalised: text is right as it stands or refused
//! (F3, F23), and the refusal says what would be right.
use ipnet::IpNet;
use std::net::IpAddr;

const NAME: &str = "a name of at most 253 of a-z 0-9 - . that begins and ends with a letter or digit";
const LABEL: &str = "a name of at most 63 of a-z 0-9 - that begins and ends with a letter or digit";

/// A DNS-1123 subdomain: names of rules, Services and service accounts.
pub(super) fn name(text: &str) -> Result<(), String> {
    let good = text.len() <= 253 && text.split('.').all(is_label);
    want(good, text, NAME, "orders-from-checkout")
}

/// A DNS-1123 label: namespaces.
pub(super) fn namespace(text: &str) -> Result<(), String> {
    want(is_label(text), text, LABEL, "shop")
}

/// The service account of a caller.
pub(super) fn service_account(text: &str) -> Result<(), String> {
    if text.contains('*') {
        return Err("one service account; patterns do not exist: for every service account of a namespace write \
                    {namespace: shop} alone"
            .to_owned());
    }
    let good = text.len() <= 253 && text.split('.').all(is_label);
    want(good, text, NAME, "checkout")
}

fn want(good: bool, text: &str, grammar: &str, example: &str) -> Result<(), String> {
    if good {
        return Ok(());
    }
    let lower = text.to_ascii_lowercase();
    let in_lower_case = lower != text && text.len() <= 63 && lower.split('.').all(is_label);
    Err(if in_lower_case { format!("{grammar}: {lower}") } else { format!("{grammar}, such as {example}") })
}

/// RFC 1123 as Kubernetes reads it: no longer than 63 bytes, lower case.
fn is_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| plain(b) || b == b'-')
        && text.bytes().next().is_some_and(plain)
        && text.bytes().next_back().is_some_and(plain)
}

/// An IANA service name (RFC 6335 section 5.1), as Kubernetes names ports: in lower case.
pub(super) fn port_name(text: &str) -> Result<(), String> {
    if !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("the number without quotes: {}", text.trim_start_matches('0')));
    }
    let good =
        is_label(text) && text.len() <= 15 && text.bytes().any(|b| b.is_ascii_lowercase()) && !text.contains("--");
    if good {
        return Ok(());
    }
    Err("a port number from 1 to 65535, or a port name of at most 15 of a-z 0-9 - with at least one letter, such as 8080 or \
         http"
        .to_owned())
}

/// The key of a label: an optional DNS prefix, and a name of at most 63.
pub(super) fn label_key(text: &str) -> Result<(), String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let good = !name.is_empty()
        && is_label_text(name)
        && prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_label));
    if good {
        return Ok(());
    }
    Err("a label of 1 to 63 of A-Z a-z 0-9 - _ . with an optional DNS prefix, such as app or example.com/tier"
        .to_owned())
}

/// The value of a label; may be empty.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    if is_label_text(text) {
        return Ok(());
    }
    Err("a label value of at most 63 of A-Z a-z 0-9 - _ ., that begins and ends with a letter or digit".to_owned())
}

fn is_label_text(text: &str) -> bool {
    text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text.bytes().next().is_none_or(|b| b.is_ascii_alphanumeric())
        && text.bytes().next_back().is_none_or(|b| b.is_ascii_alphanumeric())
}

/// A workload's SPIFFE ID in the strict grammar (SPIFFE-ID section 2; checklist ID1 to ID6, L2): the byte form that a verified
/// caller has.
pub(super) fn spiffe_id(text: &str) -> Result<(), String> {
    const EXAMPLE: &str = "such as spiffe://partner.example/ns/shop/sa/checkout";
    let wrong = |what: &str| Err(format!("a SPIFFE ID {what}, {EXAMPLE}"));
    if text.len() > 2048 {
        return wrong("of at most 2048 bytes");
    }
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return wrong("that begins with spiffe:// in lower case");
    };
    let (trust_domain, path) = rest.split_once('/').unwrap_or((rest, ""));
    if trust_domain.is_empty() || trust_domain.len() > 255 {
        return wrong("with a trust domain of 1 to 255 bytes");
    }
    if !trust_domain.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')) {
        return wrong("whose trust domain has only a-z 0-9 . - _ (lower case, no port)");
    }
    if path.is_empty() {
        return wrong("with a path: without one it is a trust domain, not a workload");
    }
    if path.contains('*') {
        return wrong("without patterns (for every service account of a namespace write {namespace: shop})");
    }
    for segment in path.split('/') {
        if segment.is_empty() {
            return wrong("without empty path segments and without a slash at its end");
        }
        if matches!(segment, "." | "..") {
            return wrong("without . and .. as path segments");
        }
        if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
            return wrong("whose path segments have only A-Z a-z 0-9 . - _");
        }
    }
    Ok(())
}

/// A network in CIDR form without host bits.
pub(super) fn cidr(text: &str) -> Result<(), String> {
    const FORM: &str = "a network in CIDR form, such as 10.20.0.0/16 or 2001:db8::/32";
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let Ok(address) = address.parse::<IpAddr>() else { return Err(FORM.to_owned()) };
    let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
    let Some(length) = length else {
        return Err(format!("a prefix length too: {address}/{longest} is this address alone"));
    };
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (length == "0" || !length.starts_with('0'));
    let Some(length) = length.parse::<u8>().ok().filter(|length| plain && *length <= longest) else {
        return Err(format!("a prefix length from 0 to {longest}, such as {address}/{longest}"));
    };
    let Ok(network) = IpNet::new(address, length) else { return Err(FORM.to_owned()) };
    if network != network.trunc() {
        return Err(format!(
            "a network without host bits: {} if the network is meant, {address}/{longest} if the one address",
            network.trunc()
        ));
    }
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
        && let Some(length) = length.checked_sub(96)
    {
        return Err(format!("the IPv4 form {v4}/{length}: callers are never seen under mapped addresses"));
    }
    Ok(())
}

/// An HTTP method: a token (RFC 9110 section 5.6.2), and methods are case-sensitive, so lower case is a mistake.
pub(super) fn method(text: &str) -> Result<(), String> {
    let token = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    if (1..=32).contains(&text.len()) && text != "*" && text.bytes().all(token) {
        return Ok(());
    }
    let upper = text.to_ascii_uppercase();
    let meant = upper != text && ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&upper.as_str());
    Err(format!("a method in upper case, such as {}", if meant { &upper } else { "GET" }))
}

/// An absolute path as it is after normalisation: nothing in it that could mean two things (F6).
pub(super) fn path(text: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("a path {what}, such as /v1/orders"));
    if text.len() > 1024 {
        return wrong("of at most 1024 bytes");
    }
    let Some(rest) = text.strip_prefix('/') else { return wrong("that begins with a slash") };
    // RFC 3986 pchar without percent-encoding.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@/".contains(&b);
    if !rest.bytes().all(plain) {
        return wrong("without patterns, query, fragment, percent-encoding, spaces or backslashes");
    }
    if rest.split('/').any(|segment| matches!(segment, "." | "..")) {
        return wrong("without . and .. as segments");
    }
    if rest.split('/').rev().skip(1).any(str::is_empty) {
        return wrong("without empty segments");
    }
    Ok(())
}
