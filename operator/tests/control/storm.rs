//! F30: so many streams at once that others never recovered.
use crate::world::{Attached, MESH, RULE, SOON, World, hello, want, world};
use futures::future::join_all;
use signet_identity::Credentials;
use signet_operator::control::Limits;
use signet_operator::state::Outcome;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// More than one address may have handshakes in progress at once (256), so that some are sent away at first.
const STREAMS: usize = 300;

fn mesh() -> String {
    let mut text = MESH.to_owned();
    for n in 0..STREAMS {
        let (high, low) = (n / 200, n % 200 + 1);
        write!(
            text,
            "---\napiVersion: signet.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w{n}, namespace: shop}}\n\
             spec: {{serviceAccount: w{n}, uid: uid-w{n}, addresses: [10.78.{high}.{low}]}}\n"
        )
        .unwrap();
    }
    text
}

/// Attached, with a configuration and the destination that it asked for; comes again while it is sent away. All come at once,
/// but come again one after another, for which they wait with `again`: without any wait they would leave a busy machine no time
/// for the handshakes that go on.
async fn served(world: &World, credentials: &Arc<Credentials>, again: &Mutex<()>) -> Attached {
    let attached = async {
        if let Ok(attached) = world.attach_with(credentials, hello(None)).await {
            return attached;
        }
        loop {
            let _turn = again.lock().await;
            if let Ok(attached) = world.attach_with(credentials, hello(None)).await {
                return attached;
            }
            tokio::task::yield_now().await;
        }
    };
    let mut attached = timeout(6 * SOON, attached).await.expect("never let in");
    attached.config().await;
    attached.say(want([10, 77, 0, 3])).await;
    assert_eq!(attached.destinations().await[0].any_port.as_ref().unwrap().workload_uid, "uid-b");
    attached
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f30_streams_that_all_come_at_once_are_served_and_leave_nothing_behind() {
    let mut world = world(Limits::default(), Some(&mesh())).await;
    let credentials: Vec<_> = (0..STREAMS)
        .map(|n| world.authority.credentials("shop", &format!("w{n}"), Some(&format!("uid-w{n}"))))
        .collect();
    // Every connection and every stream holds the hub.
    let idle = Arc::strong_count(&world.hub);
    for (round, rules) in [(1, RULE), (2, "")] {
        let again = Mutex::new(());
        let mut streams = join_all(credentials.iter().map(|credentials| served(&world, credentials, &again))).await;
        assert_eq!(world.hub.presences().len(), STREAMS, "round {round}");
        assert_eq!(world.apply(&format!("{}{rules}", mesh())), Outcome::Applied);
        for stream in &mut streams {
            assert_eq!(stream.config().await.rules.is_empty(), rules.is_empty(), "round {round}");
        }
        drop(streams);
        let gone = async {
            while !world.hub.presences().is_empty() || Arc::strong_count(&world.hub) > idle {
                tokio::task::yield_now().await;
            }
        };
        let left = || (world.hub.presences().len(), Arc::strong_count(&world.hub) - idle);
        assert!(timeout(6 * SOON, gone).await.is_ok(), "round {round} leaves places and holders behind: {:?}", left());
        assert!(world.metrics.encoded().contains("signet_operator_streams 0\n"), "round {round}");
    }
}
