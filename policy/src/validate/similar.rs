//! "Did you mean": the known word that a misspelt one is nearest to.

/// The nearest of `known`, if it is near enough to have been meant. For every reader of documents.
pub fn similar<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // Longer than any word we know and its mistakes: not worth the comparison.
    if word.len() > 40 {
        return None;
    }
    let word = plain(word);
    known
        .iter()
        .map(|candidate| (distance(&word, &plain(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(4).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Without what people vary: case, underscores, hyphens.
fn plain(word: &str) -> Vec<u8> {
    word.bytes().filter(|b| !matches!(b, b'_' | b'-')).map(|b| b.to_ascii_lowercase()).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one into the other.
fn distance(from: &[u8], to: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&last, j) + usize::from(a != b)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && from.get(i - 1) == Some(b) && to.get(j - 1) == Some(a);
            if swapped && a != b {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("serviceaccount", Some("serviceAccount"))]
    #[case("service_account", Some("serviceAccount"))]
    #[case("serviceAcount", Some("serviceAccount"))]
    #[case("namesapce", Some("namespace"))]
    #[case("idnetity", Some("identity"))]
    #[case("", None)]
    #[case("sources", None)]
    #[case("anything at all that is long enough to be no word we know", None)]
    fn names_the_word_that_was_meant(#[case] word: &str, #[case] meant: Option<&str>) {
        assert_eq!(similar(word, &["namespace", "serviceAccount", "identity", "anyAuthenticated"]), meant);
    }
}
