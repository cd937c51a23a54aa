//! One thing broken at a time.
use super::world::{IMAGE, ca_metrics, object, operator_metrics, pod, rule, says, well};
use super::{Facts, Sign, wrong};
use crate::cluster::{Lack, Page};
use serde_json::{Value, json};

/// The broken thing is found by one check alone, with these words and this hint.
#[track_caller]
fn found(id: &str, sign: Sign, breaks: impl FnOnce(&mut Facts), words: &str, hint: &str) {
    let mut facts = well();
    breaks(&mut facts);
    let wrong = wrong(&facts);
    let [one] = wrong.as_slice() else { panic!("expected {id} alone, found {wrong:#?}") };
    assert_eq!((one.id, one.sign), (id, sign), "{one:#?}");
    assert!(one.found.contains(words), "expected {words:?} in {:?}", one.found);
    assert!(one.hint.contains(hint), "expected {hint:?} in {:?}", one.hint);
}

/// Changes an object through its JSON.
fn edit<T: serde::Serialize + serde::de::DeserializeOwned>(object: &mut T, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::to_value(&*object).unwrap();
    change(&mut value);
    *object = serde_json::from_value(value).unwrap();
}

#[test]
fn an_old_server_and_a_missing_group() {
    found(
        "api.version",
        Sign::Fail,
        |f| f.server = "v1.32.9-gke.1".into(),
        "v1.32.9-gke.1 is too old",
        "Kubernetes 1.33 or newer",
    );
    found("api.version", Sign::Warn, |f| f.server = "main".into(), "no version that is understood", "1.33 or newer");
    let groups = |f: &mut Facts| _ = f.groups.as_mut().unwrap().remove("discovery.k8s.io/v1");
    found(
        "api.groups",
        Sign::Fail,
        groups,
        "not served: discovery.k8s.io/v1",
        "--runtime-config=discovery.k8s.io/v1=false",
    );
}

#[test]
fn what_the_chart_installs() {
    found(
        "install.crd",
        Sign::Fail,
        |f| f.crd = Ok(None),
        "no CustomResourceDefinition allowrules.signet.dev",
        "helm upgrade signet charts/signet --reuse-values -n mesh --set crds.enabled=true",
    );
    found(
        "install.crd",
        Sign::Fail,
        |f| f.crd.as_mut().unwrap().as_mut().unwrap()["status"]["conditions"][0]["status"] = "False".into(),
        "is not established",
        "kubectl describe crd allowrules.signet.dev",
    );
    let older = |f: &mut Facts| {
        let definition = f.crd.as_mut().unwrap().as_mut().unwrap();
        let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        definition.pointer_mut(schema).unwrap().as_object_mut().unwrap().shift_remove("http");
    };
    found("install.crd", Sign::Fail, older, "openAPIV3Schema.properties.spec.properties.http", "helm upgrade signet");
    found(
        "install.webhook",
        Sign::Fail,
        |f| f.slices.as_mut().unwrap().truncate(2),
        "no ready endpoint",
        "kubectl -n mesh get pods",
    );
    found(
        "install.webhook",
        Sign::Fail,
        |f| {
            edit(&mut f.webhooks.as_mut().unwrap()[0], |w| {
                w["webhooks"][1]["clientConfig"]["service"]["namespace"] = "other".into();
            });
        },
        "pod.injector.signet.dev asks other/signet-webhook:443, but the operator is mesh/signet-webhook:443",
        "helm upgrade signet",
    );
    found(
        "install.webhook",
        Sign::Fail,
        |f| {
            edit(&mut f.webhooks.as_mut().unwrap()[0], |w| {
                w["webhooks"][1]["clientConfig"]["service"]["path"] = "/inject".into();
            });
        },
        "pod.injector.signet.dev has no secret path",
        "kubectl -n mesh logs deployment/signet-operator",
    );
    found(
        "install.guard",
        Sign::Fail,
        |f| _ = f.bindings.as_mut().unwrap().remove(0),
        "ValidatingAdmissionPolicyBinding signet-guard is missing",
        "helm upgrade signet charts/signet --reuse-values -n mesh",
    );
    found(
        "install.guard",
        Sign::Fail,
        |f| edit(&mut f.bindings.as_mut().unwrap()[1], |b| b["spec"]["validationActions"] = json!(["Audit"])),
        "ValidatingAdmissionPolicyBinding signet-labels does not deny",
        "helm upgrade signet",
    );
    found(
        "install.guard",
        Sign::Fail,
        |f| edit(&mut f.policies.as_mut().unwrap()[0], |p| p["spec"]["failurePolicy"] = "Ignore".into()),
        "ValidatingAdmissionPolicy signet-guard lets pass what it cannot judge",
        "helm upgrade signet",
    );
}

#[test]
fn a_webhook_that_is_gone_has_no_certificate_either() {
    let mut facts = well();
    facts.webhooks = Ok(Vec::new());
    let signs: Vec<(&str, Sign)> = wrong(&facts).iter().map(|finding| (finding.id, finding.sign)).collect();
    assert_eq!(signs, [("install.webhook", Sign::Fail), ("certificates.webhook", Sign::Skipped)]);
}

#[test]
fn certificates_that_end() {
    // Root and webhook stand for one another here: both were made at the same moment.
    let mut facts = well();
    facts.now += 400 * 24 * 3600;
    let ended: Vec<(&str, Sign)> = wrong(&facts).iter().map(|finding| (finding.id, finding.sign)).collect();
    assert!(
        ended.contains(&("certificates.root", Sign::Fail)) && ended.contains(&("certificates.webhook", Sign::Fail)),
        "{ended:?}"
    );
    assert!(wrong(&facts)[0].found.contains("has ended at "));
}

#[test]
fn who_believes_in_other_roots() {
    let other = signet_identity::testing::Authority::new("mesh.example").bundle().to_pem();
    let stale =
        |f: &mut Facts| edit(&mut f.copies.as_mut().unwrap()[1], |copy| copy["data"]["bundle.pem"] = other.into());
    found(
        "trust.bundles",
        Sign::Fail,
        stale,
        "the bundle of shop is not what the CA says",
        "kubectl -n shop delete configmap signet-trust",
    );
    found(
        "trust.bundles",
        Sign::Fail,
        |f| f.copies.as_mut().unwrap().truncate(1),
        "no ConfigMap signet-trust in shop",
        "kubectl -n shop delete configmap signet-trust --ignore-not-found",
    );
    let behind = |f: &mut Facts| put(f, "ca-1", &ca_metrics(f.now, 6, WEEK, 0));
    found(
        "trust.sequence",
        Sign::Fail,
        behind,
        "older than the published trust sequence 7: ca-1 (6)",
        "rollout restart deployment/signet-ca",
    );
    let behind = |f: &mut Facts| put(f, "operator-1", &operator_metrics(f.now, 6, 3600));
    found(
        "trust.sequence",
        Sign::Fail,
        behind,
        "older than the published trust sequence 7: operator-1 (6)",
        "rollout restart deployment/signet-operator",
    );
}

const WEEK: i64 = 7 * 24 * 3600;

/// What a program shows from now on.
fn put(facts: &mut Facts, pod: &str, metrics: &str) {
    facts.health.insert(pod.into(), says(metrics));
}

#[test]
fn certificates_that_programs_hold_and_should_have_replaced() {
    let (ca, operator) = ("component=ca --tail=20", "component=operator --tail=20");
    let issuing = |left: i64| move |f: &mut Facts| put(f, "ca-1", &ca_metrics(f.now, 7, left, 0));
    found("certificates.issuing", Sign::Fail, issuing(-1), "the issuing certificate of ca-1 has ended at", ca);
    found("certificates.issuing", Sign::Warn, issuing(WEEK / 6 - 1), "should long have been replaced", ca);
    let own = |left: i64| move |f: &mut Facts| put(f, "operator-1", &operator_metrics(f.now, 7, left));
    found("certificates.operator", Sign::Fail, own(0), "the certificate of operator-1 has ended at", operator);
    found("certificates.operator", Sign::Warn, own(599), "should long have been replaced", operator);
    // A lifetime that was made longer is not that of what was issued before.
    let mut facts = well();
    let said = |begin: i64, now: i64| {
        format!("signet_operator_svid_not_before_seconds {begin}\n{}", operator_metrics(now, 7, 500))
    };
    let (now, halfway) = (facts.now, facts.now - 500);
    put(&mut facts, "operator-1", &said(halfway, now));
    assert!(wrong(&facts).is_empty(), "{:?}", wrong(&facts));
    put(&mut facts, "operator-1", &said(now - 2600, now));
    assert_eq!(wrong(&facts)[0].id, "certificates.operator");
    let none = |f: &mut Facts| put(f, "operator-1", &operator_metrics(0, 7, 0));
    found("certificates.operator", Sign::Fail, none, "operator-1 has no certificate", operator);
    // What is short for a week is long for an hour.
    let mut facts = well();
    edit(&mut facts.configs.as_mut().unwrap()[2], |c| {
        c["data"]["ca.toml"] = "[lifetimes]\nissuing = \"10m\"\n[kubernetes]\npeer_address = \"require\"".into();
    });
    issuing(200)(&mut facts);
    assert!(wrong(&facts).is_empty(), "{:?}", wrong(&facts));
}

#[test]
fn programs_that_are_not_there_or_not_well() {
    let scaled = |f: &mut Facts| edit(&mut f.deployments.as_mut().unwrap()[1], |d| d["spec"]["replicas"] = 0.into());
    found(
        "operator.available",
        Sign::Fail,
        scaled,
        "signet-operator is scaled to 0",
        "kubectl -n mesh scale deployment/signet-operator --replicas=2",
    );
    let down =
        |f: &mut Facts| edit(&mut f.deployments.as_mut().unwrap()[0], |d| d["status"]["availableReplicas"] = 0.into());
    found(
        "ca.available",
        Sign::Fail,
        down,
        "none of 2 replicas is available",
        "kubectl -n mesh describe pods -l app.kubernetes.io/component=ca",
    );
    let one =
        |f: &mut Facts| edit(&mut f.deployments.as_mut().unwrap()[0], |d| d["status"]["availableReplicas"] = 1.into());
    found("ca.available", Sign::Warn, one, "1 of 2 replicas are available", "kubectl -n mesh describe pods");
    let not_ready = |f: &mut Facts| {
        f.health.get_mut("operator-1").unwrap().ready = Ok(Page { status: 503, body: "no certificate yet\n".into() });
    };
    found(
        "operator.health",
        Sign::Fail,
        not_ready,
        "operator-1: no certificate yet",
        "kubectl -n mesh logs -l app.kubernetes.io/component=operator",
    );
    let mute = |f: &mut Facts| f.health.get_mut("operator-1").unwrap().ready = Err(Lack::Failed("timed out".into()));
    found(
        "operator.health",
        Sign::Warn,
        mute,
        "could not be asked, though it may be well: operator-1: timed out",
        "kubectl -n mesh logs",
    );
    let old = |f: &mut Facts| {
        edit(&mut f.deployments.as_mut().unwrap()[0], |d| {
            d["spec"]["template"]["spec"]["containers"][0]["image"] = "r:5000/signet/signet-ca:0.0.9".into();
        });
    };
    found("versions.skew", Sign::Warn, old, "0.0.9: signet-ca", "helm upgrade signet");
}

#[test]
fn pods_without_a_good_sidecar() {
    let plain = |more: Value| {
        let mut pod = json!({"metadata": {"name": "web-5f6-x2", "namespace": "shop"}, "spec": {"containers": []}, "status": {"phase": "Running"}});
        signet_apiserver::merge(&mut pod, &more);
        move |f: &mut Facts| f.pods.as_mut().unwrap().push(object(pod))
    };
    let owned = |kind: &str, name: &str| json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}]}});
    found(
        "pods.injected",
        Sign::Fail,
        plain(json!({})),
        "1 of 4 pods that opted in have no sidecar (started before they opted in): shop/web-5f6-x2",
        "kubectl -n shop delete pod web-5f6-x2, and create it again",
    );
    found(
        "pods.injected",
        Sign::Fail,
        plain(owned("ReplicaSet", "web-5f6")),
        "shop/web-5f6-x2",
        "kubectl -n shop rollout restart deployment/web",
    );
    found(
        "pods.injected",
        Sign::Fail,
        plain(owned("StatefulSet", "web")),
        "shop/web-5f6-x2",
        "kubectl -n shop rollout restart statefulset/web",
    );
    for well_so in [
        json!({"metadata": {"annotations": {"signet.dev/inject": "disabled"}}}),
        json!({"spec": {"hostNetwork": true}}),
        json!({"status": {"phase": "Succeeded"}}),
        json!({"metadata": {"namespace": "kube-system", "annotations": {"signet.dev/inject": "enabled"}}}),
    ] {
        let mut facts = well();
        plain(well_so.clone())(&mut facts);
        assert!(wrong(&facts).is_empty(), "{well_so}: {:#?}", wrong(&facts));
    }
    let unready = |f: &mut Facts| {
        edit(&mut f.pods.as_mut().unwrap()[0], |p| p["status"]["initContainerStatuses"][0]["ready"] = false.into());
    };
    found(
        "pods.ready",
        Sign::Fail,
        unready,
        "the sidecar is not ready in 1 of 3 pods: shop/orders",
        "kubectl -n shop logs orders -c signet-sidecar",
    );
    let old = |f: &mut Facts| {
        edit(&mut f.pods.as_mut().unwrap()[0], |p| {
            p["spec"]["initContainers"][0]["image"] = "signet/signet-sidecar:0.0.9".into();
        });
    };
    let words =
        format!("have another sidecar (signet/signet-sidecar:0.0.9) than is injected now ({IMAGE}): shop/orders");
    found("pods.current", Sign::Warn, old, &words, "kubectl -n shop delete pod orders");
}

#[test]
fn rules_that_are_refused_pending_or_idle() {
    let push = |rule: Value| move |f: &mut Facts| f.rules.as_mut().unwrap().push(rule);
    let good = || json!({"target": {"all": true}, "from": []});
    let mut refused = rule("bad", &good());
    refused["status"]["conditions"][0]["status"] = "False".into();
    refused["status"]["conditions"][0]["message"] = "spec.mode: found enforce".into();
    found(
        "rules.status",
        Sign::Fail,
        push(refused),
        "refused: shop/bad (spec.mode: found enforce)",
        "kubectl -n shop describe allowrule bad",
    );
    let mut pending = rule("slow", &good());
    pending["status"]["conditions"][1]["status"] = "False".into();
    found(
        "rules.status",
        Sign::Warn,
        push(pending),
        "shop/slow (Programmed is False: well)",
        "kubectl -n shop describe allowrule slow",
    );
    let mut changed = rule("new", &good());
    changed["metadata"]["generation"] = 2.into();
    found(
        "rules.status",
        Sign::Warn,
        push(changed),
        "shop/new (the operator has not judged its present form)",
        "describe allowrule new",
    );
    let target = |target: Value| push(rule("idle", &json!({"target": target, "from": []})));
    let hint = "kubectl -n shop get pods --show-labels; then kubectl -n shop edit allowrule idle";
    found(
        "rules.targets",
        Sign::Warn,
        target(json!({"service": "gone"})),
        "shop/idle targets the Service gone, which does not exist",
        hint,
    );
    found(
        "rules.targets",
        Sign::Warn,
        target(json!({"podSelector": {"matchLabels": {"app": "x"}}})),
        "shop/idle selects no pod",
        hint,
    );
    found(
        "rules.targets",
        Sign::Warn,
        target(json!({"service": "orders", "ports": ["htpp"]})),
        "names the port htpp, which none of its pods declares",
        hint,
    );
    found("rules.targets", Sign::Warn, target(json!({"service": "orders", "ports": [80]})), "names the port 80", hint);
    let bare = |f: &mut Facts| {
        let mut bare = pod("bare", &json!([]));
        bare["spec"]["initContainers"] = json!([]);
        bare["metadata"]["annotations"] = json!({"signet.dev/inject": "disabled"});
        f.pods.as_mut().unwrap().push(object(bare));
        f.rules
            .as_mut()
            .unwrap()
            .push(rule("idle", &json!({"target": {"podSelector": {"matchLabels": {"app": "bare"}}}, "from": []})));
    };
    found("rules.targets", Sign::Warn, bare, "shop/idle selects 1 pod and none of them has a sidecar", hint);
}

#[test]
fn addresses_that_are_rewritten() {
    let rewritten = |f: &mut Facts| put(f, "ca-1", &ca_metrics(f.now, 7, WEEK, 3));
    found(
        "network.addresses",
        Sign::Fail,
        rewritten,
        "the CA saw callers at addresses that are not their pods': ca-1 3 times",
        "set ca.peerAddress=record",
    );
    let recorded = |f: &mut Facts| {
        edit(&mut f.configs.as_mut().unwrap()[2], |c| {
            c["data"]["ca.toml"] = "[kubernetes]\npeer_address = \"record\"".into();
        });
    };
    found("network.addresses", Sign::Warn, recorded, "ca.peerAddress is record", "--set ca.peerAddress=require");
}

#[test]
fn pods_where_the_operator_expects_none() {
    let beyond = |f: &mut Facts| {
        let seen = operator_metrics(f.now, 7, 3600).replace("outside_ranges 0", "outside_ranges 3");
        put(f, "operator-1", &seen);
    };
    found(
        "network.ranges",
        Sign::Warn,
        beyond,
        "3 pods of the mesh with an address",
        "--set 'meshRanges={10.244.0.0/16}'",
    );
}
