//! What is believed of the API server's answers. The same against a real API server is in `tests/cluster`.
use super::*;
use serde_json::{Value, json};

fn status(value: Value) -> TokenReviewStatus {
    serde_json::from_value(value).unwrap()
}

fn good() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["signet-ca"],
        "user": {
            "username": "system:serviceaccount:shop:orders",
            "uid": "account-uid",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["orders-1"],
                "authentication.kubernetes.io/pod-uid": ["pod-uid"],
                "authentication.kubernetes.io/node-name": ["node-1"],
            },
        },
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut changed = good();
    *changed.pointer_mut(pointer).unwrap() = value;
    changed
}

#[test]
fn a_review_is_believed_only_when_it_names_our_audience_and_one_pod_on_one_node() {
    let reviewed = read_review(status(good())).unwrap();
    assert_eq!((reviewed.namespace.as_str(), reviewed.service_account.as_str()), ("shop", "orders"));
    assert_eq!(
        (reviewed.pod.as_str(), reviewed.uid.as_str(), reviewed.node.as_str()),
        ("orders-1", "pod-uid", "node-1")
    );
    let extra = "/user/extra/authentication.kubernetes.io~1";
    let table = [
        ("not authenticated", with("/authenticated", json!(false)), true),
        ("authenticated is missing", with("/authenticated", Value::Null), true),
        ("another audience", with("/audiences", json!(["https://kubernetes.default.svc"])), true),
        ("no audience, as from a reviewer that knows none", with("/audiences", Value::Null), true),
        ("a user that is no service account", with("/user/username", json!("admin")), false),
        ("one part too many", with("/user/username", json!("system:serviceaccount:shop:orders:x")), false),
        ("no pod", with(&format!("{extra}pod-name"), json!([])), false),
        ("two pods", with(&format!("{extra}pod-name"), json!(["a", "b"])), false),
        ("no UID", with(&format!("{extra}pod-uid"), json!([""])), false),
        ("no node", with(&format!("{extra}node-name"), Value::Null), false),
    ];
    for (what, review, is_token) in table {
        let error = read_review(serde_json::from_value(prune(review)).unwrap()).unwrap_err();
        assert_eq!(matches!(error, NotAttested::Token), is_token, "{what}: {error:?}");
    }
    let mut failing = good();
    failing["error"] = json!("the webhook is away");
    assert!(
        matches!(read_review(status(failing)), Err(NotAttested::Token)),
        "an error beside an answer is no answer (F2)"
    );
}

/// Leaves nulls out, as the API server does.
fn prune(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, prune(v))).collect(),
        other => other,
    }
}

fn reviewed() -> Reviewed {
    read_review(status(good())).unwrap()
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "orders-1", "namespace": "shop", "uid": "pod-uid"},
        "spec": {"serviceAccountName": "orders", "nodeName": "node-1", "containers": []},
        "status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "::ffff:10.0.0.8"}, {"ip": "fd00::7"}]},
    })
}

fn judged(change: impl FnOnce(&mut Value)) -> Result<(Seen, bool), PodRefusal> {
    let mut value = pod();
    change(&mut value);
    judge(reviewed(), Some(&serde_json::from_value(value).unwrap()), 100)
}

#[test]
fn the_live_pod_must_be_the_tokens() {
    let (seen, terminating) = judged(|_| {}).unwrap();
    assert_eq!((seen.uid.as_str(), terminating, seen.at), ("pod-uid", false, 100));
    assert_eq!(judge(reviewed(), None, 100), Err(PodRefusal::Gone));
    assert_eq!(
        judged(|p| p["metadata"]["uid"] = json!("pod-uid-2")),
        Err(PodRefusal::Gone),
        "one made again under its name"
    );
    assert_eq!(
        judged(|p| p["spec"]["serviceAccountName"] = json!("checkout")),
        Err(PodRefusal::Other("service account"))
    );
    assert_eq!(judged(|p| p["spec"]["nodeName"] = json!("node-2")), Err(PodRefusal::Other("node")));
    assert_eq!(judged(|p| p["spec"]["nodeName"] = json!("node-1.")), Err(PodRefusal::Other("node")));
    for phase in ["Succeeded", "Failed"] {
        assert_eq!(judged(|p| p["status"]["phase"] = json!(phase)), Err(PodRefusal::Ended));
    }
    let deleted = judged(|p| p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert!(deleted.unwrap().1, "terminating");
}

#[test]
fn addresses_of_both_families_are_the_pods_and_v4_mapped_ones_are_ipv4() {
    let seen = judged(|_| {}).unwrap().0;
    let want: Vec<IpAddr> = ["10.0.0.7", "10.0.0.8", "fd00::7"].iter().map(|ip| ip.parse().unwrap()).collect();
    assert_eq!(seen.addresses, want);
    let unpublished = judged(|p| p["status"] = json!({"phase": "Pending"})).unwrap().0;
    assert_eq!(unpublished.addresses, Vec::<IpAddr>::new());
}

#[test]
fn f3_a_service_account_with_dots_is_that_account_and_no_other() {
    let account =
        |name: &str| read_review(status(with("/user/username", json!(format!("system:serviceaccount:shop:{name}")))));
    let dotted = account("orders.v1").unwrap();
    assert_eq!(dotted.service_account, "orders.v1");
    let live: Pod = serde_json::from_value(pod()).unwrap();
    assert_eq!(judge(dotted, Some(&live), 100), Err(PodRefusal::Other("service account")));
}

#[test]
fn f25_both_sides_of_every_limit_of_a_token() {
    let claim = |token: String| Claim::read(KubernetesProof { token });
    assert!(claim("x".repeat(15)).is_err());
    assert!(claim("x".repeat(16)).is_ok());
    assert!(claim("x".repeat(MAX_TOKEN)).is_ok());
    assert!(claim("x".repeat(MAX_TOKEN + 1)).is_err());
    for bad in ["a token with spaces ", "a-token-with-a\r\nline", "a-token-of-b\u{fc}cher"] {
        assert!(claim(bad.into()).is_err(), "{bad:?}");
    }
}
