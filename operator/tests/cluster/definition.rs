//! The definition of AllowRule on a real API server: what `policy` refuses, the cluster refuses too.
use crate::world::{create, create_document, shared};
use serde_json::{Value, json};
use signet_policy::validate::{MAX_CIDRS, MAX_FROM, MAX_PORTS, MAX_SELECTOR, read};

fn good() -> Value {
    json!({
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
    })
}

/// The good spec with one thing in another's place; null takes it away.
#[allow(clippy::needless_pass_by_value, reason = "called with json!")]
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = good();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match spec.pointer_mut(parent).unwrap() {
        Value::Object(map) if value.is_null() => drop(map.remove(last)),
        Value::Object(map) => drop(map.insert(last.to_owned(), value)),
        Value::Array(entries) => entries[last.parse::<usize>().unwrap()] = value,
        other => panic!("{pointer} leads into {other}"),
    }
    spec
}

fn from(caller: &Value) -> Value {
    with("/from", json!([caller]))
}

fn selector(selector: &Value) -> Value {
    with("/target", json!({"podSelector": selector}))
}

fn document(spec: &Value) -> Value {
    json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule", "metadata": {"name": "r", "namespace": "default"}, "spec": spec,
    })
}

fn accepted() -> Vec<Value> {
    let many = |n: usize, each: fn(usize) -> Value| (0..n).map(each).collect::<Value>();
    let mut all = vec![
        good(),
        with("/mode", Value::Null),
        with("/mode", json!("Audit")),
        with("/from", json!([])),
        with("/target/ports", Value::Null),
        with("/target", json!({"all": true})),
        with("/target/ports", json!([1, 65535, "a", "x-1", "abcdefghijklmno", "8080-a"])),
        with("/target/ports", many(MAX_PORTS, |n| json!(n + 1))),
        with("/from", many(MAX_FROM, |n| json!({"serviceAccount": format!("a{n}")}))),
        with("/from/5/unauthenticated/cidrs", many(MAX_CIDRS, |n| json!(format!("10.{}.{}.0/24", n / 256, n % 256)))),
        selector(&json!({})),
        selector(&json!({"matchLabels": {"app": "orders", "example.com/tier": ""}})),
        selector(&json!({"matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["web", "api"]}, {"key": "a.b/c_D", "operator": "NotIn", "values": [""]},
            {"key": "app", "operator": "Exists"}, {"key": "old", "operator": "DoesNotExist", "values": []},
        ]})),
    ];
    let identities = [
        "spiffe://a_b.c-d/E_f.g-h".to_owned(),
        format!("spiffe://a/{}", "b".repeat(2048 - 11)),
        format!("spiffe://{}/b", "a".repeat(255)),
        "spiffe://a/.../..b/.c".into(),
    ];
    all.extend(identities.iter().map(|identity| from(&json!({"identity": identity}))));
    all.extend(["::/0", "64:ff9b::192.0.2.0/120", "2001:DB8::/32"].map(cidr));
    all
}

fn cidr(cidr: &str) -> Value {
    from(&json!({"unauthenticated": {"cidrs": ["10.0.0.0/8", cidr, "192.0.2.0/24"]}}))
}

fn refused() -> Vec<Value> {
    let many = |n: usize, each: fn(usize) -> Value| (0..n).map(each).collect::<Value>();
    let labels: serde_json::Map<String, Value> = (0..=MAX_SELECTOR).map(|n| (format!("l{n}"), json!("x"))).collect();
    let mut all = vec![
        with("/newer", json!(1)),
        with("/target/newer", json!(1)),
        with("/from/0/newer", json!(1)),
        with("/from/5/unauthenticated/newer", json!(1)),
        with("/http", json!([{"methods": ["GET"], "path": {"prefix": "/v1/orders"}}])),
        with("/http", json!([])),
        with("/from", Value::Null),
        with("/from", json!({"serviceAccount": "checkout"})),
        with("/from", many(MAX_FROM + 1, |n| json!({"serviceAccount": format!("a{n}")}))),
        with(
            "/from/5/unauthenticated/cidrs",
            many(MAX_CIDRS + 1, |n| json!(format!("10.{}.{}.0/24", n / 256, n % 256))),
        ),
        selector(&json!({"newer": 1})),
        selector(&json!({"matchLables": {}})),
        selector(&json!({"matchLabels": {"version": 1}})),
        selector(&json!({"matchLabels": {"a b": "x"}})),
        selector(&json!({"matchLabels": {"": "x"}})),
        selector(&json!({"matchLabels": {"A.b/c/d": "x"}})),
        selector(&json!({"matchLabels": {"a": "-x"}})),
        selector(&json!({"matchLabels": {"a": "x".repeat(64)}})),
        selector(&json!({"matchLabels": labels})),
        selector(&json!({"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]})),
        selector(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]})),
        selector(&json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]})),
        selector(&json!({"matchExpressions": [{"key": "a", "operator": "Exists", "newer": 1}]})),
        selector(&json!({"matchExpressions": [{"operator": "Exists"}]})),
        selector(&json!({"matchExpressions": [{"key": "a/b/c", "operator": "Exists"}]})),
    ];
    let targets = [
        Value::Null,
        json!({}),
        json!({"ports": [1]}),
        json!({"service": "a", "all": true}),
        json!({"all": false}),
        json!({"all": "true"}),
        json!({"service": "Orders"}),
        json!({"service": "*"}),
        json!({"service": "a..b"}),
        json!({"service": "a".repeat(64)}),
        json!({"deployment": "orders"}),
        json!([{"service": "a"}]),
    ];
    all.extend(targets.map(|target| with("/target", target)));
    let ports = [json!([]), json!(8080), many(MAX_PORTS + 1, |n| json!(n + 1)), json!([8080, 8080]), json!(["a", "a"])];
    all.extend(ports.map(|ports| with("/target/ports", ports)));
    let port = ["8080", "Http", "123456", "a--b", "-a", "a-", "abcdefghijklmnop", "", "1-2"];
    let port = port.map(|name| json!(name)).into_iter().chain([0, 65536, -1].map(|n| json!(n)));
    all.extend(port.chain([json!(80.5), json!(true), json!(null)]).map(|port| with("/target/ports", json!([port]))));
    let callers = [
        json!("checkout"),
        json!({}),
        json!({"serviceaccount": "a", "namespace": "b"}),
        json!({"namespace": "a", "identity": "spiffe://a/b"}),
        json!({"serviceAccount": "a", "anyAuthenticated": true}),
        json!({"serviceAccount": "a", "namespace": "b", "identity": "spiffe://a/b"}),
        json!({"serviceAccount": "*", "namespace": "a"}),
        json!({"namespace": "*"}),
        json!({"namespace": "shop.eu"}),
        json!({"namespace": ""}),
        json!({"anyAuthenticated": false}),
        json!({"serviceAccount": null}),
        json!({"unauthenticated": true}),
        json!({"unauthenticated": {}}),
        json!({"unauthenticated": {"cidrs": []}}),
        json!({"unauthenticated": {"cidr": ["10.0.0.0/8"], "cidrs": ["10.0.0.0/8"]}}),
    ];
    all.extend(callers.iter().map(from));
    all.extend(["audit", "Shadow", ""].map(|mode| with("/mode", json!(mode))));
    all.push(with("/mode", json!(true)));
    let identities = [
        "https://a/b",
        "SPIFFE://a/b",
        "spiffe://a/b?c",
        "spiffe://a/b#c",
        "spiffe:///b",
        "spiffe://a:1/b",
        "spiffe://u@a/b",
        "spiffe://A/b",
        "spiffe://[::1]/b",
        "spiffe://a/b/",
        "spiffe://a//b",
        "spiffe://a/./b",
        "spiffe://a/..",
        "spiffe://a/%41",
        "spiffe://a/\u{e4}",
        "spiffe://a/b\0c",
        "spiffe://a/b ",
        "spiffe://a/ns/shop/sa/*",
        "spiffe://a",
        "spiffe://a/",
        "",
        "spiffe://a/b\n",
    ];
    all.extend(identities.iter().map(|identity| from(&json!({"identity": identity}))));
    all.push(from(&json!({"identity": format!("spiffe://a/{}", "b".repeat(2049 - 11))})));
    all.push(from(&json!({"identity": format!("spiffe://{}/b", "a".repeat(256))})));
    let cidrs = [
        "10.20.1.0/16",
        "2001:db8::1/32",
        "10.20.0.1",
        "2001:db8::1",
        "10.0.0.0/33",
        "2001:db8::/129",
        "10.0.0.0/08",
        "10.0.0.0/+8",
        "10.0.0.0/255.0.0.0",
        "010.0.0.0/8",
        "localhost/8",
        " 10.0.0.0/8",
        "fe80::1%eth0/128",
        "::ffff:10.0.0.0/104",
        "",
    ];
    all.extend(cidrs.map(cidr));
    all
}

#[tokio::test]
async fn what_rules_check_accepts_the_cluster_accepts() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    for spec in accepted() {
        assert!(read(&document(&spec)).problems().is_empty(), "{spec}: {:?}", read(&document(&spec)).problems());
        if let Err(error) = create(&client, "default", "r", &spec, true).await {
            panic!("the cluster refuses {spec}: {error}");
        }
    }
}

#[tokio::test]
async fn f37_what_rules_check_refuses_the_cluster_refuses() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let mut lets_through = Vec::new();
    for spec in refused() {
        assert!(!read(&document(&spec)).problems().is_empty(), "{spec} is good");
        if create(&client, "default", "r", &spec, true).await.is_ok() {
            lets_through.push(spec.to_string());
        }
    }
    assert!(lets_through.is_empty(), "the cluster accepts\n{}", lets_through.join("\n"));
}

#[tokio::test]
async fn f35_a_refusal_says_what_would_be_right() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    for (spec, words) in [
        (
            with("/from/0/onTuesdays", json!(true)),
            "spec.from[]: no such field: onTuesdays; known here: namespace, serviceAccount",
        ),
        (with("/target/all", json!(true)), "exactly one of service, podSelector and all"),
        (with("/http", json!([{"methods": ["GET"]}])), "http is not enforced by this version"),
        (with("/mode", json!("audit")), "\"Enforce\", \"Audit\""),
        (cidr("10.20.1.0/16"), "networks in CIDR form without host bits"),
    ] {
        let error = create(&client, "default", "r", &spec, true).await.unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_field_beside_the_spec_and_a_name_that_rules_check_refuses_are_refused() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let mut beside = document(&good());
    beside["http"] = json!([{"methods": ["GET"]}]);
    let mut long = document(&good());
    long["metadata"]["name"] = json!("a".repeat(64));
    for (document, words) in [(beside, "no such field: http"), (long, "at most 63")] {
        assert!(!read(&document).problems().is_empty());
        let error = create_document(&client, "default", &document, true).await.unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

/// The same verdict on rules that nobody wrote by hand: parts of good and bad rules, mixed.
#[tokio::test]
async fn rules_check_and_the_cluster_agree_on_any_mixture() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let pool: Vec<Value> = accepted().into_iter().chain(refused()).collect();
    let parts = |field: &str| -> Vec<Value> { pool.iter().filter_map(|spec| spec.get(field).cloned()).collect() };
    let (targets, callers, modes) = (parts("target"), parts("from"), parts("mode"));
    let small = |value: &Value| value.to_string().len() < 4000;
    let (mut good, mut bad) = (0, 0);
    for n in 0..150_usize {
        // Numbers without a common factor, so that every mixture is another.
        let target = &targets[n * 7 % targets.len()];
        let from = callers.iter().filter(|from| small(from)).nth(n * 5 % (callers.len() / 2)).unwrap_or(&callers[0]);
        let spec = json!({"target": target, "from": from, "mode": modes[n * 3 % modes.len()]});
        let ours = read(&document(&spec));
        let theirs = create(&client, "default", "r", &spec, true).await;
        assert_eq!(
            ours.problems().is_empty(),
            theirs.is_ok(),
            "{spec}\nours: {:?}\ntheirs: {theirs:?}",
            ours.problems()
        );
        *(if theirs.is_ok() { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 5 && bad > 5, "{good} good and {bad} bad ones say little");
}

#[tokio::test]
async fn explain_knows_every_field() {
    let Some(server) = shared().await else { return };
    let Some(programs) = signet_apiserver::programs() else { return };
    let kubectl = programs.join("kubectl");
    let mut command = std::process::Command::new(kubectl);
    command.arg("--kubeconfig").arg(server.kubeconfig()).args(["explain", "arule.spec.target.ports"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("The workload's own ports, by number or by name; absent: every port."), "{text}");
}
