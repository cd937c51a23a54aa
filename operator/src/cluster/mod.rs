//! The operator in Kubernetes: instead of a directory of documents, the objects of a cluster.
//!
//! ```text
//! API server --watch (a task for each kind)--> read (plain, small) --> translate::Objects (stores; lists replace)
//!                                                                          | quiet for 50 ms
//!            index::Index --> crate::index::Snapshot --> the control streams, as outside a cluster
//!                 `--> status (lease holder alone) --server-side apply--> AllowRule status
//! ```
//!
//! `operator.toml` (what the chart renders; `health` may listen on any address here, the posture is what namespaces without the
//! label `signet.dev/posture` have):
//!
//! ```toml
//! listen = "0.0.0.0:15010"
//! health = "0.0.0.0:15023"
//! mesh_ranges = ["10.244.0.0/16"]     # where pods are beside the nodes' podCIDRs; live addresses are added to them
//!
//! [posture]
//! inbound = "audit"
//! egress = "allow"
//!
//! [kubernetes]
//! sidecar_images = ["signet/signet-sidecar"]          # repositories of our sidecar: who runs one is meshed
//! # kubeconfig = "admin.conf"                         # outside a cluster
//!
//! [ca]
//! address = "signet-ca.signet-system.svc:15012"
//! trust_domain = "..."
//! bundle = "/var/run/secrets/signet.dev/bundle.pem"
//! state_dir = "/run/signet"                           # an emptyDir: nothing of the operator's own is kept there
//! token_file = "/var/run/secrets/signet.dev/token"
//! ```
//!
//! What its service account must be allowed (cluster-wide unless said otherwise):
//!
//! | group | resources | verbs | why |
//! |---|---|---|---|
//! | "" | pods, services, namespaces | list, watch | the index |
//! | "" | nodes | list, watch | where pods can be, and which ports of a node lead to them |
//! | networking.k8s.io | servicecidrs | list, watch | where Services can be |
//! | discovery.k8s.io | endpointslices | list, watch | the index |
//! | signet.dev | allowrules | list, watch | the index |
//! | signet.dev | allowrules/status | patch | status, by the holder of the lease |
//! | events.k8s.io | events | create, patch | `RuleAccepted`, `RuleRejected`, by the holder of the lease |
//! | coordination.k8s.io | leases (control namespace; `signet-operator`) | get, create, update | who writes status |
//!
//! `create` cannot be limited to a name. Environment: `POD_NAME` and `POD_IP` (downward), by which replicas find the holder of the
//! lease; without them a replica serves, and never writes status.
pub mod arrived;
pub mod index;
pub mod lease;
pub mod objects;
mod read;
pub mod reports;
pub mod status;
pub mod store;
pub mod translate;
pub mod watch;
pub mod writer;

pub use index::Index;

use crate::control::Hub;
use kube::config::{KubeConfigOptions, Kubeconfig};
use signet_identity::{Credentials, SpiffeId};
use std::path::PathBuf;
use std::sync::Arc;

/// `[kubernetes]` of `operator.toml`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Repositories of our sidecar's image, without tag.
    pub sidecar_images: Vec<String>,
    /// Outside a cluster; absent: the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
}

/// This replica's name and address, from the downward API: `POD_NAME` and `POD_IP`.
pub fn own_place() -> Option<(String, std::net::IpAddr)> {
    let name = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty())?;
    Some((name, std::env::var("POD_IP").ok()?.parse().ok()?))
}

/// Why the cluster cannot be spoken to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The file is no kubeconfig.
    #[error("{path}: {error}")]
    Kubeconfig {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: kube::config::KubeconfigError,
    },
    /// Not in a pod, or without a service account.
    #[error("no cluster to speak to: {0}; outside a pod set `kubeconfig` in [kubernetes]")]
    Outside(#[from] kube::config::InClusterError),
    /// The settings make no client.
    #[error(transparent)]
    Client(#[from] kube::Error),
}

/// A client with the service account of this pod, or with a kubeconfig.
pub async fn connect(settings: &Settings) -> Result<kube::Client, ConnectError> {
    let config = match &settings.kubeconfig {
        None => kube::Config::incluster()?,
        Some(path) => {
            let wrong = |error| ConnectError::Kubeconfig { path: path.clone(), error };
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?
        }
    };
    Ok(kube::Client::try_from(config)?)
}

/// Tries for the lease, writes status while this replica holds it, and reports to who holds it otherwise.
pub struct Status {
    /// Speaks to the API server.
    pub client: kube::Client,
    /// The control namespace.
    pub namespace: String,
    /// This replica's pod.
    pub pod: String,
    /// Where this replica takes reports, as `host:port`.
    pub address: String,
    /// Times of the lease.
    pub times: lease::Times,
    /// What is in force.
    pub views: tokio::sync::watch::Receiver<Arc<status::View>>,
    /// The control streams.
    pub hub: Arc<Hub>,
    /// This replica's certificate.
    pub credentials: Arc<Credentials>,
    /// The identity of operators.
    pub own: SpiffeId,
}

impl Status {
    /// Starts its three tasks. Once they have been stopped, what is returned gives the lease back.
    pub fn spawn(self, tasks: &mut tokio::task::JoinSet<&'static str>) -> lease::Release {
        let name = format!("{}/{}", self.namespace, self.pod);
        let (candidate, lease) = lease::Candidate::new(&self.client, &self.namespace, &name, &self.address, self.times);
        let reports = Arc::new(reports::Reports::default());
        self.hub.take_reports(reports.clone(), self.own.clone());
        let release = candidate.release();
        tasks.spawn(candidate.run());
        let (hub, credentials, own) = (self.hub.clone(), self.credentials, self.own);
        tasks.spawn(reports::Reporter { name, lease: lease.clone(), hub, credentials, own }.run());
        tasks.spawn(writer::Writer { client: self.client, views: self.views, lease, hub: self.hub, reports }.run());
        release
    }
}

#[cfg(test)]
mod tests;
