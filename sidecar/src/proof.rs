//! Proves open tunnels again: one fresh mutual handshake with new SVIDs, over which the client presents the exporter values of
//! its open tunnels to that peer. The same two identities move their deadlines (design section 3).
//!
//! ```text
//! client -> server: count (u16), count times 32 bytes     server -> client: one byte each, 1 = moved, 0 = unknown or refused
//! ```
use crate::live::{Evidence, Exporter, Tunnel};
use crate::path::{Target, dial_tunnel};
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::tls::Tls;
use crate::tls::{Framing, Proven};
use signet_identity::{Peer, SpiffeId};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// Tunnels that one proof covers at most; more take another.
pub const MOST: usize = 1024;

/// The server's end.
pub async fn answer(shared: &Shared, mut tls: Tls, proven: Proven) {
    let limit = shared.settings.head_time;
    let peer = proven.peer.leaf.id.clone();
    if tokio::time::timeout(limit, answer_all(shared, &mut tls, proven)).await.is_err() {
        tracing::debug!(%peer, "a proof of open tunnels did not arrive in time");
    }
}

async fn answer_all(shared: &Shared, tls: &mut Tls, proven: Proven) {
    let Ok(exporters) = read_exporters(tls).await else { return };
    let (validity, own) = (proven.validity(), proven.own.clone());
    let evidence = Arc::new(Evidence::new(proven.peer, proven.chain, proven.trust));
    let answers: Vec<u8> = exporters
        .iter()
        .map(|exporter| match shared.live.tunnel(exporter) {
            Some(tunnel) if same_two(&tunnel, &evidence.peer, own.id(), false) => {
                tunnel.proved(validity, evidence.clone());
                1
            }
            _ => 0,
        })
        .collect();
    // A client that left before the answer asks again; the deadlines have moved all the same.
    drop(tls.write_all(&answers).await);
    drop(tls.shutdown().await);
}

async fn read_exporters(tls: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<Exporter>> {
    let count = usize::from(tls.read_u16().await?).min(MOST);
    let mut exporters = vec![[0; 32]; count];
    for exporter in &mut exporters {
        tls.read_exact(exporter).await?;
    }
    Ok(exporters)
}

/// Whether a tunnel was proved by exactly these two, and opened by the side that now proves it.
fn same_two(tunnel: &Tunnel, peer: &Peer, own: &SpiffeId, outbound: bool) -> bool {
    tunnel.outbound == outbound
        && tunnel.peer.leaf.id == peer.leaf.id
        && tunnel.peer.leaf.uid == peer.leaf.uid
        && tunnel.own == *own
}

/// The client's end: proves these tunnels, all to the same peer, and moves the deadlines of those that the peer moved too.
/// Returns how many.
pub async fn prove(shared: &Shared, target: &Target<'_>, tunnels: &[Arc<Tunnel>]) -> Result<usize, Refusal> {
    let limit = shared.settings.connect_time;
    let (mut tls, proven) = dial_tunnel(shared, target, Framing::Proof).await?;
    let mine: Vec<_> = tunnels.iter().filter(|t| same_two(t, &proven.peer, proven.own.id(), true)).take(MOST).collect();
    let exchange = exchange(&mut tls, &mine);
    let answers = tokio::time::timeout(limit, exchange)
        .await
        .map_err(|_| Refusal::HandshakeTimeout(limit))?
        .map_err(Refusal::RefusedByPeer)?;
    let validity = proven.validity();
    let evidence = Arc::new(Evidence::new(proven.peer, proven.chain, proven.trust));
    let moved: Vec<_> = mine.iter().zip(answers).filter(|(_, answer)| *answer == 1).collect();
    for (tunnel, _) in &moved {
        tunnel.proved(validity, evidence.clone());
    }
    Ok(moved.len())
}

async fn exchange(tls: &mut Tls, tunnels: &[&Arc<Tunnel>]) -> std::io::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(2 + 32 * tunnels.len());
    message.extend((tunnels.len() as u16).to_be_bytes());
    for tunnel in tunnels {
        message.extend(tunnel.exporter);
    }
    tls.write_all(&message).await?;
    tls.flush().await?;
    let mut answers = vec![0; tunnels.len()];
    tls.read_exact(&mut answers).await?;
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]

        /// F20: as many values as the peer announced, up to the limit, and each as it was sent; or an error.
        #[test]
        fn f20_any_bytes_are_read_as_values_or_refused(
            announced in proptest::prop_oneof![0..4_u16, 1020..1030_u16, proptest::prelude::any::<u16>()],
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            whole in proptest::prelude::any::<bool>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut message = announced.to_be_bytes().to_vec();
            message.extend(&bytes);
            let count = usize::from(announced).min(MOST);
            if whole {
                message.resize(2 + 32 * usize::from(announced), 7);
            }
            match runtime.block_on(read_exporters(&mut &*message)) {
                Ok(exporters) => {
                    proptest::prop_assert_eq!(exporters.len(), count);
                    proptest::prop_assert_eq!(exporters.concat(), &message[2..2 + 32 * count]);
                }
                Err(_) => proptest::prop_assert!(message.len() < 2 + 32 * count),
            }
        }
    }
}
