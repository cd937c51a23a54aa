//! The watches: one task for each kind. What comes is made small at once and handed on in order, with the API server's version
//! of it; a watch that breaks begins anew after a pause that grows, and lists everything again.
use super::read;
use super::store::News;
use super::translate::Change;
use crate::crd;
use crate::documents::Key;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// How long one watch lasts, in seconds: a connection that died in silence is noticed five seconds later.
const WATCH: u32 = 60;
/// News that wait to be taken; beyond it the watches wait.
const WAITING: usize = 1024;

/// The API of AllowRules of all namespaces, as raw objects.
pub fn rules(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource())
}

/// What the API server calls AllowRules.
pub fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk(crd::GROUP, crd::VERSION, signet_policy::model::KIND);
    ApiResource::from_gvk_with_plural(&kind, crd::PLURAL)
}

/// News with the version of the object that they are of; 0 where they are of none.
pub type Told = (Change, u64);

/// Starts every watch; none of them ends before the receiver is dropped.
pub fn start(client: &Client, sidecar_images: &[String], tasks: &mut JoinSet<&'static str>) -> mpsc::Receiver<Told> {
    let (tell, changes) = mpsc::channel(WAITING);
    let images: Arc<[String]> = sidecar_images.into();
    let (to, api) = (tell.clone(), Api::<Pod>::all(client.clone()));
    tasks.spawn(follow("pods", api, to, Change::Pod, move |pod: &Pod| read::pod(pod, &images)));
    let (to, api) = (tell.clone(), Api::<Service>::all(client.clone()));
    tasks.spawn(follow("services", api, to, Change::Service, read::service));
    let (to, api) = (tell.clone(), Api::<EndpointSlice>::all(client.clone()));
    tasks.spawn(follow("endpointslices", api, to, Change::Slice, read::slice));
    let (to, api) = (tell.clone(), Api::<Node>::all(client.clone()));
    tasks.spawn(follow("nodes", api, to, Change::Node, |node| Some(read::node(node))));
    let (to, api) = (tell.clone(), Api::<ServiceCIDR>::all(client.clone()));
    tasks.spawn(follow("servicecidrs", api, to, Change::ServiceRange, |range| Some(read::service_range(range))));
    let (to, api) = (tell.clone(), Api::<Namespace>::all(client.clone()));
    tasks.spawn(follow("namespaces", api, to, Change::Namespace, |namespace| Some(read::namespace(namespace))));
    tasks.spawn(follow("allowrules", rules(client), tell, Change::Rule, |rule| Some(Box::new(read::rule(rule)))));
    changes
}

async fn follow<K, T>(
    kind: &'static str,
    api: Api<K>,
    tell: mpsc::Sender<Told>,
    change: impl Fn(News<T>) -> Change,
    read: impl Fn(&K) -> Option<T>,
) -> &'static str
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = watcher(api, watcher::Config::default().timeout(WATCH)).default_backoff().boxed();
    while let Some(event) = events.next().await {
        let (news, version) = match event {
            Ok(event) => news(event, &read),
            Err(error) => {
                tracing::warn!(kind, %error, "a watch broke; it begins anew, and what is in force stays");
                continue;
            }
        };
        if tell.send((change(news), version)).await.is_err() {
            break;
        }
    }
    kind
}

fn news<K: Resource, T>(event: Event<K>, read: impl Fn(&K) -> Option<T>) -> (News<T>, u64) {
    match event {
        Event::Init => (News::Start, 0),
        Event::InitApply(object) => {
            (read(&object).map_or(News::Passed, |read| News::Listed(key(object.meta()), read)), version(object.meta()))
        }
        Event::InitDone => (News::Done, 0),
        Event::Apply(object) => {
            let key = key(object.meta());
            (read(&object).map_or(News::Gone(key.clone()), |read| News::Set(key, read)), version(object.meta()))
        }
        Event::Delete(object) => (News::Gone(key(object.meta())), version(object.meta())),
    }
}

/// Of an object without a namespace, its name stands for that too.
pub(super) fn key(object: &ObjectMeta) -> Key {
    let name = object.name.clone().unwrap_or_default();
    Key { namespace: object.namespace.clone().unwrap_or_else(|| name.clone()), name }
}

/// One that is no number counts as none.
pub(super) fn version(object: &ObjectMeta) -> u64 {
    object.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
