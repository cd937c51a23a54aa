//! Keeps a program in possession of a valid SVID and of the newest trust state, for as long as it runs.
//!
//! ```text
//! keep_svid:     join (once) → challenge → issue with a new key → verify → in use → sleep to 1/2..2/3 of its life ─┐
//!                     └──────────── on failure: back off, and keep what is in use ─────────────────────────────────┘
//!    in a pod:   read the token → (challenge, if an SVID is held) → issue ... as above
//! follow_trust:  open the stream → adopt what is newer, store it → ... → on failure: back off, open again
//! ```
//!
//! The two run side by side and never end: a CA that is away, however long, is a failure like any other.
use crate::ca::{Ca, CallError, token_hash};
use crate::config::EnrollConfig;
use crate::connect::ConnectError;
use crate::escaped;
use crate::pod::Pod;
use crate::schedule::{Clock, Due, MachineClock, asked_delay, retry_delay, soon_delay};
use crate::state_dir::{Registration, StateDir, StateError};
use crate::status::Status;
use crate::wire::{WireError, trust_state_from_wire};
use rustls::pki_types::{CertificateDer, UnixTime};
use signet_identity::verify::{Side, verify_chain};
use signet_identity::{
    Adoption, Bundle, Credentials, IdError, KeyError, PrivateKey, Rejection, SpiffeId, Svid, SvidError, TrustError,
    TrustState, WorkloadUid, hex,
};
use signet_proto::ca as wire;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, watch};

/// Why there is no (new) SVID.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The configured bundle, or a trust state from the CA.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A trust state that does not read.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The control namespace makes no identity.
    #[error("the CA's identity cannot be made of trust domain and control namespace: {0}")]
    CaIdentity(#[from] IdError),
    /// The CA's address.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Neither registration nor token.
    #[error(
        "this host has not joined yet, and join_token_file is not set or not there: make one with `signet token create`"
    )]
    NoToken,
    /// The pod's token cannot be read.
    #[error("the pod's token cannot be read: {0}")]
    PodToken(String),
    /// A call to the CA.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A key could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The chain that the CA returned is no SVID.
    #[error("the CA returned a certificate that cannot be used: {0}")]
    Svid(#[from] SvidError),
    /// The chain that the CA returned would be refused by a peer.
    #[error("the CA returned a certificate that peers would refuse: {0}")]
    Refused(#[from] Rejection),
    /// A certificate for somebody else.
    #[error("the CA returned a certificate for {found}, and this host is {expected}")]
    OtherIdentity {
        /// Identity and UID of the registration.
        expected: String,
        /// Those of the certificate.
        found: String,
    },
}

/// Obtains and renews this host's SVID and follows the trust state. Nothing happens before [`Enroller::run`].
pub struct Enroller {
    config: EnrollConfig,
    credentials: Arc<Credentials>,
    status: watch::Sender<Status>,
    state: StateDir,
    /// In a pod: how it attests.
    pod: Option<Pod>,
    ca: Ca,
    clock: Arc<dyn Clock>,
    /// Held while the trust state is written, so that an older one is never written over a newer.
    storing: Mutex<()>,
    /// The CA has just answered: no need to wait longer with opening the trust stream.
    answered: Notify,
}

impl Enroller {
    /// Opens the state directory (and makes it) and reads what it holds. Contacts nobody.
    pub fn new(config: EnrollConfig) -> Result<Self, EnrollError> {
        Self::with_clock(config, Arc::new(MachineClock))
    }

    pub(crate) fn with_clock(config: EnrollConfig, clock: Arc<dyn Clock>) -> Result<Self, EnrollError> {
        let state = StateDir::open(&config.state_dir)?;
        let bundles = [(config.trust_domain.clone(), Bundle::from_pem(&config.bundle_pem)?)].into();
        let bootstrap = TrustState { sequence: 0, bundles, ..TrustState::default() };
        // What was in force before the restart comes before the bundle, which only authenticates first contact.
        let trust = state.trust()?.unwrap_or(bootstrap);
        let pod = config.token_file.as_deref().map(Pod::new);
        // A host key that lies there from another life of the directory does not speak for a pod.
        let registration = if pod.is_some() { None } else { state.registration()? };
        if pod.is_none() && registration.is_none() && config.join_token.is_none() {
            return Err(EnrollError::NoToken);
        }
        let trust_sequence = trust.sequence;
        let credentials = Credentials::new(trust)?;
        let ca = Ca::new(&credentials, config.ca_identity()?, &config.ca_address)?;
        let registered = registration.map(|r| (r.id, r.uid));
        let (status, _) = watch::channel(Status { registered, trust_sequence, ..Status::default() });
        Ok(Self {
            config,
            credentials,
            status,
            state,
            pod,
            ca,
            clock,
            storing: Mutex::default(),
            answered: Notify::new(),
        })
    }

    /// Filled as soon as the CA has answered, renewed from then on.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.clone()
    }

    /// How it goes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Never ends; drop it to stop.
    pub async fn run(self) {
        tokio::join!(self.keep_svid(), self.follow_trust());
    }

    async fn keep_svid(&self) {
        let mut refused_token = false;
        let mut lifetime = None;
        let mut soon = 0;
        loop {
            match self.renew(&mut refused_token).await {
                Ok(svid) => {
                    let now = self.clock.now();
                    lifetime = Some(Duration::from_secs(svid.not_after()).saturating_sub(now.wall));
                    let due = Due::after_issue(now, svid.not_after(), rand::random());
                    self.succeeded(&svid, due.left(now));
                    soon = 0;
                    while let Some(nap) = due.nap(self.clock.now()) {
                        tokio::time::sleep(nap).await;
                    }
                }
                Err(error) => {
                    let failures = self.failed(&error);
                    let delay = match &error {
                        EnrollError::Call(call) => {
                            if call.is_of_this_replica() {
                                self.ca.turn_elsewhere();
                            }
                            call.asked_delay().map(|asked| asked_delay(asked, rand::random())).or_else(|| {
                                soon += u32::from(call.soon().is_some());
                                call.soon().map(|asked| soon_delay(asked, soon, rand::random()))
                            })
                        }
                        _ => None,
                    };
                    let delay = delay.unwrap_or_else(|| retry_delay(failures, lifetime, rand::random()));
                    tracing::warn!(error = escaped(&error), failures, retry_in = ?delay, "no new certificate");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// One attempt: joins if that is needed, and puts a new SVID in use.
    async fn renew(&self, refused_token: &mut bool) -> Result<Arc<Svid>, EnrollError> {
        let key = PrivateKey::generate()?;
        let held = self.credentials.trust().state().sequence;
        let (answer, registered) = if let Some(pod) = &self.pod {
            let token = pod.token().await.map_err(EnrollError::PodToken)?;
            let renewal = pod.renewal(self.credentials.svid(), self.clock.now().wall.as_secs());
            (self.ca.issue_to_pod(&token, renewal.as_ref(), &key, held).await?, None)
        } else {
            let registration = self.join(refused_token).await?;
            (self.ca.issue(&registration, &key, held).await?, Some((registration.id, registration.uid)))
        };
        if let Some(trust) = answer.trust {
            self.adopt(trust).await;
        }
        let chain: Vec<CertificateDer<'static>> = answer.chain.into_iter().map(Into::into).collect();
        let svid = Svid::new(chain, &key)?;
        let now = UnixTime::since_unix_epoch(self.clock.now().wall);
        verify_chain(svid.chain(), &self.credentials.trust(), now, Side::Server)?;
        self.is_ours(&svid, registered)?;
        if let Some(pod) = &self.pod {
            pod.keep(answer.receipt);
        }
        self.credentials.set_svid(svid);
        // Set a moment ago, and nobody else sets it.
        self.credentials.svid().ok_or(EnrollError::Svid(SvidError::EmptyChain))
    }

    /// Whether a certificate is for whom this host is registered as, or whom the first certificate made of this pod.
    fn is_ours(&self, svid: &Svid, registered: Option<(SpiffeId, WorkloadUid)>) -> Result<(), EnrollError> {
        let other = |expected: String| {
            let uid = svid.uid().map_or("(none)", WorkloadUid::as_str);
            EnrollError::OtherIdentity { expected, found: format!("{} with uid {uid}", svid.id()) }
        };
        let expected = match (registered, &self.pod, svid.uid()) {
            (Some(registered), ..) => registered,
            (None, Some(pod), Some(uid)) if svid.id().trust_domain() == self.config.trust_domain => {
                pod.is(svid.id(), uid).clone()
            }
            _ => return Err(other(format!("a workload of trust domain {} with a uid", self.config.trust_domain))),
        };
        if *svid.id() != expected.0 || svid.uid() != Some(&expected.1) {
            return Err(other(format!("{} with uid {}", expected.0, expected.1)));
        }
        if self.pod.is_some() {
            self.status.send_if_modified(|status| {
                let first = status.registered.is_none();
                status.registered = Some(expected);
                first
            });
        }
        Ok(())
    }

    /// The registration to use. A token other than the one that made it is exchanged first; `refused_token` remembers that the
    /// CA would not have it, so that the old registration goes on.
    async fn join(&self, refused_token: &mut bool) -> Result<Registration, EnrollError> {
        let held = self.state.registration()?;
        let token = self.config.join_token.as_ref().filter(|_| !*refused_token);
        let new = token.filter(|token| held.as_ref().is_none_or(|held| held.token_hash != token_hash(token)));
        match (new, held) {
            (None, Some(held)) => Ok(held),
            (None, None) => Err(EnrollError::NoToken),
            (Some(token), None) => self.register(token).await,
            (Some(token), Some(held)) => match self.register(token).await {
                Ok(registration) => Ok(registration),
                Err(error) => {
                    *refused_token = matches!(&error, EnrollError::Call(call) if call.is_final());
                    tracing::warn!(
                        error = escaped(&error),
                        "the new join token was not taken; the old registration is used"
                    );
                    Ok(held)
                }
            },
        }
    }

    async fn register(&self, token: &str) -> Result<Registration, EnrollError> {
        let key = self.state.pending_key()?;
        let registration = self.ca.register(token, key).await?;
        self.state.set_registration(&registration)?;
        let (id, uid) = (registration.id.clone(), registration.uid.clone());
        tracing::info!(identity = %id, %uid, "joined");
        self.status.send_modify(|status| status.registered = Some((id, uid)));
        Ok(registration)
    }

    async fn follow_trust(&self) {
        let mut failures = 0;
        loop {
            let error = match self.watch_trust(&mut failures).await {
                Ok(()) => "the CA ended the stream".to_owned(),
                Err(error) => escaped(&error),
            };
            failures += 1;
            let delay = retry_delay(failures, None, rand::random());
            self.status.send_modify(|status| {
                status.trust_stream_open = false;
                status.trust_failures = failures;
            });
            // A stream has an end now and then: the first failure in a row is no news.
            if failures > 1 {
                tracing::warn!(error, failures, retry_in = ?delay, "trust state is not followed");
            } else {
                tracing::debug!(error, retry_in = ?delay, "trust stream ended");
            }
            // Whichever comes first; an answer from before the failure is not counted.
            let answered = self.answered.notified();
            let _ = tokio::time::timeout(delay, answered).await;
        }
    }

    async fn watch_trust(&self, failures: &mut u32) -> Result<(), CallError> {
        let mut stream = self.ca.watch_trust(self.credentials.trust().state().sequence).await?;
        loop {
            let message = stream.message().await;
            let message =
                message.map_err(|status| CallError::Refused { call: "WatchTrust", status: Box::new(status) })?;
            let Some(message) = message else { return Ok(()) };
            *failures = 0;
            self.status.send_modify(|status| {
                status.trust_stream_open = true;
                status.trust_failures = 0;
            });
            self.adopt(message).await;
        }
    }

    /// Puts a newer trust state in force and stores it. Nothing here ends enrolment: what is held goes on.
    async fn adopt(&self, message: wire::TrustState) {
        let sequence = message.sequence;
        let adopted = trust_state_from_wire(message)
            .map_err(EnrollError::from)
            .and_then(|state| self.credentials.adopt_trust(state).map_err(EnrollError::from));
        match adopted {
            Ok(Adoption::Adopted) => {
                tracing::info!(sequence, "trust state in force");
                self.status.send_modify(|status| status.trust_sequence = status.trust_sequence.max(sequence));
                self.store_trust().await;
            }
            Ok(Adoption::Unchanged) => {}
            Err(EnrollError::Trust(TrustError::Older { offered, held })) => {
                tracing::debug!(offered, held, "an older trust state was not taken");
            }
            Err(EnrollError::Trust(TrustError::Conflict(sequence))) => {
                self.status.send_modify(|status| status.trust_conflicts += 1);
                tracing::error!(
                    alarm = "trust_conflict",
                    sequence,
                    "the CA sent other content under a sequence that is held: somebody else may be signing; what is held stays"
                );
            }
            Err(error) => tracing::error!(sequence, error = escaped(&error), "a trust state was refused"),
        }
    }

    /// Stores what is in force at this moment, which is never older than what is stored.
    async fn store_trust(&self) {
        let _held = self.storing.lock().await;
        let (state, trust) = (self.state.clone(), self.credentials.trust());
        let stored = tokio::task::spawn_blocking(move || state.set_trust(trust.state())).await;
        match stored {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = escaped(&error), "the trust state could not be stored"),
            Err(error) => tracing::error!(error = escaped(&error), "the trust state could not be stored"),
        }
    }

    fn succeeded(&self, svid: &Svid, renewal_in: Duration) {
        self.answered.notify_waiters();
        let serial = hex(svid.serial());
        let now = self.clock.now().wall.as_secs();
        tracing::info!(identity = %svid.id(), serial, not_after = svid.not_after(), ?renewal_in, "certificate in use");
        self.status.send_modify(|status| {
            status.serial = Some(serial);
            status.not_after = Some(svid.not_after());
            status.last_success = Some(now);
            status.issued += 1;
            status.consecutive_failures = 0;
            status.last_error = None;
        });
    }

    /// Counts a failure; gives how many there were in a row.
    fn failed(&self, error: &EnrollError) -> u32 {
        let text = escaped(error);
        let mut failures = 0;
        self.status.send_modify(|status| {
            status.failures += 1;
            status.consecutive_failures = status.consecutive_failures.saturating_add(1);
            status.last_error = Some(text);
            failures = status.consecutive_failures;
        });
        failures
    }
}

#[cfg(test)]
mod tests;
