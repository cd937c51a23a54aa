//! What is counted, and that peers cannot make it grow.
use super::*;
use signet_policy::{Reason, Verdict};
use std::time::Duration;

fn facts(direction: Direction, admitted: bool, reason: &'static str) -> Facts {
    Facts {
        direction,
        source: "10.77.0.3:40000".parse().unwrap(),
        destination: None,
        endpoint: None,
        own: None,
        peer: None,
        verdict: None,
        reason,
        text: None,
        admitted,
        sent: 10,
        received: 20,
        duration: Duration::ZERO,
        group: None,
        framing: None,
    }
}

#[test]
fn connections_are_counted_by_direction_outcome_and_reason() {
    let metrics = Arc::new(Metrics::default());
    let carried = facts(Direction::Inbound, true, "rule_matched");
    metrics.opened(&carried);
    metrics.opened(&carried);
    let registry = Arc::new(crate::live::Registry::default());
    let live = registry.open(Direction::Inbound, carried.source, carried.source, None, None, false);
    live.sent.store(10, Relaxed);
    live.received.store(20, Relaxed);
    metrics.moved(&live, "rule_matched");
    metrics.ended(&carried);
    metrics.ended(&facts(Direction::Outbound, false, "egress_denied"));
    let text = metrics.encode(Present::default());
    for line in [
        "signet_sidecar_connections_total{direction=\"inbound\",outcome=\"carried\",reason=\"rule_matched\"} 1",
        "signet_sidecar_connections_total{direction=\"outbound\",outcome=\"refused\",reason=\"egress_denied\"} 1",
        "signet_sidecar_sent_bytes_total{direction=\"inbound\",outcome=\"carried\",reason=\"rule_matched\"} 10",
        "signet_sidecar_received_bytes_total{direction=\"inbound\",outcome=\"carried\",reason=\"rule_matched\"} 20",
        "signet_sidecar_connections_open{direction=\"inbound\"} 1",
        "signet_sidecar_connections_open{direction=\"outbound\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn bytes_are_counted_while_a_connection_is_open_once_and_under_the_reason_that_admitted_it() {
    let metrics = Arc::new(Metrics::default());
    let registry = Arc::new(crate::live::Registry::default());
    let anywhere = "10.77.0.3:40000".parse().unwrap();
    let live = registry.open(Direction::Outbound, anywhere, anywhere, None, None, false);
    let sent = || metrics.tallies().values().map(|tally| tally.sent).sum::<u64>();
    live.sent.store(100, Relaxed);
    metrics.catch_up(&registry.connections());
    assert_eq!(sent(), 0, "not admitted yet");
    live.admitted.set("meshed").unwrap();
    metrics.catch_up(&registry.connections());
    assert_eq!(sent(), 100);
    metrics.catch_up(&registry.connections());
    assert_eq!(sent(), 100, "nothing moved between two scrapes");
    live.sent.store(130, Relaxed);
    metrics.moved(&live, "meshed");
    assert_eq!(sent(), 130);
    metrics.ended(&facts(Direction::Outbound, true, "cut_rule_gone"));
    assert_eq!(sent(), 130, "the end moves no byte");
    let key = ("outbound", Outcome::Carried, "meshed");
    assert_eq!(metrics.tallies()[&key].sent, 130, "whatever ended it");
}

#[test]
fn handshakes_limits_errors_and_shadows_are_counted() {
    let metrics = Arc::new(Metrics::default());
    metrics.handshake();
    metrics.handshake_failed("peer_cert_expired");
    metrics.limit("connections");
    metrics.limit("connections");
    metrics.accept_failed(&rustix::io::Errno::MFILE.into());
    metrics.accept_failed(&rustix::io::Errno::CONNABORTED.into());
    let shadow = Some((Decision::Deny, Reason::NoRuleMatched, None));
    let verdict =
        Verdict { decision: Decision::Allow, reason: Reason::RuleMatched, rule: None, difference: None, shadow };
    metrics.ended(&Facts { verdict: Some(verdict), ..facts(Direction::Inbound, false, "x") });
    let present = Present {
        svid_not_after: Some(7),
        certificate_failures: 2,
        log_dropped: 3,
        operator_connected: true,
        opening: 4,
        ..Present::default()
    };
    let text = metrics.encode(present);
    for line in [
        "signet_sidecar_handshakes_total 1",
        "signet_sidecar_handshake_failures_total{code=\"peer_cert_expired\"} 1",
        "signet_sidecar_limit_refusals_total{limit=\"connections\"} 2",
        "signet_sidecar_accept_errors_total{kind=\"descriptors\"} 1",
        "signet_sidecar_accept_errors_total{kind=\"other\"} 1",
        "signet_sidecar_shadow_verdicts_total{decision=\"deny\",reason=\"no_rule_matched\"} 1",
        "signet_sidecar_svid_not_after_seconds 7",
        "signet_sidecar_certificate_failures_total 2",
        "signet_sidecar_access_log_dropped_total 3",
        "signet_sidecar_operator_connected 1",
        "signet_sidecar_connections_opening 4",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn f26_a_million_distinct_peers_leave_the_metrics_as_they_are() {
    let metrics = Arc::new(Metrics::default());
    let mut one = facts(Direction::Inbound, false, "no_rule_matched");
    metrics.ended(&one);
    let series = |metrics: &Arc<Metrics>| metrics.encode(Present::default()).lines().count();
    let before = series(&metrics);
    for n in 0..1_000_000u32 {
        one.source = (std::net::Ipv4Addr::from(n), 1).into();
        one.text = Some(String::new());
        if n % 1000 == 0 {
            one.peer = Some(format!("spiffe://a.example/ns/shop/sa/s{n}").parse().unwrap());
            one.text = Some(format!("said {n}"));
        }
        metrics.ended(&one);
    }
    assert_eq!(series(&metrics), before);
    assert_eq!(metrics.tallies().len(), 1);
}
