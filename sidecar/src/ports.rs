//! The sidecar's ports (design section 4). Defaults; the configuration may move them.

/// Captured outbound, loopback only.
pub const OUTBOUND: u16 = 15001;
/// Captured inbound plaintext.
pub const PLAINTEXT: u16 = 15006;
/// The tunnel.
pub const TUNNEL: u16 = 15008;
/// Admin, loopback only.
pub const ADMIN: u16 = 15020;
/// Health and metrics.
pub const HEALTH: u16 = 15021;
/// The UID that the sidecar runs as and that the redirect excepts.
pub const UID: u32 = 2137;
