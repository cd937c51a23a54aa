//! Who a peer is and how it proves it: SPIFFE IDs, SVIDs, trust state, the peer verifier, and rustls configurations that
//! take new keys and new trust live. Imports nothing else of Signet; no Kubernetes, no gRPC, no I/O.

mod certificate;
mod der;
mod hex;
pub mod id;
pub mod key;
pub mod profile;
mod rejection;
pub mod svid;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
pub mod trust;
pub mod uid;
pub mod verify;

pub use hex::hex;
pub use id::{IdError, SpiffeId, TrustDomain};
pub use key::{KeyError, PrivateKey};
pub use svid::{Svid, SvidError};
pub use tls::{ClientAuth, Credentials};
pub use trust::{Adoption, Bundle, DenyList, Trust, TrustError, TrustState};
pub use uid::{UidError, WorkloadUid};
pub use verify::{Leaf, Peer, Rejection, Side};
