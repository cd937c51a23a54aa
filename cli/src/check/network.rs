//! NetworkPolicies that stand between the mesh's programs, and networks that rewrite the addresses of callers.
use super::facts::{Facts, component};
use super::pods;
use super::programs;
use super::report::{Finding, counted, some};
use super::selector::{Peer, Way, admits};
use crate::cluster::{Lack, Read};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use std::collections::{BTreeMap, BTreeSet};

/// Sidecars call each other here.
const TUNNEL: u16 = 15008;
const CA: u16 = 15012;
const OPERATOR: u16 = 15010;
/// The webhook, on the operator's pods.
const WEBHOOK: u16 = 10250;
/// Pairs of pods that are looked at, of kinds that differ in their labels.
const PAIRS: usize = 250_000;

/// The pods of the mesh by what policies can see of them, and the programs that they need.
struct Ground<'a> {
    policies: &'a [NetworkPolicy],
    workloads: Vec<Peer>,
    ca: Vec<Peer>,
    operator: Vec<Peer>,
}

impl<'a> Ground<'a> {
    fn new(facts: &'a Facts) -> Read<Self> {
        Self::with(facts, facts.control_pods.as_ref().map_err(Lack::clone)?)
    }

    /// Without the programs: for what is between workloads alone.
    fn of_workloads(facts: &'a Facts) -> Read<Self> {
        Self::with(facts, &[])
    }

    fn with(facts: &'a Facts, control: &[Pod]) -> Read<Self> {
        let policies = facts.network.as_ref().map_err(Lack::clone)?;
        let namespaces = facts.namespaces.as_ref().map_err(Lack::clone)?;
        let pods = facts.pods.as_ref().map_err(Lack::clone)?;
        let labels: BTreeMap<String, BTreeMap<String, String>> =
            namespaces.iter().map(|namespace| (namespace.name_any(), namespace.labels().clone())).collect();
        let mut workloads: Vec<Peer> = Vec::new();
        let mut kinds = BTreeSet::new();
        for pod in pods.iter().filter(|pod| pods::is_alive(pod) && pods::has_sidecar(pod)) {
            // Replicas of one template are alike to every policy but one with an ipBlock.
            let mut alike = pod.labels().clone();
            for own in ["pod-template-hash", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"] {
                alike.remove(own);
            }
            if kinds.insert((pod.namespace(), alike)) {
                workloads.push(Peer::of(pod, &labels));
            }
        }
        let of = |program: &str| {
            control
                .iter()
                .filter(|pod| component(*pod) == program && pods::is_alive(pod))
                .map(|pod| Peer::of(pod, &labels))
                .collect()
        };
        Ok(Self { policies, workloads, ca: of("ca"), operator: of("operator") })
    }
}

/// What a policy lacks.
fn add(policy: &str, namespace: &str, way: Way, port: u16) -> String {
    let (list, peer) = match way {
        Way::In => ("ingress", "from"),
        Way::Out => ("egress", "to"),
    };
    let key = if way == Way::In { "Ingress" } else { "Egress" };
    format!(
        "kubectl -n {namespace} apply -f - <<< '{{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\", \
         \"metadata\": {{\"name\": \"signet-{port}\"}}, \"spec\": {{\"podSelector\": {{}}, \"policyTypes\": [\"{key}\"], \
         \"{list}\": [{{\"ports\": [{{\"port\": {port}, \"protocol\": \"TCP\"}}]}}]}}}}' (no `{peer}`: mutual TLS decides who may), \
         or add port {port} to {policy}"
    )
}

/// What stands in the way: policies by name, whom they keep apart, and which way.
#[derive(Default)]
struct Blocked {
    by: BTreeSet<String>,
    pairs: Vec<String>,
    first: Option<(String, String, Way)>,
    /// Policies that let some callers call nothing at all.
    apart: BTreeSet<String>,
}

impl Blocked {
    fn note(&mut self, by: &[&NetworkPolicy], way: Way, pair: String) {
        for policy in by {
            let namespace = policy.namespace().unwrap_or_default();
            self.by.insert(format!("{namespace}/{}", policy.name_any()));
            if self.first.is_none() {
                self.first = Some((policy.name_any(), namespace, way));
            }
        }
        self.pairs.push(pair);
    }

    /// Who may not call the application at all is kept out on purpose.
    fn on_purpose(&mut self, by: &[&NetworkPolicy]) {
        self.apart.extend(by.iter().map(|policy| {
            let namespace = policy.namespace().unwrap_or_default();
            format!("{namespace}/{}", policy.name_any())
        }));
    }

    fn finding(self, id: &'static str, port: u16, well: String) -> Finding {
        let Some((policy, namespace, way)) = self.first else { return Finding::ok(id, well) };
        let what = if self.by.len() == 1 { "NetworkPolicy" } else { "NetworkPolicies" };
        let found = format!(
            "{what} {} block{} port {port}: {}",
            some(self.by.iter().map(String::as_str)),
            if self.by.len() == 1 { "s" } else { "" },
            some(self.pairs.iter().map(String::as_str))
        );
        Finding::fail(id, found, add(&policy, &namespace, way, port)).about(self.by)
    }
}

/// Callers that a policy lets through to the application, but not to its sidecar.
pub(super) fn tunnel(facts: &Facts) -> Finding {
    const ID: &str = "network.tunnel";
    let ground = match Ground::of_workloads(facts) {
        Ok(ground) => ground,
        Err(lack) => return Finding::lacking(ID, &lack),
    };
    // First those of different kinds: what a workload's replicas say to each other matters least, and is named last.
    let mut blocked = pairs(&ground, false);
    if blocked.first.is_none() {
        blocked = pairs(&ground, true);
    }
    let kinds = counted(ground.workloads.len(), "kind");
    let apart = match some(blocked.apart.iter().map(String::as_str)) {
        _ if blocked.apart.is_empty() => String::new(),
        by => format!(", but for those that may not call each other at all, on any port: {by}"),
    };
    let well = format!("no NetworkPolicy keeps sidecars from each other ({kinds} of pods){apart}");
    blocked.finding(ID, TUNNEL, well)
}

fn pairs(ground: &Ground<'_>, alike: bool) -> Blocked {
    let mut blocked = Blocked::default();
    let all = ground.workloads.iter().flat_map(|callee| ground.workloads.iter().map(move |caller| (caller, callee)));
    for (caller, callee) in all.filter(|(caller, callee)| std::ptr::eq(*caller, *callee) == alike).take(PAIRS) {
        let into = admits(ground.policies, Way::In, callee, caller, TUNNEL);
        let out = admits(ground.policies, Way::Out, caller, callee, TUNNEL);
        let pair = || format!("{caller} cannot reach the sidecar of {callee}");
        if !into.some_port {
            blocked.on_purpose(&into.isolating);
        }
        if !out.some_port {
            blocked.on_purpose(&out.isolating);
        }
        let meant = into.some_port && out.some_port;
        if meant && !into.this_port {
            blocked.note(&into.isolating, Way::In, pair());
        }
        if meant && !out.this_port {
            blocked.note(&out.isolating, Way::Out, pair());
        }
    }
    blocked
}

/// Sidecars that cannot reach a program of the control plane.
fn reach(facts: &Facts, id: &'static str, program: &str, port: u16) -> Finding {
    let ground = match Ground::new(facts) {
        Ok(ground) => ground,
        Err(lack) => return Finding::lacking(id, &lack),
    };
    let targets = if program == "ca" { &ground.ca } else { &ground.operator };
    if targets.is_empty() {
        return Finding::skipped(
            id,
            format!("no pod of signet-{program} is there"),
            format!("see {program}.available"),
        );
    }
    let mut blocked = Blocked::default();
    // The operator gets its own certificate from the CA, too.
    let operators = ground.operator.iter().filter(|_| program == "ca");
    for caller in ground.workloads.iter().chain(operators) {
        for target in targets {
            let out = admits(ground.policies, Way::Out, caller, target, port);
            let into = admits(ground.policies, Way::In, target, caller, port);
            let pair = || format!("{caller} cannot reach {target}");
            if !out.this_port {
                blocked.note(&out.isolating, Way::Out, pair());
            }
            if !into.this_port {
                blocked.note(&into.isolating, Way::In, pair());
            }
        }
    }
    blocked.pairs.dedup();
    blocked.finding(id, port, format!("no NetworkPolicy keeps sidecars from signet-{program}"))
}

pub(super) fn ca(facts: &Facts) -> Finding {
    reach(facts, "network.ca", "ca", CA)
}

pub(super) fn operator(facts: &Facts) -> Finding {
    reach(facts, "network.operator", "operator", OPERATOR)
}

/// The API server asks the webhook, from an address that is no pod's.
pub(super) fn webhook(facts: &Facts) -> Finding {
    const ID: &str = "network.webhook";
    let ground = match Ground::new(facts) {
        Ok(ground) => ground,
        Err(lack) => return Finding::lacking(ID, &lack),
    };
    let mut blocked = Blocked::default();
    for operator in &ground.operator {
        let into = admits(ground.policies, Way::In, operator, &Peer::outside(), WEBHOOK);
        if !into.this_port {
            blocked.note(&into.isolating, Way::In, format!("the API server cannot ask {operator}"));
        }
    }
    blocked.finding(ID, WEBHOOK, "no NetworkPolicy keeps the API server from the webhook".to_owned())
}

/// Addresses that are not the caller's own by the time they arrive: the CA sees them, and refuses.
pub(super) fn addresses(facts: &Facts) -> Finding {
    const ID: &str = "network.addresses";
    let namespace = facts.control();
    let settings = match facts.config("signet-ca") {
        Ok(config) => config.and_then(|config| programs::settings(config, "ca.toml")),
        Err(lack) => return Finding::lacking(ID, &lack),
    };
    let recorded = settings
        .as_ref()
        .and_then(|settings| settings.get("kubernetes")?.get("peer_address")?.as_str())
        .is_some_and(|word| word == "record");
    let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
    let mut asked = 0;
    for (pod, health) in &facts.health {
        match &health.metrics {
            Ok(page) if page.body.contains("signet_ca_") => {
                asked += 1;
                let count = refusals(&page.body, "pod_address");
                if count > 0 {
                    refused.insert(pod, count);
                }
            }
            Err(lack @ Lack::Forbidden { .. }) => return Finding::lacking(ID, lack),
            Ok(_) | Err(_) => {}
        }
    }
    if !refused.is_empty() {
        let said: Vec<String> = refused.iter().map(|(pod, count)| format!("{pod} {count} times")).collect();
        return Finding::fail(
            ID,
            format!(
                "the CA saw callers at addresses that are not their pods': {}. The network rewrites source addresses \
                 (masquerading between pods), or a token was used from elsewhere",
                some(said.iter().map(String::as_str))
            ),
            format!(
                "kubectl -n {namespace} logs -l app.kubernetes.io/component=ca | grep pod_address names them; except the pods' \
                 networks from masquerading (ip-masq-agent nonMasqueradeCIDRs, ipMasq of the CNI plugin, kube-proxy \
                 --cluster-cidr), or set ca.peerAddress=record"
            ),
        )
        .about(said);
    }
    if recorded {
        return Finding::warn(
            ID,
            "ca.peerAddress is record: the CA does not ask whether callers come from their own pods' addresses",
            format!(
                "where the network keeps addresses: helm upgrade signet charts/signet -n {namespace} --reuse-values --set ca.peerAddress=require"
            ),
        );
    }
    if asked == 0 {
        return Finding::skipped(ID, "no CA could be asked what it saw", "see ca.health");
    }
    Finding::ok(ID, format!("{} of the CA saw every caller at its own pod's address", counted(asked, "replica")))
}

/// Whether the operator knows where pods can be: elsewhere a pod that it does not know yet is called in plaintext.
pub(super) fn ranges(facts: &Facts) -> Finding {
    const ID: &str = "network.ranges";
    let outside = match programs::metric(facts, "operator", "signet_operator_workloads_outside_ranges") {
        Ok(outside) => outside.into_values().max(),
        Err(lack) => return Finding::lacking(ID, &lack),
    };
    match outside {
        None => Finding::skipped(ID, "no operator could be asked", "see operator.health"),
        Some(0) => Finding::ok(ID, "every pod of the mesh has an address where the operator expects pods"),
        Some(count) => Finding::warn(
            ID,
            format!(
                "{} of the mesh with an address that neither the nodes' podCIDRs nor meshRanges cover: the next one there \
                 is called in plaintext until the operator knows it",
                counted(usize::try_from(count).unwrap_or(usize::MAX), "pod")
            ),
            format!(
                "say where pods can be: helm upgrade signet charts/signet -n {} --reuse-values --set \
                 'meshRanges={{10.244.0.0/16}}'",
                facts.control()
            ),
        ),
    }
}

/// How often the CA refused for this reason, by all calls.
fn refusals(metrics: &str, reason: &str) -> u64 {
    let label = format!("reason=\"{reason}\"");
    let lines =
        metrics.lines().filter(|line| line.starts_with("signet_ca_requests_refused_total{") && line.contains(&label));
    lines.filter_map(|line| line.rsplit(' ').next()?.split('.').next()?.parse::<u64>().ok()).sum()
}
