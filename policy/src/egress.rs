//! Egress posture: whether a workload may call what is not meshed. Never asked for meshed destinations.
use crate::verdict::Decision;
use ipnet::IpNet;
use std::net::SocketAddr;

/// The default and what is excepted from it. The default value denies everything: what a sidecar without configuration does.
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

impl Default for Egress {
    fn default() -> Self {
        Self { default: Decision::Deny, exceptions: Vec::new() }
    }
}

impl Egress {
    /// Whether a plain connection to `destination` (canonical) may be opened. Matching twice flips once. Looks at every
    /// exception: some 5 ns each, once for each connection that leaves the mesh.
    pub fn judge(&self, destination: SocketAddr) -> Decision {
        let ip = destination.ip().to_canonical();
        let excepted = self.exceptions.iter().any(|exception| {
            exception.network.contains(&ip)
                && (exception.ports.is_empty() || exception.ports.contains(&destination.port()))
        });
        match (self.default, excepted) {
            (Decision::Allow, false) | (Decision::Deny, true) => Decision::Allow,
            (Decision::Allow, true) | (Decision::Deny, false) => Decision::Deny,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn except(network: &str, ports: &[u16]) -> EgressException {
        EgressException { network: network.parse().unwrap(), ports: ports.to_vec() }
    }

    #[rstest]
    #[case::every_port("10.1.2.3:80", true)]
    #[case::outside("10.2.0.1:80", false)]
    #[case::listed_port("192.0.2.1:443", true)]
    #[case::other_port("192.0.2.1:444", false)]
    #[case::matched_twice("10.1.9.9:53", true)]
    #[case::v6("[2001:db8::1]:1", true)]
    #[case::v6_outside("[2001:db9::1]:1", false)]
    #[case::v4_mapped_is_v4("[::ffff:10.1.2.3]:80", true)]
    fn an_exception_flips_the_default_for_what_it_matches(#[case] destination: SocketAddr, #[case] excepted: bool) {
        let exceptions = vec![
            except("10.1.0.0/16", &[]),
            except("10.1.9.0/24", &[53]),
            except("192.0.2.1/32", &[80, 443]),
            except("2001:db8::/32", &[]),
        ];
        let (within, outside) = (Decision::Allow, Decision::Deny);
        let deny = Egress { default: Decision::Deny, exceptions: exceptions.clone() };
        assert_eq!(deny.judge(destination), if excepted { within } else { outside }, "default deny");
        let allow = Egress { default: Decision::Allow, exceptions };
        assert_eq!(allow.judge(destination), if excepted { outside } else { within }, "default allow");
    }

    #[test]
    fn before_configuration_nothing_leaves() {
        assert_eq!(Egress::default().judge("192.0.2.1:443".parse().unwrap()), Decision::Deny);
    }
}
