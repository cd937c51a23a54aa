//! Egress posture: whether a workload may call what is not meshed. Never asked for meshed destinations.
use crate::verdict::Decision;
use ipnet::IpNet;
use std::net::SocketAddr;

/// The default and what is excepted from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// What happens without an exception. `Deny` before configuration.
    pub default: Decision,
    /// Each flips the default for what it matches.
    pub exceptions: Vec<EgressException>,
}

/// A network, and ports of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressException {
    /// Addresses.
    pub network: IpNet,
    /// Empty: every port.
    pub ports: Vec<u16>,
}

impl Egress {
    /// Whether a plain connection to `destination` (canonical) may be opened.
    pub fn judge(&self, _destination: SocketAddr) -> Decision {
        todo!()
    }
}
