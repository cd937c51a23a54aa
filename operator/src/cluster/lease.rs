//! Who writes status: the holder of the Lease `signet-operator`. Every replica tries; one has it.
//!
//! Time is judged by this process's own clock alone: another's lease has ended when it has not changed for its whole length
//! since we first saw it so. Our own counts only for two thirds of its length after the last renewal that the API server
//! confirmed: a replica that was paused or cut off stops before another begins. Every change is a compare-and-swap on the
//! object's resource version.
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// The object's name.
pub const NAME: &str = "signet-operator";
/// Where the holder takes reports, as `host:port`.
const ADDRESS: &str = "signet.dev/address";

/// Times of the lease.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long it lasts after a renewal.
    pub lasts: Duration,
    /// How often it is renewed, and looked at.
    pub renew: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { lasts: Duration::from_secs(15), renew: Duration::from_secs(4) }
    }
}

/// What this replica knows of the lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The holder's name; empty for nobody.
    pub holder: String,
    /// Where it takes reports.
    pub address: String,
    /// How often the lease has changed hands.
    pub term: i32,
    /// Until when this replica holds it; absent: another does.
    pub ours_until: Option<Instant>,
}

impl Known {
    /// Whether this replica may write now.
    pub fn is_ours(&self) -> bool {
        self.ours_until.is_some_and(|until| Instant::now() < until)
    }
}

/// One replica's part in the lease.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    address: String,
    times: Times,
    /// The renewal of another that we saw last, and when we first saw it.
    seen: Option<(String, Instant)>,
    tell: watch::Sender<Known>,
}

impl Candidate {
    /// `name` is this replica's own, `address` where it takes reports.
    pub fn new(
        client: &Client,
        namespace: &str,
        name: &str,
        address: &str,
        times: Times,
    ) -> (Self, watch::Receiver<Known>) {
        let (tell, known) = watch::channel(Known::default());
        let api = Api::namespaced(client.clone(), namespace);
        (Self { api, name: name.into(), address: address.into(), times, seen: None, tell }, known)
    }

    /// What gives the lease back when this replica stops.
    pub fn release(&self) -> Release {
        Release { api: self.api.clone(), name: self.name.clone() }
    }

    /// Tries for ever.
    pub async fn run(mut self) -> &'static str {
        loop {
            let before = Instant::now();
            match timeout(self.times.renew, self.turn(before)).await {
                Ok(Ok(known)) => {
                    self.tell.send_if_modified(|held| {
                        let news = *held != known;
                        if held.is_ours() != known.is_ours() {
                            tracing::info!(holder = known.holder, term = known.term, "the lease has changed hands");
                        }
                        *held = known;
                        news
                    });
                }
                // Another was faster, or the API server is away: what we hold ends by itself.
                Ok(Err(error)) => tracing::debug!(%error, "the lease could not be read or written"),
                Err(_) => tracing::debug!("the API server does not answer about the lease"),
            }
            sleep(self.times.renew).await;
        }
    }

    /// One look, and one write when the lease is ours or free.
    async fn turn(&mut self, before: Instant) -> Result<Known, kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let lease = self.renewed(Lease::default(), true);
            return Ok(self.ours(&self.api.create(&PostParams::default(), &lease).await?, before));
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let ours = holder == self.name;
        if !ours && !holder.is_empty() && !self.has_ended(&spec) {
            return Ok(Known {
                address: lease.metadata.annotations.as_ref().and_then(|a| a.get(ADDRESS)).cloned().unwrap_or_default(),
                term: spec.lease_transitions.unwrap_or(0),
                holder,
                ours_until: None,
            });
        }
        let next = self.renewed(lease, !ours);
        Ok(self.ours(&self.api.replace(NAME, &PostParams::default(), &next).await?, before))
    }

    fn has_ended(&mut self, spec: &LeaseSpec) -> bool {
        let stamp = format!("{:?} {:?} {:?}", spec.holder_identity, spec.renew_time, spec.lease_transitions);
        let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = lasts.map_or(self.times.lasts, Duration::from_secs);
        match &self.seen {
            Some((seen, since)) if *seen == stamp => *since + lasts < Instant::now(),
            _ => {
                self.seen = Some((stamp, Instant::now()));
                false
            }
        }
    }

    fn renewed(&self, lease: Lease, new_term: bool) -> Lease {
        let now = Some(MicroTime(k8s_openapi::jiff::Timestamp::now()));
        let before = lease.spec.unwrap_or_default();
        let mut annotations = lease.metadata.annotations.unwrap_or_default();
        annotations.insert(ADDRESS.into(), self.address.clone());
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                annotations: Some(annotations),
                managed_fields: None,
                ..lease.metadata
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: i32::try_from(self.times.lasts.as_secs()).ok(),
                acquire_time: if new_term { now.clone() } else { before.acquire_time },
                renew_time: now,
                lease_transitions: Some(before.lease_transitions.unwrap_or(0).saturating_add(i32::from(new_term))),
                ..before
            }),
        }
    }

    fn ours(&self, lease: &Lease, before: Instant) -> Known {
        Known {
            holder: self.name.clone(),
            address: self.address.clone(),
            term: lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0),
            ours_until: Some(before + self.times.lasts * 2 / 3),
        }
    }
}

/// Gives the lease back, so that another replica need not wait until it has ended.
#[derive(Debug)]
pub struct Release {
    api: Api<Lease>,
    name: String,
}

impl Release {
    /// To be called when nothing of this replica writes any more. Whose lease it is not leaves it alone.
    pub async fn now(self) -> Result<(), kube::Error> {
        loop {
            match self.give().await {
                // A renewal of ours that was on its way, or another candidate: whose it is now is read again.
                Err(kube::Error::Api(status)) if status.is_conflict() => {}
                given => return given,
            }
        }
    }

    async fn give(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else { return Ok(()) };
        let Some(spec) = &mut lease.spec else { return Ok(()) };
        if spec.holder_identity.as_deref() != Some(&self.name) {
            return Ok(());
        }
        // As an empty string, which every candidate reads as nobody.
        spec.holder_identity = Some(String::new());
        // Where reports go is nowhere, until another says where it takes them.
        lease.metadata.annotations.get_or_insert_default().remove(ADDRESS);
        lease.metadata.managed_fields = None;
        // On the resource version that was read: another's lease is never taken away.
        self.api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
    }
}
