//! Why a peer's chain is refused: one variant per broken rule, each with a stable code and the value that broke it.
//!
//! A rejection is read in three places: a log line (its text), a metric (its code) and a peer's `Proxy-Status` (its code).
//! Bytes of the peer stand in it escaped and shortened.
use crate::{IdError, SpiffeId, TrustDomain, WorkloadUid};
use std::fmt;

/// Which certificate of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The first.
    Leaf,
    /// One that the peer sent above its leaf; 1 is the next after the leaf.
    Ca(u8),
    /// A root of the bundle.
    Root,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf => f.write_str("leaf"),
            Self::Ca(index) => write!(f, "ca certificate {index}"),
            Self::Root => f.write_str("root"),
        }
    }
}

/// Why a chain was refused: one variant per broken rule, with the value that broke it (escaped and bounded).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the field `at` is which certificate; the others are named in the message")]
pub enum Rejection {
    /// The peer sent none.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More than `profile::MAX_CHAIN`.
    #[error("chain has {0} certificates, more than 3")]
    ChainTooLong(usize),
    /// More than `profile::MAX_CERTIFICATE`.
    #[error("{at} has {bytes} bytes, more than 8192")]
    TooLarge { at: At, bytes: usize },
    /// Not the DER of this field.
    #[error("{at}: {field} is malformed")]
    Malformed { at: At, field: &'static str },
    /// More than `profile::MAX_EXTENSIONS`.
    #[error("{at} has more than 24 extensions")]
    TooManyExtensions { at: At },
    /// The same extension twice.
    #[error("{at} has the extension {oid} twice")]
    DuplicateExtension { at: At, oid: String },
    /// A critical extension that is not understood.
    #[error("{at} has the unknown critical extension {oid}")]
    UnknownCriticalExtension { at: At, oid: String },
    /// Critical, and must not be.
    #[error("{at}: {field} is critical")]
    MustNotBeCritical { at: At, field: &'static str },
    /// The certified key is not ECDSA P-256.
    #[error("{at}: subjectPublicKeyInfo is not ECDSA P-256")]
    KeyAlgorithm { at: At },
    /// A leaf carries no subject.
    #[error("leaf: subject is not empty")]
    SubjectNotEmpty,
    /// A CA's subject names it.
    #[error("{at}: subject is empty")]
    SubjectEmpty { at: At },
    /// No subjectAltName, or none of type URI (L1).
    #[error("leaf: subjectAltName has no URI")]
    NoUriSan,
    /// More than one URI (L1, V3).
    #[error("{at}: subjectAltName has {count} URIs, and must have exactly one")]
    UriSans { at: At, count: usize },
    /// An empty subject wants a critical SAN (L3).
    #[error("leaf: subjectAltName is not critical")]
    SanNotCritical,
    /// The URI is not a SPIFFE ID in the strict grammar (V4).
    #[error("{at}: subjectAltName \"{found}\": {problem}")]
    SpiffeId { at: At, found: String, problem: IdError },
    /// A leaf's identity has a path (L2).
    #[error("leaf: subjectAltName {0} has no path, which is for signing authorities alone")]
    NoPath(SpiffeId),
    /// A CA's identity has none (C3).
    #[error("{at}: subjectAltName {id} has a path, which a signing authority must not have")]
    AuthorityWithPath { at: At, id: SpiffeId },
    /// CA:TRUE in a leaf (L4, C4).
    #[error("leaf: basicConstraints says CA:TRUE")]
    CaAsLeaf,
    /// CA:FALSE in a CA (C1).
    #[error("{at}: basicConstraints says CA:FALSE")]
    NotCa { at: At },
    /// No basicConstraints (L9).
    #[error("{at}: basicConstraints is missing")]
    BasicConstraintsMissing { at: At },
    /// A CA's basicConstraints is critical.
    #[error("{at}: basicConstraints is not critical")]
    BasicConstraintsNotCritical { at: At },
    /// Path length where none may be, or a path that is longer than it allows.
    #[error("{at}: basicConstraints path length is not kept")]
    PathLength { at: At },
    /// No keyUsage (L5).
    #[error("{at}: keyUsage is missing")]
    KeyUsageMissing { at: At },
    /// keyUsage not critical (L5, C5).
    #[error("{at}: keyUsage is not critical")]
    KeyUsageNotCritical { at: At },
    /// Other bits than the profile has (L6, C1); `found` has the first bit highest.
    #[error("{at}: keyUsage {found:#06x} is not {}", if *.at == At::Leaf { "digitalSignature alone" } else { "keyCertSign" })]
    KeyUsage { at: At, found: u16 },
    /// No extendedKeyUsage (L8).
    #[error("leaf: extendedKeyUsage is missing")]
    ExtendedKeyUsageMissing,
    /// One of both usages is missing (L8).
    #[error("leaf: extendedKeyUsage has no {missing}")]
    ExtendedKeyUsage { missing: &'static str },
    /// A CA has no extendedKeyUsage.
    #[error("{at}: extendedKeyUsage is present")]
    AuthorityExtendedKeyUsage { at: At },
    /// No subjectKeyIdentifier (L10).
    #[error("{at}: subjectKeyIdentifier is missing")]
    SubjectKeyMissing { at: At },
    /// No authorityKeyIdentifier (L10).
    #[error("{at}: authorityKeyIdentifier is missing")]
    AuthorityKeyMissing { at: At },
    /// The authorityKeyIdentifier is not that of the certificate above.
    #[error("{at}: authorityKeyIdentifier {found} is not its issuer's subjectKeyIdentifier {issuer}")]
    AuthorityKeyMismatch { at: At, found: String, issuer: String },
    /// The private extension holds no workload UID.
    #[error("leaf: workload uid extension \"{found}\" is not 1 to 64 characters of A-Z a-z 0-9 . _ -")]
    Uid { found: String },
    /// Now is before notBefore (both in unix seconds).
    #[error("{at} is not valid yet: notBefore is {not_before}, and now is {now}")]
    NotYetValid { at: At, not_before: u64, now: u64 },
    /// Now is after notAfter (both in unix seconds).
    #[error("{at} expired: notAfter is {not_after}, and now is {now}")]
    Expired { at: At, not_after: u64, now: u64 },
    /// There is no bundle for the leaf's trust domain (V5).
    #[error("no bundle for trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    /// The bundle of the leaf's trust domain is empty (V6).
    #[error("bundle of trust domain {0} is empty")]
    EmptyBundle(TrustDomain),
    /// A CA of one trust domain above a leaf of another (C3).
    #[error("{at}: signing authority of {found} above a leaf of another trust domain")]
    OtherTrustDomain { at: At, found: SpiffeId },
    /// No path to a root of the bundle of this trust domain (V1, V5).
    #[error("issuer is not trusted: no path to a root of trust domain {0}")]
    UntrustedIssuer(TrustDomain),
    /// A signature on the path does not verify.
    #[error("a signature on the path does not verify")]
    BadSignature,
    /// Another rule of RFC 5280, as webpki names it.
    #[error("path is not valid: {0}")]
    Path(String),
    /// The deny list names a CA on the path by subjectKeyIdentifier.
    #[error("issuer {0} is denied")]
    DeniedIssuer(String),
    /// The deny list names the leaf by serial.
    #[error("serial {0} is denied")]
    DeniedSerial(String),
    /// The deny list names the identity.
    #[error("identity {0} is denied")]
    DeniedIdentity(SpiffeId),
    /// A good peer, but not the one that was meant.
    #[error("identity {found} is not the expected {expected}")]
    OtherIdentity { expected: SpiffeId, found: SpiffeId },
    /// The right identity, but another pod or host.
    #[error("workload uid {} is not the expected {expected}", found.as_ref().map_or("(none)", WorkloadUid::as_str))]
    OtherUid { expected: WorkloadUid, found: Option<WorkloadUid> },
}

impl Rejection {
    /// A stable, lower-case reason code for logs, metrics and `Proxy-Status`: `peer_cert_expired`, `peer_cert_two_uri_sans`, ...
    pub fn code(&self) -> &'static str {
        let by = |at: &At, leaf, ca| if *at == At::Leaf { leaf } else { ca };
        match self {
            Self::NoCertificate => "peer_cert_missing",
            Self::ChainTooLong(_) => "peer_cert_chain_too_long",
            Self::TooLarge { at, .. } => by(at, "peer_cert_too_large", "peer_ca_too_large"),
            Self::Malformed { at, .. } => by(at, "peer_cert_malformed", "peer_ca_malformed"),
            Self::TooManyExtensions { at } => by(at, "peer_cert_too_many_extensions", "peer_ca_too_many_extensions"),
            Self::DuplicateExtension { at, .. } => {
                by(at, "peer_cert_duplicate_extension", "peer_ca_duplicate_extension")
            }
            Self::UnknownCriticalExtension { at, .. } => {
                by(at, "peer_cert_unknown_critical_extension", "peer_ca_unknown_critical_extension")
            }
            Self::MustNotBeCritical { at, .. } => by(at, "peer_cert_extension_critical", "peer_ca_extension_critical"),
            Self::KeyAlgorithm { at } => by(at, "peer_cert_key_algorithm", "peer_ca_key_algorithm"),
            Self::SubjectNotEmpty => "peer_cert_subject_not_empty",
            Self::SubjectEmpty { .. } => "peer_ca_subject_empty",
            Self::NoUriSan => "peer_cert_no_uri_san",
            Self::UriSans { at, .. } => by(at, "peer_cert_two_uri_sans", "peer_ca_two_uri_sans"),
            Self::SanNotCritical => "peer_cert_san_not_critical",
            Self::SpiffeId { at, .. } => by(at, "peer_cert_spiffe_id", "peer_ca_spiffe_id"),
            Self::NoPath(_) => "peer_cert_spiffe_id_without_path",
            Self::AuthorityWithPath { .. } => "peer_ca_spiffe_id_with_path",
            Self::CaAsLeaf => "peer_cert_is_ca",
            Self::NotCa { .. } => "peer_ca_is_not_ca",
            Self::BasicConstraintsMissing { at } => {
                by(at, "peer_cert_basic_constraints_missing", "peer_ca_basic_constraints_missing")
            }
            Self::BasicConstraintsNotCritical { .. } => "peer_ca_basic_constraints_not_critical",
            Self::PathLength { at } => by(at, "peer_cert_path_length", "peer_ca_path_length"),
            Self::KeyUsageMissing { at } => by(at, "peer_cert_key_usage_missing", "peer_ca_key_usage_missing"),
            Self::KeyUsageNotCritical { at } => {
                by(at, "peer_cert_key_usage_not_critical", "peer_ca_key_usage_not_critical")
            }
            Self::KeyUsage { at, .. } => by(at, "peer_cert_key_usage", "peer_ca_key_usage"),
            Self::ExtendedKeyUsageMissing => "peer_cert_extended_key_usage_missing",
            Self::ExtendedKeyUsage { .. } => "peer_cert_extended_key_usage",
            Self::AuthorityExtendedKeyUsage { .. } => "peer_ca_extended_key_usage",
            Self::SubjectKeyMissing { at } => by(at, "peer_cert_subject_key_missing", "peer_ca_subject_key_missing"),
            Self::AuthorityKeyMissing { at } => {
                by(at, "peer_cert_authority_key_missing", "peer_ca_authority_key_missing")
            }
            Self::AuthorityKeyMismatch { at, .. } => {
                by(at, "peer_cert_authority_key_mismatch", "peer_ca_authority_key_mismatch")
            }
            Self::Uid { .. } => "peer_cert_uid",
            Self::NotYetValid { at, .. } => by(at, "peer_cert_not_yet_valid", "peer_ca_not_yet_valid"),
            Self::Expired { at, .. } => by(at, "peer_cert_expired", "peer_ca_expired"),
            Self::UnknownTrustDomain(_) => "peer_trust_domain_unknown",
            Self::EmptyBundle(_) => "peer_trust_domain_empty",
            Self::OtherTrustDomain { .. } => "peer_ca_other_trust_domain",
            Self::UntrustedIssuer(_) => "peer_cert_issuer_untrusted",
            Self::BadSignature => "peer_cert_bad_signature",
            Self::Path(_) => "peer_cert_path",
            Self::DeniedIssuer(_) => "peer_issuer_denied",
            Self::DeniedSerial(_) => "peer_serial_denied",
            Self::DeniedIdentity(_) => "peer_identity_denied",
            Self::OtherIdentity { .. } => "peer_identity_mismatch",
            Self::OtherUid { .. } => "peer_uid_mismatch",
        }
    }
}

/// Bytes of a peer for a human: escaped, and at most about a hundred characters.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 100;
    let mut text: String =
        bytes.iter().take(SHOWN).flat_map(|&b| std::ascii::escape_default(b)).map(char::from).collect();
    if bytes.len() > SHOWN {
        text.push_str("...");
    }
    text
}

/// Key identifiers and serials, which are at most 64 bytes: no more of a peer's bytes is shown.
pub(crate) fn hex(bytes: &[u8]) -> String {
    crate::hex(bytes.get(..64).unwrap_or(bytes))
}

/// An OBJECT IDENTIFIER's content in dots, or in hex when it is none. At most 32 bytes are read.
pub(crate) fn oid_text(oid: &[u8]) -> String {
    let mut arcs: Vec<String> = Vec::new();
    let mut arc: u64 = 0;
    for &b in oid.iter().take(32) {
        if arc >> 56 != 0 {
            return hex(oid);
        }
        arc = arc << 7 | u64::from(b & 0x7f);
        if b & 0x80 == 0 {
            if arcs.is_empty() {
                let root = (arc / 40).min(2);
                arcs.push(root.to_string());
                arc -= root * 40;
            }
            arcs.push(arc.to_string());
            arc = 0;
        }
    }
    if arcs.is_empty() || oid.len() > 32 { hex(oid) } else { arcs.join(".") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oids_are_written_in_dots() {
        assert_eq!(oid_text(&[0x55, 0x1d, 0x11]), "2.5.29.17");
        assert_eq!(oid_text(crate::profile::UID_EXTENSION_DER), "2.25.211395830.1");
        assert_eq!(oid_text(&[0x2a, 0x03]), "1.2.3");
        assert_eq!(oid_text(&[]), "");
        assert_eq!(oid_text(&[0xff; 40]).len(), 80);
    }

    #[test]
    fn f18_bytes_of_a_peer_are_escaped_and_shortened() {
        assert_eq!(shown(b"a\r\n\x1b[31m\0\xff\"b"), "a\\r\\n\\x1b[31m\\x00\\xff\\\"b");
        assert!(shown(&[0; 5000]).len() < 420);
    }

    #[test]
    fn the_uid_extension_is_the_same_in_both_spellings() {
        let dotted: Vec<String> = crate::profile::UID_EXTENSION.iter().map(u64::to_string).collect();
        assert_eq!(oid_text(crate::profile::UID_EXTENSION_DER), dotted.join("."));
    }

    #[test]
    fn rejections_stay_small_because_they_travel_in_every_result() {
        assert!(size_of::<Rejection>() <= 80, "{}", size_of::<Rejection>());
    }
}
