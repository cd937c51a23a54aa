//! The peer verifier: webpki path, then everything webpki does not check. Called by `tls` inside every handshake, and by the
//! sidecar again when trust changes. Peer bytes go in; a `Peer` or one `Rejection` that names the field comes out.
//!
//! ```text
//! leaf profile → bundle of the leaf's trust domain → profile of every CA → path (webpki) → key identifiers → deny list
//! ```
//!
//! Cheap checks come first, signatures last. webpki gets only certificates that keep the profile.
use crate::profile::MAX_CHAIN;
pub use crate::rejection::{At, Rejection};
use crate::rejection::{hex, shown};
use crate::trust::Roots;
use crate::{SpiffeId, Trust, WorkloadUid};
use authority::Authority;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use std::cell::RefCell;
use std::time::Duration;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, VerifiedPath};

pub(crate) mod authority;
pub(crate) mod leaf;
pub(crate) mod vetted;

/// The signatures that a path may carry.
pub(crate) static SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[webpki::aws_lc_rs::ECDSA_P256_SHA256];

/// What Signet reads from a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The only URI SAN.
    pub id: SpiffeId,
    /// From the private extension.
    pub uid: Option<WorkloadUid>,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// Big-endian, without leading zeros.
    pub serial: Vec<u8>,
    /// Authority key identifier.
    pub authority_key: Vec<u8>,
}

/// A peer whose chain was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its leaf.
    pub leaf: Leaf,
    /// Subject key identifiers of the CAs above the leaf, nearest first, root last.
    pub issuers: Vec<Vec<u8>>,
}

/// Which end presented the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We are the client; the chain is the server's.
    Server,
    /// We are the server; the chain is the client's.
    Client,
}

impl Peer {
    /// Whether it is the peer that was meant: exactly this identity, and this workload UID when one is named.
    pub fn expect(&self, id: &SpiffeId, uid: Option<&WorkloadUid>) -> Result<(), Rejection> {
        if self.leaf.id != *id {
            return Err(Rejection::OtherIdentity { expected: id.clone(), found: self.leaf.id.clone() });
        }
        match uid {
            Some(uid) if self.leaf.uid.as_ref() != Some(uid) => {
                Err(Rejection::OtherUid { expected: uid.clone(), found: self.leaf.uid.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The peer that a chain claims to be: what `verify_chain` gives, without any check of trust. For chains that a
    /// verifier has accepted before; the issuers are found by their key identifiers, which the verifier has compared.
    pub(crate) fn claimed(chain: &[CertificateDer<'_>]) -> Result<Self, Rejection> {
        let (leaf, above) = split(chain)?;
        let (leaf, _) = leaf::read(leaf)?;
        let authorities = read_authorities(above)?;
        let mut issuers = vec![leaf.authority_key.clone()];
        // Each step goes one certificate up, and there are no more steps than certificates.
        for _ in &authorities {
            let Some(last) = issuers.last() else { break };
            match authorities.iter().find(|a| a.subject_key == last.as_slice()).and_then(|a| a.authority_key) {
                Some(next) if next != last.as_slice() => issuers.push(next.to_vec()),
                _ => break,
            }
        }
        Ok(Self { leaf, issuers })
    }
}

/// Parses a leaf and checks it against the profile; says nothing about trust.
pub fn parse_leaf(der: &CertificateDer<'_>) -> Result<Leaf, Rejection> {
    leaf::read(der).map(|(leaf, _)| leaf)
}

/// Parses an issuing CA's certificate and checks it against the profile; says nothing about trust.
pub fn check_issuing(der: &CertificateDer<'_>) -> Result<(), Rejection> {
    authority::read(der, At::Ca(1)).map(|_| ())
}

/// The whole check: bundle by the leaf's trust domain, path, usages, validity (the root's too), profile, deny list.
pub fn verify_chain(chain: &[CertificateDer<'_>], trust: &Trust, now: UnixTime, side: Side) -> Result<Peer, Rejection> {
    let (leaf_der, above) = split(chain)?;
    let (leaf, _) = leaf::read(leaf_der)?;
    within(At::Leaf, leaf.not_before, leaf.not_after, now.as_secs())?;
    let issuers = find_issuers(leaf_der, above, &leaf, trust, |_| now, Some(side))?;
    not_denied(&leaf, &issuers, trust)?;
    Ok(Peer { leaf, issuers })
}

/// The check that a live tunnel's peer would pass today: the same anchors and deny list, expiry left out (design section 3).
/// `peer_chain` is what the peer presented in its handshake.
pub fn still_trusted(peer_chain: &[CertificateDer<'_>], peer: &Peer, trust: &Trust) -> Result<(), Rejection> {
    let (leaf_der, above) = split(peer_chain)?;
    // A moment at which the whole chain was valid: when its youngest certificate came to be.
    let then = |authorities: &[Authority<'_>]| {
        let youngest = authorities.iter().map(|a| a.not_before).fold(peer.leaf.not_before, u64::max);
        UnixTime::since_unix_epoch(Duration::from_secs(youngest))
    };
    let issuers = find_issuers(leaf_der, above, &peer.leaf, trust, then, None)?;
    not_denied(&peer.leaf, &issuers, trust)
}

fn split<'c, 'd>(
    chain: &'c [CertificateDer<'d>],
) -> Result<(&'c CertificateDer<'d>, &'c [CertificateDer<'d>]), Rejection> {
    if chain.len() > MAX_CHAIN {
        return Err(Rejection::ChainTooLong(chain.len()));
    }
    chain.split_first().ok_or(Rejection::NoCertificate)
}

/// Every certificate that the peer sent above its leaf must keep the profile of a CA, on the path or not.
fn read_authorities<'c>(above: &'c [CertificateDer<'_>]) -> Result<Vec<Authority<'c>>, Rejection> {
    above.iter().zip(1..).map(|(der, index)| authority::read(der, At::Ca(index))).collect()
}

fn within(at: At, not_before: u64, not_after: u64, now: u64) -> Result<(), Rejection> {
    if now < not_before {
        Err(Rejection::NotYetValid { at, not_before, now })
    } else if now > not_after {
        Err(Rejection::Expired { at, not_after, now })
    } else {
        Ok(())
    }
}

/// Either end's usage: both are in every leaf, and for a check after the fact neither matters.
struct Usage(Option<Side>);

impl ExtendedKeyUsageValidator for Usage {
    fn validate(&self, usages: webpki::KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        match self.0 {
            Some(Side::Server) => webpki::KeyUsage::server_auth().validate(usages),
            Some(Side::Client) => webpki::KeyUsage::client_auth().validate(usages),
            None => Ok(()),
        }
    }
}

/// Verifies the chain by the bundle of the leaf's trust domain alone; gives the subject key identifiers above the leaf. `time`
/// says for which moment, given the CAs that the peer sent.
fn find_issuers(
    leaf_der: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    leaf: &Leaf,
    trust: &Trust,
    time: impl FnOnce(&[Authority<'_>]) -> UnixTime,
    side: Option<Side>,
) -> Result<Vec<Vec<u8>>, Rejection> {
    let roots =
        trust.roots(leaf.id.trust_domain_str()).ok_or_else(|| Rejection::UnknownTrustDomain(leaf.id.trust_domain()))?;
    if roots.anchors.is_empty() {
        return Err(Rejection::EmptyBundle(leaf.id.trust_domain()));
    }
    let authorities = read_authorities(above)?;
    let now = time(&authorities);
    let vetted = if let [issuing] = above { roots.vetted.find(issuing) } else { None };
    // Where the root is out of date another one may be above the same issuing CA: then the path is searched.
    match vetted.filter(|issuing| side.is_none() || issuing.root_is_valid(now)) {
        Some(issuing) => issuing.verify_leaf(leaf_der, leaf, now, Usage(side)),
        None => verify_path(leaf_der, above, leaf, &authorities, roots, now, side),
    }
}

/// Finds and verifies the path. `side` is absent for a check after the fact, which leaves the root's own expiry out.
/// Gives the subject key identifiers above the leaf, nearest first, root last.
fn verify_path(
    leaf_der: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    leaf: &Leaf,
    authorities: &[Authority<'_>],
    roots: &Roots,
    now: UnixTime,
    side: Option<Side>,
) -> Result<Vec<Vec<u8>>, Rejection> {
    let end_entity = EndEntityCert::try_from(leaf_der).map_err(|error| Rejection::Path(shown_error(&error)))?;
    // webpki asks this of every path that it finds, so that a root which is out of date does not hide one which is not.
    let refused_root = RefCell::new(None);
    let root_in_time = |path: &VerifiedPath<'_>| {
        let Some(root) = roots.of(path.anchor()) else { return Err(webpki::Error::UnknownIssuer) };
        match within(At::Root, root.not_before, root.not_after, now.as_secs()) {
            Err(rejection) if side.is_some() => {
                refused_root.replace(Some(rejection));
                Err(webpki::Error::CertDistrusted)
            }
            _ => Ok(()),
        }
    };
    let path = end_entity
        .verify_for_usage(SIGNATURES, &roots.anchors, above, now, Usage(side), None, Some(&root_in_time))
        .map_err(|error| match refused_root.take() {
            Some(rejection) => rejection,
            None => path_rejection(&error, leaf, authorities, roots, now.as_secs()),
        })?;
    let issuers = issuers_of(&path, above, leaf, authorities, roots)?;
    if let ([der], [authority], 2, Some(root)) = (above, authorities, issuers.len(), roots.of(path.anchor())) {
        roots.vetted.remember(der, authority, (path.anchor(), root), now);
    }
    Ok(issuers)
}

/// The key identifiers along the path, each compared with the one that the certificate below names.
fn issuers_of(
    path: &VerifiedPath<'_>,
    above: &[CertificateDer<'_>],
    leaf: &Leaf,
    authorities: &[Authority<'_>],
    roots: &Roots,
) -> Result<Vec<Vec<u8>>, Rejection> {
    let unknown = || Rejection::UntrustedIssuer(leaf.id.trust_domain());
    let mut issuers = Vec::with_capacity(above.len() + 1);
    let (mut below, mut named) = (At::Leaf, leaf.authority_key.as_slice());
    for certificate in path.intermediate_certificates() {
        let der = certificate.der();
        let found = above.iter().zip(authorities).find(|(candidate, _)| **candidate == der);
        let (_, authority) = found.ok_or_else(unknown)?;
        if authority.id.as_ref().is_some_and(|id| id.trust_domain_str() != leaf.id.trust_domain_str()) {
            let found = authority.id.clone().unwrap_or_else(|| leaf.id.clone());
            return Err(Rejection::OtherTrustDomain { at: authority.at, found });
        }
        same_key(below, named, authority.subject_key)?;
        issuers.push(authority.subject_key.to_vec());
        (below, named) = (authority.at, authority.authority_key.unwrap_or_default());
    }
    let root = roots.of(path.anchor()).ok_or_else(unknown)?;
    same_key(below, named, &root.subject_key)?;
    issuers.push(root.subject_key.clone());
    Ok(issuers)
}

fn same_key(at: At, named: &[u8], issuer: &[u8]) -> Result<(), Rejection> {
    if named == issuer {
        return Ok(());
    }
    Err(Rejection::AuthorityKeyMismatch { at, found: hex(named), issuer: hex(issuer) })
}

fn not_denied(leaf: &Leaf, issuers: &[Vec<u8>], trust: &Trust) -> Result<(), Rejection> {
    let deny = &trust.state().deny;
    if let Some(issuer) = issuers.iter().find(|issuer| deny.issuers.contains(*issuer)) {
        return Err(Rejection::DeniedIssuer(hex(issuer)));
    }
    if deny.serials.contains(&leaf.serial) {
        return Err(Rejection::DeniedSerial(hex(&leaf.serial)));
    }
    if deny.identities.contains(&leaf.id) {
        return Err(Rejection::DeniedIdentity(leaf.id.clone()));
    }
    Ok(())
}

fn path_rejection(
    error: &webpki::Error,
    leaf: &Leaf,
    authorities: &[Authority<'_>],
    roots: &Roots,
    now: u64,
) -> Rejection {
    use webpki::Error;
    let out_of_date = || authorities.iter().find_map(|a| within(a.at, a.not_before, a.not_after, now).err());
    match error {
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } => {
            out_of_date().unwrap_or_else(|| Rejection::Path(shown_error(error)))
        }
        // Every root of a trust domain may have the same name: only one with the named key makes it a bad signature.
        Error::InvalidSignatureForPublicKey if !roots.has_key(top_key(leaf, authorities)) => {
            Rejection::UntrustedIssuer(leaf.id.trust_domain())
        }
        Error::PathLenConstraintViolated => Rejection::PathLength { at: At::Ca(authorities.len().min(255) as u8) },
        other => issuer_rejection(other, leaf),
    }
}

/// What can be wrong between a leaf and its issuer.
fn issuer_rejection(error: &webpki::Error, leaf: &Leaf) -> Rejection {
    match error {
        webpki::Error::UnknownIssuer => Rejection::UntrustedIssuer(leaf.id.trust_domain()),
        webpki::Error::InvalidSignatureForPublicKey => Rejection::BadSignature,
        other => Rejection::Path(shown_error(other)),
    }
}

/// The key identifier that the highest certificate sent names as its issuer's.
fn top_key<'a>(leaf: &'a Leaf, authorities: &[Authority<'a>]) -> &'a [u8] {
    authorities.last().map_or(leaf.authority_key.as_slice(), |top| top.authority_key.unwrap_or_default())
}

fn shown_error(error: &webpki::Error) -> String {
    shown(format!("{error:?}").as_bytes())
}

#[cfg(test)]
mod tests;
