//! The trust state that this CA publishes: read from the store, changed by compare-and-swap, and handed to every stream.
//! One object, applied whole; its sequence is max(previous + 1, unix seconds), so that nobody ever goes back.
use crate::{
    clock::Clock,
    metrics::Metrics,
    store::{Store, StoreError, Swap},
};
use prost::Message;
use signet_enroll::{trust_state_from_wire, trust_state_to_wire};
use signet_identity::TrustState;
use signet_proto::ca as wire;
use std::sync::Arc;
use tokio::sync::watch;

/// A published state, in both its forms.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// For ourselves.
    pub state: TrustState,
    /// For the wire.
    pub wire: wire::TrustState,
}

/// Publishes trust states. Shared by the composition root and the gRPC service.
#[derive(Debug)]
pub struct Publisher {
    store: Arc<Store>,
    clock: Clock,
    metrics: Metrics,
    newest: watch::Sender<Arc<Published>>,
}

impl Publisher {
    /// Reads what was published before; sequence 0 when nothing was.
    pub fn open(store: Arc<Store>, clock: Clock, metrics: Metrics) -> Result<Self, StoreError> {
        let publisher = Self { store, clock, metrics, newest: watch::Sender::default() };
        publisher.reload()?;
        Ok(publisher)
    }

    /// The newest state.
    pub fn newest(&self) -> Arc<Published> {
        self.newest.borrow().clone()
    }

    /// The newest state and every later one.
    pub fn watch(&self) -> watch::Receiver<Arc<Published>> {
        self.newest.subscribe()
    }

    /// Publishes what `change` makes of the newest state; nothing when it changes nothing.
    pub async fn publish(&self, change: impl Fn(&mut TrustState)) -> Result<Arc<Published>, StoreError> {
        loop {
            let held = self.newest();
            let mut state = held.state.clone();
            change(&mut state);
            if state == held.state && state.sequence > 0 {
                return Ok(held);
            }
            let now = self.clock.seconds();
            state.sequence = next_sequence(held.state.sequence, now);
            let wire = trust_state_to_wire(&state);
            match self.store.swap_trust(held.state.sequence, state.sequence, wire.encode_to_vec(), now).await? {
                Swap::Done => {
                    tracing::info!(sequence = state.sequence, "published a trust state");
                    return Ok(self.announce(Published { state, wire }));
                }
                Swap::Lost => self.reload()?,
            }
        }
    }

    fn reload(&self) -> Result<(), StoreError> {
        if let Some((sequence, content)) = self.store.trust()? {
            let wire = wire::TrustState::decode(content.as_slice()).map_err(|e| StoreError::Content(e.to_string()))?;
            let state = trust_state_from_wire(wire.clone()).map_err(|error| StoreError::Content(error.to_string()))?;
            if state.sequence != sequence {
                return Err(StoreError::Content(format!("trust state {sequence} says that it is {}", state.sequence)));
            }
            self.announce(Published { state, wire });
        }
        Ok(())
    }

    fn announce(&self, published: Published) -> Arc<Published> {
        let published = Arc::new(published);
        self.metrics.trust_sequence.set(i64::try_from(published.state.sequence).unwrap_or(i64::MAX));
        self.newest.send_replace(published.clone());
        published
    }
}

/// Never goes back, and jumps to the present so that a restored backup overtakes what it had published.
fn next_sequence(previous: u64, now: u64) -> u64 {
    previous.saturating_add(1).max(now)
}

#[cfg(test)]
mod tests;
