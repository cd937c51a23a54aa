//! What the CA saw of a pod when it last attested it in full, under a seal that every replica of the same CA can make and open:
//! HMAC-SHA256 with a key derived from the root's. The caller keeps it and shows it when it renews, so that no replica has to
//! remember any pod. Nothing of it is parsed before the seal is checked.
use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use signet_identity::{PrivateKey, WorkloadUid};
use std::net::IpAddr;

/// The longest receipt that is looked at, in bytes.
pub const MAX: usize = 4096;
/// Bytes of the seal, before what it seals.
const SEAL: usize = 32;
/// What the sealing key is derived for.
const LABEL: &[u8] = b"signet receipt v1\0";

/// A pod as the cluster showed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its UID, which becomes the workload UID.
    #[serde(with = "uid")]
    pub uid: WorkloadUid,
    /// The service account that it runs as.
    pub service_account: String,
    /// The node that it runs on.
    pub node: String,
    /// Its published addresses, v4-mapped ones as IPv4.
    pub addresses: Vec<IpAddr>,
    /// When, unix seconds.
    pub at: u64,
}

mod uid {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use signet_identity::WorkloadUid;

    pub(super) fn serialize<S: Serializer>(uid: &WorkloadUid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(uid.as_str())
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WorkloadUid, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Makes and opens receipts.
pub struct Receipts {
    key: hmac::Key,
}

impl Receipts {
    /// By the root's key: a CA with another root knows nothing of them.
    pub fn new(root: &PrivateKey) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &root.to_pkcs8_der()), LABEL);
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) }
    }

    /// A receipt.
    pub fn seal(&self, seen: &Seen) -> Result<Vec<u8>, serde_json::Error> {
        let content = serde_json::to_vec(seen)?;
        let mut receipt = hmac::sign(&self.key, &content).as_ref().to_vec();
        receipt.extend_from_slice(&content);
        Ok(receipt)
    }

    /// What a receipt of ours says; nothing when it is not ours.
    pub fn open(&self, receipt: &[u8]) -> Option<Seen> {
        let (seal, content) = receipt.split_at_checked(SEAL)?;
        hmac::verify(&self.key, content, seal).ok()?;
        serde_json::from_slice(content).ok()
    }
}

impl std::fmt::Debug for Receipts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Receipts(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            namespace: "shop".into(),
            pod: "orders-1".into(),
            uid: "8c5b1f0e-0000-4000-8000-000000000001".parse().unwrap(),
            service_account: "orders".into(),
            node: "node-1".into(),
            addresses: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            at: 1_800_000_000,
        }
    }

    #[test]
    fn every_replica_with_the_same_root_opens_it_and_no_other() {
        let root = PrivateKey::generate().unwrap();
        let same = PrivateKey::from_pem(&root.to_pem()).unwrap();
        let receipt = Receipts::new(&root).seal(&seen()).unwrap();
        assert!(receipt.len() < MAX);
        assert_eq!(Receipts::new(&same).open(&receipt), Some(seen()));
        assert_eq!(Receipts::new(&PrivateKey::generate().unwrap()).open(&receipt), None);
    }

    #[test]
    fn f24_one_changed_bit_anywhere_and_it_is_not_ours() {
        let receipts = Receipts::new(&PrivateKey::generate().unwrap());
        let receipt = receipts.seal(&seen()).unwrap();
        for at in 0..receipt.len() {
            let mut changed = receipt.clone();
            changed[at] ^= 1;
            assert_eq!(receipts.open(&changed), None, "bit 0 of byte {at}");
        }
        for length in 0..receipt.len() {
            assert_eq!(receipts.open(&receipt[..length]), None, "cut to {length}");
        }
    }
}
