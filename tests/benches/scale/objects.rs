//! What the API server holds: namespaces, pods with sidecars, Services with their slices, a rule for each.
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    serde::{Serialize, de::DeserializeOwned},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use signet::demo::mesh::TRUST_DOMAIN;
use signet_apiserver::{make_service_account, object, set_status};
use signet_operator::{cluster::watch, crd};
use std::{fmt::Debug, net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// In all.
pub const PODS: usize = SERVICES * PODS_OF_A_SERVICE;
/// In all; each has a rule.
pub const SERVICES: usize = NAMESPACES * SERVICES_OF_A_NAMESPACE;
const NAMESPACES: usize = 20;
const SERVICES_OF_A_NAMESPACE: usize = 50;
const PODS_OF_A_SERVICE: usize = 10;
/// Services that each pod calls.
const PEERS: usize = 5;
/// Requests in progress.
const AT_ONCE: usize = 32;

/// A pod as its sidecar knows it.
pub struct Workload {
    /// The pod's UID.
    pub uid: String,
    /// `spiffe://...`.
    pub identity: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Addresses of the Services that it calls.
    pub peers: Vec<Ipv4Addr>,
}

/// Everything that was made.
pub struct Objects {
    client: Client,
    /// In the order of their Services.
    pub workloads: Vec<Workload>,
}

fn namespace(service: usize) -> String {
    format!("bench-{}", service / SERVICES_OF_A_NAMESPACE)
}

fn account(service: usize) -> String {
    format!("s{}", service % SERVICES_OF_A_NAMESPACE)
}

/// Another Service of the same namespace, `step` further.
fn neighbour(service: usize, step: usize) -> usize {
    let (namespace, at) = (service / SERVICES_OF_A_NAMESPACE, service % SERVICES_OF_A_NAMESPACE);
    namespace * SERVICES_OF_A_NAMESPACE + (at + step) % SERVICES_OF_A_NAMESPACE
}

/// Where pods have their addresses.
pub const PODS_RANGE: &str = "10.64.0.0/16";

fn pod_address(pod: usize) -> Ipv4Addr {
    let base = u32::from(Ipv4Addr::new(10, 64, 0, 1));
    Ipv4Addr::from(base + u32::try_from(pod).expect("few pods"))
}

/// Inside the API server's range, which it leaves to us in this part.
fn service_address(service: usize) -> Ipv4Addr {
    let base = u32::from(Ipv4Addr::new(10, 96, 128, 1));
    Ipv4Addr::from(base + u32::try_from(service).expect("few Services"))
}

fn rule(service: usize, from: usize) -> Value {
    json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule", "metadata": {"name": account(service)},
        "spec": {"target": {"service": account(service), "ports": [8080]}, "from": [{"serviceAccount": account(from)}]},
    })
}

impl Objects {
    /// Makes all of it.
    pub async fn make(client: Client) -> Self {
        define(&client).await;
        let namespaces = (0..NAMESPACES).map(|n| format!("bench-{n}")).chain(["signet-system".to_owned()]);
        for name in namespaces {
            create(&Api::<Namespace>::all(client.clone()), json!({"metadata": {"name": name}})).await;
        }
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let services: Vec<_> =
            (0..SERVICES).map(|service| tokio::spawn(make_service(client.clone(), places.clone(), service))).collect();
        let mut workloads = Vec::new();
        for service in services {
            workloads.extend(service.await.expect("a Service with its pods"));
        }
        Self { client, workloads }
    }

    /// Admits another caller to this Service; gives the rule's new generation.
    pub async fn change_rule(&self, service: usize) -> u64 {
        let rules: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &namespace(service), &watch::resource());
        let change = json!({"spec": {"from": [{"serviceAccount": account(neighbour(service, 7))}]}});
        let changed = rules.patch(&account(service), &PatchParams::default(), &Patch::Merge(change)).await;
        u64::try_from(changed.expect("a changed rule").metadata.generation.expect("a generation")).expect("it grows")
    }

    /// Where in `workloads` the pods of this Service are.
    pub fn pods_of(service: usize) -> std::ops::Range<usize> {
        service * PODS_OF_A_SERVICE..(service + 1) * PODS_OF_A_SERVICE
    }
}

/// The definition of `AllowRule`, until it is served.
async fn define(client: &Client) {
    let (_, definition) = crd::files().into_iter().next().expect("the definition comes first");
    let definition: DynamicObject = object(definition);
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let definitions = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    definitions.create(&PostParams::default(), &definition).await.expect("the definition");
    while watch::rules(client).list(&kube::api::ListParams::default()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn create<T>(api: &Api<T>, value: Value) -> T
where
    T: Clone + Debug + DeserializeOwned + Serialize,
{
    api.create(&PostParams::default(), &object(value)).await.expect("the API server takes it")
}

async fn make_service(client: Client, places: Arc<Semaphore>, service: usize) -> Vec<Workload> {
    let _place = places.acquire_owned().await.expect("never closed");
    let (namespace, account) = (namespace(service), account(service));
    make_service_account(&client, &namespace, &account).await;
    let mut workloads = Vec::new();
    let mut endpoints = Vec::new();
    for pod in Objects::pods_of(service) {
        let (name, address) = (format!("{account}-{pod}"), pod_address(pod));
        let uid = make_pod(&client, &namespace, &account, &name, address).await;
        endpoints.push(json!({
            "addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": name, "uid": uid},
        }));
        workloads.push(Workload {
            uid,
            identity: format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}"),
            address,
            peers: (1..=PEERS).map(|step| service_address(neighbour(service, step))).collect(),
        });
    }
    let ports = json!([{"name": "http", "port": 8080, "targetPort": 8080}]);
    let spec = json!({"clusterIP": service_address(service), "selector": {"app": account}, "ports": ports});
    create(
        &Api::<Service>::namespaced(client.clone(), &namespace),
        json!({"metadata": {"name": account}, "spec": spec}),
    )
    .await;
    let labels = json!({
        "kubernetes.io/service-name": account, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    let slice = json!({
        "metadata": {"name": account, "labels": labels}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    create(&Api::<EndpointSlice>::namespaced(client.clone(), &namespace), slice).await;
    let rules: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &watch::resource());
    rules.create(&PostParams::default(), &object(rule(service, neighbour(service, 1)))).await.expect("a rule");
    workloads
}

/// A pod with a sidecar, as the webhook leaves it and a kubelet reports it; gives its UID.
async fn make_pod(client: &Client, namespace: &str, account: &str, name: &str, address: Ipv4Addr) -> String {
    let pod = json!({
        "metadata": {"name": name, "labels": {"app": account}, "annotations": {"signet.dev/injected": "0.1.0"}},
        "spec": {
            "serviceAccountName": account,
            "automountServiceAccountToken": false,
            "nodeName": "node-1",
            "initContainers": [{"name": "signet-sidecar", "image": "signet/signet-sidecar:0.1.0", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
    });
    let made = create(&Api::<Pod>::namespaced(client.clone(), namespace), pod).await;
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": ready});
    set_status(client, namespace, name, status).await;
    made.uid().expect("a UID")
}
