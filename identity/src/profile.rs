//! The shape of every certificate, in one file that the CA (which writes them) and the verifier (which reads them) share,
//! and the arithmetic of their lifetimes. Design section 3. Pure.
use std::time::Duration;

/// The private, non-critical extension that carries the workload UID (content: DER UTF8String).
/// Arc 2.25 is that of UUIDs (ITU-T X.667), which anyone may use without registration.
pub const UID_EXTENSION: &[u64] = &[2, 25, 211_395_830, 1];

/// Default lifetime of a leaf.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(3600);
/// Lifetime of an issuing CA, replaced at two thirds.
pub const ISSUING_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Lifetime of a root.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// CA certificates are back-dated by this much.
pub const CA_BACKDATE: Duration = Duration::from_secs(3600);
/// The longest chain that a peer may send: leaf, issuing CA, and room for one cross-signed step.
pub const MAX_CHAIN: usize = 3;

/// How far a leaf's notBefore lies before its issue: 2 minutes or a quarter of its life, whichever is less.
pub fn leaf_backdate(lifetime: Duration) -> Duration {
    Duration::from_secs(120).min(lifetime / 4)
}

/// The moment of renewal after issue: a random point (`dice` in 0..1) between one half and two thirds of the lifetime.
pub fn renewal_delay(lifetime: Duration, dice: f64) -> Duration {
    lifetime.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 6.0)
}
