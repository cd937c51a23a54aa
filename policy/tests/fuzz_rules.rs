//! Fuzz target for rule documents: whatever stands in one, reading it ends, says why it is refused, and what is accepted or guarded
//! compiles. Runs for a fixed number of inputs with the ordinary tests; `cargo bolero test` runs it for longer.
use serde_json::{Map, Value};
use signet_policy::validate::{MAX_PROBLEMS, read};
use signet_policy::{Caller, Posture, Reading, Table, Workload, for_workload};
use std::collections::BTreeMap;

const WORDS: [&str; 40] = [
    "apiVersion",
    "signet.dev/v1alpha1",
    "kind",
    "AllowRule",
    "metadata",
    "name",
    "namespace",
    "labels",
    "generation",
    "spec",
    "status",
    "target",
    "service",
    "podSelector",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "In",
    "Exists",
    "all",
    "ports",
    "from",
    "serviceAccount",
    "identity",
    "anyAuthenticated",
    "unauthenticated",
    "cidrs",
    "http",
    "methods",
    "path",
    "prefix",
    "mode",
    "Audit",
    "shop",
    "10.0.0.0/8",
    "::/0",
    "spiffe://mesh.example/ns/shop/sa/cart",
    "8080",
];

/// What must hold for every document.
fn check(document: &Value) {
    let reading = read(document);
    let problems = reading.problems();
    assert!(problems.len() <= MAX_PROBLEMS + 1);
    for problem in problems {
        let line = problem.to_string();
        assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "not fit for a log: {line:?}");
        assert!(line.len() < 2000 && !problem.want.is_empty() && !problem.found.is_empty(), "{line:?}");
    }
    match &reading {
        Reading::Rule(rule) => {
            assert!(problems.is_empty());
            let again = serde_json::to_value(rule).expect("a rule can be written");
            assert_eq!(read(&again), Reading::Rule(rule.clone()), "a rule survives being written");
        }
        Reading::GuardOnly { .. } | Reading::Refused { .. } => {
            assert!(!problems.is_empty(), "refused without a reason");
        }
    }
    let workload = Workload { namespace: "shop", labels: &BTreeMap::new(), ports: &[("http".to_owned(), 80)] };
    if let Some(rule) = for_workload(&reading, &workload, |_| true, "mesh.example") {
        let table = Table::compile(Posture::Allow, &[rule]);
        for port in [0, 80, 8080] {
            let verdict = table.judge(&Caller::Identity("spiffe://mesh.example/ns/shop/sa/cart"), port);
            let refused = matches!(reading, Reading::GuardOnly { .. });
            assert!(!refused || verdict.rule.is_none() || !verdict.allows(), "a refused rule admitted somebody");
        }
    }
}

/// A document that looks like a rule here and there: words of the grammar in any place.
fn grow(bytes: &mut impl Iterator<Item = u8>, depth: u8) -> Value {
    let Some(kind) = bytes.next() else { return Value::Null };
    let word = |byte: u8| WORDS[usize::from(byte) % WORDS.len()].to_owned();
    match kind % 8 {
        _ if depth == 0 => Value::Bool(kind.is_multiple_of(2)),
        0..=2 => {
            let mut map = Map::new();
            for _ in 0..kind / 32 {
                let Some(byte) = bytes.next() else { break };
                map.insert(word(byte), grow(bytes, depth - 1));
            }
            Value::Object(map)
        }
        3 => (0..kind / 64).map(|_| grow(bytes, depth - 1)).collect(),
        4 => Value::from(i64::from(kind) * 300 - 100),
        5 => Value::Bool(kind > 64),
        _ => Value::String(bytes.next().map(word).unwrap_or_default()),
    }
}

fn good() -> Value {
    serde_json::json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule",
        "metadata": {"name": "rule", "namespace": "shop"},
        "spec": {
            "target": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}, "ports": [80]},
            "from": [
                {"serviceAccount": "cart"},
                {"namespace": "edge"},
                {"identity": "spiffe://mesh.example/ns/shop/sa/cart"},
                {"unauthenticated": {"cidrs": ["10.0.0.0/8"]}},
            ],
            "mode": "Enforce",
        },
    })
}

/// A good rule with any one value, anywhere in it, replaced.
fn graft(bytes: &mut impl Iterator<Item = u8>) -> Value {
    let mut document = good();
    let mut place = &mut document;
    for byte in bytes.by_ref() {
        let here = usize::from(byte);
        let children = match &*place {
            Value::Object(map) => map.len(),
            Value::Array(list) => list.len(),
            _ => 0,
        };
        if children == 0 || here > 200 {
            break;
        }
        place = match place {
            Value::Object(map) => map.values_mut().nth(here % children).expect("counted"),
            Value::Array(list) => &mut list[here % children],
            _ => unreachable!("has children"),
        };
    }
    *place = grow(bytes, 4);
    document
}

#[test]
fn f20_arbitrary_bytes_as_json() {
    bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| {
        if let Ok(document) = serde_json::from_slice::<Value>(bytes) {
            check(&document);
        }
        // Most bytes are no JSON; as text they are a document all the same.
        check(&Value::String(String::from_utf8_lossy(bytes).into_owned()));
    });
}

#[test]
fn f20_arbitrary_text_in_every_place_of_a_rule() {
    const PLACES: [&str; 9] = [
        "/metadata/name",
        "/metadata/namespace",
        "/spec/target/podSelector/matchExpressions/0/key",
        "/spec/target/podSelector/matchExpressions/0/values/0",
        "/spec/target/ports/0",
        "/spec/from/0/serviceAccount",
        "/spec/from/1/namespace",
        "/spec/from/2/identity",
        "/spec/from/3/unauthenticated/cidrs/0",
    ];
    bolero::check!().with_iterations(20_000).with_type::<(u8, String)>().for_each(|(place, text)| {
        let mut document = good();
        let place = PLACES[usize::from(*place) % PLACES.len()];
        let at = document.pointer_mut(place).expect("a place in the good rule");
        *at = Value::String(text.clone());
        check(&document);
        // Text that no grammar has: a rule with it is not good, wherever it stands.
        let strange = text.is_empty() || text.bytes().any(|b| !b.is_ascii_graphic());
        let empty_label_value = text.is_empty() && place.ends_with("values/0");
        assert!(!strange || empty_label_value || !matches!(read(&document), Reading::Rule(_)), "{place}: {text:?}");
        let mut document = good();
        document["spec"][text.as_str()] = Value::Null;
        check(&document);
    });
}

#[test]
fn f20_arbitrary_trees_of_known_words() {
    bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| check(&grow(&mut bytes.iter().copied(), 6)));
}

#[test]
fn f20_a_good_rule_with_anything_in_one_place() {
    bolero::check!().with_iterations(20_000).for_each(|bytes: &[u8]| check(&graft(&mut bytes.iter().copied())));
}
