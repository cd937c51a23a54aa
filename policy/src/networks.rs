//! Which networks hold an address: networks are nested or apart, never half over each other, so a sorted list of boundaries and
//! a link from each network to the one around it answer with one binary search. Used by `table` for plaintext callers.
use ipnet::IpNet;
use std::net::IpAddr;

/// Values by network, IPv4 and IPv6 apart: `::/0` does not hold an IPv4 address.
#[derive(Debug, Clone)]
pub(crate) struct Networks<T> {
    v4: Family<T>,
    v6: Family<T>,
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Self { v4: Family::default(), v6: Family::default() }
    }
}

#[derive(Debug, Clone)]
struct Family<T> {
    /// Sorted addresses from which on another network (or none) is the innermost.
    boundaries: Vec<(u128, Option<usize>)>,
    nodes: Vec<Node<T>>,
}

impl<T> Default for Family<T> {
    fn default() -> Self {
        Self { boundaries: Vec::new(), nodes: Vec::new() }
    }
}

#[derive(Debug, Clone)]
struct Node<T> {
    value: T,
    around: Option<usize>,
}

/// First and last address of a network, and its value.
type Span<T> = (u128, u128, T);

impl<T> Networks<T> {
    /// Builds; values of the same network are merged.
    pub(crate) fn build(entries: impl IntoIterator<Item = (IpNet, T)>, merge: impl Fn(&mut T, T)) -> Self {
        let (mut v4, mut v6): (Vec<Span<T>>, Vec<Span<T>>) = (Vec::new(), Vec::new());
        for (network, value) in entries {
            let (first, last) = (address(network.network()), address(network.broadcast()));
            match network {
                IpNet::V4(_) => v4.push((first, last, value)),
                IpNet::V6(_) => v6.push((first, last, value)),
            }
        }
        Self { v4: Family::build(v4, &merge), v6: Family::build(v6, &merge) }
    }

    /// The values of all networks that hold the address, innermost first: at most one for each prefix length.
    pub(crate) fn holding(&self, ip: IpAddr) -> impl Iterator<Item = &T> {
        let family = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
        let mut next = family.innermost(address(ip));
        std::iter::from_fn(move || {
            let node = family.nodes.get(next?)?;
            next = node.around;
            Some(&node.value)
        })
    }
}

impl<T> Family<T> {
    fn build(mut spans: Vec<Span<T>>, merge: impl Fn(&mut T, T)) -> Self {
        // Outer networks before the inner ones that begin at the same address.
        spans.sort_by_key(|(first, last, _)| (*first, std::cmp::Reverse(*last)));
        let mut family = Self::default();
        let mut open: Vec<(usize, u128)> = Vec::new();
        let mut previous = None;
        for (first, last, value) in spans {
            if previous == Some((first, last)) {
                if let Some(node) = family.nodes.last_mut() {
                    merge(&mut node.value, value);
                }
                continue;
            }
            previous = Some((first, last));
            family.close(&mut open, Some(first));
            let node = family.nodes.len();
            family.nodes.push(Node { value, around: open.last().map(|(around, _)| *around) });
            family.boundary(first, Some(node));
            open.push((node, last));
        }
        family.close(&mut open, None);
        family
    }

    /// Ends the open networks that lie wholly before `until`.
    fn close(&mut self, open: &mut Vec<(usize, u128)>, until: Option<u128>) {
        while let Some((_, last)) = open.pop_if(|(_, last)| until.is_none_or(|until| *last < until)) {
            if let Some(after) = last.checked_add(1) {
                self.boundary(after, open.last().map(|(node, _)| *node));
            }
        }
    }

    /// From `start` on `node` is the innermost; the last word at an address holds.
    fn boundary(&mut self, start: u128, node: Option<usize>) {
        match self.boundaries.last_mut() {
            Some(last) if last.0 == start => last.1 = node,
            _ => self.boundaries.push((start, node)),
        }
    }

    fn innermost(&self, address: u128) -> Option<usize> {
        let after = self.boundaries.partition_point(|(start, _)| *start <= address);
        self.boundaries.get(after.checked_sub(1)?)?.1
    }
}

fn address(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0u32..64, 26u8..=32).prop_map(|(host, len)| IpNet::new(IpAddr::V4(host.into()), len).unwrap().trunc()),
            (any::<u32>(), 0u8..=32).prop_map(|(host, len)| IpNet::new(IpAddr::V4(host.into()), len).unwrap().trunc()),
            (0u128..64, 122u8..=128).prop_map(|(host, len)| IpNet::new(IpAddr::V6(host.into()), len).unwrap().trunc()),
            (any::<u128>(), 0u8..=128)
                .prop_map(|(host, len)| IpNet::new(IpAddr::V6(host.into()), len).unwrap().trunc()),
        ]
    }

    fn ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..70).prop_map(|ip| IpAddr::V4(ip.into())),
            any::<u32>().prop_map(|ip| IpAddr::V4(ip.into())),
            (0u128..70).prop_map(|ip| IpAddr::V6(ip.into())),
            any::<u128>().prop_map(|ip| IpAddr::V6(ip.into())),
            Just(IpAddr::V4(u32::MAX.into())),
            Just(IpAddr::V6(u128::MAX.into())),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn finds_exactly_the_networks_that_hold_an_address(nets in prop::collection::vec(net(), 0..40), ips in prop::collection::vec(ip(), 20)) {
            let entries = nets.iter().enumerate().map(|(at, net)| (*net, vec![at]));
            let networks = Networks::build(entries, |kept: &mut Vec<usize>, more| kept.extend(more));
            for ip in ips {
                let mut found: Vec<usize> = networks.holding(ip).flatten().copied().collect();
                found.sort_unstable();
                let expected: Vec<usize> = (0..nets.len()).filter(|at| nets[*at].contains(&ip)).collect();
                prop_assert_eq!(found, expected, "{}", ip);
            }
        }
    }
}
