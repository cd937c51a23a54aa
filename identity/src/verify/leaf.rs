//! What a leaf must look like (SPIFFE X509-SVID sections 2 to 5 and the table in `profile`). Says nothing about trust.
use super::Leaf;
use crate::certificate::Certificate;
use crate::der::{self, Bad, Reader};
use crate::profile::{self, key_usage};
use crate::rejection::{At, Rejection, shown};
use crate::{IdError, SpiffeId, WorkloadUid};

/// `1.3.6.1.5.5.7.3.1` and `.2` (RFC 5280 section 4.2.1.12).
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// Reads a leaf and checks it; also gives its SubjectPublicKeyInfo.
pub(crate) fn read(der: &[u8]) -> Result<(Leaf, &[u8]), Rejection> {
    let certificate = Certificate::read(der, At::Leaf)?;
    check_constraints(&certificate)?;
    check_extended_key_usage(&certificate)?;
    let id = read_id(&certificate)?;
    certificate.subject_key()?;
    let authority_key = certificate.authority_key()?.ok_or(Rejection::AuthorityKeyMissing { at: At::Leaf })?;
    let uid = read_uid(&certificate)?;
    if profile::p256_point(certificate.spki).is_none() {
        return Err(Rejection::KeyAlgorithm { at: At::Leaf });
    }
    let leaf = Leaf {
        id,
        uid,
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        serial: certificate.serial.to_vec(),
        authority_key: authority_key.to_vec(),
    };
    Ok((leaf, certificate.spki))
}

fn check_constraints(certificate: &Certificate<'_>) -> Result<(), Rejection> {
    let constraints = certificate.basic_constraints()?;
    if constraints.ca {
        return Err(Rejection::CaAsLeaf);
    }
    if constraints.path_length.is_some() {
        return Err(Rejection::PathLength { at: At::Leaf });
    }
    match certificate.key_usage()? {
        key_usage::DIGITAL_SIGNATURE => Ok(()),
        found => Err(Rejection::KeyUsage { at: At::Leaf, found }),
    }
}

fn check_extended_key_usage(certificate: &Certificate<'_>) -> Result<(), Rejection> {
    let extension = certificate.extended_key_usage.ok_or(Rejection::ExtendedKeyUsageMissing)?;
    let read = || {
        let (mut server, mut client) = (false, false);
        let mut usages = Reader::new(der::only(extension.value, der::SEQUENCE)?);
        while !usages.is_empty() {
            match usages.expect(der::OID)? {
                SERVER_AUTH => server = true,
                CLIENT_AUTH => client = true,
                _ => {}
            }
        }
        Ok((server, client))
    };
    match read().map_err(|Bad| Rejection::Malformed { at: At::Leaf, field: "extendedKeyUsage" })? {
        (true, true) => Ok(()),
        (false, _) => Err(Rejection::ExtendedKeyUsage { missing: "serverAuth" }),
        (true, false) => Err(Rejection::ExtendedKeyUsage { missing: "clientAuth" }),
    }
}

fn read_id(certificate: &Certificate<'_>) -> Result<SpiffeId, Rejection> {
    let (first, count) = certificate.uris()?;
    let uri = first.ok_or(Rejection::NoUriSan)?;
    if count > 1 {
        return Err(Rejection::UriSans { at: At::Leaf, count });
    }
    let id = parse_id(uri, At::Leaf)?;
    if id.path().is_empty() {
        return Err(Rejection::NoPath(id));
    }
    if !certificate.subject.is_empty() {
        return Err(Rejection::SubjectNotEmpty);
    }
    if !certificate.subject_alt_name.is_some_and(|san| san.critical) {
        return Err(Rejection::SanNotCritical);
    }
    Ok(id)
}

/// A URI of subjectAltName as a SPIFFE ID. Bytes that are no UTF-8 are refused like any other byte outside the grammar.
pub(super) fn parse_id(uri: &[u8], at: At) -> Result<SpiffeId, Rejection> {
    let parsed = std::str::from_utf8(uri)
        .map_err(|error| IdError::PathByte(uri.get(error.valid_up_to()).copied().unwrap_or_default()))
        .and_then(str::parse);
    parsed.map_err(|problem| Rejection::SpiffeId { at, found: shown(uri), problem })
}

fn read_uid(certificate: &Certificate<'_>) -> Result<Option<WorkloadUid>, Rejection> {
    let Some(extension) = certificate.uid else { return Ok(None) };
    let value = extension.not_critical(At::Leaf, "workload uid extension")?;
    let text = der::only(value, der::UTF8_STRING)
        .map_err(|Bad| Rejection::Malformed { at: At::Leaf, field: "workload uid extension" })?;
    let uid = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    uid.map(Some).ok_or_else(|| Rejection::Uid { found: shown(text) })
}
