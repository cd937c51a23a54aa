//! The stream of trust states: the newest at once, then every newer one; a reader that is slow skips to the newest. Bounded
//! in number, in all and for each address, which a workload that shows its certificate need not share; ended when the process
//! stops, and after a while, each at another moment, so that connections come to an end and replicas balance.
use super::{Caller, Parts, Update};
use crate::{attest::Refusal, limits::Busy, trust::Published};
use futures::stream;
use rand::RngExt as _;
use signet_enroll::places::Counted;
use signet_identity::WorkloadUid;
use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};

/// What tonic sends from.
pub(super) type Stream = Pin<Box<dyn futures::Stream<Item = Update> + Send>>;

struct Watch {
    newest: watch::Receiver<Arc<Published>>,
    stopping: watch::Receiver<bool>,
    until: Instant,
    _open: Open,
}

/// Counts an open stream and holds its place.
struct Open {
    _place: OwnedSemaphorePermit,
    _whose: Whose,
    gauge: prometheus_client::metrics::gauge::Gauge,
}

/// Whom a stream counts for.
enum Whose {
    Address(#[allow(dead_code, reason = "held, and given back when dropped")] Counted<IpAddr>),
    Peer(#[allow(dead_code, reason = "held, and given back when dropped")] Counted<WorkloadUid>),
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

pub(super) fn open(parts: &Parts, caller: &Caller) -> Result<Stream, Refusal> {
    parts.charged(caller, parts.by_address.take(&caller.address, parts.clock.running()))?;
    let full = |_| Busy { retry_after: Duration::from_secs(5) };
    let of_address = parts.watches_by_address.enter(caller.address).map(Whose::Address);
    let of_peer = || parts.watches_by_peer.enter(caller.proved.clone()?).map(Whose::Peer);
    let whose = of_address.or_else(of_peer).ok_or_else(|| {
        parts.metrics.watches_crowded.inc();
        Busy { retry_after: Duration::from_secs(5) }
    })?;
    let place = parts.watches.clone().try_acquire_owned().map_err(full)?;
    let gauge = parts.metrics.watches.clone();
    gauge.inc();
    let mut newest = parts.publisher.watch();
    // The present state is news to this stream.
    newest.mark_changed();
    let open = Open { _place: place, _whose: whose, gauge };
    let until = Instant::now() + parts.connection_age.mul_f64(rand::rng().random_range(2.0..3.0));
    let watch = Watch { newest, stopping: parts.stopping.clone(), until, _open: open };
    Ok(Box::pin(stream::unfold(watch, next)))
}

async fn next(mut watch: Watch) -> Option<(Update, Watch)> {
    tokio::select! {
        changed = watch.newest.changed() => changed.ok()?,
        _ = watch.stopping.wait_for(|stopping| *stopping) => return None,
        () = tokio::time::sleep_until(watch.until) => return None,
    }
    let state = watch.newest.borrow_and_update().wire.clone();
    Some((Ok(state), watch))
}
