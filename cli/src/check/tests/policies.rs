//! NetworkPolicies as users write them: those that stand in the way are named, and those that do not are left alone.
use super::world::{object, well};
use super::{Sign, wrong};
use serde_json::{Value, json};

fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// Ids of what these policies break.
fn broken(policies: &[Value]) -> Vec<&'static str> {
    let mut facts = well();
    facts.network = Ok(policies.iter().cloned().map(object).collect());
    wrong(&facts).iter().map(|finding| finding.id).collect()
}

#[test]
fn one_that_admits_the_application_s_port_alone_blocks_the_tunnel_and_is_named() {
    let only = policy(
        "shop",
        "only-8080",
        &json!({"podSelector": {"matchLabels": {"app": "orders"}}, "ingress": [{"ports": [{"port": 8080}]}]}),
    );
    let mut facts = well();
    facts.network = Ok(vec![object(only.clone())]);
    let wrong = wrong(&facts);
    assert_eq!(
        wrong.iter().map(|finding| (finding.id, finding.sign)).collect::<Vec<_>>(),
        [("network.tunnel", Sign::Fail)]
    );
    assert!(wrong[0].found.starts_with("NetworkPolicy shop/only-8080 blocks port 15008: "), "{}", wrong[0].found);
    assert!(wrong[0].found.contains("shop/checkout cannot reach the sidecar of shop/orders"), "{}", wrong[0].found);
    assert!(wrong[0].hint.contains("add port 15008 to only-8080"), "{}", wrong[0].hint);
    assert_eq!(wrong[0].objects, ["shop/only-8080"]);
    // What the hint says, mends it.
    let document = wrong[0].hint.split("<<< '").nth(1).unwrap().split('\'').next().unwrap();
    let mut mended: Value = serde_json::from_str(document).unwrap();
    mended["metadata"]["namespace"] = "shop".into();
    assert_eq!(broken(&[only, mended]), Vec::<&str>::new());
}

#[test]
fn others_that_let_the_tunnel_through_are_left_alone() {
    let spec = |ingress: Value| policy("shop", "p", &json!({"podSelector": {}, "ingress": ingress}));
    for fine in [
        json!([{"ports": [{"port": 8080}, {"port": 15008}]}]),
        json!([{"ports": [{"port": 8000, "endPort": 16000}]}]),
        json!([{"from": [{"podSelector": {}}]}]),
        json!([{"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}], "ports": [{"port": 15008}]}, {"ports": [{"port": 8080}]}]),
        // Nobody may call at all, on purpose.
        json!([]),
        json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "other"}}}], "ports": [{"port": 8080}]}]),
    ] {
        assert_eq!(broken(&[spec(fine.clone())]), Vec::<&str>::new(), "{fine}");
    }
    // And that is said.
    let mut facts = well();
    facts.network = Ok(vec![object(spec(json!([])))]);
    let said = super::super::network::tunnel(&facts);
    assert!(said.found.ends_with("may not call each other at all, on any port: shop/p"), "{}", said.found);
    // Each caller is looked at by itself: the one that may reach 8080 may not reach 15008.
    let split = json!([
        {"from": [{"podSelector": {"matchLabels": {"app": "cart"}}}], "ports": [{"port": 15008}]},
        {"from": [{"podSelector": {"matchLabels": {"app": "checkout"}}}], "ports": [{"port": 8080}]},
    ]);
    assert_eq!(broken(&[spec(split)]), ["network.tunnel"]);
    assert_eq!(
        broken(&[policy("elsewhere", "p", &json!({"podSelector": {}, "ingress": [{"ports": [{"port": 8080}]}]}))]),
        Vec::<&str>::new()
    );
}

#[test]
fn default_deny_of_what_goes_out_cuts_off_ca_and_operator() {
    let egress =
        |egress: Value| policy("shop", "out", &json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}));
    assert_eq!(broken(&[egress(json!([]))]), ["network.ca", "network.operator"]);
    assert_eq!(
        broken(&[egress(
            json!([{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}, {"ports": [{"port": 15010}]}])
        )]),
        ["network.ca"]
    );
    let to_mesh = json!({"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "mesh"}}}]});
    assert_eq!(broken(&[egress(json!([to_mesh]))]), Vec::<&str>::new());
    assert_eq!(broken(&[egress(json!([to_mesh, {"ports": [{"port": 8080}]}]))]), ["network.tunnel"]);
    assert_eq!(broken(&[egress(json!([{"to": [{"ipBlock": {"cidr": "10.1.0.0/24"}}]}]))]), Vec::<&str>::new());
    assert_eq!(
        broken(&[egress(json!([{"to": [{"ipBlock": {"cidr": "10.1.0.0/24", "except": ["10.1.0.9/32"]}}]}]))]),
        ["network.ca", "network.operator"]
    );
}

#[test]
fn what_stands_before_the_control_plane_is_found_there() {
    let into = |component: &str, ingress: Value| {
        policy(
            "mesh",
            "own",
            &json!({"podSelector": {"matchLabels": {"app.kubernetes.io/component": component}}, "ingress": ingress}),
        )
    };
    assert_eq!(broken(&[into("ca", json!([{"ports": [{"port": 15022}]}]))]), ["network.ca"]);
    assert_eq!(broken(&[into("operator", json!([{"ports": [{"port": 15010}]}]))]), ["network.webhook"]);
    assert_eq!(
        broken(&[into(
            "operator",
            json!([{"ports": [{"port": 15010}]}, {"from": [{"podSelector": {}}], "ports": [{"port": 10250}]}])
        )]),
        ["network.webhook"]
    );
    assert_eq!(
        broken(&[into(
            "operator",
            json!([{"ports": [{"port": 15010}]}, {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 10250}]}])
        )]),
        Vec::<&str>::new()
    );
    // As the chart writes its own.
    assert_eq!(
        broken(&[into("operator", json!([{"ports": [{"port": 15010}]}, {"ports": [{"port": 10250}]}]))]),
        Vec::<&str>::new()
    );
}

#[test]
fn what_the_readme_adds_to_default_deny_is_enough() {
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let denied = [policy("shop", "deny", &deny), policy("mesh", "deny", &deny)];
    assert_eq!(broken(&denied), ["network.ca", "network.operator", "network.webhook"]);
    let readme = include_str!("../../../../README.md");
    let block = readme.split("```yaml\n").find(|block| block.contains("kind: NetworkPolicy")).unwrap();
    let block = block.split("```").next().unwrap().replace("signet-system", "mesh");
    let added: Vec<Value> = serde_saphyr::from_multiple(&block).unwrap();
    assert_eq!(added.len(), 2);
    let all = |port: Value| {
        // The application's own port, so that somebody may call at all.
        let open = json!({"podSelector": {}, "ingress": [{"ports": [port]}], "egress": [{"ports": [port]}]});
        [&denied[..], &[policy("shop", "open", &open)], &added].concat()
    };
    assert_eq!(broken(&all(json!({"port": 8080}))), Vec::<&str>::new());
    // Each of the two is needed.
    for without in 0..2 {
        let mut some = all(json!({"port": 8080}));
        some.remove(3 + without);
        assert_ne!(broken(&some), Vec::<&str>::new());
    }
}
