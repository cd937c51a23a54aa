//! What goes on when a part of Signet or of the cluster is away, goes, or is replaced: each judged by traffic that never stops.
//! These tests break the cluster that they share, hence one at a time, and in a program of their own. Certificates live for a
//! minute here, so that every test has renewals under its traffic.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
mod away;
mod gone;
mod restarts;

use anyhow::{Context as _, ensure};
use signet_tests::cluster::{Cluster, SYSTEM, Space, orders_from, pod, pod_of, service};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What Signet is installed with.
const VALUES: [&str; 3] = ["ca.lifetimes.leaf=60s", "ca.lifetimes.issuing=10m", "meshRanges={10.88.0.0/16}"];

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `checkout` on one node calls `orders` on the other, ten times a second and for ever; only it may.
fn traffic<'c>(cluster: &'c Cluster, purpose: &str) -> Space<'c> {
    cluster.install(&VALUES);
    let space = cluster.space(purpose, &["signet.dev/inject=enabled"]);
    space.apply(&orders_from("checkout"));
    space.apply(&(pod_of("orders", "orders", 1, &["http", "8080"]) + &service("orders", 8080, false)));
    space.apply(&pod_of("stranger", "stranger", 2, &["pause"]));
    space.ready("pod/orders");
    space.ready("pod/stranger");
    // Once Service and rule are where they must be, no call may fail.
    space.apply(&pod_of("checkout", "first", 2, &["pause"]));
    space.ready("pod/first");
    space.wait("checkout is answered", || space.call("first", "http://orders:8080/"));
    space.wait("a stranger is refused", || {
        ensure!(space.call("stranger", "http://orders:8080/").is_err(), "answered");
        Ok(())
    });
    space.apply(&pod_of("checkout", "checkout", 2, &["call", "http://orders:8080/", "--times", "0"]));
    space.ready("pod/checkout");
    answered_again(&space);
    space
}

/// Waits for ten more answers than there were.
#[track_caller]
fn answered_again(space: &Space<'_>) {
    answered(space, 10);
}

/// Waits for `more` answers than there were.
#[track_caller]
fn answered(space: &Space<'_>, more: usize) {
    let answers =
        || Ok::<_, anyhow::Error>(space.logs("checkout", "app")?.lines().filter(|l| l.starts_with("ok")).count());
    let before = space.wait("the log of checkout", answers);
    space.wait("more answers", || {
        let now = answers()?;
        ensure!(now >= before + more, "{now} answers, {before} before");
        Ok(())
    });
}

/// No call has failed, and the stranger is still refused.
#[track_caller]
fn undisturbed(space: &Space<'_>) {
    undisturbed_since(space, 0);
}

/// No call has failed after the first `calls`, and the stranger is still refused.
#[track_caller]
fn undisturbed_since(space: &Space<'_>, calls: usize) {
    answered_again(space);
    let said = space.logs("checkout", "app").unwrap();
    let failed: Vec<_> = said.lines().skip(calls).filter(|line| !line.starts_with("ok")).collect();
    assert_eq!(failed, Vec::<&str>::new(), "of {} calls", said.lines().count() - calls);
    assert!(space.call("stranger", "http://orders:8080/").is_err(), "a stranger was answered");
}

/// Scales one of Signet's deployments, and waits until that is so.
fn scale(cluster: &Cluster, what: &str, replicas: u8) {
    cluster.kubectl(&["-n", SYSTEM, "scale", what, &format!("--replicas={replicas}")]).unwrap();
    if replicas == 0 {
        let name = what.rsplit('/').next().unwrap();
        let label = format!("app.kubernetes.io/component={}", name.trim_start_matches("signet-"));
        let gone = ["-n", SYSTEM, "wait", "--for=delete", "pod", "-l", &label, "--timeout=60s"];
        cluster.kubectl(&gone).unwrap();
    } else {
        cluster.kubectl(&["-n", SYSTEM, "rollout", "status", what, "--timeout=120s"]).unwrap();
    }
}

/// How many calls `checkout` has made.
fn calls(space: &Space<'_>) -> usize {
    space.logs("checkout", "app").unwrap().lines().count()
}

/// When the certificate of a pod's sidecar ends, in seconds since 1970.
fn certificate_end(space: &Space<'_>, pod: &str) -> anyhow::Result<Duration> {
    let said = space.call(pod, "http://127.0.0.1:15021/metrics")?;
    let line = said.lines().find_map(|line| line.strip_prefix("signet_sidecar_svid_not_after_seconds "));
    Ok(Duration::from_secs_f64(line.context("no such metric")?.trim().parse()?))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A namespace that did not opt in can start pods.
#[track_caller]
fn others_start(cluster: &Cluster) {
    let other = cluster.space("other", &[]);
    other.apply(&pod("free", 1, &["pause"]));
    other.ready("pod/free");
}
