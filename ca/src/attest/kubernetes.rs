//! Attestor `kubernetes`: a projected service account token becomes the identity of the pod that it is bound to, by what the
//! cluster says at this moment.
//!
//! ```text
//! token ─▶ TokenReview (audience signet-ca, never cached) ─▶ service account, pod name, pod UID, node
//!           └▶ the live pod by name ─▶ same UID, account and node? running? the caller's address among its own?
//! ```
//!
//! Nothing is believed that the token says about itself: the API server reads it. Called by `service`.
use super::{Refusal, length, receipt::Seen};
use crate::{
    config::PeerAddress,
    kube::{AUDIENCE, Cluster, ClusterError, within},
    limits::Busy,
};
use aws_lc_rs::digest;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    core::v1::Pod,
};
use kube::{Api, api::PostParams};
use signet_proto::ca::KubernetesProof;
use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// The name in the journal.
pub const NAME: &str = "kubernetes";
/// The longest token that is shown to the API server, in bytes; a projected one has some thousand.
const MAX_TOKEN: usize = 16 * 1024;
/// Attestations at the API server at once. One takes some milliseconds.
const AT_ONCE: usize = 64;
/// What a caller is told to wait for an address that is not published yet.
pub const PUBLISHED_SOON: Duration = Duration::from_millis(100);

/// Why a pod is not attested. The text goes to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PodRefusal {
    /// The API server does not accept the token.
    #[error(
        "the cluster does not accept the token: it must be this pod's own, projected for the audience {AUDIENCE:?}, not expired, and its pod and service account must still exist"
    )]
    Token,
    /// A token that is not bound to a pod.
    #[error("the token is not bound to a pod on a node; use a projected one, not one of kubectl create token")]
    NotBound,
    /// The pod of the token is gone, or another one has its name.
    #[error("the pod that the token is bound to does not exist any more")]
    Gone,
    /// Token and live pod disagree.
    #[error("the live pod has another {0} than the token")]
    Other(&'static str),
    /// Its containers have ended.
    #[error("the pod has ended")]
    Ended,
    /// It is being deleted.
    #[error("the pod is terminating: a valid certificate may be renewed, none is given anew")]
    Terminating,
    /// Somebody else's address.
    #[error(
        "the caller's address {0} is not one of the pod's; where the cluster rewrites addresses set peer_address = \"record\" in the CA's [kubernetes]"
    )]
    Address(IpAddr),
    /// The kubelet has not said yet which addresses the pod has.
    #[error("the pod's address is not published yet")]
    NotPublished,
    /// The proof that should carry a renewal does not.
    #[error("the certificate that is held cannot be renewed: {0}")]
    Renewal(&'static str),
}

/// Why there is no full attestation. A renewal may stand in for the first three.
#[derive(Debug)]
pub enum NotAttested {
    /// The API server does not answer.
    Away(ClusterError),
    /// All is right, but the pod is being deleted.
    Terminating(Box<Seen>),
    /// The token is not accepted (any more: a pod that takes long to terminate outlives its token).
    Token,
    /// Any other reason.
    Refused(Refusal),
}

impl From<PodRefusal> for NotAttested {
    fn from(refusal: PodRefusal) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<ClusterError> for NotAttested {
    fn from(error: ClusterError) -> Self {
        if error.is_away() { Self::Away(error) } else { Self::Refused(Refusal::Cluster(error)) }
    }
}

impl From<NotAttested> for Refusal {
    fn from(reason: NotAttested) -> Self {
        match reason {
            NotAttested::Away(error) => Self::Cluster(error),
            NotAttested::Terminating(_) => PodRefusal::Terminating.into(),
            NotAttested::Token => PodRefusal::Token.into(),
            NotAttested::Refused(refusal) => refusal,
        }
    }
}

/// A token of the right form, and nothing more. Wiped when dropped.
#[derive(Debug)]
pub struct Claim {
    token: Zeroizing<String>,
}

impl Claim {
    /// Checks the form: cheap, before the API server is asked.
    pub fn read(proof: KubernetesProof) -> Result<Self, Refusal> {
        let token = Zeroizing::new(proof.token);
        length("token", token.len(), 16..=MAX_TOKEN, "a projected service account token has 16 to 16384 characters")?;
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            let want = "a projected service account token is base64url and dots";
            return Err(Refusal::Field { field: "token", found: "not printable ASCII".into(), want });
        }
        Ok(Self { token })
    }

    /// Names the token in limits, without being it.
    pub fn key(&self) -> [u8; 32] {
        let hash = digest::digest(&digest::SHA256, self.token.as_bytes());
        hash.as_ref().try_into().unwrap_or([0; 32])
    }
}

/// What a token says, in the API server's words.
#[derive(Debug, PartialEq, Eq)]
struct Reviewed {
    namespace: String,
    service_account: String,
    pod: String,
    uid: String,
    node: String,
}

/// Asks the cluster.
#[derive(Debug)]
pub struct Attestor {
    cluster: Cluster,
    peer_address: PeerAddress,
    places: Semaphore,
    waiting: AtomicUsize,
    most_waiting: usize,
}

impl Attestor {
    /// At most `most_waiting` callers wait while the API server is busy with others.
    pub fn new(cluster: Cluster, peer_address: PeerAddress, most_waiting: usize) -> Self {
        Self { cluster, peer_address, places: Semaphore::new(AT_ONCE), waiting: AtomicUsize::default(), most_waiting }
    }

    /// Attests in full: everything is asked now, nothing is remembered. `now` is unix seconds.
    pub async fn attest(&self, claim: &Claim, peer: IpAddr, now: u64) -> Result<Seen, NotAttested> {
        let _place = self.place().await?;
        let reviewed = self.review(claim).await?;
        let pod = self.pod(&reviewed.namespace, &reviewed.pod).await?;
        let (seen, terminating) = judge(reviewed, pod.as_ref(), now)?;
        self.address(&seen, peer)?;
        if terminating { Err(NotAttested::Terminating(Box::new(seen))) } else { Ok(seen) }
    }

    /// Whether a pod that was attested before is there still, and terminating.
    pub async fn is_terminating(&self, seen: &Seen) -> Result<bool, NotAttested> {
        let _place = self.place().await?;
        let pod = self.pod(&seen.namespace, &seen.pod).await?;
        Ok(pod.is_some_and(|pod| {
            pod.metadata.uid.as_deref() == Some(seen.uid.as_str()) && pod.metadata.deletion_timestamp.is_some()
        }))
    }

    /// Whether the caller has one of the pod's addresses, where that is required.
    pub fn address(&self, seen: &Seen, peer: IpAddr) -> Result<(), PodRefusal> {
        let peer = peer.to_canonical();
        match self.peer_address {
            _ if seen.addresses.contains(&peer) => Ok(()),
            PeerAddress::Record => {
                tracing::info!(pod = seen.pod, namespace = seen.namespace, %peer, addresses = ?seen.addresses, "the caller's address is not the pod's");
                Ok(())
            }
            PeerAddress::Require if seen.addresses.is_empty() => Err(PodRefusal::NotPublished),
            PeerAddress::Require => Err(PodRefusal::Address(peer)),
        }
    }

    async fn place(&self) -> Result<tokio::sync::SemaphorePermit<'_>, NotAttested> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let queued = Queued::enter(self)?;
        let place = self.places.acquire().await;
        drop(queued);
        // The semaphore is never closed.
        place.map_err(|_| NotAttested::Refused(Refusal::Internal("the queue is closed".into())))
    }

    async fn review(&self, claim: &Claim) -> Result<Reviewed, NotAttested> {
        // The API server remembers for ten seconds what it said of a token and a list of audiences, and would say it again of a
        // service account that was deleted since. An audience that no token has makes every question a new one.
        let audiences = vec![AUDIENCE.into(), format!("{AUDIENCE}/{:032x}", rand::random::<u128>())];
        let spec = TokenReviewSpec { audiences: Some(audiences), token: Some(claim.token.as_str().into()) };
        let mut request = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.cluster.client());
        let answer = within("TokenReview", reviews.create(&PostParams::default(), &request)).await;
        // The copy that went out is wiped like the original.
        drop(request.spec.token.take().map(Zeroizing::new));
        let mut answer = answer?;
        drop(answer.spec.token.take().map(Zeroizing::new));
        read_review(answer.status.unwrap_or_default())
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client(), namespace);
        within("reading the pod", pods.get_opt(name)).await
    }
}

struct Queued<'a>(&'a Attestor);

impl<'a> Queued<'a> {
    fn enter(attestor: &'a Attestor) -> Result<Self, NotAttested> {
        let queued = Self(attestor);
        if attestor.waiting.fetch_add(1, Ordering::AcqRel) >= attestor.most_waiting {
            let busy = Busy { retry_after: Duration::from_millis(500) };
            return Err(NotAttested::Refused(busy.into()));
        }
        Ok(queued)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the API server says of a token.
fn read_review(status: TokenReviewStatus) -> Result<Reviewed, NotAttested> {
    let ours = status.audiences.is_some_and(|audiences| audiences.iter().any(|audience| audience == AUDIENCE));
    if status.authenticated != Some(true) || status.error.is_some_and(|error| !error.is_empty()) || !ours {
        return Err(NotAttested::Token);
    }
    let user = status.user.unwrap_or_default();
    let mut extra = user.extra.unwrap_or_default();
    let mut one = |key: &str| match extra.remove(&format!("authentication.kubernetes.io/{key}")) {
        Some(mut values) if values.len() == 1 => values.pop().filter(|value| !value.is_empty()),
        _ => None,
    };
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match (account, one("pod-name"), one("pod-uid"), one("node-name")) {
        (Some((namespace, account)), Some(pod), Some(uid), Some(node)) if !account.contains(':') => {
            Ok(Reviewed { namespace: namespace.to_owned(), service_account: account.to_owned(), pod, uid, node })
        }
        _ => Err(PodRefusal::NotBound.into()),
    }
}

/// Holds the live pod against the token; gives what was seen, and whether the pod is terminating.
fn judge(reviewed: Reviewed, pod: Option<&Pod>, now: u64) -> Result<(Seen, bool), PodRefusal> {
    let pod = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&reviewed.uid)).ok_or(PodRefusal::Gone)?;
    let uid = reviewed.uid.parse().map_err(|_| PodRefusal::Other("UID"))?;
    let spec = pod.spec.as_ref().ok_or(PodRefusal::Gone)?;
    if spec.service_account_name.as_deref() != Some(&reviewed.service_account) {
        return Err(PodRefusal::Other("service account"));
    }
    if spec.node_name.as_deref() != Some(&reviewed.node) {
        return Err(PodRefusal::Other("node"));
    }
    let status = pod.status.as_ref();
    if matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")) {
        return Err(PodRefusal::Ended);
    }
    let published = status.into_iter().flat_map(|status| {
        let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        all.chain(status.pod_ip.as_deref())
    });
    let mut addresses: Vec<IpAddr> =
        published.filter_map(|ip| ip.parse().ok()).map(|ip: IpAddr| ip.to_canonical()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let Reviewed { namespace, service_account, pod: name, node, .. } = reviewed;
    let seen = Seen { namespace, pod: name, uid, service_account, node, addresses, at: now };
    Ok((seen, pod.metadata.deletion_timestamp.is_some()))
}

#[cfg(test)]
mod tests;
