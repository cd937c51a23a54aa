//! Issuer records: what each issuing CA may still have outstanding. Root rotation reads them to know when a root has no
//! living leaf left; each process fences the records of those before it (the state directory admits one at a time).
use super::{Store, StoreError, int, touch_clock, uint};

/// One issuing CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerRecord {
    /// Subject key identifier.
    pub ski: Vec<u8>,
    /// Subject key identifier of the root above it.
    pub root: Vec<u8>,
    /// End of its certificate, unix seconds.
    pub not_after: u64,
    /// No leaf of it ends later than this, unix seconds; written before such a leaf is signed.
    pub signing_until: u64,
    /// The lowest trust sequence that a holder of an unexpired leaf was known to hold; absent when there is no such leaf.
    pub lowest_held: Option<u64>,
    /// Whether it may sign no more.
    pub fenced: bool,
}

impl Store {
    /// Fences every issuer of earlier processes. Returns how many.
    pub async fn fence_issuers(&self) -> Result<usize, StoreError> {
        self.write(|c| Ok(c.execute("UPDATE issuers SET fenced = 1 WHERE fenced = 0", [])?)).await
    }

    /// Records a new issuing CA before it signs anything.
    pub async fn add_issuer(&self, record: IssuerRecord, now: u64) -> Result<(), StoreError> {
        self.write(move |c| {
            c.execute(
                "INSERT INTO issuers (ski, root, not_after, signing_until, fenced) VALUES (?1, ?2, ?3, ?4, 0)",
                (record.ski, record.root, int(record.not_after), int(record.signing_until)),
            )?;
            touch_clock(c, now)
        })
        .await
    }

    /// Moves "signing until" forward; `false` when the issuer is fenced or unknown and must not sign.
    pub async fn extend_issuer(&self, ski: &[u8], signing_until: u64) -> Result<bool, StoreError> {
        let ski = ski.to_vec();
        self.write(move |c| {
            let changed = c.execute(
                "UPDATE issuers SET signing_until = max(signing_until, ?2) WHERE ski = ?1 AND fenced = 0",
                (ski, int(signing_until)),
            )?;
            Ok(changed == 1)
        })
        .await
    }

    /// Every record.
    pub fn issuers(&self) -> Result<Vec<IssuerRecord>, StoreError> {
        self.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT ski, root, not_after, signing_until, lowest_held, fenced FROM issuers ORDER BY not_after",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(IssuerRecord {
                    ski: row.get(0)?,
                    root: row.get(1)?,
                    not_after: uint(row.get(2)?),
                    signing_until: uint(row.get(3)?),
                    lowest_held: row.get::<_, Option<i64>>(4)?.map(uint),
                    fenced: row.get(5)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Housekeeping: recomputes "lowest held" of every issuer over the leaves that still live, and forgets issuers and
    /// journal entries that ended before `forget_before`, and tokens that expired. Bounded work per call.
    pub async fn tidy(&self, now: u64, forget_before: u64) -> Result<(), StoreError> {
        self.write(move |c| {
            c.execute(
                "DELETE FROM journal WHERE id IN (SELECT id FROM journal WHERE not_after < ?1 ORDER BY not_after LIMIT 5000)",
                [int(forget_before)],
            )?;
            c.execute("DELETE FROM issuers WHERE not_after < ?1 AND signing_until < ?1", [int(forget_before)])?;
            c.execute("DELETE FROM join_tokens WHERE expires_at <= ?1", [int(now)])?;
            c.execute(
                "UPDATE issuers SET lowest_held = live.lowest FROM (
                   SELECT i.ski, (SELECT min(j.trust_held) FROM journal j WHERE j.not_after > ?1 AND j.issuer = i.ski) AS lowest
                   FROM issuers i) AS live
                 WHERE issuers.ski = live.ski",
                [int(now)],
            )?;
            Ok(())
        })
        .await
    }
}
