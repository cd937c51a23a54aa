use super::*;
use crate::model::{From, PortRef, Unauthenticated};
use rstest::rstest;
use serde_json::json;

fn good() -> Value {
    json!({
        "apiVersion": "signet.dev/v1alpha1",
        "kind": "AllowRule",
        "metadata": {"name": "orders-from-checkout", "namespace": "shop"},
        "spec": {
            "target": {"service": "orders", "ports": [8080, "metrics"]},
            "from": [
                {"serviceAccount": "checkout"},
                {"namespace": "edge", "serviceAccount": "gateway"},
                {"namespace": "monitoring"},
                {"identity": "spiffe://partner.example/ns/a/sa/b"},
                {"anyAuthenticated": true},
                {"unauthenticated": {"cidrs": ["10.20.0.0/16", "2001:db8::/32", "0.0.0.0/0", "192.0.2.1/32"]}},
            ],
            "mode": "Enforce",
        },
    })
}

/// The good rule with one thing in another's place; null takes it away.
fn with(pointer: &str, value: Value) -> Value {
    let mut document = good();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Object(map) if value.is_null() => drop(map.remove(last)),
        Value::Object(map) => drop(map.insert(last.to_owned(), value)),
        Value::Array(entries) if last == "-" => entries.push(value),
        Value::Array(entries) => entries[last.parse::<usize>().unwrap()] = value,
        other => panic!("{pointer} leads into {other}"),
    }
    document
}

#[allow(clippy::needless_pass_by_value, reason = "called with json!")]
fn from(caller: Value) -> Value {
    with("/spec/from", json!([caller]))
}

fn rule(document: &Value) -> AllowRule {
    match read(document) {
        Reading::Rule(rule) => rule,
        other => panic!("refused: {:#?}", other.problems()),
    }
}

fn only_problem(document: &Value) -> Problem {
    let reading = read(document);
    assert_eq!(reading.problems().len(), 1, "{:#?}", reading.problems());
    reading.problems()[0].clone()
}

#[test]
fn the_rule_of_the_design_is_read_in_full() {
    let rule = rule(&good());
    assert_eq!((rule.metadata.namespace.as_str(), rule.metadata.name.as_str()), ("shop", "orders-from-checkout"));
    assert_eq!(rule.spec.target.service.as_deref(), Some("orders"));
    assert_eq!(rule.spec.target.ports, Some(vec![PortRef::Number(8080), PortRef::Name("metrics".to_owned())]));
    assert_eq!(rule.spec.mode, Mode::Enforce);
    assert_eq!(rule.spec.from.len(), 6);
    assert_eq!(rule.spec.from[1].namespace.as_deref(), Some("edge"));
    let cidrs = ["10.20.0.0/16", "2001:db8::/32", "0.0.0.0/0", "192.0.2.1/32"].map(str::to_owned).to_vec();
    assert_eq!(rule.spec.from[5], From { unauthenticated: Some(Unauthenticated { cidrs }), ..From::default() });
}

#[test]
fn a_rule_survives_being_written_and_read_again() {
    let once = rule(&good());
    assert_eq!(rule(&serde_json::to_value(&once).unwrap()), once);
    assert_eq!(serde_json::from_value::<AllowRule>(good()).unwrap(), once);
}

#[test]
fn deserializing_goes_through_the_same_checks() {
    let error = serde_json::from_value::<AllowRule>(with("/spec/mod", json!("Audit"))).unwrap_err().to_string();
    assert!(error.contains("spec.mod: found an unknown field"), "{error}");
}

#[rstest]
#[case::mode_absent(with("/spec/mode", Value::Null))]
#[case::mode_audit(with("/spec/mode", json!("Audit")))]
#[case::nobody(with("/spec/from", json!([])))]
#[case::every_port(with("/spec/target/ports", Value::Null))]
#[case::all(with("/spec/target", json!({"all": true})))]
#[case::selector(with("/spec/target", json!({"podSelector": {"matchLabels": {"app": "orders", "example.com/tier": ""}}})))]
#[case::empty_selector(with("/spec/target", json!({"podSelector": {}})))]
#[case::expressions(with("/spec/target", json!({"podSelector": {"matchExpressions": [
    {"key": "tier", "operator": "In", "values": ["web", "api"]},
    {"key": "tier", "operator": "NotIn", "values": ["db"]},
    {"key": "app", "operator": "Exists"},
    {"key": "old", "operator": "DoesNotExist"},
]}})))]
#[case::status(with("/status", json!({"conditions": [{"anything": 1}]})))]
#[case::kubernetes_metadata(with("/metadata", json!({
    "name": "a.b", "namespace": "shop", "uid": "x", "resourceVersion": "12", "generation": 3, "creationTimestamp": "now",
    "labels": {"team": "orders"}, "annotations": {"note": "any text at all"}, "managedFields": [{}], "finalizers": [],
    "ownerReferences": [], "selfLink": "", "deletionTimestamp": null, "deletionGracePeriodSeconds": 0, "generateName": "a-",
})))]
#[case::trust_domain_with_underscore(from(json!({"identity": "spiffe://a_b.c-d/E_f.g-h"})))]
#[case::longest_identity(from(json!({"identity": format!("spiffe://a/{}", "b".repeat(2048 - 11))})))]
#[case::dotted_account(from(json!({"serviceAccount": "a.b-c"})))]
#[case::port_bounds(with("/spec/target/ports", json!([1, 65535, "a", "x-1", "abcdefghijklmno"])))]
fn is_accepted(#[case] document: Value) {
    rule(&document);
}

#[rstest]
// the document
#[case("/apiVersion", json!("signet.dev/v2"), "apiVersion", "\"signet.dev/v2\"", "signet.dev/v1alpha1")]
#[case("/apiVersion", Value::Null, "apiVersion", "nothing", "signet.dev/v1alpha1")]
#[case("/kind", json!("AllowRules"), "kind", "\"AllowRules\"", "AllowRule")]
#[case("/sepc", json!({}), "sepc", "an unknown field", "did you mean spec?")]
#[case("/extra", json!({}), "extra", "an unknown field", "known here: apiVersion, kind, metadata, spec, status")]
// metadata
#[case("/metadata", Value::Null, "metadata", "nothing", "{name: orders-from-checkout, namespace: shop}")]
#[case("/metadata/name", Value::Null, "metadata.name", "nothing", "orders-from-checkout")]
#[case("/metadata/name", json!("Orders"), "metadata.name", "\"Orders\"", ": orders")]
#[case("/metadata/name", json!("a..b"), "metadata.name", "\"a..b\"", "at most 253")]
#[case("/metadata/name", json!("a".repeat(254)), "metadata.name", "\"aaa", "at most 253")]
#[case("/metadata/namespace", json!("shop.eu"), "metadata.namespace", "\"shop.eu\"", "at most 63 of a-z 0-9 -")]
#[case("/metadata/namespace", json!("-shop"), "metadata.namespace", "\"-shop\"", "such as shop")]
#[case("/metadata/namespace", json!(12), "metadata.namespace", "12", "text; in quotes: \"12\"")]
#[case("/metadata/nmaespace", json!("shop"), "metadata.nmaespace", "an unknown field", "did you mean namespace?")]
#[case("/metadata/generation", json!(-1), "metadata.generation", "-1", "not negative")]
#[case("/metadata/labels", json!(["a"]), "metadata.labels", "a list of 1 entry", "{app: orders}")]
// target
#[case("/spec", Value::Null, "spec", "nothing", "target and from")]
#[case("/spec/target", Value::Null, "spec.target", "nothing", "exactly one of service, podSelector and all")]
#[case("/spec/target", json!({}), "spec.target", "an empty object", "exactly one of")]
#[case("/spec/target", json!({"ports": [1]}), "spec.target", "none of them", "exactly one of")]
#[case("/spec/target", json!([{"service": "a"}]), "spec.target", "a list of 1 entry", "{service: orders, ports: [8080]}")]
#[case("/spec/target/all", json!(true), "spec.target", "service and all", "exactly one of")]
#[case("/spec/target", json!({"all": false}), "spec.target.all", "false", "true, or no such field")]
#[case("/spec/target", json!({"all": "true"}), "spec.target.all", "\"true\"", "true, or no such field")]
#[case("/spec/target/service", json!("Orders"), "spec.target.service", "\"Orders\"", ": orders")]
#[case("/spec/target/port", json!(80), "spec.target.port", "an unknown field", "did you mean ports?")]
#[case("/spec/target", json!({"podSelector": {"matchLables": {}}}), "spec.target.podSelector.matchLables", "an unknown field", "did you mean matchLabels?")]
#[case("/spec/target", json!({"podSelector": {"matchLabels": {"version": 1}}}), "spec.target.podSelector.matchLabels.version", "1", "in quotes: \"1\"")]
#[case("/spec/target", json!({"podSelector": {"matchLabels": {"a b": "x"}}}), "spec.target.podSelector.matchLabels.a b", "the label \"a b\"", "example.com/tier")]
#[case("/spec/target", json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}}), "spec.target.podSelector.matchExpressions[0].operator", "\"in\"", "did you mean In?")]
#[case("/spec/target", json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}), "spec.target.podSelector.matchExpressions[0].values", "0 of them", "at least one value")]
#[case("/spec/target", json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}), "spec.target.podSelector.matchExpressions[0].values", "1 of them", "no values")]
// ports
#[case("/spec/target/ports", json!([]), "spec.target.ports", "an empty list", "no such field for every port")]
#[case("/spec/target/ports", json!(8080), "spec.target.ports", "8080", "a list: ports by number or name")]
#[case("/spec/target/ports/0", json!(0), "spec.target.ports[0]", "0", "from 1 to 65535")]
#[case("/spec/target/ports/0", json!(65536), "spec.target.ports[0]", "65536", "from 1 to 65535")]
#[case("/spec/target/ports/0", json!(-1), "spec.target.ports[0]", "-1", "from 1 to 65535")]
#[case("/spec/target/ports/0", json!(80.5), "spec.target.ports[0]", "80.5", "from 1 to 65535")]
#[case("/spec/target/ports/0", json!("8080"), "spec.target.ports[0]", "\"8080\"", "without quotes: 8080")]
#[case("/spec/target/ports/0", json!(true), "spec.target.ports[0]", "true", "such as 8080 or http")]
#[case("/spec/target/ports/0", json!("Http"), "spec.target.ports[0]", "\"Http\"", "at most 15 of a-z 0-9 -")]
#[case("/spec/target/ports/0", json!("123456"), "spec.target.ports[0]", "\"123456\"", "at least one letter")]
#[case("/spec/target/ports/0", json!("a--b"), "spec.target.ports[0]", "\"a--b\"", "at most 15")]
#[case("/spec/target/ports/0", json!("abcdefghijklmnop"), "spec.target.ports[0]", "\"abcdefghijklmnop\"", "at most 15")]
#[case("/spec/target/ports/1", json!(8080), "spec.target.ports[1]", "8080", "stands in spec.target.ports[0] already")]
// callers
#[case("/spec/from", Value::Null, "spec.from", "nothing", "[{serviceAccount: checkout}]")]
#[case("/spec/from", json!({"serviceAccount": "checkout"}), "spec.from", "an object with serviceAccount", "a list: ")]
#[case("/spec/from/0", json!("checkout"), "spec.from[0]", "\"checkout\"", "exactly one of serviceAccount")]
#[case("/spec/from/0", json!({}), "spec.from[0]", "an empty object", "exactly one of serviceAccount")]
#[case("/spec/from/0", json!({"serviceaccount": "a", "namespace": "b"}), "spec.from[0].serviceaccount", "an unknown field", "did you mean serviceAccount?")]
#[case("/spec/from/0", json!({"namespace": "a", "identity": "spiffe://a/b"}), "spec.from[0]", "namespace and identity", "exactly one of")]
#[case("/spec/from/0", json!({"serviceAccount": "a", "anyAuthenticated": true}), "spec.from[0]", "serviceAccount and anyAuthenticated", "exactly one of")]
#[case("/spec/from/0", json!({"serviceAccount": "*", "namespace": "a"}), "spec.from[0].serviceAccount", "\"*\"", "write {namespace: shop} alone")]
#[case("/spec/from/0", json!({"namespace": "*"}), "spec.from[0].namespace", "\"*\"", "at most 63")]
#[case("/spec/from/0", json!({"anyAuthenticated": false}), "spec.from[0].anyAuthenticated", "false", "leave the entry out")]
#[case("/spec/from/0", json!({"serviceAccount": null}), "spec.from[0].serviceAccount", "nothing (null)", "such as checkout")]
#[case("/spec/from/0", json!({"unauthenticated": true}), "spec.from[0].unauthenticated", "true", "{cidrs: [10.20.0.0/16]}")]
#[case("/spec/from/0", json!({"unauthenticated": {}}), "spec.from[0].unauthenticated.cidrs", "nothing", "10.20.0.0/16")]
#[case("/spec/from/0", json!({"unauthenticated": {"cidrs": []}}), "spec.from[0].unauthenticated.cidrs", "an empty list", "at least one network")]
#[case("/spec/from/0", json!({"unauthenticated": {"cidr": ["10.0.0.0/8"], "cidrs": ["10.0.0.0/8"]}}), "spec.from[0].unauthenticated.cidr", "an unknown field", "did you mean cidrs?")]
// mode
#[case("/spec/mode", json!("audit"), "spec.mode", "\"audit\"", "did you mean Audit?")]
#[case("/spec/mode", json!("Shadow"), "spec.mode", "\"Shadow\"", "Enforce or Audit")]
#[case("/spec/mode", json!(true), "spec.mode", "true", "Enforce or Audit")]
fn is_refused_with_path_found_and_want(
    #[case] pointer: &str,
    #[case] value: Value,
    #[case] path: &str,
    #[case] found: &str,
    #[case] want: &str,
) {
    let problem = only_problem(&with(pointer, value));
    assert_eq!(problem.path, path, "{problem}");
    assert!(problem.found.starts_with(found), "found {:?}, not {found:?}", problem.found);
    assert!(problem.want.contains(want), "want {:?} does not say {want:?}", problem.want);
}

#[rstest]
#[case::id1_scheme("https://a/b", "spiffe:// in lower case")]
#[case::id1_upper_case_scheme("SPIFFE://a/b", "spiffe:// in lower case")]
#[case::id1_query("spiffe://a/b?c", "path segments have only")]
#[case::id1_fragment("spiffe://a/b#c", "path segments have only")]
#[case::id2_no_trust_domain("spiffe:///b", "trust domain of 1 to 255")]
#[case::id2_port("spiffe://a:1/b", "no port")]
#[case::id2_userinfo("spiffe://u@a/b", "trust domain has only")]
#[case::id3_upper_case("spiffe://A/b", "lower case")]
#[case::id3_ipv6("spiffe://[::1]/b", "trust domain has only")]
#[case::id4_trailing_slash("spiffe://a/b/", "slash at its end")]
#[case::id4_empty_segment("spiffe://a//b", "empty path segments")]
#[case::id4_dot("spiffe://a/./b", ". and ..")]
#[case::id4_dot_dot("spiffe://a/..", ". and ..")]
#[case::id4_percent("spiffe://a/%41", "path segments have only")]
#[case::id4_non_ascii("spiffe://a/\u{e4}", "path segments have only")]
#[case::f5_nul("spiffe://a/b\0c", "path segments have only")]
#[case::f5_space("spiffe://a/b ", "path segments have only")]
#[case::pattern("spiffe://a/ns/shop/sa/*", "patterns")]
#[case::l2_no_path("spiffe://a", "with a path")]
#[case::l2_empty_path("spiffe://a/", "with a path")]
#[case::empty("", "spiffe://")]
fn f23_an_identity_is_strict(#[case] identity: &str, #[case] want: &str) {
    let problem = only_problem(&from(json!({"identity": identity})));
    assert_eq!(problem.path, "spec.from[0].identity");
    assert!(problem.want.contains(want), "{problem}");
    assert!(problem.want.contains("spiffe://partner.example/ns/shop/sa/checkout"), "{problem}");
}

#[test]
fn id5_id6_lengths_of_an_identity() {
    let long = |total: usize| format!("spiffe://a/{}", "b".repeat(total - 11));
    assert!(only_problem(&from(json!({"identity": long(2049)}))).want.contains("2048"));
    let domain = |length: usize| from(json!({"identity": format!("spiffe://{}/b", "a".repeat(length))}));
    rule(&domain(255));
    assert!(only_problem(&domain(256)).want.contains("255"));
}

#[rstest]
#[case::host_bits("10.20.1.0/16", "10.20.0.0/16 if the network is meant, 10.20.1.0/32 if the one address")]
#[case::host_bits_v6("2001:db8::1/32", "2001:db8::/32 if the network is meant")]
#[case::no_length("10.20.0.1", "10.20.0.1/32")]
#[case::no_length_v6("2001:db8::1", "2001:db8::1/128")]
#[case::too_long("10.0.0.0/33", "from 0 to 32")]
#[case::too_long_v6("2001:db8::/129", "from 0 to 128")]
#[case::zero_in_front("10.0.0.0/08", "from 0 to 32")]
#[case::sign("10.0.0.0/+8", "from 0 to 32")]
#[case::mask("10.0.0.0/255.0.0.0", "from 0 to 32")]
#[case::octal("010.0.0.0/8", "CIDR form")]
#[case::name("localhost/8", "CIDR form")]
#[case::space(" 10.0.0.0/8", "CIDR form")]
#[case::zone("fe80::1%eth0/128", "CIDR form")]
#[case::mapped("::ffff:10.0.0.0/104", "10.0.0.0/8")]
#[case::empty("", "CIDR form")]
fn f37_a_rule_with_one_bad_network_is_refused_whole(#[case] cidr: &str, #[case] want: &str) {
    let document = from(json!({"unauthenticated": {"cidrs": ["10.0.0.0/8", cidr, "192.0.2.0/24"]}}));
    let problem = only_problem(&document);
    assert_eq!(problem.path, "spec.from[0].unauthenticated.cidrs[1]");
    assert!(problem.want.contains(want), "{problem}");
    assert!(matches!(read(&document), Reading::GuardOnly { .. }), "it still guards");
}

#[test]
fn every_problem_is_reported_at_once() {
    let document = json!({
        "apiVersion": "v1",
        "kind": "AllowRule",
        "metadata": {"name": "A", "namespace": "shop"},
        "spec": {
            "target": {"service": "orders", "ports": [0, "8080"]},
            "from": [{"serviceAccount": "A"}, {"identity": "spiffe://A/b"}, {}],
            "mode": "Enforced",
            "http": [{"methods": ["get"], "path": {"prefix": "orders"}}],
        },
        "tatus": {},
    });
    let paths: Vec<String> = read(&document).problems().iter().map(|problem| problem.path.clone()).collect();
    assert_eq!(
        paths,
        [
            "tatus",
            "apiVersion",
            "metadata.name",
            "spec.target.ports[0]",
            "spec.target.ports[1]",
            "spec.from[0].serviceAccount",
            "spec.from[1].identity",
            "spec.from[2]",
            "spec.http",
            "spec.http[0].methods[0]",
            "spec.http[0].path.prefix",
            "spec.mode",
        ]
    );
}

#[rstest]
#[case::unknown_field_in_spec(with("/spec/newer", json!(1)), true)]
#[case::unknown_field_in_from(with("/spec/from/0/newer", json!(1)), true)]
#[case::unknown_field_in_target(with("/spec/target/newer", json!(1)), true)]
#[case::unknown_field_in_metadata(with("/metadata/newer", json!(1)), true)]
#[case::unknown_version(with("/apiVersion", json!("signet.dev/v9")), true)]
#[case::unknown_mode(with("/spec/mode", json!("Newer")), true)]
#[case::no_from(with("/spec/from", Value::Null), true)]
#[case::bad_ports(with("/spec/target/ports/0", json!(0)), true)]
#[case::unknown_target(with("/spec/target", json!({"deployment": "orders"})), false)]
#[case::unknown_field_in_selector(with("/spec/target", json!({"podSelector": {"newer": 1}})), false)]
#[case::two_targets(with("/spec/target/all", json!(true)), false)]
#[case::bad_service(with("/spec/target/service", json!("*")), false)]
#[case::no_name(with("/metadata/name", Value::Null), false)]
#[case::no_namespace(with("/metadata/namespace", Value::Null), false)]
#[case::no_object(json!([1]), false)]
fn f7_a_refused_rule_guards_when_its_target_is_known(#[case] document: Value, #[case] guards: bool) {
    let reading = read(&document);
    assert!(!reading.problems().is_empty());
    assert_eq!(matches!(reading, Reading::GuardOnly { mode: Mode::Enforce, .. }), guards, "{reading:#?}");
    assert_eq!(matches!(reading, Reading::Refused { .. }), !guards, "{reading:#?}");
}

#[test]
fn a_refused_rule_with_unreadable_ports_guards_every_port() {
    let Reading::GuardOnly { target, .. } = read(&with("/spec/target/ports/1", json!("http "))) else { panic!() };
    assert_eq!(target.service.as_deref(), Some("orders"));
    assert_eq!(target.ports, None, "it is not known which ports were meant, so none is left open");
}

#[test]
fn a_refused_audit_rule_stays_an_audit_rule() {
    let mut document = with("/spec/mode", json!("Audit"));
    document["spec"]["newer"] = json!(1);
    assert!(matches!(read(&document), Reading::GuardOnly { mode: Mode::Audit, .. }));
}

#[test]
fn http_is_read_in_full_and_refused_as_not_enforced() {
    let document = with(
        "/spec/http",
        json!([{"methods": ["GET", "M-SEARCH"], "path": {"prefix": "/v1/orders"}}, {"path": {"exact": "/"}}]),
    );
    let problem = only_problem(&document);
    assert_eq!(problem.path, "spec.http");
    assert!(problem.want.contains("not enforced by this version"), "{problem}");
    assert!(matches!(read(&document), Reading::GuardOnly { .. }), "its ports stay guarded");
}

#[rstest]
#[case(json!([]), "spec.http", "at least one kind of request")]
#[case(json!({}), "spec.http", "a list: ")]
#[case(json!([{}]), "spec.http[0]", "leave http out")]
#[case(json!([{"method": ["GET"]}]), "spec.http[0].method", "did you mean methods?")]
#[case(json!([{"methods": []}]), "spec.http[0].methods", "at least one method")]
#[case(json!([{"methods": ["get"]}]), "spec.http[0].methods[0]", "such as GET")]
#[case(json!([{"methods": ["*"]}]), "spec.http[0].methods[0]", "such as GET")]
#[case(json!([{"path": {}}]), "spec.http[0].path", "exactly one of prefix and exact")]
#[case(json!([{"path": {"prefix": "/a", "exact": "/a"}}]), "spec.http[0].path", "exactly one of prefix and exact")]
#[case(json!([{"path": {"prefix": "a"}}]), "spec.http[0].path.prefix", "begins with a slash")]
#[case::f6(json!([{"path": {"exact": "/a//b"}}]), "spec.http[0].path.exact", "empty segments")]
#[case::f6(json!([{"path": {"exact": "/a/../b"}}]), "spec.http[0].path.exact", ". and ..")]
#[case::f6(json!([{"path": {"exact": "/a%2Fb"}}]), "spec.http[0].path.exact", "percent-encoding")]
#[case::f6(json!([{"path": {"exact": "/a\\b"}}]), "spec.http[0].path.exact", "backslashes")]
#[case::f6(json!([{"path": {"exact": "/a?b"}}]), "spec.http[0].path.exact", "query")]
#[case::pattern(json!([{"path": {"prefix": "/a/*"}}]), "spec.http[0].path.prefix", "patterns")]
fn mistakes_in_http_are_named_beside_that(#[case] http: Value, #[case] path: &str, #[case] want: &str) {
    let reading = read(&with("/spec/http", http));
    let problems = reading.problems();
    assert!(problems.iter().any(|problem| problem.path == path && problem.want.contains(want)), "{problems:#?}");
}

#[rstest]
#[case("/spec/from", MAX_FROM, |n| json!({"serviceAccount": format!("a{n}")}))]
#[case("/spec/target/ports", MAX_PORTS, |n| json!(n + 1))]
#[case("/spec/from/5/unauthenticated/cidrs", MAX_CIDRS, |n| json!(format!("10.{}.{}.0/24", n / 256, n % 256)))]
fn f11_lists_are_bounded(#[case] pointer: &str, #[case] bound: usize, #[case] entry: fn(usize) -> Value) {
    let list = |length: usize| Value::Array((0..length).map(entry).collect());
    rule(&with(pointer, list(bound)));
    let problem = only_problem(&with(pointer, list(bound + 1)));
    assert!(problem.want.contains(&format!("at most {bound} entries")), "{problem}");
}

#[test]
fn f11_a_flood_of_unknown_fields_is_counted_not_listed() {
    let mut document = good();
    for n in 0..MAX_PROBLEMS + 500 {
        document["spec"][format!("field-{n}")] = json!(0);
    }
    let reading = read(&document);
    assert_eq!(reading.problems().len(), MAX_PROBLEMS + 1);
    assert_eq!(reading.problems()[MAX_PROBLEMS].found, "500 more problems");
}

#[test]
fn f18_what_is_found_is_escaped_and_bounded() {
    let nasty = format!("\r\n\u{1b}[31m\u{202e}{}", "x".repeat(100_000));
    let mut document = with("/spec/mode", json!(nasty));
    document["spec"][&nasty] = json!(1);
    document["spec"]["target"]["service"] = json!({&nasty: 1});
    for problem in read(&document).problems() {
        let line = problem.to_string();
        assert!(line.len() < 500, "{} bytes", line.len());
        assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
    }
}
