//! "Did you mean": the nearest of a few known words, or nothing.

/// The word of `choices` that `word` was most likely meant to be.
pub(super) fn nearest<'c>(word: &str, choices: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Longer than any word of ours: nothing to compare, and the comparison is quadratic.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let far = if word.chars().count() < 4 { 1 } else { 2 };
    choices
        .into_iter()
        .map(|choice| (distance(&word, &choice.to_lowercase().replace('-', "_")), choice))
        .filter(|&(steps, choice)| steps <= far && steps < choice.len())
        .min_by_key(|&(steps, _)| steps)
        .map(|(_, choice)| choice)
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    // The first row and the first column are all insertions and all deletions.
    let mut rows: Vec<Vec<usize>> = (0..=a.len()).map(|i| (i..=i + b.len()).collect()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut steps = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                steps = steps.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = steps;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_named_and_a_far_one_is_not() {
        let words = ["listen", "tls_listen", "cores", "key", "keys", "drain_secs"];
        let near = |word| nearest(word, words);
        assert_eq!(near("listne"), Some("listen"));
        assert_eq!(near("Listen"), Some("listen"));
        assert_eq!(near("drain-secs"), Some("drain_secs"));
        assert_eq!(near("drain_sec"), Some("drain_secs"));
        assert_eq!(near("core"), Some("cores"));
        assert_eq!(near("kye"), Some("key"));
        assert_eq!(near("keyz"), Some("key"));
        assert_eq!(near("colour"), None);
        assert_eq!(near(""), None);
        assert_eq!(near(&"listen".repeat(1_000)), None);
    }
}
