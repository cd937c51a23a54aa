//! Session affinity as a connection sees it: what the operator names first is for callers without a past.
use super::*;
use outbound::route;

const SERVICE: [u8; 4] = [10, 96, 0, 1];

fn endpoint(last: u8) -> wire::Endpoint {
    wire::Endpoint {
        address: vec![10, 0, 0, last],
        port: 8080,
        spiffe_id: "spiffe://example.org/ns/shop/sa/orders".into(),
        ..wire::Endpoint::default()
    }
}

fn service(first: u8, others: &[u8], affinity_seconds: u32) -> wire::Destinations {
    let others = others.iter().copied().map(endpoint).collect();
    let port = wire::PortEndpoints { port: 80, endpoints: vec![endpoint(first)], others, affinity_seconds };
    let service = wire::Destination {
        address: SERVICE.to_vec(),
        kind: wire::Kind::Meshed.into(),
        ports: vec![port],
        ..wire::Destination::default()
    };
    wire::Destinations { destinations: vec![service] }
}

#[test]
fn a_caller_stays_with_its_endpoint_when_the_operator_would_send_a_new_one_elsewhere() {
    local(async {
        let mesh = Mesh::start().await;
        let shared = &mesh.web.shared;
        let called = async |news: wire::Destinations| {
            shared.view.learn(&news).unwrap();
            let to = route(shared, SocketAddr::from((SERVICE, 80))).await.unwrap().unwrap();
            to.iter().map(|endpoint| octets(endpoint.address)[3]).collect::<Vec<_>>()
        };
        assert_eq!(called(service(1, &[2], 60)).await, [1]);
        assert_eq!(called(service(2, &[1, 3], 60)).await, [1], "another has come, and would be first");
        assert_eq!(called(service(3, &[2], 60)).await, [3], "its own has gone");
        assert_eq!(called(service(2, &[3], 0)).await, [2], "the Service asks for it no longer");
    });
}
