//! What an operator of the CA may do, over a Unix socket that only the CA's own user can open: make, list and revoke join
//! tokens, list and revoke host keys, print the bundle. One JSON object a line in, one out.
//!
//! ```text
//! {"create_token":{"identity":"spiffe://example.org/ns/shop/sa/orders","uid":"orders-1","ttl_seconds":600}}
//! {"token":{"token":"signet_join_...","id":"1f2e...","identity":"...","uid":"orders-1","expires_at":1800000600}}
//! ```
//!
//! `server` runs in the CA, `client` in `signet token`.
pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

/// The socket of a CA with the default state directory.
pub const DEFAULT_SOCKET: &str = "/var/lib/signet-ca/admin.sock";
/// The longest line in either direction, in bytes.
pub const MAX_LINE: usize = 16 * 1024 * 1024;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Makes a join token.
    CreateToken {
        /// The SPIFFE ID to give.
        identity: String,
        /// The workload UID to give; a random one when absent.
        #[serde(default)]
        uid: Option<String>,
        /// Life in seconds; the CA's default when absent.
        #[serde(default)]
        ttl_seconds: Option<u64>,
        /// Needed for, and only for, the reserved identities of CA and operator.
        #[serde(default)]
        control: bool,
    },
    /// Tokens that can still be redeemed.
    ListTokens {},
    /// Makes a token worthless.
    RevokeToken {
        /// The `id` of a token.
        id: String,
    },
    /// Host keys, revoked ones too.
    ListHosts {},
    /// Makes a host key worthless; its UID stays bound to its identity.
    RevokeHost {
        /// The workload UID of a host key.
        uid: String,
    },
    /// The root certificates in force.
    Bundle {},
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To `CreateToken`: the only time that the token's text is shown.
    Token {
        /// The secret.
        token: String,
        /// What it is.
        #[serde(flatten)]
        about: Token,
    },
    /// To `ListTokens`.
    Tokens(Vec<Token>),
    /// To `ListHosts`.
    Hosts(Vec<Host>),
    /// To both kinds of revocation.
    Revoked {},
    /// To `Bundle`.
    Bundle {
        /// Sequence of the trust state.
        sequence: u64,
        /// Root certificates.
        pem: String,
    },
    /// To anything that was refused.
    Error(String),
}

/// A join token, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The name to revoke it by.
    pub id: String,
    /// The SPIFFE ID that it gives.
    pub identity: String,
    /// The workload UID that it gives.
    pub uid: String,
    /// Whether it was made with `--control`.
    pub control: bool,
    /// Unix seconds.
    pub expires_at: u64,
}

/// A machine that joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The workload UID.
    pub uid: String,
    /// The SPIFFE ID.
    pub identity: String,
    /// Lower-case hex SHA-256 of its public key.
    pub host_key_id: String,
    /// Unix seconds.
    pub registered_at: u64,
    /// Unix seconds.
    pub revoked_at: Option<u64>,
}
