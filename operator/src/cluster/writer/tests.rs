//! Whose status is written next.
use super::*;
use crate::cluster::read;
use std::collections::BTreeSet;

/// So many rules of which nothing has been written yet: every one always has news.
fn view(rules: usize) -> View {
    let rule = |number: usize| {
        let name = format!("r{number:03}");
        let object = json!({
            "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": 1},
            "spec": {"target": {"all": true}, "from": []},
        });
        let rule = read::rule(&serde_json::from_value(object).unwrap());
        let view = RuleView { rule, note: None, workloads: Arc::default(), service: None };
        (Key { namespace: "shop".into(), name }, view)
    };
    View { rules: (0..rules).map(rule).collect(), ..View::default() }
}

#[test]
fn rules_that_always_have_news_do_not_keep_others_from_being_written() {
    let view = view(1000);
    let (mut written, mut at) = (Written::new(), Instant::now());
    let mut seen = BTreeSet::new();
    // Twenty a second are 200 in the ten seconds after which the first may be written again.
    for pass in 0..100 {
        for (key, rule, _) in due(&view, &Acknowledged::default(), true, "", &written, at).into_iter().take(SHARE) {
            assert!(seen.insert(key.clone()), "{key} again in pass {pass}, before {} others once", 1000 - seen.len());
            written.insert((key.clone(), rule.rule.uid.clone()), at);
        }
        at += LOOK;
    }
    assert_eq!(seen.len(), 1000);
}

#[test]
fn a_rule_is_not_written_again_within_its_ten_seconds_unless_it_was_made_again() {
    let mut view = view(1);
    let at = Instant::now();
    let key = view.rules.keys().next().unwrap().clone();
    let written = Written::from([((key.clone(), "r000".to_owned()), at)]);
    let count = |view: &View, at| due(view, &Acknowledged::default(), true, "", &written, at).len();
    assert_eq!((count(&view, at + PER_RULE / 2), count(&view, at + PER_RULE)), (0, 1));
    view.rules.get_mut(&key).unwrap().rule.uid = "another".into();
    assert_eq!(count(&view, at), 1);
}

#[test]
fn a_note_is_cut_by_bytes_and_never_within_a_character() {
    for (text, bytes) in
        [("a".repeat(2000), 1024), ("\u{1f512}".repeat(900), 1024), ("\u{20ac}".repeat(900), 1023), ("short".into(), 5)]
    {
        assert_eq!(note(&text).len(), bytes);
    }
}
