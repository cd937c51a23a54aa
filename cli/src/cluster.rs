//! How commands speak to a Kubernetes cluster: the kubeconfig, the control namespace, and pages that a pod serves on its own
//! loopback. Used by `check`, `identity` and `edges`.
mod page;

pub(crate) use page::{Page, get};

use crate::output::plain;
use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{ListParams, ObjectList};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// Where the chart is installed unless somebody chose otherwise.
pub(crate) const DEFAULT_NAMESPACE: &str = "signet-system";
/// The init container that is the sidecar.
pub(crate) const SIDECAR: &str = "signet-sidecar";
/// The sidecar's admin address, on the pod's loopback.
pub(crate) const ADMIN: u16 = 15020;
/// The operator's health and admin port.
pub(crate) const OPERATOR_HEALTH: u16 = 15023;
/// The CA's health port.
pub(crate) const CA_HEALTH: u16 = 15022;
/// How long the API server may take for one answer.
const ANSWER: Duration = Duration::from_secs(15);
/// Objects in one answer of a list.
const PAGE: u32 = 500;

/// Which cluster, and where Signet is in it.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// The kubeconfig [default: $KUBECONFIG, then ~/.kube/config, then the pod's own service account].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Where Signet is installed [default: found by its labels].
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) control_namespace: Option<String>,
}

/// A cluster that can be asked.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The namespace of the kubeconfig's context.
    pub(crate) namespace: String,
}

impl ClusterArgs {
    /// Reads the kubeconfig; asks the cluster nothing yet.
    pub(crate) async fn connect(&self) -> anyhow::Result<Cluster> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(file, &options).await
            }
            .with_context(|| format!("kubeconfig {}", path.display()))?,
            None if self.context.is_some() => Config::from_kubeconfig(&options).await.context("kubeconfig")?,
            None => Config::infer().await.context(
                "no cluster to ask: there is no usable kubeconfig ($KUBECONFIG, ~/.kube/config, --kubeconfig FILE)",
            )?,
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        // Port-forwarded streams are read for longer than this only when the other end has nothing to say.
        config.read_timeout = Some(ANSWER);
        let namespace = config.default_namespace.clone();
        Ok(Cluster { client: Client::try_from(config)?, namespace })
    }
}

/// Why something could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Lack {
    /// The user may not.
    #[error("not allowed to {verb} {resource}")]
    Forbidden {
        /// `list`, `get` or `create`.
        verb: &'static str,
        /// `pods`, with its group.
        resource: String,
    },
    /// The API server knows no such kind.
    #[error("the API server has no {0}")]
    NoSuchKind(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What was read, or why it was not.
pub(crate) type Read<T> = Result<T, Lack>;

/// One call, within its time.
pub(crate) async fn ask<T>(
    verb: &'static str,
    resource: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Read<T> {
    match timeout(ANSWER, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            Err(Lack::Forbidden { verb, resource: resource.to_owned() })
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 404 && verb == "list" => {
            Err(Lack::NoSuchKind(resource.to_owned()))
        }
        Ok(Err(error)) => Err(Lack::Failed(plain(&reason(&error)))),
        Err(_) => Err(Lack::Failed(format!("no answer about {resource} within {} s", ANSWER.as_secs()))),
    }
}

/// An error with everything below it, which is where it says what happened.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// Every object of a kind, page by page.
pub(crate) async fn list<K>(api: Api<K>, resource: &str, parameters: ListParams) -> Read<Vec<K>>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut all = Vec::new();
    let mut parameters = parameters.limit(PAGE);
    loop {
        let ObjectList { metadata, mut items, .. } = ask("list", resource, api.list(&parameters)).await?;
        all.append(&mut items);
        match metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// Objects of every namespace, or of one.
pub(crate) fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The namespaces that hold an operator, by the chart's labels.
pub(crate) async fn control_namespaces(client: &Client) -> Read<BTreeSet<String>> {
    let labelled =
        ListParams::default().labels("app.kubernetes.io/part-of=signet,app.kubernetes.io/component=operator");
    let deployments = list(Api::<Deployment>::all(client.clone()), "deployments.apps", labelled).await?;
    Ok(deployments.iter().filter_map(ResourceExt::namespace).collect())
}

impl Cluster {
    /// The control namespace: the one given, or the only one that holds an operator.
    pub(crate) async fn control_namespace(&self, arguments: &ClusterArgs) -> anyhow::Result<String> {
        if let Some(given) = &arguments.control_namespace {
            return Ok(given.clone());
        }
        match control_namespaces(&self.client).await {
            Ok(found) if found.len() > 1 => {
                let names: Vec<&str> = found.iter().map(String::as_str).collect();
                bail!("Signet is installed in {}: choose with --control-namespace", names.join(" and "))
            }
            Ok(found) => found.into_iter().next().context(
                "no Signet in this cluster: helm install signet charts/signet -n signet-system --create-namespace",
            ),
            Err(Lack::Forbidden { .. }) => Ok(DEFAULT_NAMESPACE.to_owned()),
            Err(lack) => bail!("{lack}"),
        }
    }
}

/// Runs a command's work on a runtime of its own.
pub(crate) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // A second installation is no news.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
