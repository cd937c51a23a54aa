//! The profiles: every field of every certificate that the CA makes, in one file (design section 3, the SPIFFE checklist
//! L1 to L10 and C1 to C7). `sign` turns a template into bytes, `validate` compares bytes with a template.
use super::P256PublicKey;
use aws_lc_rs::{digest, rand};
use signet_identity::{SpiffeId, TrustDomain, WorkloadUid, profile};
use std::time::Duration;

/// 128 random bits, big-endian. The first byte is never 0, so that it has one encoding with or without leading zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial(pub [u8; 16]);

impl Serial {
    /// From the operating system's randomness; `None` when that fails.
    pub fn random() -> Option<Self> {
        let mut bytes = [0; 16];
        while bytes[0] == 0 {
            rand::fill(&mut bytes).ok()?;
        }
        Some(Self(bytes))
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Self-signed, critical basicConstraints without a path length, keyCertSign alone.
    Root,
    /// Below a root: path length 0, keyCertSign alone.
    Issuing,
    /// `CA:FALSE`, digitalSignature alone, both EKUs, no subject, critical SAN, and the UID unless it is the CA's own.
    Leaf {
        /// Carried in `profile::UID_EXTENSION`.
        uid: Option<WorkloadUid>,
    },
}

/// One certificate, before it is signed. The public key joins at the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its profile.
    pub role: Role,
    /// The only URI SAN. CAs carry the path-less ID of the trust domain.
    pub id: SpiffeId,
    /// Serial number.
    pub serial: Serial,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
}

impl Template {
    /// A root for the trust domain, made at `now`.
    pub fn root(td: &TrustDomain, serial: Serial, now: u64, lifetime: Duration) -> Self {
        Self::ca(Role::Root, td, serial, now, lifetime, u64::MAX)
    }

    /// An issuing CA that ends no later than its issuer.
    pub fn issuing(td: &TrustDomain, serial: Serial, now: u64, lifetime: Duration, issuer_ends: u64) -> Self {
        Self::ca(Role::Issuing, td, serial, now, lifetime, issuer_ends)
    }

    fn ca(role: Role, td: &TrustDomain, serial: Serial, now: u64, lifetime: Duration, issuer_ends: u64) -> Self {
        Self {
            role,
            id: td.id(),
            serial,
            not_before: now.saturating_sub(profile::CA_BACKDATE.as_secs()),
            not_after: now.saturating_add(lifetime.as_secs()).min(issuer_ends),
        }
    }

    /// A workload's leaf that ends no later than its issuer.
    pub fn leaf(
        id: SpiffeId,
        uid: Option<WorkloadUid>,
        serial: Serial,
        now: u64,
        lifetime: Duration,
        issuer_ends: u64,
    ) -> Self {
        Self {
            role: Role::Leaf { uid },
            id,
            serial,
            not_before: now.saturating_sub(profile::leaf_backdate(lifetime).as_secs()),
            not_after: now.saturating_add(lifetime.as_secs()).min(issuer_ends),
        }
    }

    /// Whether it may sign certificates.
    pub fn is_ca(&self) -> bool {
        !matches!(self.role, Role::Leaf { .. })
    }

    /// The subject's common name: CAs have a distinct one each, leaves have no subject.
    pub fn common_name(&self, key: &P256PublicKey) -> Option<String> {
        let kind = match self.role {
            Role::Root => "root",
            Role::Issuing => "issuing CA",
            Role::Leaf { .. } => return None,
        };
        let id = self.subject_key_id(key).first_chunk().copied().map(u64::from_be_bytes)?;
        Some(format!("Signet {kind} {id:016x}"))
    }

    /// The leftmost 160 bits of the SHA-256 of the public key (RFC 7093 section 2, method 1).
    pub fn subject_key_id(&self, key: &P256PublicKey) -> Vec<u8> {
        digest::digest(&digest::SHA256, key.point()).as_ref().iter().take(20).copied().collect()
    }
}
