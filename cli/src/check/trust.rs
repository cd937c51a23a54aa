//! Whether everybody believes in the same roots: what the CA has published, what lies in each namespace for new pods, and what
//! the running programs hold.
use super::certificates::{self, End};
use super::facts::Facts;
use super::pods;
use super::programs;
use super::report::{Finding, counted, some};
use crate::cluster::Read;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use prost::Message as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use signet_proto::ca::TrustState;
use std::collections::{BTreeMap, BTreeSet};

/// The bundle for first contact.
const BUNDLE: &str = "signet-trust";
const KEY: &str = "bundle.pem";

/// The certificates of a bundle, whatever their order.
type Roots = BTreeSet<Vec<u8>>;

fn roots(config: &ConfigMap) -> Option<Roots> {
    let pem = config.data.as_ref()?.get(KEY)?;
    let roots: Option<Roots> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.ok().map(|der| der.to_vec())).collect();
    roots.filter(|roots| !roots.is_empty())
}

/// What the CA has published: sequence, and the roots of the mesh's own trust domain.
fn published(facts: &Facts) -> Read<Option<(u64, Roots)>> {
    let Some(state) = facts.config("signet-trust-state")? else { return Ok(None) };
    let domain = facts.config("signet-mesh")?.and_then(|mesh| mesh.data.as_ref()?.get("trust-domain").cloned());
    let bytes = state.binary_data.as_ref().and_then(|data| data.get("state"));
    let state = bytes.and_then(|bytes| TrustState::decode(bytes.0.as_slice()).ok());
    Ok(state.map(|state| {
        let own =
            state.bundles.iter().filter(|bundle| domain.as_ref().is_none_or(|domain| bundle.trust_domain == *domain));
        (state.sequence, own.flat_map(|bundle| bundle.roots.iter().cloned()).collect())
    }))
}

/// When the root that lasts longest ends.
pub(super) fn root(facts: &Facts) -> Finding {
    const ID: &str = "certificates.root";
    let namespace = facts.control();
    let bundle = match facts.config(BUNDLE) {
        Ok(bundle) => bundle,
        Err(lack) => return Finding::lacking(ID, &lack),
    };
    let logs = format!("kubectl -n {namespace} logs deployment/signet-ca --tail=20");
    let Some(pem) = bundle.and_then(|bundle| bundle.data.as_ref()?.get(KEY)) else {
        return Finding::fail(
            ID,
            format!("ConfigMap {namespace}/{BUNDLE} has no {KEY}: the CA has not published its root"),
            logs,
        );
    };
    match certificates::last_end(pem.as_bytes(), facts.now) {
        End::At { begin, end } => {
            let soon = certificates::soon_by_hand(begin, end);
            certificates::judged(ID, "the root", end, facts.now, soon, logs)
        }
        End::None => Finding::fail(ID, format!("ConfigMap {namespace}/{BUNDLE} holds an empty bundle"), logs),
        End::Broken(why) => Finding::fail(ID, format!("ConfigMap {namespace}/{BUNDLE}: {why}"), logs),
    }
}

/// The copies.
pub(super) fn copies(facts: &Facts) -> Finding {
    const ID: &str = "trust.bundles";
    let namespace = facts.control();
    let (published, copies, enrolled) = match (published(facts), &facts.copies, enrolled(facts)) {
        (Ok(published), Ok(copies), Ok(enrolled)) => (published, copies, enrolled),
        (Err(lack), _, _) | (_, _, Err(lack)) => return Finding::lacking(ID, &lack),
        (_, Err(lack), _) => return Finding::lacking(ID, lack),
    };
    let Some((sequence, roots_of_ca)) = published else {
        let hint = format!("kubectl -n {namespace} logs deployment/signet-ca --tail=20");
        return Finding::fail(ID, format!("ConfigMap {namespace}/signet-trust-state holds no trust state"), hint);
    };
    let by_namespace: BTreeMap<String, &ConfigMap> =
        copies.iter().map(|copy| (copy.namespace().unwrap_or_default(), copy)).collect();
    let wanted: BTreeSet<&str> = enrolled.iter().map(String::as_str).chain([namespace]).collect();
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| !by_namespace.contains_key(*name)).collect();
    let other = by_namespace.iter().filter(|(_, copy)| roots(copy).as_ref() != Some(&roots_of_ca));
    let other: Vec<&str> = other.map(|(name, _)| name.as_str()).collect();
    let mend = |name: &str| {
        if name == namespace {
            format!("kubectl -n {namespace} logs deployment/signet-ca --tail=20: the CA puts it back within seconds")
        } else {
            format!(
                "kubectl -n {name} delete configmap {BUNDLE} --ignore-not-found; the operator writes it within a second, \
                 else: kubectl -n {namespace} logs deployment/signet-operator --tail=20"
            )
        }
    };
    let objects = |names: &[&str]| names.iter().map(|name| format!("{name}/{BUNDLE}")).collect::<Vec<_>>();
    if let Some(first) = other.first() {
        let found = format!(
            "the bundle of {} is not what the CA says: new pods there do not believe the CA",
            some(other.iter().copied())
        );
        return Finding::fail(ID, found, mend(first)).about(objects(&other));
    }
    if let Some(first) = missing.first() {
        let found = format!(
            "no ConfigMap {BUNDLE} in {}: pods there cannot start their sidecars",
            some(missing.iter().copied())
        );
        return Finding::fail(ID, found, mend(first)).about(objects(&missing));
    }
    Finding::ok(ID, format!("{} agree with the CA: trust sequence {sequence}", counted(by_namespace.len(), "bundle")))
}

/// Namespaces that opted in, and those with meshed pods.
fn enrolled(facts: &Facts) -> Read<BTreeSet<String>> {
    let namespaces = facts.namespaces.as_ref().map_err(Clone::clone)?;
    let labelled = namespaces.iter().filter(|namespace| {
        namespace.metadata.deletion_timestamp.is_none()
            && namespace.labels().get(pods::INJECT).is_some_and(|value| value == "enabled")
            && !pods::excluded(facts, &namespace.name_any())
    });
    let mut enrolled: BTreeSet<String> = labelled.map(ResourceExt::name_any).collect();
    let meshed = facts.pods.iter().flatten().filter(|pod| pods::is_alive(pod) && pods::has_sidecar(pod));
    enrolled.extend(meshed.filter_map(ResourceExt::namespace));
    Ok(enrolled)
}

/// What the running programs hold.
pub(super) fn sequence(facts: &Facts) -> Finding {
    const ID: &str = "trust.sequence";
    let published = match published(facts) {
        Ok(Some((sequence, _))) => sequence,
        Ok(None) => return Finding::skipped(ID, "the CA has published nothing", "see trust.bundles"),
        Err(lack) => return Finding::lacking(ID, &lack),
    };
    let (mut asked, mut behind) = (Vec::new(), Vec::new());
    for program in ["ca", "operator"] {
        let held = match programs::metric(facts, program, &format!("signet_{program}_trust_sequence")) {
            Ok(held) => held,
            Err(lack) => return Finding::lacking(ID, &lack),
        };
        if !held.is_empty() {
            asked.push(format!("{} of signet-{program}", counted(held.len(), "pod")));
        }
        let older = held.into_iter().filter(|(_, held)| *held < published);
        behind.extend(older.map(|(pod, held)| (program, format!("{pod} ({held})"))));
    }
    if asked.is_empty() {
        return Finding::skipped(ID, "nobody could be asked for its trust sequence", "see ca.health");
    }
    let Some((program, _)) = behind.first() else {
        return Finding::ok(ID, format!("{} hold trust sequence {published}", asked.join(" and ")));
    };
    let hint = format!("kubectl -n {} rollout restart deployment/signet-{program}", facts.control());
    let behind: Vec<String> = behind.into_iter().map(|(_, pod)| pod).collect();
    let found =
        format!("older than the published trust sequence {published}: {}", some(behind.iter().map(String::as_str)));
    Finding::fail(ID, found, hint).about(behind)
}
