use super::*;
use std::net::IpAddr;

fn endpoint(last: u8) -> Endpoint {
    Endpoint { address: IpAddr::from([10, 0, 0, last]), port: 80, peer: None }
}

fn named(h2: bool, http1: bool) -> Named {
    Named { id: "spiffe://a/ns/b/sa/c".parse().unwrap(), uid: None, tunnel_port: 15008, h2, http1 }
}

#[test]
fn the_less_loaded_of_two_is_chosen() {
    let loads = Loads::default();
    let _busy = loads.using("10.0.0.1:80".parse().unwrap());
    for _ in 0..50 {
        assert_eq!(loads.choose(&mut vec![endpoint(1), endpoint(2)]).unwrap(), endpoint(2));
    }
}

#[test]
fn a_load_is_counted_only_while_it_is_held() {
    let loads = Loads::default();
    drop(loads.using("10.0.0.1:80".parse().unwrap()));
    let mut chosen = (0..200).map(|_| loads.choose(&mut vec![endpoint(1), endpoint(2)]).unwrap());
    assert!(chosen.any(|e| e == endpoint(1)));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_just_failed_comes_last_and_then_is_forgiven() {
    let loads = Loads::default();
    loads.failed("10.0.0.1:80".parse().unwrap());
    for _ in 0..50 {
        assert_eq!(loads.choose(&mut vec![endpoint(1), endpoint(2)]).unwrap(), endpoint(2));
    }
    tokio::time::advance(PENALTY).await;
    let mut chosen = (0..200).map(|_| loads.choose(&mut vec![endpoint(1), endpoint(2)]).unwrap());
    assert!(chosen.any(|e| e == endpoint(1)));
}

#[test]
fn every_endpoint_is_tried_before_there_is_none() {
    let loads = Loads::default();
    let mut endpoints = vec![endpoint(1), endpoint(2), endpoint(3)];
    let mut tried: Vec<_> = std::iter::from_fn(|| loads.choose(&mut endpoints)).map(|e| e.address).collect();
    tried.sort_unstable();
    assert_eq!(tried, [endpoint(1), endpoint(2), endpoint(3)].map(|e| e.address));
}

#[test]
fn connections_are_pooled_unless_recent_ones_moved_much() {
    let framings = Framings::new(1000);
    let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
    assert_eq!(framings.choose(to, &named(true, true)), Some(Framing::Pooled));
    framings.moved(to, 1_000_000);
    assert_eq!(framings.choose(to, &named(true, true)), Some(Framing::Alone));
    for _ in 0..40 {
        framings.moved(to, 10);
    }
    assert_eq!(framings.choose(to, &named(true, true)), Some(Framing::Pooled));
}

#[test]
fn a_peer_is_never_offered_a_framing_that_it_does_not_speak() {
    let framings = Framings::new(0);
    let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
    framings.moved(to, 1 << 40);
    assert_eq!(framings.choose(to, &named(true, false)), Some(Framing::Pooled));
    assert_eq!(framings.choose(to, &named(false, true)), Some(Framing::Alone));
    assert_eq!(framings.choose(to, &named(false, false)), None);
}

#[test]
fn what_is_remembered_is_bounded() {
    let (loads, framings) = (Loads::default(), Framings::new(0));
    for n in 0..3 * REMEMBERED as u32 {
        let address = IpAddr::from(n.to_be_bytes());
        loads.failed(SocketAddr::new(address, 1));
        framings.moved(SocketAddr::new(address, 1), 1);
    }
    assert!(loads.by_address.borrow().len() <= REMEMBERED && framings.moved.borrow().len() <= REMEMBERED);
}
