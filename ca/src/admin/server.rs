//! The CA's side of the admin socket. Three locks: the directory is ours alone, the socket has mode 0600, and the kernel's
//! word on who connected must be our own user.
use super::{Host, Request, Response, Token};
use crate::{
    attest::{Reserved, join_token},
    clock::Clock,
    config::MAX_TOKEN_LIFETIME,
    state_dir::{StateDirError, private_directory},
    store::{self, Store},
    trust::Publisher,
};
use aws_lc_rs::rand;
use signet_identity::{SpiffeId, TrustDomain, WorkloadUid};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, copy, sink},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// The longest request, in bytes.
const MAX_REQUEST: u64 = 16 * 1024;
/// Conversations at once.
const MOST: usize = 16;

/// Why the socket was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Its directory.
    #[error(transparent)]
    Directory(#[from] StateDirError),
    /// The socket itself.
    #[error("the admin socket {path} could not be opened: {error} (a socket's path has at most 107 bytes)")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

/// What the requests need.
#[derive(Debug)]
pub struct Admin {
    /// Tokens and host keys.
    pub store: Arc<Store>,
    /// The bundle.
    pub publisher: Arc<Publisher>,
    /// Which identities need `--control`.
    pub reserved: Reserved,
    /// Whose identities may be given.
    pub trust_domain: TrustDomain,
    /// Life of a token when none is asked for.
    pub token_lifetime: Duration,
    /// The time.
    pub clock: Clock,
}

/// Opens the socket. One that a dead process left behind is removed; the lock on the state directory says that it is dead.
pub fn listen(path: &Path) -> Result<UnixListener, AdminError> {
    let io = |error| AdminError::Io { path: path.into(), error };
    private_directory(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io)?;
    Ok(listener)
}

/// Serves for ever; survives every error of `accept`.
pub async fn serve(listener: UnixListener, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = admin.clone();
                tokio::spawn(async move {
                    let talk = timeout(Duration::from_secs(30), conversation(stream, &admin)).await;
                    if let Ok(Err(error)) = talk {
                        tracing::debug!(%error, "a conversation on the admin socket broke");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin socket could not accept; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn say(to: &mut (impl AsyncWrite + Unpin), response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    to.write_all(&line).await
}

async fn conversation(mut stream: UnixStream, admin: &Admin) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    if peer != own {
        tracing::warn!(user = peer, "another user opened the admin socket; refused");
        let refused = Response::Error(format!(
            "this CA runs as user {own} and answers that user alone, not user {peer}; run: setpriv --reuid {own} --clear-groups signet token ..."
        ));
        say(&mut stream, &refused).await?;
        // Whoever it is, it is told this and no more. What it asks is thrown away, not left: a socket that is closed over
        // unread bytes is a reset, and the answer may be lost with it.
        stream.shutdown().await?;
        return copy(&mut stream.take(MAX_REQUEST), &mut sink()).await.map(drop);
    }
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        if (&mut from).take(MAX_REQUEST).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let response = match serde_json::from_slice(&line) {
            Ok(request) => admin.answer(request).await,
            Err(error) => Response::Error(format!("the request was not understood: {error}")),
        };
        say(&mut to, &response).await?;
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
    }
}

impl Admin {
    /// Answers one request.
    pub async fn answer(&self, request: Request) -> Response {
        let answer = match request {
            Request::CreateToken { identity, uid, ttl_seconds, control } => {
                self.create(&identity, uid.as_deref(), ttl_seconds, control).await
            }
            Request::ListTokens {} => self.tokens(),
            Request::RevokeToken { id } => self.revoke_token(id).await,
            Request::ListHosts {} => self.hosts(),
            Request::RevokeHost { uid } => self.revoke_host(&uid).await,
            Request::Bundle {} => Ok(self.bundle()),
        };
        answer.unwrap_or_else(Response::Error)
    }

    async fn create(
        &self,
        identity: &str,
        uid: Option<&str>,
        ttl: Option<u64>,
        control: bool,
    ) -> Result<Response, String> {
        let identity = self.identity(identity, control)?;
        let uid = match uid {
            Some(uid) => uid.parse().map_err(|error: signet_identity::UidError| error.to_string())?,
            None => random_uid()?,
        };
        let ttl = ttl.unwrap_or(self.token_lifetime.as_secs());
        if !(1..=MAX_TOKEN_LIFETIME.as_secs()).contains(&ttl) {
            return Err(format!("a token lives 1 to {} seconds, not {ttl}", MAX_TOKEN_LIFETIME.as_secs()));
        }
        let now = self.clock.seconds();
        let minted = join_token::mint(identity, uid, control, now, now.saturating_add(ttl));
        let minted = minted.ok_or("the operating system gave no randomness")?;
        let about = about(store::Token {
            id: minted.record.id.clone(),
            identity: minted.record.identity.clone(),
            uid: minted.record.uid.clone(),
            control,
            expires_at: minted.record.expires_at,
        });
        self.store.add_token(minted.record).await.map_err(text)?;
        tracing::info!(id = about.id, identity = about.identity, uid = about.uid, control, "made a join token");
        Ok(Response::Token { token: minted.text.to_string(), about })
    }

    fn identity(&self, identity: &str, control: bool) -> Result<SpiffeId, String> {
        let identity: SpiffeId = identity.parse().map_err(text)?;
        if identity.trust_domain() != self.trust_domain {
            return Err(format!("{identity} is not of this CA's trust domain, {}", self.trust_domain));
        }
        if identity.namespace_and_service_account().is_none() {
            return Err(format!(
                "{identity} is not spiffe://{}/ns/<namespace>/sa/<service account>",
                self.trust_domain
            ));
        }
        match (self.reserved.holds(&identity), control) {
            (true, false) => {
                Err(format!("{identity} is reserved for the control plane; add --control if that is meant"))
            }
            (false, true) => Err(format!(
                "--control is for {} and {} alone, not for {identity}",
                self.reserved.ca, self.reserved.operator
            )),
            _ => Ok(identity),
        }
    }

    fn tokens(&self) -> Result<Response, String> {
        let tokens = self.store.tokens(self.clock.seconds()).map_err(text)?;
        Ok(Response::Tokens(tokens.into_iter().map(about).collect()))
    }

    async fn revoke_token(&self, id: String) -> Result<Response, String> {
        if self.store.revoke_token(id.clone()).await.map_err(text)? {
            tracing::info!(id, "revoked a join token");
            return Ok(Response::Revoked {});
        }
        Err(format!("there is no token {id:?} (it may have been used or have expired); see: signet token list"))
    }

    fn hosts(&self) -> Result<Response, String> {
        let host = |key: store::HostKey| Host {
            uid: key.uid.to_string(),
            identity: key.identity.to_string(),
            host_key_id: key.key_id,
            registered_at: key.registered_at,
            revoked_at: key.revoked_at,
        };
        Ok(Response::Hosts(self.store.host_keys().map_err(text)?.into_iter().map(host).collect()))
    }

    async fn revoke_host(&self, uid: &str) -> Result<Response, String> {
        let uid: WorkloadUid = uid.parse().map_err(text)?;
        if self.store.revoke_host_key(uid.clone(), self.clock.seconds()).await.map_err(text)? {
            tracing::info!(%uid, "revoked a host key");
            return Ok(Response::Revoked {});
        }
        Err(format!("there is no host key in force with the uid {uid}; see: signet token hosts"))
    }

    fn bundle(&self) -> Response {
        let newest = self.publisher.newest();
        let pem = newest.state.bundles.get(&self.trust_domain).map(signet_identity::Bundle::to_pem).unwrap_or_default();
        Response::Bundle { sequence: newest.state.sequence, pem }
    }
}

fn about(token: store::Token) -> Token {
    Token {
        id: token.id,
        identity: token.identity.to_string(),
        uid: token.uid.to_string(),
        control: token.control,
        expires_at: token.expires_at,
    }
}

fn random_uid() -> Result<WorkloadUid, String> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|_| "the operating system gave no randomness")?;
    format!("host-{:016x}", u64::from_be_bytes(bytes)).parse().map_err(text)
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn text(error: impl ToString) -> String {
    error.to_string()
}
