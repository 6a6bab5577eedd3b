//! `resourceVersion`s, and what may be concluded from two of them.

use std::cmp::Ordering;
use std::sync::Arc;

/// A `resourceVersion`. Since Kubernetes 1.35 they are comparable decimal numbers, which they had been before without
/// a promise; one that is no number is equal to another or not, and nothing else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Version {
    /// A decimal number.
    Number(u64),
    /// Something else.
    Opaque(Arc<str>),
}

impl Version {
    /// `None` for the empty text and for `0`, which stand for "any".
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "0" => None,
            text => Some(match text.parse() {
                // Another spelling of the same number would be sent back as something that the server never said.
                Ok(number) if !text.starts_with(['0', '+']) => Self::Number(number),
                _ => Self::Opaque(text.into()),
            }),
        }
    }

    /// Which of the two is older; `None` if that cannot be told.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(one), Self::Number(other)) => Some(one.cmp(other)),
            _ => (self == other).then_some(Ordering::Equal),
        }
    }

    /// True only if it is known to be older than `other`.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        self.compare(other) == Some(Ordering::Less)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Opaque(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn numbers_are_ordered_by_value_and_not_as_text() {
        assert!(version("9").is_before(&version("10")));
        assert!(!version("10").is_before(&version("10")));
    }

    #[test]
    fn what_is_no_number_is_only_equal_or_not() {
        assert_eq!(version("a").compare(&version("b")), None);
        assert_eq!(version("a").compare(&version("a")), Some(Ordering::Equal));
        assert!(!version("a").is_before(&version("7")));
        assert!(!version("18446744073709551616").is_before(&version("18446744073709551617")));
    }

    #[test]
    fn text_goes_back_as_it_came() {
        for text in ["7", "007", "+7", "x"] {
            assert_eq!(version(text).to_string(), text);
        }
        assert_eq!((Version::parse(""), Version::parse("0")), (None, None));
    }
}
