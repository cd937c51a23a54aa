//! What a record says, and that writing one never waits.
use super::*;
use crate::live::Direction;
use crate::tls::Framing;
use signet_policy::{Decision, Reason, RuleKey, Verdict};
use std::sync::Mutex;
use std::sync::mpsc;

fn facts() -> Facts {
    Facts {
        direction: Direction::Inbound,
        source: "10.77.0.3:40000".parse().unwrap(),
        destination: Some("10.77.0.2:8080".parse().unwrap()),
        endpoint: None,
        own: Some("spiffe://a.example/ns/shop/sa/orders".parse().unwrap()),
        peer: Some("spiffe://a.example/ns/shop/sa/checkout".parse().unwrap()),
        verdict: Some(Verdict {
            decision: Decision::Allow,
            reason: Reason::RuleMatched,
            rule: Some(RuleKey { namespace: "shop".into(), name: "orders".into() }.into()),
            difference: None,
            shadow: Some((Decision::Deny, Reason::NoRuleMatched, None)),
        }),
        reason: "rule_matched",
        text: None,
        admitted: true,
        sent: 12,
        received: 3456,
        duration: Duration::from_micros(1_234_567),
        group: Some("X25519MLKEM768"),
        framing: Some(Framing::Pooled),
    }
}

fn at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_123)
}

/// A writer that shows what it got.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<u8>>>);

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the log makes of these records.
fn logged(format: LogFormat, records: &[Facts]) -> String {
    let shown = Shown::default();
    let log = AccessLog::start(format, shown.clone()).unwrap();
    for facts in records {
        log.write(at(), facts);
    }
    log.flush(Duration::from_secs(10));
    let bytes = shown.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_text_record_says_everything_on_one_line() {
    assert_eq!(
        logged(LogFormat::Text, &[facts()]),
        "2026-11-18T11:06:40.123Z inbound carried reason=rule_matched source=10.77.0.3:40000 destination=10.77.0.2:8080 \
         own=spiffe://a.example/ns/shop/sa/orders peer=spiffe://a.example/ns/shop/sa/checkout rule=shop/orders \
         shadow=deny:no_rule_matched sent=12 received=3456 seconds=1.235 group=X25519MLKEM768 framing=pooled\n"
    );
}

#[test]
fn a_json_record_says_the_same() {
    let line = logged(LogFormat::Json, &[facts()]);
    let record: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["time"], "2026-11-18T11:06:40.123Z");
    assert_eq!(record["direction"], "inbound");
    assert_eq!(record["outcome"], "carried");
    assert_eq!(record["reason"], "rule_matched");
    assert_eq!(record["source"], "10.77.0.3:40000");
    assert_eq!(record["destination"], "10.77.0.2:8080");
    assert_eq!(record["peer"], "spiffe://a.example/ns/shop/sa/checkout");
    assert_eq!(record["verdict"]["rule"], "shop/orders");
    assert_eq!((&record["sent"], &record["received"]), (&json!(12), &json!(3456)));
    assert_eq!(record["seconds"], 1.234_567);
    assert_eq!(record["framing"], "pooled");
    assert!(record.get("endpoint").is_none(), "what is not known is left out: {line}");
}

#[test]
fn f18_what_a_peer_sent_can_neither_forge_a_line_nor_a_field_nor_steer_a_terminal() {
    let nasty = "x\r\n2026-01-01T00:00:00.000Z inbound carried\u{1b}[2J\u{9b}31m\u{7f} peer=spiffe://a/b \"q\\";
    let forged = Facts { text: Some(nasty.into()), ..facts() };
    let text = logged(LogFormat::Text, std::slice::from_ref(&forged));
    let json = logged(LogFormat::Json, &[forged]);
    for line in [&text, &json] {
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
    }
    // In the text, what it says stays within quotes.
    let (before, quoted) = text.split_once(" text=").unwrap();
    assert_eq!(before.matches("peer=").count(), 1);
    assert!(quoted.starts_with('"') && quoted.ends_with("\"\n"), "{quoted:?}");
    // JSON gives back exactly what was sent.
    let record: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(record["text"], nasty);
}

/// A writer that waits until it is let go, and tells that it waits.
struct Stuck {
    reached: mpsc::Sender<()>,
    let_go: mpsc::Receiver<()>,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        _ = self.reached.send(());
        // Fails when the test has let go for good.
        _ = self.let_go.recv();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_nobody_reads_drops_records_and_holds_up_nobody() {
    let (reached, at_write) = mpsc::channel();
    let (go, let_go) = mpsc::channel();
    let log = AccessLog::with_room(LogFormat::Text, Stuck { reached, let_go }, 4).unwrap();
    log.write(at(), &facts());
    // The thread hangs in its write from here on: four more fit, and these calls return all the same.
    at_write.recv_timeout(Duration::from_secs(10)).unwrap();
    for _ in 0..10 {
        log.write(at(), &facts());
    }
    assert_eq!(log.dropped(), 6);
    assert!(!log.flush(Duration::from_millis(10)), "there is no room, and nobody reads");
    drop(go);
    assert!(log.flush(Duration::from_secs(10)), "what waited is written");
}

#[test]
fn an_output_that_fails_is_counted_and_survived() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = AccessLog::start(LogFormat::Json, Broken).unwrap();
    for _ in 0..3 {
        log.write(at(), &facts());
        log.flush(Duration::from_secs(10));
    }
    assert!(log.dropped() > 0, "what could not be written is counted");
}
