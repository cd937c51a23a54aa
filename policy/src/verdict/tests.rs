use super::*;
use crate::compile::{Admits, Mode, Ports, Posture, RuleKey, Source, Table, WorkloadRule};
use rstest::rstest;
use std::collections::BTreeSet;

const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";

fn id(text: &str) -> Source {
    Source::Identity(text.to_owned())
}

fn rule(name: &str, sources: Vec<Source>) -> WorkloadRule {
    WorkloadRule {
        key: RuleKey { namespace: "shop".to_owned(), name: name.to_owned() },
        generation: 1,
        ports: Ports::These(vec![8080]),
        mode: Mode::Enforce,
        admits: Admits::Sources(sources),
        features: Vec::new(),
    }
}

fn explain(posture: Posture, rules: &[WorkloadRule], caller: Caller<'_>) -> String {
    Table::compile(posture, rules).judge(&caller, 8080).explain(&caller, 8080)
}

#[rstest]
#[case::service_account(
    vec![id("spiffe://mesh.example/ns/shop/sa/checkout"), Source::Namespace { trust_domain: "mesh.example".into(), namespace: "edge".into() }],
    "closest rule shop/orders wants service account checkout, caller is cart"
)]
#[case::namespace(
    vec![id("spiffe://mesh.example/ns/edge/sa/cart"), id("spiffe://partner.example/ns/shop/sa/cart")],
    "closest rule shop/orders wants namespace edge, caller is shop"
)]
#[case::trust_domain(
    vec![id("spiffe://partner.example/ns/shop/sa/cart")],
    "closest rule shop/orders wants trust domain partner.example, caller is mesh.example"
)]
#[case::other_form(
    vec![id("spiffe://mesh.example/legacy/cart")],
    "closest rule shop/orders wants identity spiffe://mesh.example/legacy/cart, caller is spiffe://mesh.example/ns/shop/sa/cart"
)]
#[case::plaintext(
    vec![Source::Plaintext(vec!["10.0.0.0/8".parse().unwrap()])],
    "closest rule shop/orders admits plaintext only, caller is spiffe://mesh.example/ns/shop/sa/cart"
)]
#[case::nobody(vec![], "rule shop/orders admits nobody: its `from` is empty")]
fn a_denial_names_the_closest_rule_and_what_differed(#[case] sources: Vec<Source>, #[case] text: &str) {
    let explained = explain(Posture::Allow, &[rule("orders", sources)], Caller::Identity(CART));
    assert_eq!(explained, format!("denied: port 8080 is guarded, {text}"));
}

#[rstest]
#[case(vec![id(CART)], "closest rule shop/orders admits identities only, caller is plaintext from 192.0.2.7")]
#[case(
    vec![id(CART), Source::Plaintext(vec!["10.0.0.0/8".parse().unwrap()])],
    "closest rule shop/orders admits plaintext from other networks, caller is plaintext from 192.0.2.7"
)]
fn a_denied_plaintext_caller_is_told_so(#[case] sources: Vec<Source>, #[case] text: &str) {
    let explained = explain(Posture::Allow, &[rule("orders", sources)], Caller::Plaintext([192, 0, 2, 7].into()));
    assert_eq!(explained, format!("denied: port 8080 is guarded, {text}"));
}

#[rstest]
#[case(Posture::Allow, "allowed: no rule guards port 8080 and the posture is allow")]
#[case(Posture::Audit, "allowed: no rule guards port 8080 and the posture is audit; the posture deny would refuse it")]
#[case(
    Posture::Authenticated,
    "denied: no rule guards port 8080, the posture is authenticated, and the caller is plaintext from 192.0.2.7"
)]
#[case(Posture::Deny, "denied: no rule guards port 8080 and the posture is deny")]
fn an_unguarded_port_is_explained_by_its_posture(#[case] posture: Posture, #[case] text: &str) {
    assert_eq!(explain(posture, &[], Caller::Plaintext([192, 0, 2, 7].into())), text);
}

#[test]
fn shadow_verdicts_are_told() {
    let audit = |sources| WorkloadRule { mode: Mode::Audit, ..rule("trial", sources) };
    let other = || vec![id("spiffe://mesh.example/ns/shop/sa/checkout")];
    assert_eq!(
        explain(Posture::Allow, &[audit(other())], Caller::Identity(CART)),
        "allowed: no rule guards port 8080 and the posture is allow; if Audit rules were in force, it would be denied, closest \
         rule shop/trial"
    );
    assert_eq!(
        explain(Posture::Allow, &[rule("orders", other()), audit(vec![id(CART)])], Caller::Identity(CART)),
        "denied: port 8080 is guarded, closest rule shop/orders wants service account checkout, caller is cart; if Audit rules \
         were in force, rule shop/trial would admit it"
    );
}

#[test]
fn f18_an_explanation_is_one_bounded_line() {
    let nasty = format!("spiffe://a/\r\n\u{1b}[2J{}", "x".repeat(10_000));
    let text = explain(Posture::Deny, &[rule("orders", vec![id(&nasty.replace('x', "y"))])], Caller::Identity(&nasty));
    assert!(text.len() < 700 && text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
}

#[test]
fn codes_are_stable_and_distinct() {
    let codes: Vec<&str> = Reason::all().iter().map(|reason| reason.code()).collect();
    assert_eq!(
        codes,
        [
            "rule_matched",
            "no_rule_matched",
            "guarded_by_unusable_rule",
            "posture_allow",
            "posture_audit",
            "posture_authenticated",
            "posture_plaintext",
            "posture_deny",
            "no_configuration",
        ]
    );
    assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
}

#[test]
fn a_verdict_as_json() {
    let audit = WorkloadRule { mode: Mode::Audit, ..rule("trial", vec![id(CART)]) };
    let rules = [rule("orders", vec![id("spiffe://mesh.example/ns/shop/sa/checkout")]), audit];
    let verdict = Table::compile(Posture::Deny, &rules).judge(&Caller::Identity(CART), 8080);
    assert_eq!(
        serde_json::to_value(&verdict).unwrap(),
        serde_json::json!({
            "decision": "deny",
            "reason": "no_rule_matched",
            "rule": "shop/orders",
            "difference": {"kind": "serviceAccount", "want": "checkout"},
            "shadow": {"decision": "allow", "reason": "rule_matched", "rule": "shop/trial"},
        })
    );
    assert_eq!(verdict.to_string(), "deny (no_rule_matched) by shop/orders");
}

#[rstest]
#[case("allow", Some(Posture::Allow))]
#[case("audit", Some(Posture::Audit))]
#[case("authenticated", Some(Posture::Authenticated))]
#[case("deny", Some(Posture::Deny))]
#[case("Allow", None)]
#[case("allow ", None)]
#[case("", None)]
#[case("permissive", None)]
fn f35_an_unknown_posture_is_an_error_and_defaults_to_deny(#[case] word: &str, #[case] posture: Option<Posture>) {
    assert_eq!(word.parse::<Posture>().ok(), posture);
    assert_eq!(word.parse::<Posture>().unwrap_or_default(), posture.unwrap_or(Posture::Deny));
}
