//! What a single pod says about its sidecar: the annotations `signet.dev/...`. A value that is not understood refuses the pod,
//! and so does a key that nobody knows (F35): falling back to a default would do something that its author did not write.
use super::quantity::Quantity;
use super::refusal::Refusal;
use super::settings::{Resources, Settings};
use super::{INJECT, INJECTED, pod};
use ipnet::IpNet;
use serde_json::Value;
use std::time::Duration;

/// What a log may show.
pub(super) const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

const PREFIX: &str = "signet.dev/";
const LOG_LEVEL: &str = "signet.dev/log-level";
const CPU_REQUEST: &str = "signet.dev/cpu-request";
const CPU_LIMIT: &str = "signet.dev/cpu-limit";
const MEMORY_REQUEST: &str = "signet.dev/memory-request";
const MEMORY_LIMIT: &str = "signet.dev/memory-limit";
const OUTBOUND_PORTS: &str = "signet.dev/exclude-outbound-ports";
const INBOUND_PORTS: &str = "signet.dev/exclude-inbound-ports";
const OUTBOUND_CIDRS: &str = "signet.dev/exclude-outbound-cidrs";
const DRAIN_TIME: &str = "signet.dev/drain-time";

const KNOWN: [&str; 11] = [
    INJECT,
    LOG_LEVEL,
    CPU_REQUEST,
    CPU_LIMIT,
    MEMORY_REQUEST,
    MEMORY_LIMIT,
    OUTBOUND_PORTS,
    INBOUND_PORTS,
    OUTBOUND_CIDRS,
    DRAIN_TIME,
    INJECTED,
];

/// How many ports, ranges or networks one annotation may list.
const MAX_LISTED: usize = 64;
/// No open door to the sidecar's own captured and admin ports.
const CLOSED: [u16; 3] = [15001, 15006, 15020];
/// As `sidecar.toml` bounds it.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

/// Settings with a pod's own wishes in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) log_level: String,
    pub(super) resources: Resources,
    pub(super) outbound_ports: Vec<String>,
    pub(super) inbound_ports: Vec<String>,
    pub(super) outbound_cidrs: Vec<IpNet>,
    pub(super) drain_time: Duration,
}

impl Wishes {
    /// Reads a pod's annotations.
    pub(super) fn read(pod: &Value, settings: &Settings) -> Result<Self, Refusal> {
        for (key, _) in pod::annotations(pod) {
            if key.starts_with(PREFIX) && !KNOWN.contains(&key) {
                let known = KNOWN.iter().filter(|known| **known != INJECTED).copied().collect::<Vec<_>>().join(", ");
                return Err(Refusal::UnknownAnnotation { key: super::refusal::shorten(key), known });
            }
        }
        let log_level = match pod::annotation(pod, LOG_LEVEL) {
            None => settings.log_level.clone(),
            Some(level) if LEVELS.contains(&level) => level.to_owned(),
            Some(other) => return Err(Refusal::annotation(LOG_LEVEL, other, LEVELS.join(", "))),
        };
        let mut outbound_ports = settings.exclude_outbound_ports.clone();
        outbound_ports.extend(ports(pod, OUTBOUND_PORTS)?);
        let mut inbound_ports = settings.exclude_inbound_ports.clone();
        for range in ports(pod, INBOUND_PORTS)? {
            if let Some(port) = CLOSED.iter().find(|port| contains(&range, **port)) {
                let want = format!("ports without {port}, which is the sidecar's and stays closed");
                return Err(Refusal::annotation(INBOUND_PORTS, &range, want));
            }
            inbound_ports.push(range);
        }
        let mut outbound_cidrs = settings.exclude_outbound_cidrs.clone();
        outbound_cidrs.extend(networks(pod)?);
        Ok(Self {
            log_level,
            resources: resources(pod, &settings.resources)?,
            outbound_ports,
            inbound_ports,
            outbound_cidrs,
            drain_time: drain_time(pod)?.unwrap_or(settings.drain_time),
        })
    }
}

fn resources(pod: &Value, default: &Resources) -> Result<Resources, Refusal> {
    let read = |key: &str| match pod::annotation(pod, key) {
        None => Ok(None),
        Some(text) => text.parse::<Quantity>().map(Some).map_err(|_| {
            Refusal::annotation(key, text, "a quantity of more than none, such as 100m (CPU) or 64Mi (memory)")
        }),
    };
    // A request of its own above the default limit lifts the limit: nobody meant a pod that cannot be.
    let pair = |request_key: &str, limit_key: &str, request: &Quantity, limit: &Option<Quantity>| {
        let (own_request, own_limit) = (read(request_key)?, read(limit_key)?);
        let request = match (own_request, &own_limit) {
            (Some(request), Some(limit)) if request > *limit => {
                return Err(Refusal::annotation(limit_key, limit.as_str(), format!("at least the request, {request}")));
            }
            (Some(request), _) => request,
            (None, Some(limit)) => request.clone().min(limit.clone()),
            (None, None) => request.clone(),
        };
        let limit = own_limit.or_else(|| limit.clone().map(|limit| limit.max(request.clone())));
        Ok((request, limit))
    };
    let (cpu_request, cpu_limit) = pair(CPU_REQUEST, CPU_LIMIT, &default.cpu_request, &default.cpu_limit)?;
    let (memory_request, memory_limit) =
        pair(MEMORY_REQUEST, MEMORY_LIMIT, &default.memory_request, &default.memory_limit)?;
    Ok(Resources { cpu_request, memory_request, cpu_limit, memory_limit })
}

/// The parts of a list with commas; an empty annotation lists nothing.
fn listed<'a>(pod: &'a Value, key: &str, want: &str) -> Result<Vec<&'a str>, Refusal> {
    let Some(text) = pod::annotation(pod, key).filter(|text| !text.trim().is_empty()) else { return Ok(Vec::new()) };
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    if parts.len() > MAX_LISTED {
        return Err(Refusal::annotation(key, text, format!("at most {MAX_LISTED} of {want}")));
    }
    Ok(parts)
}

fn ports(pod: &Value, key: &str) -> Result<Vec<String>, Refusal> {
    let want = "ports and ranges, such as 22,8000-8100";
    listed(pod, key, want)?
        .into_iter()
        .map(|part| if is_ports(part) { Ok(part.to_owned()) } else { Err(Refusal::annotation(key, part, want)) })
        .collect()
}

fn networks(pod: &Value) -> Result<Vec<IpNet>, Refusal> {
    let want = "networks without address bits beyond their length, such as 10.0.0.0/8,fd00::/8";
    let parts = listed(pod, OUTBOUND_CIDRS, want)?.into_iter();
    parts
        .map(|part| {
            let network = part.parse::<IpNet>().ok().filter(|network| *network == network.trunc());
            network.ok_or_else(|| Refusal::annotation(OUTBOUND_CIDRS, part, want))
        })
        .collect()
}

/// `25s`, `5m`: whole seconds or minutes.
fn drain_time(pod: &Value) -> Result<Option<Duration>, Refusal> {
    let Some(text) = pod::annotation(pod, DRAIN_TIME) else { return Ok(None) };
    let read = |digits: &str| digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    let seconds = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(digits), _) => read(digits),
        (None, Some(digits)) => read(digits).and_then(|minutes| minutes.checked_mul(60)),
        (None, None) => None,
    };
    let time = seconds.map(|seconds| Duration::from_secs(seconds.into())).filter(|time| *time <= LONGEST_DRAIN);
    match time {
        Some(time) => Ok(Some(time)),
        None => Err(Refusal::annotation(DRAIN_TIME, text, "whole seconds or minutes up to an hour, such as 25s or 5m")),
    }
}

/// First and last port of `22` or `8000-8100`.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && text.bytes().all(|b| b.is_ascii_digit()));
    port(first).zip(port(last)).filter(|(first, last)| first <= last)
}

pub(super) fn is_ports(text: &str) -> bool {
    range(text).is_some()
}

fn contains(text: &str, port: u16) -> bool {
    range(text).is_some_and(|(first, last)| (first..=last).contains(&port))
}
