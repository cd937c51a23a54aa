//! The index as a table of requirements: documents in, answers out, no I/O.
use super::{Member, Memory, Refusal, Settings, Snapshot};
use crate::documents::{Documents, Key, Reading};
use signet_identity::{SpiffeId, WorkloadUid};
use signet_policy::{Caller, Decision, Egress, FEATURES, Posture, Reason};
use signet_proto::control::{self, Kind};
use std::net::IpAddr;
use std::sync::Arc;

mod destinations;
mod faults;
mod postures;
mod rules;
mod versions;
mod who_may_hear;

fn settings() -> Settings {
    Settings {
        trust_domain: "mesh.example".parse().unwrap(),
        mesh_ranges: vec!["10.77.0.0/16".parse().unwrap()],
        inbound: Posture::Audit,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    }
}

pub(crate) fn documents(text: &str) -> Documents {
    let mut reading = Reading::default();
    reading.add(&Arc::from("mesh.yaml"), text);
    reading.finish();
    assert!(reading.is_safe(), "{:?}", reading.findings);
    reading.documents
}

pub(crate) fn workload(namespace: &str, name: &str, address: &str, more: &str) -> String {
    format!(
        "---\napiVersion: signet.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
         spec: {{addresses: ['{address}'], {more}}}\n"
    )
}

fn meshed(namespace: &str, name: &str, address: &str) -> String {
    let more = format!("serviceAccount: {name}, uid: {namespace}-{name}, ports: [{{name: http, port: 8080}}]");
    workload(namespace, name, address, &more)
}

fn service(namespace: &str, name: &str, address: &str, app: &str, target: &str) -> String {
    format!(
        "---\napiVersion: signet.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{addresses: ['{address}'], selector: {{app: {app}}}, ports: [{{port: 80, targetPort: {target}}}]}}\n"
    )
}

pub(crate) fn rule(namespace: &str, name: &str, target: &str, from: &str) -> String {
    format!(
        "---\napiVersion: signet.dev/v1alpha1\nkind: AllowRule\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{target: {target}, from: [{from}]}}\n"
    )
}

fn posture(namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: signet.dev/v1alpha1\nkind: Posture\nmetadata: {{name: default, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn build(text: &str) -> Snapshot {
    Snapshot::build(&settings(), &documents(text), &Memory::default(), 1).0
}

fn after(text: &str, memory: &Memory) -> (Snapshot, Memory) {
    Snapshot::build(&settings(), &documents(text), memory, 1)
}

fn member<'a>(snapshot: &'a Snapshot, key: &str) -> &'a Member {
    snapshot.find(&key.parse::<Key>().unwrap()).unwrap()
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn uid(text: &str) -> WorkloadUid {
    text.parse().unwrap()
}

fn reason(snapshot: &Snapshot, key: &str, caller: &str, port: u16) -> Reason {
    member(snapshot, key).table().judge(&Caller::Identity(caller), port).reason
}

fn destination(snapshot: &Snapshot, asker: &str, address: &str) -> control::Destination {
    told(snapshot, member(snapshot, asker), address.parse().unwrap())
}

/// What `asker` hears, after everybody else has asked for it, too: what is kept for others must not change its answer.
pub(crate) fn told(snapshot: &Snapshot, asker: &Member, address: IpAddr) -> control::Destination {
    for member in snapshot.members().chain([asker]) {
        let own = snapshot.destination(member, address);
        assert_eq!(snapshot.told(member, address).destination, own, "to {}", member.workload.key);
    }
    snapshot.destination(asker, address)
}

#[test]
fn what_does_not_depend_on_the_asker_is_made_once() {
    let mut text = service("shop", "orders", "10.96.0.1", "orders", "8080");
    for (name, address) in [("orders", "10.77.0.2"), ("cart", "10.77.0.3"), ("checkout", "10.77.0.4")] {
        text += &meshed("shop", name, address);
    }
    let snapshot = build(&text);
    let told = |asker: &str, address: &str| snapshot.told(member(&snapshot, asker), address.parse().unwrap());
    for address in ["10.96.0.1", "10.77.0.2"] {
        assert!(Arc::ptr_eq(&told("shop/cart", address), &told("shop/checkout", address)), "{address}");
        assert!(told("shop/orders", address).destination.selects_self, "{address}");
        assert!(!told("shop/cart", address).destination.selects_self, "{address}");
    }
    // Strangers' addresses can be asked for without end: nothing is kept of them.
    assert!(!Arc::ptr_eq(&told("shop/cart", "10.99.0.1"), &told("shop/checkout", "10.99.0.1")));
}

const CHECKOUT: &str = "spiffe://mesh.example/ns/shop/sa/checkout";
const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";
