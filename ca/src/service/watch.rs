//! The stream of trust states: the newest at once, then every newer one; a reader that is slow skips to the newest. Bounded
//! in number, and ended when the process stops.
use super::{Parts, Update};
use crate::{attest::Refusal, limits::Busy, trust::Published};
use futures::stream;
use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// What tonic sends from.
pub(super) type Stream = Pin<Box<dyn futures::Stream<Item = Update> + Send>>;

struct Watch {
    newest: watch::Receiver<Arc<Published>>,
    stopping: watch::Receiver<bool>,
    _open: Open,
}

/// Counts an open stream and holds its place.
struct Open {
    _place: OwnedSemaphorePermit,
    gauge: prometheus_client::metrics::gauge::Gauge,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

pub(super) fn open(parts: &Parts, address: IpAddr) -> Result<Stream, Refusal> {
    parts.by_address.take(&address, parts.clock.running())?;
    let full = |_| Busy { retry_after: Duration::from_secs(5) };
    let place = parts.watches.clone().try_acquire_owned().map_err(full)?;
    let gauge = parts.metrics.watches.clone();
    gauge.inc();
    let mut newest = parts.publisher.watch();
    // The present state is news to this stream.
    newest.mark_changed();
    let watch = Watch { newest, stopping: parts.stopping.clone(), _open: Open { _place: place, gauge } };
    Ok(Box::pin(stream::unfold(watch, next)))
}

async fn next(mut watch: Watch) -> Option<(Update, Watch)> {
    tokio::select! {
        changed = watch.newest.changed() => changed.ok()?,
        _ = watch.stopping.wait_for(|stopping| *stopping) => return None,
    }
    let state = watch.newest.borrow_and_update().wire.clone();
    Some((Ok(state), watch))
}
