//! The CA's state in a Kubernetes cluster, for `[kubernetes]` in its configuration. Several replicas serve at once: they share
//! one root and one trust state, and each has an issuing key of its own in memory.
//!
//! | object in the control namespace | what it holds | written by |
//! |---|---|---|
//! | Secret `signet-root` | `tls.crt`, `tls.key`: the root | created once by whichever replica is first, never overwritten ([`root`]) |
//! | ConfigMap `signet-trust-state` | `binaryData.state`: the trust state (`signet.ca.v1.TrustState`) | every replica, by compare-and-swap ([`state`]) |
//! | ConfigMap `signet-issuers` | one key for each issuing CA, by the hex of its subject key identifier | every replica its own, by compare-and-swap ([`state`]) |
//! | ConfigMap `signet-trust` | `bundle.pem`: for first contact | every replica the same, server-side apply ([`bundle`]) |
//!
//! The journal of certificates is one JSON line each on standard output, flushed before the certificate leaves ([`journal`]);
//! logs go to standard error. No certificate costs a write to the API.
//!
//! # What it must be allowed to do
//!
//! The service account is `signet-ca` in the control namespace. Cluster-wide (ClusterRole and ClusterRoleBinding):
//!
//! | API group | resource | verbs | why |
//! |---|---|---|---|
//! | `authentication.k8s.io` | `tokenreviews` | `create` | every attestation, never cached |
//! | `` | `pods` | `get` | the live pod behind a token, in any namespace |
//!
//! In the control namespace (Role and RoleBinding); nobody else may read the Secret:
//!
//! | API group | resource | names | verbs |
//! |---|---|---|---|
//! | `` | `secrets` | `signet-root` | `get` |
//! | `` | `secrets` | (any: a name cannot restrict it) | `create` |
//! | `` | `configmaps` | `signet-trust-state`, `signet-issuers`, `signet-trust` | `get`, `list`, `watch`, `update`, `patch` |
//! | `` | `configmaps` | (any: a name cannot restrict it) | `create` |
//!
//! `list` and `watch` carry the field selector `metadata.name=NAME`, which is how a rule with names admits them.
//!
//! # Configuration in the chart
//!
//! ```toml
//! trust_domain = "signet-0123456789ab.mesh"
//! control_namespace = "signet-system"
//! listen = "[::]:15012"     # or 0.0.0.0:15012 where nodes have no IPv6
//! health = "[::]:15022"
//! [kubernetes]
//! peer_address = "require"  # or "record", in clusters that rewrite the addresses of pods
//! [lifetimes]
//! leaf = "1h"
//! [log]
//! format = "json"
//! ```
//!
//! `HOSTNAME`, which the kubelet sets to the pod's name, names the replica in its issuer records. There is no state directory
//! and nothing is written to the file system: the root file system may be read-only.
pub mod bundle;
pub mod journal;
mod lowest;
pub mod root;
pub mod state;

use crate::config::Kubernetes;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{fmt, future::Future, sync::Arc, time::Duration};

/// The Secret with the root.
pub const ROOT: &str = "signet-root";
/// The ConfigMap with the trust state.
pub const TRUST_STATE: &str = "signet-trust-state";
/// The ConfigMap with the issuer records.
pub const ISSUERS: &str = "signet-issuers";
/// The ConfigMap with the bundle for first contact.
pub const TRUST: &str = "signet-trust";
/// What a projected token must be meant for.
pub const AUDIENCE: &str = "signet-ca";
/// Field manager of what is applied.
pub const MANAGER: &str = "signet-ca";

/// How long one call to the API server may take. Two of them fit into the ten seconds that a caller is given.
const CALL: Duration = Duration::from_secs(4);
/// Between two tries to put back what somebody changed or deleted, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long connecting may take: an API server that is gone must be known as gone before the call's own limit.
const CONNECT: Duration = Duration::from_secs(2);

/// The way to the API server, and the control namespace.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

/// Why the API server gave no answer that can be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// No answer in time.
    #[error("{0}: the API server gave no answer within {limit} s", limit = CALL.as_secs())]
    TimedOut(&'static str),
    /// Not reached, or it said that it cannot answer now.
    #[error("{call}: the API server does not answer: {}", shown(.error))]
    Away {
        /// Which call.
        call: &'static str,
        /// Why.
        error: Arc<kube::Error>,
    },
    /// It answered, and not what we need: a permission is missing, or the object is not one.
    #[error("{call}: {}", shown(.error))]
    Refused {
        /// Which call.
        call: &'static str,
        /// What it said.
        error: Arc<kube::Error>,
    },
}

fn shown(error: &kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    };
    text.chars().take(300).flat_map(char::escape_debug).collect::<String>().replace("\\\"", "\"")
}

impl ClusterError {
    /// Whether the API server does not answer at all, as against having answered what does not suit us.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Away { .. })
    }

    /// Whether somebody else changed or made the object in between.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if matches!(&**error, kube::Error::Api(status) if status.code == 409))
    }

    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if matches!(&**error, kube::Error::Api(status) if status.code == 404))
    }

    fn of(call: &'static str, error: kube::Error) -> Self {
        let refused = match &error {
            kube::Error::Api(status) => status.code != 429 && status.code < 500,
            kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => true,
            _ => false,
        };
        let error = Arc::new(error);
        if refused { Self::Refused { call, error } } else { Self::Away { call, error } }
    }
}

/// One call, within its time.
pub(crate) async fn within<T>(
    call: &'static str,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(CALL, answer).await {
        Ok(answer) => answer.map_err(|error| ClusterError::of(call, error)),
        Err(_) => Err(ClusterError::TimedOut(call)),
    }
}

impl Cluster {
    /// By the kubeconfig that is named, else by what every pod is given. Contacts nobody.
    pub async fn connect(settings: &Kubernetes, namespace: &str) -> anyhow::Result<Self> {
        let mut config = match &settings.kubeconfig {
            Some(path) => {
                Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await?
            }
            None => Config::incluster()?,
        };
        config.connect_timeout = Some(CONNECT);
        // Every call has its own limit, and whoever called knows better whether to try again.
        config.default_retry = false;
        Ok(Self { client: Client::try_from(config)?, namespace: namespace.to_owned() })
    }

    /// For calls of one's own.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The control namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client(), &self.namespace)
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client(), &self.namespace)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
