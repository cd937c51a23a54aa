//! The issuer records' ConfigMap: one key for each issuing CA. Records are changed as a whole map, and the change is made again
//! on what the API server holds whenever another replica was faster.
use super::{ClusterState, SKEW, empty, lock, not_older};
use crate::{
    kube::{ISSUERS, within},
    store::{IssuerRecord, StoreError},
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    api::PostParams,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use serde::{Deserialize, Serialize};
use signet_identity::hex;
use std::{collections::BTreeMap, pin::pin};
use tokio::time::Instant;

/// How often a change is made again because others were faster. Replicas write once an hour each.
const TRIES: usize = 20;

/// A record as it stands under its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    root: String,
    not_after: u64,
    signing_until: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lowest_held: Option<u64>,
    #[serde(default)]
    fenced: bool,
    instance: String,
    updated_at: u64,
}

/// What is known of the object.
#[derive(Debug, Default)]
pub(super) struct Records {
    object: Option<ConfigMap>,
    by_ski: BTreeMap<Vec<u8>, IssuerRecord>,
    /// Instance and latest change, by issuing CA.
    origin: BTreeMap<Vec<u8>, (String, u64)>,
}

impl Records {
    pub(super) fn get(&self, ski: &[u8]) -> Option<&IssuerRecord> {
        self.by_ski.get(ski)
    }

    /// Of the object; `None` when there is none.
    fn version(&self) -> Option<String> {
        self.object.as_ref()?.metadata.resource_version.clone()
    }

    fn read(object: Option<ConfigMap>) -> Result<Self, StoreError> {
        let mut read = Self::default();
        for (key, text) in object.iter().filter_map(|object| object.data.as_ref()).flatten() {
            let wrong = |what: String| StoreError::Content(format!("ConfigMap {ISSUERS}, key {key}: {what}"));
            let ski = unhex(key).ok_or_else(|| wrong("not a subject key identifier in hex".into()))?;
            let stored: Stored = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
            let root = unhex(&stored.root).ok_or_else(|| wrong("root is not hex".into()))?;
            let Stored { not_after, signing_until, lowest_held, fenced, instance, updated_at, .. } = stored;
            let record = IssuerRecord { ski: ski.clone(), root, not_after, signing_until, lowest_held, fenced };
            read.by_ski.insert(ski.clone(), record);
            read.origin.insert(ski, (instance, updated_at));
        }
        read.object = object;
        Ok(read)
    }

    fn write(&self) -> Result<ConfigMap, StoreError> {
        let mut data = BTreeMap::new();
        for (ski, record) in &self.by_ski {
            let (instance, updated_at) = self.origin.get(ski).cloned().unwrap_or_default();
            let stored = Stored {
                root: hex(&record.root),
                not_after: record.not_after,
                signing_until: record.signing_until,
                lowest_held: record.lowest_held,
                fenced: record.fenced,
                instance,
                updated_at,
            };
            let text = serde_json::to_string(&stored).map_err(|error| StoreError::Content(error.to_string()))?;
            data.insert(hex(ski), text);
        }
        let mut object = self.object.clone().unwrap_or_else(|| empty(ISSUERS));
        object.data = Some(data);
        Ok(object)
    }
}

impl ClusterState {
    /// Fences every record of an earlier process under this instance's name. Returns how many.
    pub async fn fence_issuers(&self) -> Result<usize, StoreError> {
        let _turn = self.writing.lock().await;
        self.read_issuers().await?;
        let mut fenced = 0;
        let instance = self.instance.clone();
        self.change(|known| {
            fenced = 0;
            for (ski, record) in &mut known.by_ski {
                if !record.fenced && known.origin.get(ski).is_some_and(|(of, _)| *of == instance) {
                    record.fenced = true;
                    fenced += 1;
                }
            }
        })
        .await?;
        Ok(fenced)
    }

    /// Records a new issuing CA before it signs anything.
    pub async fn add_issuer(&self, record: IssuerRecord, now: u64) -> Result<(), StoreError> {
        let _turn = self.writing.lock().await;
        let origin = (self.instance.clone(), now);
        self.change(|known| {
            known.origin.insert(record.ski.clone(), origin.clone());
            known.by_ski.insert(record.ski.clone(), record.clone());
        })
        .await
    }

    /// Moves "signing until" forward; `false` when the issuer is fenced or unknown and must not sign.
    pub async fn extend_issuer(&self, ski: &[u8], signing_until: u64, now: u64) -> Result<bool, StoreError> {
        let _turn = self.writing.lock().await;
        self.change_issuer(ski, now, |record| record.signing_until = record.signing_until.max(signing_until)).await
    }

    /// Changes one record; `false` when it is fenced or unknown. The caller holds the turn to write.
    pub(super) async fn change_issuer(
        &self,
        ski: &[u8],
        now: u64,
        change: impl Fn(&mut IssuerRecord),
    ) -> Result<bool, StoreError> {
        let mut may_sign = false;
        self.change(|known| {
            let record = known.by_ski.get_mut(ski).filter(|record| !record.fenced);
            may_sign = record.is_some();
            if let Some(record) = record {
                change(record);
                if let Some((_, updated_at)) = known.origin.get_mut(ski) {
                    *updated_at = now.max(*updated_at);
                }
            }
        })
        .await?;
        Ok(may_sign)
    }

    /// Changes the records alone. The caller holds the turn to write.
    pub(super) async fn change_issuers(
        &self,
        change: impl Fn(&mut BTreeMap<Vec<u8>, IssuerRecord>),
    ) -> Result<(), StoreError> {
        self.change(|known| {
            change(&mut known.by_ski);
            let Records { by_ski, origin, .. } = known;
            origin.retain(|ski, _| by_ski.contains_key(ski));
        })
        .await
    }

    /// Every record, as last seen.
    pub fn issuers(&self) -> Vec<IssuerRecord> {
        lock(&self.issuers).by_ski.values().cloned().collect()
    }

    /// The latest moment that a record carries: our own exactly, those of other replicas less what clocks may differ by.
    pub fn last_record(&self) -> u64 {
        let known = lock(&self.issuers);
        let moment = |(of, at): &(String, u64)| if *of == self.instance { *at } else { at.saturating_sub(SKEW) };
        known.origin.values().map(moment).max().unwrap_or(0)
    }

    /// Whether an issuing CA of ours may sign no more.
    pub fn is_fenced(&self, ski: &[u8]) -> bool {
        lock(&self.issuers).get(ski).is_none_or(|record| record.fenced)
    }

    /// Reads the records as the API server has them.
    pub(super) async fn read_issuers(&self) -> Result<(), StoreError> {
        let before = lock(&self.issuers).version();
        let read = within("reading the issuer records", self.cluster.config_maps().get_opt(ISSUERS)).await?;
        let mut known = lock(&self.issuers);
        // What came to be known meanwhile may be newer than what was read, or than that there was nothing.
        let newest =
            known.version() == before || read.as_ref().is_some_and(|read| not_older(known.object.as_ref(), read));
        if newest {
            *known = Records::read(read)?;
        }
        Ok(())
    }

    /// Takes what was written or heard of; `false` when what is known came later.
    fn know_issuers(&self, object: ConfigMap) -> Result<bool, StoreError> {
        let mut known = lock(&self.issuers);
        let newest = not_older(known.object.as_ref(), &object);
        if newest {
            *known = Records::read(Some(object))?;
        }
        Ok(newest)
    }

    /// What the watch tells. What is gone may have been made again since, and what is older may be a backup: the API server knows.
    async fn hear_issuers(&self, object: Option<ConfigMap>) -> Result<(), StoreError> {
        let is_known = object.map(|object| self.know_issuers(object)).transpose()?.unwrap_or(false);
        if is_known { Ok(()) } else { self.read_issuers().await }
    }

    /// Compare-and-swap: `change` sees what is known, and again what is true when it was not. Writes nothing when it changes
    /// nothing.
    async fn change(&self, mut change: impl FnMut(&mut Records)) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let known = lock(&self.issuers).object.clone();
            let mut wanted = Records::read(known.clone())?;
            change(&mut wanted);
            let object = wanted.write()?;
            if known.as_ref().is_some_and(|known| known.data == object.data) {
                return Ok(());
            }
            let (config_maps, params, began) = (self.cluster.config_maps(), PostParams::default(), Instant::now());
            let outcome = if known.is_some() {
                within("writing the issuer records", config_maps.replace(ISSUERS, &params, &object)).await
            } else {
                within("making the issuer records", config_maps.create(&params, &object)).await
            };
            self.written(began, &outcome);
            match outcome {
                Ok(object) => return self.know_issuers(object).map(drop),
                Err(error) if error.is_conflict() || error.is_not_found() => self.read_issuers().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Content(format!("ConfigMap {ISSUERS} changed {TRIES} times while it was being written")))
    }

    /// Takes what other replicas write, for ever: a fence is known as soon as it stands.
    pub(super) async fn follow_issuers(&self) {
        let mut events = pin!(watch_object(self.cluster.config_maps(), ISSUERS).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(object) => {
                    if let Err(error) = self.hear_issuers(object).await {
                        tracing::error!(%error, "the issuer records are not known as they are now");
                    }
                }
                Err(error) => tracing::warn!(%error, "the issuer records are not watched; trying again"),
            }
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
