//! Pods: who is in the mesh, under which identity, and when a pod is finished.
use super::*;

#[test]
fn identity_is_namespace_and_service_account_and_the_uid_is_the_pods() {
    let snapshot = Cluster::default()
        .pod("shop", "a", "10.244.0.2", true, json!({}))
        .pod("shop", "b", "10.244.0.3", true, json!({"spec": {"serviceAccountName": ""}}))
        .snapshot();
    let endpoint = destination(&snapshot, A, "10.244.0.3").any_port.unwrap();
    assert_eq!(endpoint.spiffe_id, "spiffe://mesh.example/ns/shop/sa/default");
    assert_eq!(endpoint.workload_uid, "uid-b");
}

#[test]
fn who_is_meshed_is_read_in_the_spec_and_never_in_a_label() {
    let cases = [
        (
            json!({"spec": {"initContainers": [{"name": "signet-sidecar", "image": "docker.io/signet/signet-sidecar@sha256:00", "restartPolicy": "Always"}]}}),
            true,
        ),
        (
            json!({"spec": {"initContainers": [{"name": "signet-sidecar", "image": "evil/signet-sidecar:0.1.0", "restartPolicy": "Always"}]}}),
            false,
        ),
        (
            json!({"spec": {"initContainers": [{"name": "signet-sidecar", "image": "signet/signet-sidecar:0.1.0"}]}}),
            false,
        ),
        (
            json!({"spec": {"initContainers": [{"name": "sidecar", "image": "signet/signet-sidecar:0.1.0", "restartPolicy": "Always"}]}}),
            false,
        ),
        (
            json!({"metadata": {"labels": {"signet.dev/inject": "enabled"}, "annotations": {"signet.dev/injected": "0.1.0"}}}),
            false,
        ),
    ];
    for (more, meshed) in cases {
        let snapshot = Cluster::default()
            .pod("shop", "a", "10.244.0.2", true, json!({}))
            .pod("shop", "b", "10.244.0.3", false, more.clone())
            .snapshot();
        let kind = if meshed { Kind::Meshed } else { Kind::Unmeshed };
        assert_eq!(destination(&snapshot, A, "10.244.0.3").kind(), kind, "{more}");
    }
}

#[test]
fn a_pod_that_has_finished_leaves_its_address_to_others() {
    let mut cluster = Cluster::default();
    cluster.pod("shop", "a", "10.244.0.2", true, json!({}));
    cluster.pod("shop", "b", "10.244.0.3", true, json!({}));
    cluster.pod("shop", "b", "10.244.0.3", true, json!({"status": {"phase": "Succeeded"}}));
    assert_eq!(destination(&cluster.snapshot(), A, "10.244.0.3").kind(), Kind::Unknown);
}

#[test]
fn of_two_pods_with_one_address_the_newer_has_it() {
    let made = |at: &str| json!({"metadata": {"creationTimestamp": at}, "spec": {"serviceAccountName": "same"}});
    let snapshot = Cluster::default()
        .pod("shop", "a", "10.244.0.2", true, json!({}))
        .pod("shop", "new", "10.244.0.3", true, made("2026-11-21T10:00:01Z"))
        .pod("shop", "old", "10.244.0.3", true, made("2026-11-21T10:00:00Z"))
        .snapshot();
    assert_eq!(destination(&snapshot, A, "10.244.0.3").any_port.unwrap().workload_uid, "uid-new");
}

#[test]
fn a_pod_on_its_nodes_network_has_no_sidecar_and_takes_nobodys_address() {
    let host = json!({"spec": {"hostNetwork": true}});
    let snapshot = Cluster::default()
        .pod("shop", "a", "10.244.0.2", true, json!({}))
        .pod("kube-system", "proxy", "192.168.0.1", true, host.clone())
        .pod("kube-system", "etcd", "192.168.0.1", false, host)
        .snapshot();
    let found = destination(&snapshot, A, "192.168.0.1");
    assert!(found.other_ports_unmeshed && found.ports.is_empty(), "{found:?}");
}

#[test]
fn a_pod_without_an_address_has_its_configuration_already() {
    let bare = json!({"status": {"podIP": null, "podIPs": null}});
    let snapshot = Cluster::default().pod("shop", "a", "", true, bare).snapshot();
    let member = snapshot.find(&key("shop", "a")).unwrap();
    assert!(snapshot.config(member).addresses.is_empty());
}
