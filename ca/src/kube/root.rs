//! The root in its Secret. The first replica that finds none makes it, by a create that fails where another was faster; nobody
//! ever overwrites it, and nobody makes another one when a bundle was already published.
use super::{Cluster, ClusterError, ROOT, TRUST, within};
use crate::{
    attest::receipt::Receipts,
    root::{Lifetimes, LocalRoot, RootError},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::PostParams;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use signet_identity::{Bundle, PrivateKey, TrustDomain, TrustError};
use std::collections::BTreeMap;
use zeroize::{Zeroize, Zeroizing};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const BUNDLE: &str = "bundle.pem";

/// Why there is no root to work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Minting another root would cut off everyone who trusts the published one.
    #[error(
        "a bundle with {roots} root(s) is published for {trust_domain}, but Secret {ROOT} is missing; restore it from a backup \
         (a new root would be trusted by nobody, so none is made). To begin anew where no workload was ever given it, delete \
         the ConfigMaps signet-trust-state and signet-trust"
    )]
    Gone {
        /// How many.
        roots: usize,
        /// Of which trust domain.
        trust_domain: TrustDomain,
    },
    /// The Secret holds another root than those that are trusted.
    #[error(
        "the root in Secret {ROOT} is none of the {roots} root(s) published for {trust_domain}; restore the right one from a backup"
    )]
    Other {
        /// How many.
        roots: usize,
        /// Of which trust domain.
        trust_domain: TrustDomain,
    },
    /// What the Secret holds is not a root and its key.
    #[error("Secret {ROOT}, key {key}: {problem}; restore it from a backup")]
    Broken {
        /// Which key of it.
        key: &'static str,
        /// What is wrong, without its content.
        problem: String,
    },
    /// The trust domain was changed after the root was made.
    #[error(
        "the root in Secret {ROOT} is not one of trust domain {trust_domain} ({error}); a trust domain cannot be changed"
    )]
    OtherTrustDomain {
        /// The configured one.
        trust_domain: TrustDomain,
        /// What the verifier says of it.
        error: TrustError,
    },
    /// The bundle that workloads are given cannot be read, so that it is unknown what they trust.
    #[error("ConfigMap {TRUST}: {0}")]
    Bundle(TrustError),
    /// Making a root, or using the one that is there.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// The root of this mesh, and the seal of receipts, which all replicas derive from its key.
#[derive(Debug)]
pub struct SharedRoot {
    /// Signs issuing CAs.
    pub root: LocalRoot,
    /// Seals and opens what the CA saw of a pod.
    pub receipts: Receipts,
}

/// Reads the root, or makes it when nothing was ever published. `published` are the trust domain's roots in the trust state,
/// **read before this is called**: another replica may publish at any moment, and what it published it has stored before.
pub async fn open(
    cluster: &Cluster,
    trust_domain: &TrustDomain,
    published: &[CertificateDer<'static>],
    now: u64,
    lifetimes: Lifetimes,
) -> Result<SharedRoot, SecretError> {
    let mut published = published.to_vec();
    if published.is_empty() {
        published = in_bundle(cluster).await?;
    }
    let secrets = cluster.secrets();
    let read = || within("reading the root", secrets.get_opt(ROOT));
    let (secret, made) = match read().await? {
        Some(secret) => (secret, false),
        None if published.is_empty() => {
            let secret = mint(trust_domain, now, lifetimes)?;
            match within("storing the root", secrets.create(&PostParams::default(), &secret)).await {
                Ok(stored) => (stored, true),
                // Another replica was faster: its root is everyone's.
                Err(error) if error.is_conflict() => (read().await?.ok_or(error)?, false),
                Err(error) => return Err(error.into()),
            }
        }
        None => return Err(SecretError::Gone { roots: published.len(), trust_domain: trust_domain.clone() }),
    };
    if made {
        tracing::info!(secret = ROOT, "made a new root; keep a backup of its Secret");
    }
    let (certificate, key) = parse(secret)?;
    let bundle = Bundle { roots: vec![certificate.clone()] };
    let state = signet_identity::TrustState { bundles: [(trust_domain.clone(), bundle)].into(), ..Default::default() };
    signet_identity::Trust::new(state)
        .map_err(|error| SecretError::OtherTrustDomain { trust_domain: trust_domain.clone(), error })?;
    if !published.is_empty() && !published.contains(&certificate) {
        return Err(SecretError::Other { roots: published.len(), trust_domain: trust_domain.clone() });
    }
    let receipts = Receipts::new(&key);
    let root = LocalRoot::of(trust_domain, certificate, &key, lifetimes)?;
    Ok(SharedRoot { root, receipts })
}

/// The roots that workloads are given at first contact: the trust state may be gone while they are not.
async fn in_bundle(cluster: &Cluster) -> Result<Vec<CertificateDer<'static>>, SecretError> {
    let read = within("reading the bundle", cluster.config_maps().get_opt(TRUST)).await?;
    let pem = read.and_then(|object| object.data?.remove(BUNDLE)).filter(|pem| !pem.trim().is_empty());
    match pem {
        Some(pem) => Ok(Bundle::from_pem(&pem).map_err(SecretError::Bundle)?.roots),
        None => Ok(Vec::new()),
    }
}

fn mint(trust_domain: &TrustDomain, now: u64, lifetimes: Lifetimes) -> Result<Secret, RootError> {
    let (certificate, key) = LocalRoot::mint(trust_domain, now, lifetimes)?;
    let certificate = Bundle { roots: vec![certificate] }.to_pem();
    let mut secret = Secret::default();
    secret.metadata.name = Some(ROOT.to_owned());
    let labels = [("app.kubernetes.io/part-of", "signet"), ("app.kubernetes.io/managed-by", "signet-ca")];
    secret.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    secret.type_ = Some("kubernetes.io/tls".to_owned());
    let key = key.to_pem().as_bytes().to_vec();
    secret.data = Some(BTreeMap::from([
        (CERTIFICATE.to_owned(), ByteString(certificate.into_bytes())),
        (KEY.to_owned(), ByteString(key)),
    ]));
    Ok(secret)
}

fn parse(secret: Secret) -> Result<(CertificateDer<'static>, PrivateKey), SecretError> {
    let mut data = secret.data.unwrap_or_default();
    let mut take = |key| data.remove(key).ok_or(SecretError::Broken { key, problem: "it is missing".into() });
    let (ByteString(certificate), ByteString(mut key)) = (take(CERTIFICATE)?, take(KEY)?);
    let pem = Zeroizing::new(String::from_utf8_lossy(&key).into_owned());
    key.zeroize();
    let broken = |key, problem: String| SecretError::Broken { key, problem };
    let key = PrivateKey::from_pem(&pem).map_err(|error| broken(KEY, error.to_string()))?;
    let certificate = CertificateDer::from_pem_slice(&certificate)
        .map_err(|_| broken(CERTIFICATE, "it is not a certificate in PEM".into()))?;
    Ok((certificate, key))
}
