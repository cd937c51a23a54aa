//! Where issuing CAs get their certificates: the trait behind which any upstream can stand, and the local root, whose key
//! lies in the state directory or, in a cluster, in a Secret. Opened by `program` before anything listens.
use crate::{
    certificate::{self, CertificateError, P256PublicKey, Serial, SignError, Signer, Template},
    state_dir::{StateDir, StateDirError},
};
use rustls_pki_types::CertificateDer;
use signet_identity::{KeyError, PrivateKey, TrustDomain};
use std::{fmt, future::Future, path::PathBuf, pin::Pin, time::Duration};

/// The file with the root's key, PKCS#8 PEM, mode 0600.
pub const ROOT_KEY: &str = "root.key";

/// What an upstream answers.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Issuing CA first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that verifiers need for this chain.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why an upstream signed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The root's own end has come.
    #[error("the root ended at {0} (unix seconds); it must be replaced before anything can be issued")]
    RootEnded(u64),
    /// No randomness.
    #[error("the operating system gave no randomness")]
    Randomness,
    /// Making the certificate failed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// The answer of `Upstream::sign_issuing`.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<Signed, UpstreamError>> + Send + 'a>>;

/// Signs issuing CAs. An upstream sees public keys alone; it decides lifetimes.
pub trait Upstream: Send + Sync + fmt::Debug {
    /// A certificate for an issuing CA with this key, made at `now` (unix seconds).
    fn sign_issuing<'a>(&'a self, key: &'a P256PublicKey, now: u64) -> Signing<'a>;
}

/// The root whose key this process holds: from its own state directory, or from a Secret.
#[derive(Debug)]
pub struct LocalRoot {
    trust_domain: TrustDomain,
    signer: Signer,
    issuing_lifetime: Duration,
}

/// Why there is no root to work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Minting another root would cut off everyone who trusts the published one.
    #[error(
        "a bundle with {roots} root(s) is published for {trust_domain}, but {path} is missing; restore the file from a \
         backup (a new root would be trusted by nobody, so none is made)"
    )]
    KeyGone {
        /// How many.
        roots: usize,
        /// Of which trust domain.
        trust_domain: TrustDomain,
        /// Where the key belongs.
        path: PathBuf,
    },
    /// The key is there, but of another root.
    #[error(
        "{path} is not the key of any of the {roots} root(s) published for {trust_domain}; restore the right one from a backup"
    )]
    KeyOther {
        /// How many.
        roots: usize,
        /// Of which trust domain.
        trust_domain: TrustDomain,
        /// Where the key lies.
        path: PathBuf,
    },
    /// The file holds no P-256 key.
    #[error("{path}: {error}")]
    KeyUnreadable {
        /// Where the key lies.
        path: PathBuf,
        /// What is wrong with it.
        error: KeyError,
    },
    /// No new key could be made.
    #[error("the root's key could not be made: {0}")]
    Generate(#[from] KeyError),
    /// The published certificate cannot sign.
    #[error("the root's certificate cannot be used: {0}")]
    Sign(#[from] SignError),
    /// The new certificate failed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// No randomness.
    #[error("the operating system gave no randomness")]
    Randomness,
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateDirError),
}

/// How long roots and issuing CAs live.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Of a root that is made now.
    pub root: Duration,
    /// Of each issuing CA.
    pub issuing: Duration,
}

impl LocalRoot {
    /// Takes the key from the state directory, or makes one when nothing was ever published. `published` are the trust
    /// domain's roots in the trust state and in the bundle file.
    pub fn open(
        state: &StateDir,
        trust_domain: &TrustDomain,
        published: &[CertificateDer<'static>],
        now: u64,
        lifetimes: Lifetimes,
    ) -> Result<Self, RootError> {
        let path = state.file(ROOT_KEY);
        let key = match state.read_secret(ROOT_KEY)? {
            Some(pem) => {
                PrivateKey::from_pem(&pem).map_err(|error| RootError::KeyUnreadable { path: path.clone(), error })?
            }
            None if published.is_empty() => {
                let key = PrivateKey::generate()?;
                state.write(ROOT_KEY, key.to_pem().as_bytes(), 0o600)?;
                tracing::info!(path = %path.display(), "made the key of a new root; keep a backup of it");
                key
            }
            None => {
                return Err(RootError::KeyGone { roots: published.len(), trust_domain: trust_domain.clone(), path });
            }
        };
        let ours =
            published.iter().filter_map(|root| Signer::new(root.clone(), &key).ok()).max_by_key(Signer::not_after);
        let signer = match ours {
            Some(signer) => signer,
            None if published.is_empty() => Signer::new(self_signed(trust_domain, &key, now, lifetimes)?, &key)?,
            None => {
                return Err(RootError::KeyOther { roots: published.len(), trust_domain: trust_domain.clone(), path });
            }
        };
        Ok(Self { trust_domain: trust_domain.clone(), signer, issuing_lifetime: lifetimes.issuing })
    }

    /// A new root for whoever keeps it elsewhere than in a state directory.
    pub fn mint(
        trust_domain: &TrustDomain,
        now: u64,
        lifetimes: Lifetimes,
    ) -> Result<(CertificateDer<'static>, PrivateKey), RootError> {
        let key = PrivateKey::generate()?;
        Ok((self_signed(trust_domain, &key, now, lifetimes)?, key))
    }

    /// A root that was kept elsewhere; certificate and key must belong together.
    pub fn of(
        trust_domain: &TrustDomain,
        certificate: CertificateDer<'static>,
        key: &PrivateKey,
        lifetimes: Lifetimes,
    ) -> Result<Self, RootError> {
        let signer = Signer::new(certificate, key)?;
        Ok(Self { trust_domain: trust_domain.clone(), signer, issuing_lifetime: lifetimes.issuing })
    }

    /// The root's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.signer.certificate()
    }

    /// Its end, unix seconds.
    pub fn not_after(&self) -> u64 {
        self.signer.not_after()
    }

    fn sign(&self, key: &P256PublicKey, now: u64) -> Result<Signed, UpstreamError> {
        if now >= self.signer.not_after() {
            return Err(UpstreamError::RootEnded(self.signer.not_after()));
        }
        let serial = Serial::random().ok_or(UpstreamError::Randomness)?;
        let ends = self.signer.not_after();
        let template = Template::issuing(&self.trust_domain, serial, now, self.issuing_lifetime, ends);
        let issuing = certificate::make(&template, key, &self.signer)?;
        Ok(Signed { chain: vec![issuing], roots: vec![self.signer.certificate().clone()] })
    }
}

fn self_signed(
    trust_domain: &TrustDomain,
    key: &PrivateKey,
    now: u64,
    lifetimes: Lifetimes,
) -> Result<CertificateDer<'static>, RootError> {
    let serial = Serial::random().ok_or(RootError::Randomness)?;
    let template = Template::root(trust_domain, serial, now, lifetimes.root);
    Ok(certificate::make_root(&template, key)?)
}

impl Upstream for LocalRoot {
    fn sign_issuing<'a>(&'a self, key: &'a P256PublicKey, now: u64) -> Signing<'a> {
        Box::pin(std::future::ready(self.sign(key, now)))
    }
}
