//! The calls of machines: they join with a token once, and show their host key from then on.
use super::{Asked, Parts, Unjournaled};
use crate::{
    attest::{Refusal, host_key, join_token},
    certificate::public_key_of_request,
    store::{RedeemError, Store},
};
use signet_proto::ca::{HostKeyProof, RegisterRequest, RegisterResponse};
use std::{net::IpAddr, sync::Arc};

/// To whoever sends a pod's token.
pub(super) const ONLY_HOSTS: Refusal =
    Refusal::Unsupported("this CA does not attest Kubernetes tokens; join with a token and use the host key");

/// Exchanges a join token for the registration of a host key.
pub(super) async fn register(
    parts: &Arc<Parts>,
    store: &Arc<Store>,
    address: IpAddr,
    request: RegisterRequest,
) -> Result<RegisterResponse, Refusal> {
    let claim = join_token::Claim::read(request)?;
    let running = parts.clock.running();
    parts.failures.peek(&address, running)?;
    parts.by_address.take(&address, running)?;
    let now = parts.clock.seconds();
    let (at_bench, known) = (parts.clone(), store.clone());
    let redemption = parts
        .bench
        .run(move || {
            let wanted = &claim.redemption;
            if !known.token_could_serve(&wanted.token_hash, &wanted.key_id, now)? {
                at_bench.failed(address);
                return Err(Refusal::Redeem(RedeemError::Unknown));
            }
            claim.verify().inspect_err(|_| at_bench.failed(address))?;
            Ok(claim.redemption)
        })
        .await??;
    let host = store.redeem(redemption, now).await?;
    tracing::info!(identity = %host.identity, uid = %host.uid, host_key = %host.key_id, %address, "a host joined");
    Ok(RegisterResponse {
        host_key_id: host.key_id,
        spiffe_id: host.identity.to_string(),
        workload_uid: host.uid.to_string(),
    })
}

/// Signs a leaf for a host key that signed a fresh nonce.
pub(super) async fn issue(
    parts: &Arc<Parts>,
    store: &Arc<Store>,
    proof: HostKeyProof,
    asked: Asked,
) -> Result<Unjournaled, Refusal> {
    let claim = host_key::Claim::read(proof)?;
    let Asked { caller, csr, held } = asked;
    let (address, now) = (caller.address, parts.clock.running());
    parts.charged(&caller, parts.failures.peek(&address, now))?;
    parts.nonces.check(claim.nonce(), now).map_err(|_| Refusal::Nonce)?;
    let ticket = parts.issuance.prepare().await?;
    let (at_bench, known) = (parts.clone(), store.clone());
    parts
        .bench
        .run(move || {
            let host = claim.find(&known).inspect_err(|_| at_bench.failed(address))?;
            let uid = host.uid.clone();
            at_bench.by_workload.peek(&uid, now)?;
            let facts = claim.verify(host, &csr).inspect_err(|_| at_bench.failed(address))?;
            // From here on the caller is known: whatever it costs now is charged to its own bucket.
            at_bench.by_workload.take(&uid, now)?;
            at_bench.nonces.spend(claim.nonce(), now).map_err(|_| Refusal::Nonce)?;
            let key = public_key_of_request(&csr)?;
            ticket.sign(facts, &key, at_bench.held(&uid, held))
        })
        .await?
}
