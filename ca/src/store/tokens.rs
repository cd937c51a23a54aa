//! Join tokens and the host keys that they register. A token is spent by deleting its row and counting the affected rows, in
//! the same transaction that registers the key: of a hundred who try, one deletes it (F24).
use super::{Store, StoreError, int, optional, parsed, touch_clock, uint};
use rusqlite::{Connection, Row};
use signet_identity::{SpiffeId, WorkloadUid};

/// A token to be made. Its text never reaches the store.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// SHA-256 of the token's text.
    pub hash: Vec<u8>,
    /// The name it is listed and revoked by.
    pub id: String,
    /// Whoever redeems it becomes this.
    pub identity: SpiffeId,
    /// And carries this UID.
    pub uid: WorkloadUid,
    /// Made with `--control`.
    pub control: bool,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds; from this second on it is worth nothing.
    pub expires_at: u64,
}

/// A token that waits to be redeemed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The name it is listed and revoked by.
    pub id: String,
    /// Whoever redeems it becomes this.
    pub identity: SpiffeId,
    /// And carries this UID.
    pub uid: WorkloadUid,
    /// Made with `--control`.
    pub control: bool,
    /// Unix seconds.
    pub expires_at: u64,
}

/// The key of a machine that joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Lower-case hex SHA-256 of the public key.
    pub key_id: String,
    /// What it attests.
    pub identity: SpiffeId,
    /// What it attests.
    pub uid: WorkloadUid,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// Unix seconds.
    pub registered_at: u64,
    /// Unix seconds; a revoked key attests nothing.
    pub revoked_at: Option<u64>,
}

/// A token presented together with a host key, all verified but the token itself.
#[derive(Debug, Clone)]
pub struct Redemption {
    /// SHA-256 of the token's text.
    pub token_hash: Vec<u8>,
    /// Lower-case hex SHA-256 of the public key.
    pub key_id: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
}

/// Why a token was not made.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The UID belongs to another identity, for good.
    #[error("workload uid {uid} belongs to {owner}; choose another uid, or leave it out")]
    UidTaken {
        /// The UID.
        uid: WorkloadUid,
        /// Whose it is.
        owner: String,
    },
    /// Any failure of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for TokenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Why a token was not redeemed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RedeemError {
    /// Never made, used with another key, expired or revoked: the caller is not told which.
    #[error("the join token is unknown, used, expired or revoked")]
    Unknown,
    /// The UID belongs to another identity.
    #[error("the workload uid belongs to another identity")]
    UidTaken,
    /// One key, one workload.
    #[error("this host key is registered for another workload; make a new key")]
    KeyTaken,
    /// A revoked key stays revoked.
    #[error("this host key was revoked; make a new key")]
    KeyRevoked,
    /// Any failure of the store: denied (F2).
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for RedeemError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

const HOST_COLUMNS: &str = "key_id, identity, uid, public_key, registered_at, revoked_at";

type RawHost = (String, String, String, Vec<u8>, i64, Option<i64>);

fn raw_host(row: &Row<'_>) -> rusqlite::Result<RawHost> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
}

fn host(raw: RawHost) -> Result<HostKey, StoreError> {
    Ok(HostKey {
        key_id: raw.0,
        identity: parsed(&raw.1)?,
        uid: parsed(&raw.2)?,
        public_key: raw.3,
        registered_at: uint(raw.4),
        revoked_at: raw.5.map(uint),
    })
}

fn owner_of(c: &Connection, uid: &str) -> Result<Option<String>, StoreError> {
    optional(c, "SELECT identity FROM host_keys WHERE uid = ?1", [uid], |row| row.get(0))
}

impl Store {
    /// Makes a token.
    pub async fn add_token(&self, token: NewToken) -> Result<(), TokenError> {
        self.write(move |c| {
            if let Some(owner) = owner_of(c, token.uid.as_str())?
                && owner != token.identity.as_str()
            {
                return Err(TokenError::UidTaken { uid: token.uid, owner });
            }
            c.execute(
                "INSERT INTO join_tokens (hash, id, identity, uid, control, created_at, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                (
                    token.hash,
                    token.id,
                    token.identity.as_str(),
                    token.uid.as_str(),
                    token.control,
                    int(token.created_at),
                    int(token.expires_at),
                ),
            )?;
            Ok(touch_clock(c, token.created_at)?)
        })
        .await
    }

    /// Tokens that can still be redeemed.
    pub fn tokens(&self, now: u64) -> Result<Vec<Token>, StoreError> {
        self.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT id, identity, uid, control, expires_at FROM join_tokens WHERE expires_at > ?1 ORDER BY created_at, id",
            )?;
            let rows = statement.query_map([int(now)], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get(3)?, row.get(4)?))
            })?;
            rows.map(|row| {
                let (id, identity, uid, control, expires_at) = row?;
                Ok(Token { id, identity: parsed(&identity)?, uid: parsed(&uid)?, control, expires_at: uint(expires_at) })
            })
            .collect()
        })
    }

    /// Deletes a token; `false` when there is none of this name.
    pub async fn revoke_token(&self, id: String) -> Result<bool, StoreError> {
        self.write(move |c| Ok(c.execute("DELETE FROM join_tokens WHERE id = ?1", [id])? == 1)).await
    }

    /// Whether the token could be redeemed now, or was redeemed with this very key: the cheap question before any signature
    /// is verified. `redeem` decides.
    pub fn token_could_serve(&self, token_hash: &[u8], key_id: &str, now: u64) -> Result<bool, StoreError> {
        self.read(|c| {
            let fresh = c
                .prepare_cached("SELECT 1 FROM join_tokens WHERE hash = ?1 AND expires_at > ?2")?
                .exists((token_hash, int(now)))?;
            Ok(fresh
                || c.prepare_cached("SELECT 1 FROM host_keys WHERE token_hash = ?1 AND key_id = ?2")?
                    .exists((token_hash, key_id))?)
        })
    }

    /// Spends a token and registers the host key, or repeats the answer for the key that spent it.
    pub async fn redeem(&self, redemption: Redemption, now: u64) -> Result<HostKey, RedeemError> {
        self.write(move |c| redeem(c, &redemption, now)).await
    }

    /// The host key of this name, if it is registered; revoked ones too.
    pub fn host_key(&self, key_id: &str) -> Result<Option<HostKey>, StoreError> {
        self.read(|c| find_host(c, key_id))
    }

    /// Every host key.
    pub fn host_keys(&self) -> Result<Vec<HostKey>, StoreError> {
        self.read(|c| {
            let mut statement = c.prepare_cached(&format!("SELECT {HOST_COLUMNS} FROM host_keys ORDER BY uid"))?;
            let rows = statement.query_map([], raw_host)?;
            rows.map(|row| host(row?)).collect()
        })
    }

    /// Revokes the host key with this UID; `false` when there is none that was not revoked before. The UID stays bound.
    pub async fn revoke_host_key(&self, uid: WorkloadUid, now: u64) -> Result<bool, StoreError> {
        self.write(move |c| {
            let sql = "UPDATE host_keys SET revoked_at = ?2 WHERE uid = ?1 AND revoked_at IS NULL";
            Ok(c.execute(sql, (uid.as_str(), int(now)))? == 1)
        })
        .await
    }
}

fn find_host(c: &Connection, key_id: &str) -> Result<Option<HostKey>, StoreError> {
    optional(c, &format!("SELECT {HOST_COLUMNS} FROM host_keys WHERE key_id = ?1"), [key_id], raw_host)?
        .map(host)
        .transpose()
}

fn redeem(c: &Connection, redemption: &Redemption, now: u64) -> Result<HostKey, RedeemError> {
    let bound = optional(
        c,
        "SELECT identity, uid FROM join_tokens WHERE hash = ?1 AND expires_at > ?2",
        (&redemption.token_hash, int(now)),
        |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)),
    )?;
    let known = find_host(c, &redemption.key_id)?;
    if known.as_ref().is_some_and(|host| host.revoked_at.is_some()) {
        return Err(RedeemError::KeyRevoked);
    }
    let Some((identity, uid)) = bound else {
        // The same token with the same key: the answer may have been lost on its way the first time.
        let spent_by_us = c
            .prepare_cached("SELECT 1 FROM host_keys WHERE token_hash = ?1 AND key_id = ?2")?
            .exists((&redemption.token_hash, &redemption.key_id))?;
        return known.filter(|_| spent_by_us).ok_or(RedeemError::Unknown);
    };
    if known.is_some_and(|host| host.uid.as_str() != uid) {
        return Err(RedeemError::KeyTaken);
    }
    if c.execute("DELETE FROM join_tokens WHERE hash = ?1 AND expires_at > ?2", (&redemption.token_hash, int(now)))?
        != 1
    {
        return Err(RedeemError::Unknown);
    }
    let registered = c.execute(
        "INSERT INTO host_keys (uid, identity, key_id, public_key, token_hash, registered_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (uid) DO UPDATE SET key_id = excluded.key_id, public_key = excluded.public_key,
           token_hash = excluded.token_hash, registered_at = excluded.registered_at, revoked_at = NULL
         WHERE host_keys.identity = excluded.identity",
        (&uid, &identity, &redemption.key_id, &redemption.public_key, &redemption.token_hash, int(now)),
    )?;
    if registered != 1 {
        return Err(RedeemError::UidTaken);
    }
    touch_clock(c, now)?;
    find_host(c, &redemption.key_id)?.ok_or_else(|| StoreError::Content("a host key vanished".into()).into())
}
