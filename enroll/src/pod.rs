//! A pod's side of enrolment: the projected token that the kubelet keeps fresh, the identity that the first certificate fixed,
//! and what a renewal needs to prove that this very process holds the certificate which it renews.
use crate::config::read_pod_token;
use signet_identity::{SpiffeId, Svid, WorkloadUid};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use zeroize::Zeroizing;

/// What this process knows of itself beyond its SVID; nothing of it outlives the process.
#[derive(Debug)]
pub(crate) struct Pod {
    token_file: PathBuf,
    /// Who this pod is, by its first certificate; it cannot change while the pod lives.
    fixed: OnceLock<(SpiffeId, WorkloadUid)>,
    /// From the last answer, for the next request.
    receipt: Mutex<Vec<u8>>,
}

/// The SVID held, and the CA's receipt that came with it.
#[derive(Debug)]
pub(crate) struct Renewal {
    pub(crate) svid: Arc<Svid>,
    pub(crate) receipt: Vec<u8>,
}

impl Pod {
    pub(crate) fn new(token_file: &Path) -> Self {
        Self { token_file: token_file.to_path_buf(), fixed: OnceLock::new(), receipt: Mutex::default() }
    }

    /// The token, as the kubelet last wrote it. In words, what is wrong with it.
    pub(crate) async fn token(&self) -> Result<Zeroizing<String>, String> {
        let path = self.token_file.clone();
        let read = tokio::task::spawn_blocking(move || read_pod_token(&path)).await;
        read.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// The proof that goes with a request at `now` (unix seconds); nothing before the first certificate and after the last
    /// one's end.
    pub(crate) fn renewal(&self, svid: Option<Arc<Svid>>, now: u64) -> Option<Renewal> {
        let svid = svid.filter(|svid| now <= svid.not_after())?;
        let receipt = self.receipt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (!receipt.is_empty()).then_some(Renewal { svid, receipt })
    }

    /// Who this pod is: fixed by the first identity and UID that come.
    pub(crate) fn is(&self, id: &SpiffeId, uid: &WorkloadUid) -> &(SpiffeId, WorkloadUid) {
        self.fixed.get_or_init(|| (id.clone(), uid.clone()))
    }

    /// Keeps the receipt of a certificate that is now in use.
    pub(crate) fn keep(&self, receipt: Vec<u8>) {
        *self.receipt.lock().unwrap_or_else(PoisonError::into_inner) = receipt;
    }
}
