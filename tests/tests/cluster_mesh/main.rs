//! Signet on a real cluster: installed with its chart, opted into by a namespace, and judged by what passes.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
mod admission;
mod attestation;
mod chart;
mod findings;
mod hooks;
mod kinds;
mod reach;
mod rules;
mod services;

use anyhow::bail;
use signet_tests::cluster::{Cluster, Space, cluster};

/// What Signet is installed with: certificates that live for a minute, renewed under every test.
const VALUES: [&str; 2] = ["ca.lifetimes.leaf=60s", "ca.lifetimes.issuing=10m"];

/// The cluster with Signet in it; `None` where there can be none, see [`cluster`].
fn mesh(test: &str) -> Option<&'static Cluster> {
    let cluster = cluster(test)?;
    cluster.install(&VALUES);
    Some(cluster)
}

/// Waits until a call is answered with `words`.
#[track_caller]
fn admitted(space: &Space<'_>, from: &str, url: &str, words: &str) {
    let answer = space.wait(&format!("{from} is answered by {url}"), || space.call(from, url));
    assert_eq!(answer, format!("200 {words}"), "{from} calls {url}");
}

/// Waits until a call is refused.
#[track_caller]
fn refused(space: &Space<'_>, from: &str, url: &str) {
    space.wait(&format!("{from} is refused by {url}"), || match space.call(from, url) {
        Ok(answer) => bail!("answered {answer}"),
        Err(_) => Ok(()),
    });
}
