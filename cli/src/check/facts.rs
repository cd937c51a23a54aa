//! Everything that the checks look at, read from the cluster once. The checks themselves are functions over this.
use super::access::{self, Access};
use crate::cluster::{
    CA_HEALTH, Cluster, DEFAULT_NAMESPACE, Lack, OPERATOR_HEALTH, Page, Read, api, ask, control_namespaces, get, list,
};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;
use signet_operator::crd;
use std::collections::{BTreeMap, BTreeSet};

/// Health and metrics of one pod of CA or operator.
#[derive(Debug, Clone)]
pub(super) struct Health {
    pub(super) ready: Read<Page>,
    pub(super) metrics: Read<Page>,
}

/// The cluster as the checks see it.
#[derive(Debug)]
pub(super) struct Facts {
    /// Unix seconds.
    pub(super) now: i64,
    /// `v1.36.3`
    pub(super) server: String,
    /// `apps/v1`
    pub(super) groups: Read<BTreeSet<String>>,
    /// What of [`access::READS`] the user may not do.
    pub(super) lacking: Read<Vec<Access>>,
    /// Who asks.
    pub(super) user: Option<String>,
    /// The one namespace whose pods, rules and NetworkPolicies are looked at.
    pub(super) only: Option<String>,
    /// Where an operator is.
    pub(super) installed: Read<BTreeSet<String>>,
    /// The control namespace that is looked at.
    pub(super) control: Option<String>,
    pub(super) crd: Read<Option<Value>>,
    pub(super) webhooks: Read<Vec<MutatingWebhookConfiguration>>,
    pub(super) policies: Read<Vec<ValidatingAdmissionPolicy>>,
    pub(super) bindings: Read<Vec<ValidatingAdmissionPolicyBinding>>,
    pub(super) namespaces: Read<Vec<Namespace>>,
    /// Of the control namespace.
    pub(super) deployments: Read<Vec<Deployment>>,
    /// Of the control namespace.
    pub(super) slices: Read<Vec<EndpointSlice>>,
    /// Of the control namespace.
    pub(super) configs: Read<Vec<ConfigMap>>,
    /// `signet-trust` of every namespace.
    pub(super) copies: Read<Vec<ConfigMap>>,
    /// Pods of CA and operator.
    pub(super) control_pods: Read<Vec<Pod>>,
    /// By pod of the control namespace.
    pub(super) health: BTreeMap<String, Health>,
    pub(super) services: Read<Vec<Service>>,
    pub(super) pods: Read<Vec<Pod>>,
    pub(super) rules: Read<Vec<Value>>,
    pub(super) network: Read<Vec<NetworkPolicy>>,
}

/// `app.kubernetes.io/component` of an object.
pub(super) fn component(object: &impl kube::Resource) -> &str {
    object
        .meta()
        .labels
        .as_ref()
        .and_then(|labels| labels.get("app.kubernetes.io/component"))
        .map_or("", String::as_str)
}

impl Facts {
    /// Reads all of it; `only` restricts pods, rules and NetworkPolicies to a namespace. An error: there is no cluster that answers.
    pub(super) async fn read(cluster: &Cluster, control: Option<&str>, only: Option<&str>) -> anyhow::Result<Self> {
        let client = &cluster.client;
        let server = ask("get", "the version", client.apiserver_version()).await.map_err(anyhow::Error::new)?;
        let installed = control_namespaces(client).await;
        let control = match (control, &installed) {
            (Some(given), _) => Some(given.to_owned()),
            (None, Ok(found)) if found.len() == 1 => found.first().cloned(),
            (None, Ok(_)) => None,
            (None, Err(_)) => Some(DEFAULT_NAMESPACE.to_owned()),
        };
        let own = control.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let own = own.as_str();
        let everywhere = ListParams::default;
        let rules = Api::<DynamicObject>::all_with(client.clone(), &rule_kind());
        let rules = match only {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &rule_kind()),
            None => rules,
        };
        // By name: who may read these may not have to read others.
        let one =
            |access: Access| ListParams::default().fields(&format!("metadata.name={}", access.name.unwrap_or("")));
        let (groups, lacking, user, crd, webhooks, policies, bindings, namespaces) = tokio::join!(
            groups(client),
            access::lacking(client, own, only),
            access::user(client),
            definition(client, one(access::DEFINITION)),
            list(Api::all(client.clone()), access::WEBHOOKS.resource, one(access::WEBHOOKS)),
            list(Api::all(client.clone()), access::POLICIES.resource, everywhere()),
            list(Api::all(client.clone()), access::BINDINGS.resource, everywhere()),
            namespaces(client, only),
        );
        let ours = || ListParams::default().labels("app.kubernetes.io/name=signet");
        let (deployments, slices, configs, copies, control_pods, services, pods, rules, network) = tokio::join!(
            list(api(client, Some(own)), "deployments.apps", ours()),
            list(api(client, Some(own)), access::SLICES.resource, everywhere()),
            list(api(client, Some(own)), "configmaps", everywhere()),
            list(api(client, None), "configmaps", one(access::COPIES)),
            list(api(client, Some(own)), "pods", ours()),
            list(api(client, only), "services", everywhere()),
            list(api(client, only), "pods", everywhere()),
            list(rules, access::RULES.resource, everywhere()),
            list(api(client, only), access::NETWORK.resource, everywhere()),
        );
        let mut facts = Self {
            now: jiff::Timestamp::now().as_second(),
            server: server.git_version,
            groups,
            lacking,
            user,
            only: only.map(str::to_owned),
            installed,
            crd,
            webhooks,
            policies,
            bindings,
            namespaces,
            deployments,
            slices,
            configs,
            copies,
            control_pods,
            health: BTreeMap::new(),
            services,
            pods,
            rules: rules.map(|rules| rules.iter().filter_map(|rule| serde_json::to_value(rule).ok()).collect()),
            network,
            control,
        };
        // A policy of the control namespace can keep every pod from CA and operator, wherever the pod is.
        if only.is_some_and(|only| only != own)
            && let Ok(network) = &mut facts.network
            && let Ok(more) =
                list(api::<NetworkPolicy>(client, Some(own)), access::NETWORK.resource, ListParams::default()).await
        {
            network.extend(more);
        }
        facts.health = health(client, own, facts.control_pods.as_deref().unwrap_or_default()).await;
        Ok(facts)
    }

    /// One ConfigMap of the control namespace.
    pub(super) fn config(&self, name: &str) -> Read<Option<&ConfigMap>> {
        let configs = self.configs.as_ref().map_err(Clone::clone)?;
        Ok(configs.iter().find(|config| config.name_any() == name))
    }

    /// Pods of CA or operator.
    pub(super) fn pods_of(&self, program: &str) -> Read<Vec<&Pod>> {
        let pods = self.control_pods.as_ref().map_err(Clone::clone)?;
        Ok(pods.iter().filter(|pod| component(*pod) == program).collect())
    }

    /// The control namespace, also when there is none.
    pub(super) fn control(&self) -> &str {
        self.control.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}

/// `AllowRule`.
pub(super) fn rule_kind() -> ApiResource {
    ApiResource {
        group: crd::GROUP.into(),
        version: crd::VERSION.into(),
        api_version: format!("{}/{}", crd::GROUP, crd::VERSION),
        kind: signet_policy::model::KIND.into(),
        plural: crd::PLURAL.into(),
    }
}

async fn groups(client: &Client) -> Read<BTreeSet<String>> {
    let groups = ask("get", "the API groups", client.list_api_groups()).await?;
    let versions = groups.groups.into_iter().flat_map(|group| group.versions);
    Ok(versions.map(|version| version.group_version).collect())
}

/// All of them; where only one was chosen and the list may not be read, that one.
async fn namespaces(client: &Client, only: Option<&str>) -> Read<Vec<Namespace>> {
    let all: Api<Namespace> = Api::all(client.clone());
    let listed = list(all.clone(), "namespaces", ListParams::default()).await;
    if let (Err(Lack::Forbidden { .. }), Some(only)) = (&listed, only)
        && let Ok(one) = ask("get", "namespaces", all.get(only)).await
    {
        return Ok(vec![one]);
    }
    listed
}

async fn definition(client: &Client, named: ListParams) -> Read<Option<Value>> {
    let kind = ApiResource {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        api_version: "apiextensions.k8s.io/v1".into(),
        kind: "CustomResourceDefinition".into(),
        plural: "customresourcedefinitions".into(),
    };
    let definitions = Api::<DynamicObject>::all_with(client.clone(), &kind);
    let found = list(definitions, access::DEFINITION.resource, named).await?;
    Ok(found.first().and_then(|definition| serde_json::to_value(definition).ok()))
}

/// What CA and operator say of themselves, each pod at most once.
async fn health(client: &Client, namespace: &str, pods: &[Pod]) -> BTreeMap<String, Health> {
    let mut asked = tokio::task::JoinSet::new();
    let running = |pod: &&Pod| {
        pod.metadata.deletion_timestamp.is_none()
            && pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
    };
    for pod in pods.iter().filter(running) {
        let port = match component(pod) {
            "ca" => CA_HEALTH,
            "operator" => OPERATOR_HEALTH,
            _ => continue,
        };
        let (client, namespace, name) = (client.clone(), namespace.to_owned(), pod.name_any());
        asked.spawn(async move {
            let (ready, metrics) = tokio::join!(
                get(&client, &namespace, &name, port, "/readyz"),
                get(&client, &namespace, &name, port, "/metrics")
            );
            (name, Health { ready, metrics })
        });
    }
    let mut health = BTreeMap::new();
    while let Some(answer) = asked.join_next().await {
        // A task that panicked has nothing to say; its pod counts as not asked.
        health.extend(answer.ok());
    }
    health
}

impl Facts {
    /// Nothing of Signet, and nothing that could not be read.
    #[cfg(test)]
    pub(super) fn nothing() -> Self {
        Self {
            now: 1_800_000_000,
            server: "v1.36.3".into(),
            groups: Ok(BTreeSet::new()),
            lacking: Ok(Vec::new()),
            user: None,
            only: None,
            installed: Ok(BTreeSet::new()),
            control: None,
            crd: Ok(None),
            webhooks: Ok(Vec::new()),
            policies: Ok(Vec::new()),
            bindings: Ok(Vec::new()),
            namespaces: Ok(Vec::new()),
            deployments: Ok(Vec::new()),
            slices: Ok(Vec::new()),
            configs: Ok(Vec::new()),
            copies: Ok(Vec::new()),
            control_pods: Ok(Vec::new()),
            health: BTreeMap::new(),
            services: Ok(Vec::new()),
            pods: Ok(Vec::new()),
            rules: Ok(Vec::new()),
            network: Ok(Vec::new()),
        }
    }
}
