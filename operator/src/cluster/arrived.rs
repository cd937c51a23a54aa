//! Whether everything that other replicas may have given out has arrived here too. A watch does not say how far it has come
//! while nothing of its kind changes, so the API server is asked what there is, names and versions only, and that is held
//! against what the watches have brought. Called by `index` when a sidecar came with another configuration than this replica's.
use super::store::Kind;
use super::translate::Objects;
use super::watch::{key, rules, version};
use crate::documents::Key;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::timeout;

/// How long the API server may take to say its newest version,
const ANSWER: Duration = Duration::from_secs(2);
/// and to name every object of one kind.
const NAMES: Duration = Duration::from_secs(20);
/// Objects in one answer.
const PAGE: u32 = 500;

/// What there is of one kind.
#[derive(Debug, Default)]
pub struct Listed {
    /// The newest version among them.
    pub newest: u64,
    /// Their names.
    pub keys: HashSet<Key>,
}

/// What the API server said.
#[derive(Debug, Default)]
pub struct Listing {
    /// Its newest version before anything was listed.
    pub newest: u64,
    /// By the kind's name in the API.
    pub kinds: BTreeMap<&'static str, Listed>,
}

/// What there is of every kind. None when the API server did not say it.
pub async fn list(client: Client) -> Option<Listing> {
    let newest = newest(&client).await?;
    let mut kinds = BTreeMap::new();
    kinds.insert("allowrules", names("allowrules", rules(&client)).await?);
    kinds.insert("namespaces", names("namespaces", Api::<Namespace>::all(client.clone())).await?);
    kinds.insert("nodes", names("nodes", Api::<Node>::all(client.clone())).await?);
    kinds.insert("servicecidrs", names("servicecidrs", Api::<ServiceCIDR>::all(client.clone())).await?);
    kinds.insert("services", names("services", Api::<Service>::all(client.clone())).await?);
    kinds.insert("endpointslices", names("endpointslices", Api::<EndpointSlice>::all(client.clone())).await?);
    kinds.insert("pods", names("pods", Api::<Pod>::all(client)).await?);
    Some(Listing { newest, kinds })
}

impl Objects {
    /// Whether everything that there was when this was listed has arrived. A kind has arrived when something of it has that is
    /// at least as new as the API server's newest version then; or when nothing newer was listed, and everything held was.
    pub fn have(&self, listing: &Listing) -> bool {
        let same = |kind: &dyn Kind, there: &Listed| there.newest <= kind.seen() && kind.within(&there.keys);
        self.kinds().into_iter().all(|(name, kind)| {
            kind.seen() >= listing.newest || listing.kinds.get(name).is_some_and(|there| same(kind, there))
        })
    }
}

/// The newest version of the whole API server: any list that asks for no version gives it.
pub async fn newest(client: &Client) -> Option<u64> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let one = ListParams::default().limit(1);
    match timeout(ANSWER, namespaces.list_metadata(&one)).await {
        // One that is no number says nothing, and will not.
        Ok(Ok(list)) => Some(list.metadata.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0)),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the API server does not say its newest version");
            None
        }
        Err(_) => None,
    }
}

async fn names<K>(kind: &'static str, api: Api<K>) -> Option<Listed>
where
    K: Clone + DeserializeOwned + Debug,
{
    let all = async {
        let mut listed = Listed::default();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = api.list_metadata(&page).await?;
            for object in &list.items {
                listed.newest = listed.newest.max(version(&object.metadata));
                listed.keys.insert(key(&object.metadata));
            }
            match list.metadata.continue_.filter(|more| !more.is_empty()) {
                Some(more) => page = page.continue_token(&more),
                None => return Ok::<_, kube::Error>(listed),
            }
        }
    };
    match timeout(NAMES, all).await {
        Ok(Ok(listed)) => Some(listed),
        Ok(Err(error)) => {
            tracing::warn!(kind, %error, "the API server does not say what there is");
            None
        }
        Err(_) => {
            tracing::warn!(kind, "the API server takes too long to say what there is");
            None
        }
    }
}
