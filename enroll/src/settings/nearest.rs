//! "Did you mean": the known key that is nearest to an unknown one.
use std::collections::BTreeSet;

/// What to write instead of the unknown key.
pub(super) fn suggestion(unknown: &str, known: &BTreeSet<String>) -> String {
    // A third of the word may be wrong: enough for a slip or a missing "s", too little to guess another word.
    let allowed = (unknown.chars().count() / 3).max(1);
    let best = known.iter().map(|k| (distance(unknown, k), k)).min();
    match best {
        Some((d, key)) if d <= allowed => format!("{key:?}, or no such key"),
        Some(_) => {
            let all: Vec<&str> = known.iter().map(String::as_str).collect();
            format!("one of {}", all.join(", "))
        }
        None => "no such key".to_owned(),
    }
}

/// Edits (insert, delete, replace, swap of neighbours) from one word to the other; `-` and `_` count as the same.
fn distance(a: &str, b: &str) -> usize {
    let fold = |s: &str| s.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect::<Vec<_>>();
    let (a, b) = (fold(a), fold(b));
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = a.get(i - 1) == b.get(j - 1);
            let mut least =
                (cell(&above, j - 1) + usize::from(!same)).min(cell(&above, j) + 1).min(cell(&row, j - 1) + 1);
            if i > 1 && j > 1 && a.get(i - 1) == b.get(j - 2) && a.get(i - 2) == b.get(j - 1) {
                least = least.min(cell(&before, j - 2) + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    cell(&above, b.len())
}

fn cell(row: &[usize], at: usize) -> usize {
    row.get(at).copied().unwrap_or(usize::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, want) in
            [("", "", 0), ("port", "port", 0), ("prot", "port", 1), ("ports", "port", 1), ("a-b", "a_b", 0)]
        {
            assert_eq!(distance(a, b), want, "{a} -> {b}");
        }
    }
}
