//! Trust state and issuer records under several writers, without the rest of the CA.
use crate::world::{World, eventually, within};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use signet_apiserver::shared;
use signet_ca::{
    clock::Clock,
    kube::state::ClusterState,
    metrics::Metrics,
    store::{Entry, IssuerRecord, JournalError},
    trust::Publisher,
};
use signet_identity::TrustState;
use std::sync::Arc;

async fn publisher(state: &Arc<ClusterState>) -> Arc<Publisher> {
    Arc::new(Publisher::open(state.clone(), Clock::system(), Metrics::default()).await.unwrap())
}

fn deny(serial: u8) -> impl Fn(&mut TrustState) {
    move |state| {
        state.deny.serials.insert(vec![serial]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_publish_at_once_nobodys_change_is_lost_and_every_replica_has_them_all() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let mut replicas = Vec::new();
    for instance in ["ca-1", "ca-2", "ca-3"] {
        let state = world.state(instance).await;
        let publisher = publisher(&state).await;
        let followed = publisher.clone();
        let following = tokio::spawn(async move { state.follow(&followed).await });
        replicas.push((publisher, following));
    }
    let writers: Vec<_> = (0..12_u8)
        .map(|n| {
            let publisher = replicas[usize::from(n) % replicas.len()].0.clone();
            tokio::spawn(async move { publisher.publish(deny(n + 1)).await.unwrap() })
        })
        .collect();
    let mut sequences = Vec::new();
    for writer in writers {
        sequences.push(writer.await.unwrap().state.sequence);
    }
    for (publisher, following) in &replicas {
        eventually("all changes at every replica", || async { publisher.newest().state.deny.serials.len() == 12 })
            .await;
        following.abort();
    }
    let first = &replicas[0].0.newest().state;
    assert!(replicas.iter().all(|(publisher, _)| publisher.newest().state == *first), "one number, one content");
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 12, "each change under a number of its own");
    assert_eq!(sequences.last(), Some(&first.sequence), "and none was taken for one that went back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_state_that_goes_back_or_away_is_published_again_under_a_higher_number() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let state = world.state("ca-1").await;
    let publisher = publisher(&state).await;
    let config_maps: Api<ConfigMap> = within(&world.client, &world.namespace);
    publisher.publish(deny(1)).await.unwrap();
    let old = config_maps.get("signet-trust-state").await.unwrap();
    let newest = publisher.publish(deny(2)).await.unwrap().state.sequence;
    let followed = publisher.clone();
    let following = tokio::spawn(async move { state.follow(&followed).await });

    // As from a backup of etcd.
    let mut restored = config_maps.get("signet-trust-state").await.unwrap();
    restored.binary_data.clone_from(&old.binary_data);
    config_maps.replace("signet-trust-state", &PostParams::default(), &restored).await.unwrap();
    eventually("a state after the one that came back", || async { publisher.newest().state.sequence > newest }).await;
    assert_eq!(publisher.newest().state.deny.serials.len(), 2, "nothing that was denied is forgotten");

    let newest = publisher.newest().state.sequence;
    config_maps.delete("signet-trust-state", &DeleteParams::default()).await.unwrap();
    eventually("a state after the one that was deleted", || async { publisher.newest().state.sequence > newest }).await;
    assert!(config_maps.get_opt("signet-trust-state").await.unwrap().is_some());
    following.abort();
}

fn record(ski: u8, now: u64) -> IssuerRecord {
    IssuerRecord {
        ski: vec![ski],
        root: vec![9],
        not_after: now + 9000,
        signing_until: now,
        lowest_held: None,
        fenced: false,
    }
}

fn entry(ski: u8, serial: u8, now: u64, not_after: u64, trust_held: u64) -> Entry {
    Entry {
        serial: vec![serial],
        issuer: vec![ski],
        identity: "spiffe://example.org/ns/shop/sa/orders".into(),
        uid: None,
        attestor: "kubernetes",
        host_key: None,
        issued_at: now,
        not_before: now,
        not_after,
        trust_held,
        place: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_replicas_that_write_at_once_all_stand() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let (one, other) = (world.state("ca-1").await, world.state("ca-2").await);
    let writers: Vec<_> = (0..10_u8)
        .map(|n| {
            let state = if n % 2 == 0 { one.clone() } else { other.clone() };
            tokio::spawn(async move {
                state.add_issuer(record(n, 1000), 1000).await.unwrap();
                assert!(state.extend_issuer(&[n], 2000, 1001).await.unwrap());
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(one.fence_issuers().await.unwrap(), 5, "its own and nobody else's");
    let records = one.issuers();
    assert_eq!(records.len(), 10);
    assert!(records.iter().all(|record| record.signing_until == 2000), "{records:?}");
    assert_eq!(records.iter().filter(|record| record.fenced).count(), 5);
    assert_eq!(one.last_record(), 1001);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_was_fenced_signs_no_more_and_none_signs_beyond_its_record() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let (state, successor) = (world.state("ca-1").await, world.state("ca-1").await);
    state.add_issuer(record(1, 1000), 1000).await.unwrap();
    let beyond = state.journal(entry(1, 1, 1000, 1001, 5)).await;
    assert!(matches!(beyond, Err(JournalError::Fenced)), "{beyond:?}");
    assert!(state.extend_issuer(&[1], 2000, 1000).await.unwrap());
    state.journal(entry(1, 2, 1000, 2000, 5)).await.unwrap();

    assert_eq!(successor.fence_issuers().await.unwrap(), 1);
    let publisher = publisher(&state).await;
    let following = {
        let state = state.clone();
        tokio::spawn(async move { state.follow(&publisher).await })
    };
    eventually("the fence is known", || async { state.is_fenced(&[1]) }).await;
    assert!(matches!(state.journal(entry(1, 3, 1000, 1500, 5)).await, Err(JournalError::Fenced)));
    assert!(!state.extend_issuer(&[1], 3000, 1000).await.unwrap());
    following.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lowest_trust_sequence_held_is_recorded_before_the_leaf_leaves_and_rises_with_its_end() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let state = world.state("ca-1").await;
    state.add_issuer(record(1, 1000), 1000).await.unwrap();
    state.extend_issuer(&[1], 5000, 1000).await.unwrap();
    let lowest = || async {
        let reader = world.state("reader").await;
        reader.fence_issuers().await.unwrap();
        reader.issuers()[0].lowest_held
    };
    state.journal(entry(1, 1, 1000, 2000, 50)).await.unwrap();
    assert_eq!(lowest().await, Some(50));
    // Whoever claims ever older states cannot make us write for every certificate.
    for (serial, held) in [(2, 49), (3, 48), (4, 47)] {
        state.journal(entry(1, serial, 1000, 2000, held)).await.unwrap();
        assert_eq!(lowest().await, Some(0), "never above what is held");
    }
    state.journal(entry(1, 5, 1000, 4000, 60)).await.unwrap();
    state.tidy(1999).await.unwrap();
    assert_eq!(lowest().await, Some(47));
    state.tidy(2000).await.unwrap();
    assert_eq!(lowest().await, Some(60));
    state.tidy(4000).await.unwrap();
    assert_eq!(lowest().await, None);
}
