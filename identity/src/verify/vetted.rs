//! Issuing CAs that were verified against a root of the present trust state. Of the three signatures that a handshake
//! verifies, the issuing CA's is the same every time: it is verified once for each trust state, which takes a third of the
//! signature checks away from every handshake after the first.
//!
//! An entry stands for the very bytes of a certificate, belongs to one trust domain's roots of one trust state, and goes with
//! it. Whatever depends on the clock or on the deny list is asked anew every time.
use super::{SIGNATURES, Usage, issuer_rejection, same_key, within};
use crate::rejection::{At, Rejection};
use crate::trust::Root;
use crate::verify::Leaf;
use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::sync::Arc;
use webpki::EndEntityCert;

/// The most that are remembered; there is one for each running CA process. More are verified anew each time.
const MOST: usize = 64;

/// Those of one trust domain.
#[derive(Debug, Default)]
pub(crate) struct Vetted(ArcSwap<Vec<Arc<Issuing>>>);

/// One issuing CA directly below a root.
#[derive(Debug)]
pub(crate) struct Issuing {
    der: CertificateDer<'static>,
    /// The issuing CA in the place of a root, one element long.
    anchors: [TrustAnchor<'static>; 1],
    subject_key: Vec<u8>,
    /// Unix seconds.
    not_before: u64,
    /// Unix seconds.
    not_after: u64,
    root: Root,
}

impl Vetted {
    /// The entry for these very bytes.
    pub(crate) fn find(&self, der: &CertificateDer<'_>) -> Option<Arc<Issuing>> {
        self.0.load().iter().find(|issuing| issuing.der == *der).cloned()
    }

    /// Remembers an issuing CA that was just verified to be signed by `root`. What has name constraints is not remembered: a
    /// root's would be lost.
    pub(super) fn remember(
        &self,
        der: &CertificateDer<'_>,
        authority: &super::Authority<'_>,
        (anchor, root): (&TrustAnchor<'_>, &Root),
        now: UnixTime,
    ) {
        let owned = der.clone().into_owned();
        let Ok(issuing) = webpki::anchor_from_trusted_cert(&owned).map(|issuing| issuing.to_owned()) else { return };
        if issuing.name_constraints.is_some() || anchor.name_constraints.is_some() {
            return;
        }
        let entry = Arc::new(Issuing {
            anchors: [issuing],
            subject_key: authority.subject_key.to_vec(),
            not_before: authority.not_before,
            not_after: authority.not_after,
            root: root.clone(),
            der: owned,
        });
        self.0.rcu(|held| {
            let good = held.iter().filter(|issuing| issuing.not_after >= now.as_secs() && issuing.der != entry.der);
            let mut next: Vec<_> = good.cloned().collect();
            if next.len() < MOST {
                next.push(entry.clone());
            }
            next
        });
    }
}

impl Issuing {
    /// Whether the root above it is valid at this moment.
    pub(super) fn root_is_valid(&self, now: UnixTime) -> bool {
        within(At::Root, self.root.not_before, self.root.not_after, now.as_secs()).is_ok()
    }

    /// The rest of the path: the issuing CA's time, the leaf's signature, the key identifier. Says what `verify_path` would
    /// say. Gives the subject key identifiers above the leaf.
    pub(super) fn verify_leaf(
        &self,
        leaf_der: &CertificateDer<'_>,
        leaf: &Leaf,
        now: UnixTime,
        usage: Usage,
    ) -> Result<Vec<Vec<u8>>, Rejection> {
        within(At::Ca(1), self.not_before, self.not_after, now.as_secs())?;
        EndEntityCert::try_from(leaf_der)
            .and_then(|end_entity| {
                end_entity.verify_for_usage(SIGNATURES, &self.anchors, &[], now, usage, None, None).map(|_| ())
            })
            .map_err(|error| issuer_rejection(&error, leaf))?;
        same_key(At::Leaf, &leaf.authority_key, &self.subject_key)?;
        Ok(vec![self.subject_key.clone(), self.root.subject_key.clone()])
    }
}
