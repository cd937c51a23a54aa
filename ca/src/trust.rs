//! The trust state that this CA publishes: read from the ledger, changed by compare-and-swap, and handed to every stream. What
//! another replica publishes is adopted under the same rules: nobody goes back, and one number has one content.
//! One object, applied whole; its sequence is max(previous + 1, unix seconds), so that nobody ever goes back.
use crate::{
    clock::Clock,
    ledger::Ledger,
    metrics::Metrics,
    store::{StoreError, Swap},
};
use prost::Message;
use signet_enroll::{trust_state_from_wire, trust_state_to_wire};
use signet_identity::TrustState;
use signet_proto::ca as wire;
use std::sync::Arc;
use tokio::sync::watch;

/// How often a state is decided anew because others were faster.
const TRIES: usize = 20;

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
    ledger: Ledger,
    clock: Clock,
    metrics: Metrics,
    newest: watch::Sender<Arc<Published>>,
}

impl Publisher {
    /// Reads what was published before; sequence 0 when nothing was.
    pub async fn open(ledger: impl Into<Ledger>, clock: Clock, metrics: Metrics) -> Result<Self, StoreError> {
        let publisher = Self { ledger: ledger.into(), clock, metrics, newest: watch::Sender::default() };
        publisher.reload().await?;
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
        self.swap(change).await
    }

    /// A state that is in the ledger, from whoever wrote it there. A newer one is adopted. An older one, or another content
    /// under the number that is held, is neither: it is alarmed, and what is held is published again under a higher number; an
    /// error says that it was not, and must be.
    pub async fn offer(&self, sequence: u64, content: &[u8]) -> Result<(), StoreError> {
        let offered = match read(sequence, content) {
            Ok(offered) => offered,
            Err(error) => {
                tracing::error!(alarm = "trust_state", %error, "the published trust state is not one; what is held stays");
                return Ok(());
            }
        };
        let held = self.newest();
        if sequence > held.state.sequence {
            tracing::info!(sequence, "another replica published a trust state");
            self.announce(offered);
        } else if offered.state != held.state {
            return self.restore().await;
        }
        Ok(())
    }

    /// Publishes what is held under a higher number, unless the ledger has it, or a newer one: what was heard of the ledger may
    /// be older than the ledger, and another replica may have been faster.
    pub async fn restore(&self) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            // In this order: what this replica itself publishes in between is found in the ledger.
            let held = self.newest();
            if held.state.sequence == 0 {
                return Ok(());
            }
            let published = self.ledger.trust().await?;
            let sequence = published.as_ref().map_or(0, |(sequence, _)| *sequence);
            if let Some((sequence, content)) = published {
                if sequence > held.state.sequence {
                    self.announce(read(sequence, &content)?);
                    return Ok(());
                }
                // What cannot be read is not what is held.
                if read(sequence, &content).is_ok_and(|published| published.state == held.state) {
                    return Ok(());
                }
                tracing::error!(
                    alarm = "trust_conflict",
                    sequence,
                    held = held.state.sequence,
                    "the published trust state is older than the one held, or other content under its number: it is not taken, and what is held is published again"
                );
            } else {
                tracing::error!(
                    alarm = "trust_gone",
                    "the published trust state was deleted: what is held is published again"
                );
            }
            if self.replace(sequence, held.state.clone()).await? == Swap::Done {
                return Ok(());
            }
        }
        Err(contended())
    }

    async fn swap(&self, change: impl Fn(&mut TrustState)) -> Result<Arc<Published>, StoreError> {
        for _ in 0..TRIES {
            let held = self.newest();
            let mut state = held.state.clone();
            change(&mut state);
            if state == held.state && state.sequence > 0 {
                return Ok(held);
            }
            match self.replace(held.state.sequence, state).await? {
                Swap::Done => return Ok(self.newest()),
                Swap::Lost => self.reload().await?,
            }
        }
        Err(contended())
    }

    /// Puts `state` in the place of what the ledger has under `published`, under a number after its own.
    async fn replace(&self, published: u64, mut state: TrustState) -> Result<Swap, StoreError> {
        let now = self.clock.seconds();
        state.sequence = next_sequence(state.sequence, now);
        let wire = trust_state_to_wire(&state);
        let swap = self.ledger.swap_trust(published, state.sequence, wire.encode_to_vec(), now).await?;
        if swap == Swap::Done {
            tracing::info!(sequence = state.sequence, "published a trust state");
            self.announce(Published { state, wire });
        }
        Ok(swap)
    }

    /// Adopts what the ledger has, if that is newer.
    pub async fn reload(&self) -> Result<(), StoreError> {
        if let Some((sequence, content)) = self.ledger.trust().await? {
            self.announce(read(sequence, &content)?);
        }
        Ok(())
    }

    /// Puts a state in force here unless a newer one is.
    fn announce(&self, published: Published) {
        let sequence = published.state.sequence;
        let newer = self.newest.send_if_modified(|newest| {
            let newer = sequence > newest.state.sequence;
            if newer {
                *newest = Arc::new(published);
            }
            newer
        });
        if newer {
            self.metrics.trust_sequence.set(i64::try_from(sequence).unwrap_or(i64::MAX));
        }
    }
}

fn read(sequence: u64, content: &[u8]) -> Result<Published, StoreError> {
    let wire = wire::TrustState::decode(content).map_err(|error| StoreError::Content(error.to_string()))?;
    let state = trust_state_from_wire(wire.clone()).map_err(|error| StoreError::Content(error.to_string()))?;
    if state.sequence != sequence {
        return Err(StoreError::Content(format!("trust state {sequence} says that it is {}", state.sequence)));
    }
    Ok(Published { state, wire })
}

fn contended() -> StoreError {
    StoreError::Content(format!("the trust state changed {TRIES} times while one was being published"))
}

/// Never goes back, and jumps to the present so that a restored backup overtakes what it had published.
fn next_sequence(previous: u64, now: u64) -> u64 {
    previous.saturating_add(1).max(now)
}

#[cfg(test)]
mod tests;
