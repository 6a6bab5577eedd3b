//! Configurations of peers with places to fill in: `@KEY@`, in capitals. A place that nothing fills is an error.

use anyhow::{Result, ensure};

/// `text` with each `@KEY@` replaced by its value.
///
/// # Errors
/// Names a key for which there is no value.
pub(super) fn fill(text: &str, values: &[(&str, String)]) -> Result<String> {
    let mut filled = text.to_owned();
    for (key, value) in values {
        filled = filled.replace(&format!("@{key}@"), value);
    }
    let left = left(&filled);
    ensure!(left.is_none(), "nothing fills @{}@", left.unwrap_or_default());
    Ok(filled)
}

/// The first key that is left.
fn left(text: &str) -> Option<&str> {
    let is_key = |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    // The first and last piece have an @ on one side only.
    let mut words = text.split('@').skip(1).collect::<Vec<_>>();
    words.pop();
    words.into_iter().find(is_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_filled() {
        let text = "listen @LISTEN@; # as @LISTEN@ says\nname a@b.test\n";
        let filled = fill(text, &[("LISTEN", "127.0.0.1:80".to_owned())]).unwrap();
        assert_eq!(filled, "listen 127.0.0.1:80; # as 127.0.0.1:80 says\nname a@b.test\n");
    }

    #[test]
    fn a_place_without_a_value_is_an_error() {
        let error = fill("listen @LISTEN@ @SERVERS@", &[("LISTEN", String::new())]).unwrap_err();
        assert_eq!(error.to_string(), "nothing fills @SERVERS@");
    }
}
