//! What goes on when a part of Signet or of the cluster is away, goes, or is replaced: each judged by traffic that never stops.
//! These tests break the cluster that they share, hence one at a time, and in a program of their own. Certificates live for a
//! minute here and are renewed after half of it, so that there are renewals under the traffic ([`Traffic::renewed`]).
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
const VALUES: [&str; 2] = ["ca.lifetimes.leaf=60s", "ca.lifetimes.issuing=10m"];

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A namespace with traffic that never stops.
struct Traffic<'c> {
    space: Space<'c>,
    /// When the certificates of `orders` and `checkout` ended, as they were at the beginning.
    ends: [Duration; 2],
}

impl<'c> std::ops::Deref for Traffic<'c> {
    type Target = Space<'c>;
    fn deref(&self) -> &Space<'c> {
        &self.space
    }
}

impl Traffic<'_> {
    /// Both ends have other certificates than at the beginning, or get them now.
    #[track_caller]
    fn renewed(&self) {
        for (pod, before) in ["orders", "checkout"].into_iter().zip(self.ends) {
            self.wait(&format!("{pod} has another certificate than at the beginning"), || {
                let end = certificate_end(self, pod)?;
                ensure!(end > before, "it still ends at {end:?}");
                Ok(())
            });
        }
    }
}

/// `checkout` on one node calls `orders` on the other, ten times a second and for ever; only it may.
fn traffic<'c>(cluster: &'c Cluster, purpose: &str) -> Traffic<'c> {
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
    let ends = ["orders", "checkout"].map(|pod| certificate_end(&space, pod).unwrap());
    Traffic { space, ends }
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

/// A figure without labels that a pod's sidecar shows.
fn metric(space: &Space<'_>, pod: &str, name: &str) -> anyhow::Result<f64> {
    let said = space.call(pod, "http://127.0.0.1:15021/metrics")?;
    let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no metric {name}"))?.trim().parse()?)
}

/// When the certificate of a pod's sidecar ends, in seconds since 1970.
fn certificate_end(space: &Space<'_>, pod: &str) -> anyhow::Result<Duration> {
    Ok(Duration::from_secs_f64(metric(space, pod, "signet_sidecar_svid_not_after_seconds")?))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A namespace that did not opt in can start pods, and the webhook is not asked: nobody waits for it.
#[track_caller]
fn others_start(cluster: &Cluster) {
    let other = cluster.space("other", &[]);
    let before = reviews(cluster).unwrap();
    other.apply(&pod("free", 1, &["pause"]));
    other.ready("pod/free");
    assert_eq!(reviews(cluster).unwrap(), before, "the API server asked about a pod that did not opt in");
}

/// How often the API server has asked, or tried to ask, about a pod since it started.
fn reviews(cluster: &Cluster) -> anyhow::Result<u64> {
    let said = cluster.kubectl(&["get", "--raw", "/metrics"])?;
    let asked = |line: &&str| {
        line.starts_with("apiserver_admission_webhook_request_total{") && line.contains(".injector.signet.dev\"")
    };
    said.lines().filter(asked).map(|line| Ok(line.rsplit(' ').next().context("no number")?.parse::<u64>()?)).sum()
}
