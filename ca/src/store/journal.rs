//! The journal of certificates. An entry is on disk before its certificate is handed out, so a certificate that the journal
//! lacks was never given to anyone; the opposite, an entry whose certificate got lost on the way, is harmless.
use super::{Store, StoreError, int, touch_clock};

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
    /// Subject key identifier of the issuing CA.
    pub issuer: Vec<u8>,
    /// The SPIFFE ID given.
    pub identity: String,
    /// The workload UID given; absent for the CA's own.
    pub uid: Option<String>,
    /// Name of the attestor that vouched.
    pub attestor: &'static str,
    /// The host key that vouched; it must still be registered, and not revoked, when the entry is written.
    pub host_key: Option<String>,
    /// Unix seconds.
    pub issued_at: u64,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// The trust sequence that the holder said it holds.
    pub trust_held: u64,
    /// Which pod, where it was one; in a cluster's journal alone.
    pub place: Option<Place>,
}

/// Where a pod was seen that got a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `namespace/name`.
    pub pod: String,
    /// The node that it runs on.
    pub node: String,
    /// The address that it called from.
    pub peer: std::net::IpAddr,
}

/// Why a certificate was not journaled, and so must not leave.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The host key was revoked or replaced while the certificate was being signed.
    #[error("the host key is no longer registered")]
    HostKeyGone,
    /// The issuing CA was fenced while it signed, or has not recorded that it signs as far as this.
    #[error("the issuing CA may not sign until then")]
    Fenced,
    /// Any failure of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// Writes an entry. The revocation of a host key and the fence of an issuer are checked in the same transaction: once
    /// either is on disk, no certificate leaves any more.
    pub async fn journal(&self, entry: Entry) -> Result<(), JournalError> {
        self.write(move |c| {
            if let Some(key) = &entry.host_key {
                let registered = c
                    .prepare_cached("SELECT 1 FROM host_keys WHERE key_id = ?1 AND uid = ?2 AND revoked_at IS NULL")?
                    .exists((key, &entry.uid))?;
                if !registered {
                    return Err(JournalError::HostKeyGone);
                }
            }
            let held = int(entry.trust_held);
            let allowed = c
                .prepare_cached(
                    "UPDATE issuers SET lowest_held = min(coalesce(lowest_held, ?2), ?2)
                     WHERE ski = ?1 AND fenced = 0 AND signing_until >= ?3",
                )?
                .execute((&entry.issuer, held, int(entry.not_after)))?;
            if allowed != 1 {
                return Err(JournalError::Fenced);
            }
            c.prepare_cached(
                "INSERT INTO journal
                 (serial, issuer, identity, uid, attestor, host_key, issued_at, not_before, not_after, trust_held)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute((
                &entry.serial,
                &entry.issuer,
                &entry.identity,
                &entry.uid,
                entry.attestor,
                &entry.host_key,
                int(entry.issued_at),
                int(entry.not_before),
                int(entry.not_after),
                held,
            ))?;
            Ok(touch_clock(c, entry.issued_at)?)
        })
        .await
    }
}
