//! What is not known is not called in plaintext inside the mesh's ranges.
use super::*;
use crate::keeper::{self, Ages};
use crate::live::{CutReason, Direction};
use outbound::route;

const NODE: [u8; 4] = [192, 0, 2, 1];

fn inside(address: [u8; 4]) -> wire::Config {
    let mesh_ranges = vec![wire::Prefix { address: address.to_vec(), length: 32 }];
    wire::Config { mesh_ranges, ..config(2, "deny", vec![]) }
}

/// A node with these ports of its own that are known to lead into the mesh.
fn node(ports: &[u32]) -> wire::Destinations {
    let endpoint = wire::Endpoint {
        address: vec![10, 0, 0, 9],
        port: 80,
        spiffe_id: "spiffe://example.org/ns/shop/sa/orders".into(),
        ..wire::Endpoint::default()
    };
    let ports = ports.iter().map(|port| wire::PortEndpoints {
        port: *port,
        endpoints: vec![endpoint.clone()],
        ..wire::PortEndpoints::default()
    });
    let node = wire::Destination {
        address: NODE.to_vec(),
        kind: wire::Kind::Meshed.into(),
        ports: ports.collect(),
        other_ports_unmeshed: true,
        ..wire::Destination::default()
    };
    wire::Destinations { destinations: vec![node] }
}

#[test]
fn a_port_of_a_node_that_may_be_a_services_waits_until_it_is_known_and_is_refused_otherwise() {
    local(async {
        let start = async |settings: Settings| {
            let mesh = Mesh::with(settings).await;
            mesh.web.shared.view.apply(&inside(NODE)).unwrap();
            mesh.web.shared.view.learn(&node(&[])).unwrap();
            mesh
        };
        let mesh = start(Settings { unknown_wait: BRIEF, ..settings() }).await;
        let to = SocketAddr::from((NODE, 30080));
        assert_eq!(route(&mesh.web.shared, to).await.err().unwrap().code(), "unknown_destination");
        let plain = route(&mesh.web.shared, SocketAddr::from((NODE, 9100))).await.unwrap().unwrap();
        assert!(plain[0].peer.is_none(), "every other port is the node's own");
        // With time for the news to come.
        let mesh = start(settings()).await;
        let shared = &mesh.web.shared;
        let (waiting, ()) = tokio::join!(route(shared, to), async { shared.view.learn(&node(&[30080])).unwrap() });
        assert!(waiting.unwrap().unwrap()[0].peer.is_some());
    });
}

#[test]
fn an_open_connection_in_plaintext_ends_when_its_destination_is_found_to_be_meshed() {
    local(async {
        let mesh = Mesh::start().await;
        let shared = &mesh.web.shared;
        let ages = Ages { grace: Duration::from_secs(10), foreign: None };
        let _keeper = spawn_local(keeper::keep(shared.clone(), ages));
        let open = |port| {
            let to = SocketAddr::from((NODE, port));
            shared.live.open(Direction::Outbound, "127.0.0.1:1".parse().unwrap(), to, Some(to), None, false)
        };
        let (meshed, other) = (open(8000), open(8001));
        shared.view.apply(&inside(NODE)).unwrap();
        shared.view.learn(&node(&[8000])).unwrap();
        let reason = timeout(SOON, meshed.cut.wait()).await.expect("not cut within 5 s");
        assert_eq!((reason, reason.code()), (CutReason::MeshedNow, "cut_meshed_now"));
        assert_eq!(other.cut.thrown(), None);
    });
}
