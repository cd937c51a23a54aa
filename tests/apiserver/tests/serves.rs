//! The server does what its users rely on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use signet_apiserver::{ApiServer, PodOptions, make_pod, pod_token, terminate_pod};

#[tokio::test]
async fn objects_outlive_the_api_server_and_pods_end_as_with_a_kubelet() {
    let Some(server) = ApiServer::start().await else { return };
    let client = server.client().await;
    let namespace = server.namespace("shop").await;
    let options = PodOptions { addresses: &["10.0.0.7", "fd00::7"], ..PodOptions::default() };
    let pod = make_pod(&client, &namespace, "orders", &options).await;
    assert_eq!(pod.status.as_ref().unwrap().pod_ips.as_ref().unwrap().len(), 2);
    assert!(pod_token(&client, &pod, "signet-ca").await.split('.').count() == 3, "a token is a JWT");

    server.stop();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    assert!(namespaces.list(&ListParams::default()).await.is_err(), "it is gone");
    server.resume().await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    assert_eq!(pods.get("orders").await.unwrap().uid(), pod.uid());

    terminate_pod(&client, &namespace, "orders").await;
    assert!(pods.get("orders").await.unwrap().metadata.deletion_timestamp.is_some(), "it stays until it has ended");
}
