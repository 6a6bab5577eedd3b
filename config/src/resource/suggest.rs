//! "Did you mean": the nearest of a few known words.

/// ` (did you mean \`x\`?)` for the nearest known word within a third of the length, or nothing.
pub(crate) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|nearest| format!(" (did you mean `{nearest}`?)")).unwrap_or_default()
}

/// The nearest known word within a third of the length.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, nearest) = known
        .into_iter()
        .map(|candidate| (distance(&word.to_ascii_lowercase(), &candidate.to_ascii_lowercase()), candidate))
        .min()?;
    (distance <= word.len().max(nearest.len()) / 3).then_some(nearest)
}

/// Edits (insert, delete, replace) from `a` to `b`; words beyond 64 bytes count as far away.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let value = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, value);
            left = value;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word_and_nonsense_finds_nothing() {
        assert_eq!(hint("listner", ["listeners", "routes"]), " (did you mean `listeners`?)");
        assert_eq!(hint("pathtype", ["path", "pathType"]), " (did you mean `pathType`?)");
        assert_eq!(hint("zzz", ["listeners", "routes"]), "");
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
