//! The trust state's ConfigMap.
use super::{ClusterState, empty, lock, not_older};
use crate::{
    kube::{FIRST_PAUSE, LONGEST_PAUSE, TRUST_STATE, within},
    store::{StoreError, Swap},
    trust::Publisher,
};
use futures::StreamExt;
use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
use kube::{
    api::PostParams,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use prost::Message;
use std::pin::pin;
use tokio::time::Instant;

/// The key with the encoded `signet.ca.v1.TrustState`.
const STATE: &str = "state";
/// The key that tells people which sequence that is.
const SEQUENCE: &str = "sequence";

impl ClusterState {
    /// Sequence and encoded content of the published trust state.
    pub async fn trust(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let read = within("reading the trust state", self.cluster.config_maps().get_opt(TRUST_STATE)).await?;
        let content = read.as_ref().map(content).transpose()?;
        *lock(&self.trust) = read;
        Ok(content)
    }

    /// Publishes a state if the one of sequence `held` is still the published one, or none is: one that somebody deleted is
    /// published again, under a higher sequence.
    pub async fn swap_trust(&self, held: u64, sequence: u64, state: Vec<u8>) -> Result<Swap, StoreError> {
        let known = lock(&self.trust).clone();
        let published = known.as_ref().map(content).transpose()?;
        if published.is_some_and(|(published, _)| published != held) {
            return Ok(Swap::Lost);
        }
        let exists = known.is_some();
        let mut object = known.unwrap_or_else(|| empty(TRUST_STATE));
        object.binary_data = Some([(STATE.to_owned(), ByteString(state))].into());
        object.data = Some([(SEQUENCE.to_owned(), sequence.to_string())].into());
        let (config_maps, params, began) = (self.cluster.config_maps(), PostParams::default(), Instant::now());
        let outcome = if exists {
            within("writing the trust state", config_maps.replace(TRUST_STATE, &params, &object)).await
        } else {
            within("making the trust state", config_maps.create(&params, &object)).await
        };
        self.written(began, &outcome);
        match outcome {
            Ok(object) => {
                self.know(object);
                Ok(Swap::Done)
            }
            Err(error) if error.is_conflict() => Ok(Swap::Lost),
            Err(error) if error.is_not_found() => {
                *lock(&self.trust) = None;
                Ok(Swap::Lost)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn know(&self, object: ConfigMap) {
        let mut known = lock(&self.trust);
        if not_older(known.as_ref(), &object) {
            *known = Some(object);
        }
    }

    /// Hands every state that others publish to `publisher`, for ever.
    pub(super) async fn follow_trust(&self, publisher: &Publisher) {
        let mut events = pin!(watch_object(self.cluster.config_maps(), TRUST_STATE).default_backoff());
        // The pause after which it is tried again to put back what is held: nobody tells of that again.
        let mut again = None;
        loop {
            let settled = tokio::select! {
                event = events.next() => match event {
                    Some(Ok(object)) => self.hear(object, publisher).await,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "the trust state is not watched; trying again");
                        continue;
                    }
                    None => return,
                },
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => publisher.restore().await,
            };
            again = settled.err().map(|error| {
                let pause = again.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
                tracing::error!(%error, retry_in = ?pause, "the trust state was not published again");
                pause
            });
        }
    }

    /// The object as the watch tells of it; `None`: it is gone. An error says that what is held was not put back.
    async fn hear(&self, object: Option<ConfigMap>, publisher: &Publisher) -> Result<(), StoreError> {
        let Some(object) = object else {
            *lock(&self.trust) = None;
            return publisher.restore().await;
        };
        let content = content(&object);
        self.know(object);
        match content {
            Ok((sequence, state)) => publisher.offer(sequence, &state).await,
            Err(error) => {
                tracing::error!(alarm = "trust_state", %error, "the trust state in the cluster is not one");
                Ok(())
            }
        }
    }
}

fn content(object: &ConfigMap) -> Result<(u64, Vec<u8>), StoreError> {
    let wrong = |what: &str| StoreError::Content(format!("ConfigMap {TRUST_STATE}: {what}"));
    let state = object.binary_data.as_ref().and_then(|data| data.get(STATE));
    let ByteString(state) = state.ok_or_else(|| wrong("binaryData has no key \"state\""))?;
    let decoded = signet_proto::ca::TrustState::decode(state.as_slice());
    let decoded = decoded.map_err(|error| wrong(&error.to_string()))?;
    Ok((decoded.sequence, state.clone()))
}
