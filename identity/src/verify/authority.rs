//! What a signing authority must look like: the issuing CA that a peer sends and the roots of a bundle (the table in
//! `profile`). webpki looks at neither keyUsage nor at a root's own fields.
use super::leaf::parse_id;
use crate::SpiffeId;
use crate::certificate::Certificate;
use crate::profile::{self, key_usage};
use crate::rejection::{At, Rejection};

/// A CA certificate that keeps the profile.
#[derive(Debug)]
#[allow(clippy::struct_field_names, reason = "authority key identifier is the field's name in RFC 5280")]
pub(crate) struct Authority<'a> {
    pub(crate) at: At,
    pub(crate) subject_key: &'a [u8],
    pub(crate) authority_key: Option<&'a [u8]>,
    /// Path-less.
    pub(crate) id: Option<SpiffeId>,
    /// Unix seconds.
    pub(crate) not_before: u64,
    /// Unix seconds.
    pub(crate) not_after: u64,
    /// Uncompressed P-256 point.
    pub(crate) point: &'a [u8],
}

/// Reads a CA certificate and checks it.
pub(crate) fn read(der: &[u8], at: At) -> Result<Authority<'_>, Rejection> {
    let certificate = Certificate::read(der, at)?;
    let constraints = certificate.basic_constraints()?;
    if !constraints.ca {
        return Err(Rejection::NotCa { at });
    }
    if !certificate.basic_constraints.is_some_and(|extension| extension.critical) {
        return Err(Rejection::BasicConstraintsNotCritical { at });
    }
    let usage = certificate.key_usage()?;
    if usage & key_usage::KEY_CERT_SIGN == 0 || usage & !(key_usage::KEY_CERT_SIGN | key_usage::CRL_SIGN) != 0 {
        return Err(Rejection::KeyUsage { at, found: usage });
    }
    if certificate.extended_key_usage.is_some() {
        return Err(Rejection::AuthorityExtendedKeyUsage { at });
    }
    if certificate.subject.is_empty() {
        return Err(Rejection::SubjectEmpty { at });
    }
    let id = read_id(&certificate)?;
    let subject_key = certificate.subject_key()?;
    let authority_key = certificate.authority_key()?;
    if at == At::Root {
        // webpki does not look at a root's path length, so one that has any would not be kept.
        if constraints.path_length.is_some() {
            return Err(Rejection::PathLength { at });
        }
        if certificate.issuer != certificate.subject {
            return Err(Rejection::Malformed { at, field: "issuer (a root's is its own subject)" });
        }
    } else if authority_key.is_none() && certificate.issuer != certificate.subject {
        // A root that a peer sends behind its chain may leave it out (RFC 5280 section 4.2.1.1).
        return Err(Rejection::AuthorityKeyMissing { at });
    }
    let point = profile::p256_point(certificate.spki).ok_or(Rejection::KeyAlgorithm { at })?;
    let (not_before, not_after) = (certificate.not_before, certificate.not_after);
    Ok(Authority { at, subject_key, authority_key, id, not_before, not_after, point })
}

fn read_id(certificate: &Certificate<'_>) -> Result<Option<SpiffeId>, Rejection> {
    let at = certificate.at;
    let (uri, count) = certificate.uris()?;
    let Some(uri) = uri else { return Ok(None) };
    if count > 1 {
        return Err(Rejection::UriSans { at, count });
    }
    let id = parse_id(uri, at)?;
    if id.path().is_empty() { Ok(Some(id)) } else { Err(Rejection::AuthorityWithPath { at, id }) }
}
