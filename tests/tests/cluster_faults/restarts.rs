//! A pod, or what runs in it, ends and something else takes its place.
use super::*;
use rustix::process::Signal;
use signet_tests::cluster::cluster;

/// Kills a pod's sidecar, and waits until it is back and ready.
#[track_caller]
fn killed(space: &Space<'_>, pod: &str) {
    let state = |what: &str| {
        let path = format!("jsonpath={{.status.initContainerStatuses[?(@.name=='signet-sidecar')].{what}}}");
        space.kubectl(&["get", "pod", pod, "-o", &path])
    };
    assert_eq!(state("restartCount").unwrap(), "0");
    space.signal(pod, "signet-sidecar", Signal::KILL).unwrap();
    space.wait(&format!("{pod}'s sidecar is started again"), || {
        let (count, ready) = (state("restartCount")?, state("ready")?);
        ensure!(count == "1" && ready == "true", "restarted {count}, ready {ready}");
        Ok(())
    });
}

#[test]
fn a_sidecar_that_is_killed_while_the_operator_is_away_comes_back_with_what_it_knew() {
    let name = "a_sidecar_that_is_killed_while_the_operator_is_away_comes_back_with_what_it_knew";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    let space = traffic(cluster, "killed");
    scale(cluster, "deployment/signet-operator", 0);
    // The called one, then the caller, who has to know where orders is.
    for pod in ["orders", "checkout"] {
        killed(&space, pod);
        answered_again(&space);
        let calls = calls(&space);
        undisturbed_since(&space, calls);
    }
    scale(cluster, "deployment/signet-operator", 2);
    let calls = calls(&space);
    undisturbed_since(&space, calls);
}

#[test]
fn a_pod_that_gets_the_address_of_one_that_was_deleted_by_force_is_not_taken_for_it() {
    let name = "a_pod_that_gets_the_address_of_one_that_was_deleted_by_force_is_not_taken_for_it";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    cluster.install(&VALUES);
    let space = cluster.space("reused", &["signet.dev/inject=enabled"]);
    let orders = |name: &str| pod_of("orders", name, 1, &["http", "8080", name]);
    space.apply(&(orders("old") + &pod("caller", 2, &["pause"])));
    space.ready("pod/old");
    space.ready("pod/caller");
    let address = space.field("pod/old", ".status.podIP");
    let url = format!("http://{address}:8080/");
    let answer = space.wait("the old pod answers", || space.call("caller", &url));
    assert_eq!(answer, "200 old");

    // From now on the caller's sidecar hears nothing of pods that come and go.
    let deaf = "add table inet test; add chain inet test in { type filter hook input priority 0; }; \
                add rule inet test in tcp sport 15010 drop";
    space.nft("caller", deaf).unwrap();
    space.kubectl(&["delete", "pod", "old", "--force", "--grace-period=0"]).unwrap();
    space.wait("its address is free", || cluster.next_address(1, address.parse()?));
    space.apply(&orders("new"));
    space.ready("pod/new");
    assert_eq!(space.field("pod/new", ".status.podIP"), address);

    let refused = space.call("caller", &url).unwrap_err();
    let log = space.logs("caller", "signet-sidecar").unwrap();
    assert!(log.contains("peer_uid_mismatch"), "{refused:#}\n{log}");
    space.nft("caller", "delete table inet test").unwrap();
    let answer = space.wait("the caller hears of the new pod", || space.call("caller", &url));
    assert_eq!(answer, "200 new");
}
