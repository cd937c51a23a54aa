//! One caller, one endpoint, as kube-proxy has it.
use super::*;
use crate::view::Sticky;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

fn endpoint(last: u8) -> Endpoint {
    Endpoint { address: IpAddr::from([10, 0, 0, last]), port: 8080, peer: None }
}

/// A caller without a past is sent to the first.
fn behind(all: &[u8]) -> Behind {
    let mut all = all.iter().copied().map(endpoint);
    let endpoints = all.next().into_iter().collect();
    Behind { endpoints, sticky: Some(Arc::new(Sticky { others: all.collect(), timeout: TIMEOUT })) }
}

fn to(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 1], port))
}

#[tokio::test(start_paused = true)]
async fn a_caller_keeps_its_endpoint_while_that_stands_and_others_come_and_go() {
    let affinity = Affinity::default();
    assert_eq!(affinity.choose(to(80), behind(&[1, 2])), [endpoint(1)]);
    for all in [&[3, 2, 1][..], &[2, 1], &[4, 1], &[1]] {
        assert_eq!(affinity.choose(to(80), behind(all)), [endpoint(1)], "{all:?}");
    }
    assert_eq!(affinity.choose(to(80), behind(&[2, 3])), [endpoint(2)], "the one that it kept has gone");
    assert_eq!(affinity.choose(to(80), behind(&[1, 2, 3])), [endpoint(2)], "and came back too late");
    assert_eq!(affinity.choose(to(81), behind(&[3, 2])), [endpoint(3)], "another port is another choice");
    assert!(affinity.choose(to(80), behind(&[])).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_timeout_runs_from_the_last_call() {
    let affinity = Affinity::default();
    affinity.choose(to(80), behind(&[1]));
    for _ in 0..3 {
        tokio::time::advance(TIMEOUT * 9 / 10).await;
        assert_eq!(affinity.choose(to(80), behind(&[2, 1])), [endpoint(1)]);
    }
    tokio::time::advance(TIMEOUT).await;
    assert_eq!(affinity.choose(to(80), behind(&[2, 1])), [endpoint(2)]);
}

#[tokio::test(start_paused = true)]
async fn without_affinity_every_endpoint_is_offered_and_nothing_remembered() {
    let affinity = Affinity::default();
    let all = vec![endpoint(1), endpoint(2)];
    assert_eq!(affinity.choose(to(80), all.clone().into()), all);
    assert!(affinity.last.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded() {
    let affinity = Affinity::default();
    for n in 0..2 * REMEMBERED as u32 {
        affinity.choose(SocketAddr::from((n.to_be_bytes(), 80)), behind(&[1]));
        assert!(affinity.last.lock().unwrap().len() <= REMEMBERED);
    }
}
