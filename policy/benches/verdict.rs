//! The time of a verdict at 10 and at 100,000 rules for one workload, and of compiling them. The goal is 200 ns a verdict at both
//! (design section 9). Prints one line for each; `make bench` quotes them.
//!
//! Callers come in random order: `busy` from among 1,000 (more than a workload usually has), `spread` from among all that the
//! rules name, so that at 100,000 rules hardly any look-up finds its line in a cache. Their own names lie one after the other, as
//! a name does that was read from a certificate just now.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
use signet_policy::{Admits, Caller, Mode, Ports, Posture, RuleKey, Source, Table, WorkloadRule};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Instant;

const VERDICTS: usize = 1_000_000;

fn identity(number: usize) -> String {
    format!("spiffe://mesh.example/ns/namespace-{}/sa/service-account-{number}", number % 1000)
}

fn rule(number: usize) -> WorkloadRule {
    let network = Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap_or(0) * 16);
    let sources = match number % 10 {
        0 => vec![Source::Namespace {
            trust_domain: "partner.example".to_owned(),
            namespace: format!("namespace-{number}"),
        }],
        1 => vec![Source::Plaintext(ipnet::IpNet::new(network.into(), 28).into_iter().collect())],
        _ => vec![Source::Identity(identity(number))],
    };
    WorkloadRule {
        key: RuleKey { namespace: "shop".to_owned(), name: format!("rule-{number}") },
        generation: 1,
        ports: if number.is_multiple_of(3) { Ports::All } else { Ports::These(vec![8080]) },
        mode: Mode::Enforce,
        admits: Admits::Sources(sources),
        features: Vec::new(),
    }
}

/// Xorshift: no order that a cache could learn, the same in every run.
fn shuffled(count: usize) -> impl Iterator<Item = usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap_or(0) % count
    })
}

fn measure<C>(what: &str, rules: usize, caller: impl Fn(usize) -> C, verdict: impl Fn(&C)) {
    for (callers, among) in [("busy", rules.min(1000)), ("spread", rules)] {
        // Spread over the whole table, whatever their number.
        let callers_in_order: Vec<C> = shuffled(among).take(VERDICTS).map(|n| caller(n * (rules / among))).collect();
        // The best of many short stretches: what the verdict costs, not what else the machine does.
        let time = |stretch: &[C]| {
            let start = Instant::now();
            stretch.iter().for_each(&verdict);
            Instant::now().duration_since(start).as_nanos() as f64 / stretch.len() as f64
        };
        let best = callers_in_order.chunks(VERDICTS / 50).cycle().take(250).map(time).fold(f64::INFINITY, f64::min);
        println!("verdict rules={rules} callers={callers} case={what} ns={best:.0}");
    }
}

fn main() {
    for count in [10, 100_000] {
        let rules: Vec<WorkloadRule> = (0..count).map(rule).collect();
        let start = Instant::now();
        let table = Table::compile(Posture::Deny, &rules);
        let compiled = Instant::now().duration_since(start);
        println!("compile rules={count} ms={:.2}", compiled.as_secs_f64() * 1000.0);

        let judge = |caller: &Caller<'_>| black_box(table.judge(black_box(caller), black_box(8080))).allows();
        let admitted = |n: usize| identity(if n % 10 < 2 { n - n % 10 + 2 } else { n });
        let refused = |n: usize| identity(n) + "-x";
        let address = |n: usize| Ipv4Addr::from(0x0a00_0000 + u32::try_from(n - n % 10 + 1).unwrap_or(0) * 16).into();
        measure("identity-admitted", count, admitted, |id| assert!(judge(&Caller::Identity(id)), "{id} is admitted"));
        measure("identity-refused", count, refused, |id| assert!(!judge(&Caller::Identity(id)), "{id} is refused"));
        measure("plaintext-admitted", count, address, |ip| assert!(judge(&Caller::Plaintext(*ip)), "{ip} is admitted"));
    }
}
