//! A cluster in which all is well, and one thing that is broken in it: each check says so, with what mends it, and no other does.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
mod broken;
mod policies;
mod world;

use super::*;
use world::well;

/// The findings that are not ok.
fn wrong(facts: &Facts) -> Vec<Finding> {
    all(facts).into_iter().filter(|finding| finding.sign != Sign::Ok).collect()
}

#[test]
fn where_all_is_well_every_check_says_so_and_hints_at_nothing() {
    let report = Report::new(Some("mesh".into()), all(&well()));
    for check in &report.checks {
        assert_eq!((check.sign, check.hint.as_str()), (Sign::Ok, ""), "{}: {}", check.id, check.found);
    }
    assert!(report.ok);
    assert_eq!(report.exit_code(), 0);
}

#[test]
fn ids_are_stable_and_each_occurs_once() {
    let ids: Vec<&str> = all(&well()).iter().map(|finding| finding.id).collect();
    let known = "api.version api.groups api.permissions install.namespace install.crd install.webhook install.guard \
                 certificates.webhook certificates.root certificates.issuing certificates.operator \
                 trust.bundles trust.sequence ca.available ca.health operator.available operator.health pods.injected pods.ready pods.current rules.status rules.targets \
                 network.tunnel network.ca network.operator network.webhook network.addresses network.ranges \
                 versions.skew";
    assert_eq!(ids, known.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn without_an_installation_one_check_fails_and_the_rest_is_skipped() {
    let mut facts = Facts::nothing();
    facts.groups = well().groups;
    let report = Report::new(None, all(&facts));
    let failed: Vec<&str> = report.checks.iter().filter(|c| c.sign == Sign::Fail).map(|c| c.id).collect();
    assert_eq!(failed, ["install.namespace"]);
    assert_eq!(report.exit_code(), 1);
    assert!(report.checks.iter().skip(4).all(|check| check.sign == Sign::Skipped), "{:?}", report.checks);
}

#[test]
fn who_may_not_read_something_is_told_what_it_is_and_how_it_is_granted() {
    let mut facts = well();
    facts.network =
        Err(crate::cluster::Lack::Forbidden { verb: "list", resource: "networkpolicies.networking.k8s.io".into() });
    facts.lacking = Ok(vec![access::NETWORK]);
    facts.user = Some("ann@example.org".into());
    let report = Report::new(None, all(&facts));
    assert_eq!((report.exit_code(), report.ok), (2, false));
    let skipped: Vec<&str> = report.checks.iter().filter(|c| c.sign == Sign::Skipped).map(|c| c.id).collect();
    assert_eq!(skipped, ["api.permissions", "network.tunnel", "network.ca", "network.operator", "network.webhook"]);
    let skipped = report.checks.iter().filter(|c| c.sign == Sign::Skipped);
    let hints: Vec<&str> = skipped.map(|c| c.hint.as_str()).collect();
    let grant = "kubectl create clusterrolebinding signet-view-ann-example.org --clusterrole=signet-view --user=ann@example.org";
    assert!(hints[0].contains(grant) && hints[1..].iter().all(|hint| *hint == "see api.permissions"), "{hints:?}");
}

#[test]
fn who_chose_a_namespace_may_read_no_more_than_that() {
    let forbidden =
        |access: access::Access| crate::cluster::Lack::Forbidden { verb: "list", resource: access.resource.into() };
    let mut facts = well();
    facts.only = Some("shop".into());
    facts.namespaces.as_mut().unwrap().retain(|namespace| namespace.metadata.name.as_deref() == Some("shop"));
    (facts.webhooks, facts.policies) = (Err(forbidden(access::WEBHOOKS)), Err(forbidden(access::POLICIES)));
    (facts.copies, facts.crd) = (Err(forbidden(access::COPIES)), Err(forbidden(access::DEFINITION)));
    facts.lacking = Ok(vec![access::WEBHOOKS, access::POLICIES, access::COPIES, access::DEFINITION]);
    let report = Report::new(None, all(&facts));
    let ids = |sign: Sign| report.checks.iter().filter(|c| c.sign == sign).map(|c| c.id).collect::<Vec<_>>();
    assert_eq!((report.exit_code(), report.ok, ids(Sign::Fail)), (0, true, vec![]));
    assert_eq!(
        ids(Sign::Skipped),
        ["api.permissions", "install.crd", "install.webhook", "install.guard", "certificates.webhook", "trust.bundles"]
    );
    // What is asked about must be readable.
    facts.rules = Err(forbidden(access::RULES));
    facts.lacking = Ok(vec![access::RULES]);
    let report = Report::new(None, all(&facts));
    assert_eq!((report.exit_code(), report.ok), (2, false));
    let permissions = report.checks.iter().find(|c| c.id == "api.permissions").unwrap();
    assert!(permissions.hint.contains("kubectl -n shop create rolebinding"), "{}", permissions.hint);
}

#[test]
fn f18_what_a_program_of_the_cluster_says_cannot_steer_the_terminal() {
    let report = Report::new(None, vec![Finding::fail("ca.health", "not ready: \u{1b}[2Jgone\nok", "x\u{7}")]);
    let text = report.text(false);
    assert!(text.contains("FAIL    ca.health  not ready: \\u{1b}[2Jgone\\nok"), "{text}");
    assert!(text.contains("hint: x\\u{7}"), "{text}");
    assert!(text.ends_with("1 checks: 0 ok, 0 warned, 1 failed, 0 skipped"), "{text}");
}

#[test]
fn the_json_has_the_fields_that_programs_rely_on() {
    let mut facts = well();
    facts.policies = Ok(Vec::new());
    let report = serde_json::to_value(Report::new(facts.control.clone(), all(&facts))).unwrap();
    assert_eq!(
        (&report["version"], &report["control_namespace"], &report["ok"]),
        (&1.into(), &"mesh".into(), &false.into())
    );
    let guard = report["checks"].as_array().unwrap().iter().find(|check| check["id"] == "install.guard").unwrap();
    let fields: Vec<&String> = guard.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["id", "sign", "found", "hint", "objects"]);
    assert_eq!((&guard["sign"], guard["objects"].as_array().unwrap().len()), (&"fail".into(), 3));
}
