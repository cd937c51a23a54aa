//! The trust state that this CA publishes: read from the store, changed by compare-and-swap, and handed to every stream.
//! One object, applied whole; its sequence is max(previous + 1, unix seconds), so that nobody ever goes back.
use crate::{
    clock::Clock,
    metrics::Metrics,
    store::{Store, StoreError, Swap},
};
use prost::Message;
use rustls_pki_types::CertificateDer;
use signet_identity::{Bundle, DenyList, TrustDomain, TrustState};
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
            let wire = to_wire(&state);
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
            let state = from_wire(&wire)?;
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

fn to_wire(state: &TrustState) -> wire::TrustState {
    let bundle = |(td, bundle): (&TrustDomain, &Bundle)| wire::Bundle {
        trust_domain: td.to_string(),
        roots: bundle.roots.iter().map(|root| root.to_vec()).collect(),
    };
    wire::TrustState {
        sequence: state.sequence,
        bundles: state.bundles.iter().map(bundle).collect(),
        denied_issuers: state.deny.issuers.iter().cloned().collect(),
        denied_serials: state.deny.serials.iter().cloned().collect(),
        denied_identities: state.deny.identities.iter().map(ToString::to_string).collect(),
    }
}

fn from_wire(wire: &wire::TrustState) -> Result<TrustState, StoreError> {
    let wrong = |error: signet_identity::IdError| StoreError::Content(error.to_string());
    let bundle = |bundle: &wire::Bundle| -> Result<_, StoreError> {
        let roots = bundle.roots.iter().cloned().map(CertificateDer::from).collect();
        Ok((bundle.trust_domain.parse().map_err(wrong)?, Bundle { roots }))
    };
    Ok(TrustState {
        sequence: wire.sequence,
        bundles: wire.bundles.iter().map(bundle).collect::<Result<_, _>>()?,
        deny: DenyList {
            issuers: wire.denied_issuers.iter().cloned().collect(),
            serials: wire.denied_serials.iter().cloned().collect(),
            identities: wire.denied_identities.iter().map(|id| id.parse().map_err(wrong)).collect::<Result<_, _>>()?,
        },
    })
}
