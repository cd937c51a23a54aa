//! The API server: new enough, with the groups that Signet needs, and the user's own permissions.
use super::access::{self, Place, READS};
use super::facts::Facts;
use super::report::Finding;

/// The chart's own requirement: what `helm install` refuses is refused here.
const CHART: &str = include_str!("../../../charts/signet/Chart.yaml");
/// What Signet uses beside the core group.
const GROUPS: [&str; 6] = [
    "admissionregistration.k8s.io/v1",
    "apiextensions.k8s.io/v1",
    "apps/v1",
    "authentication.k8s.io/v1",
    "coordination.k8s.io/v1",
    "discovery.k8s.io/v1",
];

/// Least version, `(1, 33)`.
pub(super) fn least() -> (u32, u32) {
    let wanted = CHART.lines().find_map(|line| line.strip_prefix("kubeVersion:")).unwrap_or_default();
    numbers(wanted.trim().trim_matches(['"', '>', '='])).unwrap_or((1, 33))
}

/// `v1.36.3` is `(1, 36)`.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn version(facts: &Facts) -> Finding {
    const ID: &str = "api.version";
    let (major, minor) = least();
    let found = format!("Kubernetes {}", facts.server);
    match numbers(&facts.server) {
        Some(version) if version >= (major, minor) => Finding::ok(ID, found),
        Some(_) => Finding::fail(
            ID,
            format!("{found} is too old: native sidecars and admission policies are complete from {major}.{minor} on"),
            format!("upgrade the cluster to Kubernetes {major}.{minor} or newer"),
        ),
        None => Finding::warn(
            ID,
            format!("{found} is no version that is understood"),
            format!("want {major}.{minor} or newer"),
        ),
    }
}

pub(super) fn groups(facts: &Facts) -> Finding {
    const ID: &str = "api.groups";
    let served = match &facts.groups {
        Ok(served) => served,
        Err(lack) => return Finding::lacking(ID, lack),
    };
    let missing: Vec<&str> = GROUPS.into_iter().filter(|group| !served.contains(*group)).collect();
    if missing.is_empty() {
        return Finding::ok(ID, "every API group that Signet needs is served");
    }
    Finding::fail(
        ID,
        format!("not served: {}", missing.join(", ")),
        format!("start the API server without --runtime-config={}=false", missing.join("=false,")),
    )
}

pub(super) fn permissions(facts: &Facts) -> Finding {
    const ID: &str = "api.permissions";
    let lacking = match &facts.lacking {
        Ok(lacking) => lacking,
        Err(lack) => return Finding::lacking(ID, lack),
    };
    if lacking.is_empty() {
        return Finding::ok(ID, format!("you may read all that is looked at ({} kinds of access)", READS.len()));
    }
    let words: Vec<String> = lacking.iter().map(ToString::to_string).collect();
    // What the chosen namespace lacks can be given there.
    let of_namespace = lacking.iter().any(|access| access.place == Place::Chosen);
    let namespace = facts.only.as_deref().filter(|_| of_namespace);
    let hint = access::grant(facts.control(), namespace, facts.user.as_deref());
    let mut finding =
        Finding::skipped(ID, format!("you may not: {}; what needs it is skipped", words.join(", ")), hint);
    finding.not_allowed = of_namespace || facts.only.is_none();
    finding.about(words)
}
