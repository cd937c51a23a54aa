//! The shape of every certificate, in one file that the CA (which writes them) and the verifier (which reads them) share,
//! and the arithmetic of their lifetimes. Design section 3. Pure.
//!
//! | field | leaf | CA |
//! |---|---|---|
//! | key | P-256 | P-256 |
//! | subject | empty | not empty |
//! | basicConstraints | present, CA:FALSE | critical, CA:TRUE; root without path length |
//! | keyUsage | critical, digitalSignature alone | critical, keyCertSign (cRLSign tolerated) |
//! | extended key usage | serverAuth and clientAuth | none |
//! | subjectAltName | critical, exactly one URI | optional: path-less SPIFFE ID of the trust domain |
//! | SKI, AKI | both | both; a root's AKI may be left out |
//! | UID extension | optional, not critical | none |
use std::time::Duration;

/// The private, non-critical extension that carries the workload UID (content: DER UTF8String).
/// Arc 2.25 is that of UUIDs (ITU-T X.667), which anyone may use without registration.
pub const UID_EXTENSION: &[u64] = &[2, 25, 211_395_830, 1];
/// [`UID_EXTENSION`] as the content bytes of a DER OBJECT IDENTIFIER.
pub const UID_EXTENSION_DER: &[u8] = &[0x69, 0xe4, 0xe6, 0xc9, 0x76, 0x01];

/// The bits of keyUsage, first bit of the BIT STRING highest (RFC 5280 section 4.2.1.3).
pub mod key_usage {
    /// digitalSignature: what a leaf has, and nothing else.
    pub const DIGITAL_SIGNATURE: u16 = 0x8000;
    /// keyCertSign: what a CA must have.
    pub const KEY_CERT_SIGN: u16 = 0x0400;
    /// cRLSign: tolerated in a CA, refused in a leaf.
    pub const CRL_SIGN: u16 = 0x0200;
}

/// The SubjectPublicKeyInfo of every uncompressed P-256 point up to the point itself (RFC 5480).
pub const P256_SPKI_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Length of an uncompressed P-256 point: 0x04, x, y.
pub const P256_POINT: usize = 65;

/// The uncompressed point of a P-256 SubjectPublicKeyInfo (DER), or nothing when it is any other key.
pub fn p256_point(spki: &[u8]) -> Option<&[u8]> {
    spki.strip_prefix(P256_SPKI_PREFIX).filter(|point| point.len() == P256_POINT && point.first() == Some(&0x04))
}

/// Default lifetime of a leaf.
pub const LEAF_LIFETIME: Duration = Duration::from_hours(1);
/// Lifetime of an issuing CA, replaced at two thirds.
pub const ISSUING_LIFETIME: Duration = Duration::from_hours(7 * 24);
/// Lifetime of a root.
pub const ROOT_LIFETIME: Duration = Duration::from_hours(365 * 24);
/// CA certificates are back-dated by this much.
pub const CA_BACKDATE: Duration = Duration::from_hours(1);
/// The longest chain that a peer may send: leaf, issuing CA, and room for one cross-signed step.
pub const MAX_CHAIN: usize = 3;
/// The largest certificate that is read, in bytes. One of ours has about 600.
pub const MAX_CERTIFICATE: usize = 8 * 1024;
/// The most extensions that a certificate may have.
pub const MAX_EXTENSIONS: usize = 24;
/// The most roots that a bundle may have: several rotations at once.
pub const MAX_ROOTS: usize = 32;

/// How far a leaf's notBefore lies before its issue: 2 minutes or a quarter of its life, whichever is less.
pub fn leaf_backdate(lifetime: Duration) -> Duration {
    Duration::from_mins(2).min(lifetime / 4)
}

/// The moment of renewal after issue: a random point (`dice` in 0..1) between one half and two thirds of the lifetime.
pub fn renewal_delay(lifetime: Duration, dice: f64) -> Duration {
    lifetime.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 6.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaf_backdate_is_two_minutes_or_a_quarter_of_the_life() {
        for (lifetime, backdate) in [(3600, 120), (480, 120), (479, 119), (8, 2)] {
            assert_eq!(leaf_backdate(Duration::from_secs(lifetime)).as_secs(), backdate, "lifetime {lifetime}");
        }
    }

    #[test]
    fn renewal_lies_between_half_and_two_thirds_whatever_the_dice() {
        for dice in [-1.0, 0.0, 0.3, 1.0, 7.0, f64::NAN] {
            let dice = if dice.is_nan() { 0.0 } else { dice };
            let delay = renewal_delay(Duration::from_hours(1), dice).as_secs_f64();
            assert!((1800.0..=2400.1).contains(&delay), "dice {dice}: {delay}");
        }
    }
}
