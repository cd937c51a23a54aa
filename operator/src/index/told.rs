//! Destinations as `control` tells them to its streams. At every change each stream asks anew for everything that it follows, and
//! nearly all askers of a Service hear the same: what does not depend on the asker is made once for a snapshot.
use super::{Backend, Member, Owner, Snapshot};
use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use signet_proto::control;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// A destination, and what tells it from any other.
#[derive(Debug)]
pub struct Told {
    /// As [`Snapshot::destination`] gives it.
    pub destination: control::Destination,
    /// SHA-256 of its encoding.
    pub fingerprint: [u8; 32],
}

/// What was made already. Never more than there are addresses in the index, whatever peers ask for.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<HashMap<IpAddr, Arc<Told>>>);

/// SHA-256 of a message's encoding.
pub fn fingerprint(message: &impl Message) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    // SHA-256 has 32 bytes: the zip takes all of them.
    for (to, from) in fingerprint.iter_mut().zip(digest(&SHA256, &message.encode_to_vec()).as_ref()) {
        *to = *from;
    }
    fingerprint
}

impl Snapshot {
    /// The destination at an address (canonical), as `asker` should see it.
    pub fn told(&self, asker: &Member, address: IpAddr) -> Arc<Told> {
        let make = || {
            let destination = self.destination(asker, address);
            Arc::new(Told { fingerprint: fingerprint(&destination), destination })
        };
        if !self.same_for_all(asker, address) {
            return make();
        }
        // A poisoned lock holds nothing half-written.
        let made = || self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = made().get(&address) {
            return told.clone();
        }
        let told = make();
        made().entry(address).or_insert(told).clone()
    }

    /// Whether every other asker for whom this is so, too, hears the same.
    fn same_for_all(&self, asker: &Member, address: IpAddr) -> bool {
        let Some(own) = self.by_key.get(&asker.workload.key) else { return false };
        let impartial = |at: &usize| self.services.get(*at).is_some_and(|backend| backend.is_impartial(*own));
        match self.by_address.get(&address) {
            Some(Owner::Member(at)) => at != own,
            Some(Owner::Service(at)) => impartial(at),
            Some(Owner::Balanced(all)) => all.iter().all(impartial),
            Some(Owner::Node(_) | Owner::Nobody) | None => false,
        }
    }
}

impl Backend {
    /// It does not select this member, and neither node, zone nor affinity count.
    fn is_impartial(&self, member: usize) -> bool {
        let partial = self.service.cluster.as_ref().is_some_and(|cluster| cluster.local || cluster.sticky.is_some());
        !partial
            && !self.selected.contains(&member)
            && self.ports.iter().flat_map(|port| &port.to).all(|to| !to.is_hinted())
    }
}
