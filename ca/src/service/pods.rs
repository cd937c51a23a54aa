//! The calls of pods: their token says who they are, as long as the cluster can be asked; while it cannot, or while a pod
//! terminates, a valid certificate is renewed.
//!
//! ```text
//!   limits ─▶ attested in full ──────────────────────────────────────────────────▶ sign, with a new receipt
//!                └ API server away, or terminating ─▶ renewal (nonce, receipt, SVID, proof) ─▶ sign, same receipt
//! ```
use super::{Asked, Parts, Unjournaled};
use crate::{
    attest::{
        Attested, Refusal,
        kubernetes::{self, Attestor, NotAttested, PodRefusal},
        receipt::{Receipts, Seen},
        renewal,
    },
    certificate::public_key_of_request,
    limits::Buckets,
    store::Place,
};
use signet_identity::{Credentials, SpiffeId, TrustDomain};
use signet_proto::ca::{KubernetesProof, RenewalProof};
use std::{net::IpAddr, sync::Arc};

/// To whoever joins as a machine does.
pub(super) const ONLY_PODS: Refusal = Refusal::Unsupported(
    "this CA serves a Kubernetes cluster and takes no join tokens and host keys; in a pod set token_file to a projected service account token with audience signet-ca",
);

/// What attests pods.
#[derive(Debug)]
pub struct Pods {
    /// Asks the cluster.
    pub attestor: Attestor,
    /// Seals what it said.
    pub receipts: Arc<Receipts>,
    /// Today's trust, for certificates that are renewed.
    pub credentials: Arc<Credentials>,
    /// Whose identities are given.
    pub trust_domain: TrustDomain,
    /// Requests by token: what one workload may cost the API server before it is known who it is (F12).
    pub by_token: Buckets<[u8; 32]>,
}

/// Who the pod is, with the receipt to give it.
struct Known {
    id: SpiffeId,
    seen: Seen,
    attestor: &'static str,
}

/// A renewal that is asked for.
enum Renewal {
    Claimed(renewal::Claim),
    /// Whose it is has been proved, and the nonce is spent.
    Proved(SpiffeId, Seen),
}

impl Pods {
    /// Signs a leaf for a pod; gives it with the receipt for its next renewal.
    pub(super) async fn issue(
        &self,
        parts: &Arc<Parts>,
        proof: KubernetesProof,
        renewal: Option<RenewalProof>,
        peer: IpAddr,
        asked: Asked,
    ) -> Result<(Unjournaled, Vec<u8>), Refusal> {
        let claim = kubernetes::Claim::read(proof)?;
        let renewal = renewal.map(renewal::Claim::read).transpose()?;
        let running = parts.clock.running();
        let now = parts.clock.seconds();
        // What others did from the same address (of a node that hides its pods behind its own) is no reason to refuse who holds
        // the key of a valid certificate: that is charged to the workload.
        let address = asked.caller.address;
        let crowded = parts.failures.peek(&address, running);
        let crowded = crowded.and_then(|()| parts.by_address.take(&address, running));
        let crowded = parts.charged(&asked.caller, crowded).err();
        let renewal = match (crowded, renewal) {
            (None, claimed) => claimed.map(Renewal::Claimed),
            (Some(busy), None) => return Err(busy.into()),
            (Some(busy), Some(claimed)) => {
                // Whoever proves nothing is told what he would be told without a proof.
                let (id, seen) = self.verify(parts, claimed, &asked, now).await.map_err(|_| busy)?;
                parts.by_workload.take(&seen.uid, running)?;
                Some(Renewal::Proved(id, seen))
            }
        };
        let charged = match &renewal {
            Some(Renewal::Proved(_, seen)) => Some(seen.uid.clone()),
            _ => None,
        };
        self.by_token.take(&claim.key(), running)?;
        let known = match self.attestor.attest(&claim, peer, now).await {
            Ok(seen) => {
                let id = SpiffeId::workload(&self.trust_domain, &seen.namespace, &seen.service_account)
                    .map_err(|error| Refusal::Internal(error.into()))?;
                Known { id, seen, attestor: kubernetes::NAME }
            }
            Err(reason) => self.renew(parts, reason, renewal, peer, &asked, now).await?,
        };
        let receipt = self.receipts.seal(&known.seen).map_err(|error| Refusal::Internal(error.into()))?;
        // The caller is known: whatever it costs from here on is charged to its own bucket.
        if charged.as_ref() != Some(&known.seen.uid) {
            parts.by_workload.take(&known.seen.uid, running)?;
        }
        let ticket = parts.issuance.prepare().await?;
        let held = parts.held(&known.seen.uid, asked.held);
        let Known { id, seen, attestor } = known;
        let place = Place { pod: format!("{}/{}", seen.namespace, seen.pod), node: seen.node, peer };
        let facts = Attested { id, uid: Some(seen.uid), attestor, host_key: None, place: Some(place) };
        let csr = asked.csr;
        let leaf = parts
            .bench
            .run(move || {
                let key = public_key_of_request(&csr)?;
                ticket.sign(facts, &key, held)
            })
            .await??;
        Ok((leaf, receipt))
    }

    /// Who a pod is that cannot be attested in full now, by the certificate that it renews.
    async fn renew(
        &self,
        parts: &Arc<Parts>,
        reason: NotAttested,
        renewal: Option<Renewal>,
        peer: IpAddr,
        asked: &Asked,
        now: u64,
    ) -> Result<Known, Refusal> {
        let may_renew = matches!(reason, NotAttested::Away(_) | NotAttested::Terminating(_) | NotAttested::Token);
        let Some(renewal) = renewal.filter(|_| may_renew) else {
            return Err(charged(parts, asked.caller.address, reason.into()));
        };
        let (id, seen) = match renewal {
            Renewal::Proved(id, seen) => (id, seen),
            Renewal::Claimed(claimed) => self
                .verify(parts, claimed, asked, now)
                .await
                .map_err(|refusal| charged(parts, asked.caller.address, refusal))?,
        };
        self.attestor.address(&seen, peer)?;
        match reason {
            NotAttested::Away(error) => {
                tracing::warn!(%id, uid = %seen.uid, %error, "renewing without the API server");
            }
            NotAttested::Terminating(live) if live.uid == seen.uid => {}
            NotAttested::Token if self.attestor.is_terminating(&seen).await? => {}
            reason => return Err(charged(parts, asked.caller.address, reason.into())),
        }
        Ok(Known { id, seen, attestor: renewal::NAME })
    }

    /// Whose certificate is renewed, by the caller's proof that it holds its key. Spends the nonce.
    async fn verify(
        &self,
        parts: &Arc<Parts>,
        renewal: renewal::Claim,
        asked: &Asked,
        now: u64,
    ) -> Result<(SpiffeId, Seen), Refusal> {
        let running = parts.clock.running();
        parts.nonces.check(renewal.nonce(), running).map_err(|_| Refusal::Nonce)?;
        let (at_bench, receipts, trust, csr) =
            (parts.clone(), self.receipts.clone(), self.credentials.trust(), asked.csr.clone());
        let trust_domain = self.trust_domain.clone();
        let verify = move || {
            let known = renewal.verify(&receipts, &trust, &trust_domain, &csr, now)?;
            at_bench.nonces.spend(renewal.nonce(), running).map_err(|_| Refusal::Nonce)?;
            Ok(known)
        };
        parts.bench.run(verify).await?
    }
}

/// Charges what an unknown caller cost us to its address, and gives the refusal back.
fn charged(parts: &Parts, address: IpAddr, refusal: Refusal) -> Refusal {
    let honest = [PodRefusal::NotPublished, PodRefusal::Terminating];
    if matches!(&refusal, Refusal::Pod(reason) if !honest.contains(reason)) {
        parts.failed(address);
    }
    refusal
}
