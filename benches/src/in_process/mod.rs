//! What parts of the gateway cost without a socket or a second process: what is timed, and how its cost grows with the
//! number of hosts, endpoints, flows or fields. Criterion times the same [`Subject`]s.
//!
//! Each checks its answers before it is timed, and gives no figure if one is wrong.

pub mod balance;
pub mod fit;
pub mod flows;
pub mod growth;
pub mod heads;
pub mod objects;
pub mod page;
pub mod tables;

use anyhow::Result;

/// Does what is timed this many times.
pub type Work = Box<dyn FnMut(u64)>;

/// One thing that is timed, at several sizes.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Its name, such as `host-lookup`.
    pub name: &'static str,
    /// What is done once, in a sentence.
    pub about: &'static str,
    /// What the sizes count, such as `hosts`.
    pub counts: &'static str,
    /// The sizes, rising.
    pub sizes: &'static [usize],
    /// The most that the exponent of its growth may be.
    pub at_most: f64,
    /// Makes what is needed at one size, checks the answers, and returns what is to be timed.
    pub prepare: fn(usize) -> Result<Work>,
}

/// All that there is, in the order of a report.
pub const ALL: &[Subject] = &[
    tables::HOST_LOOKUP,
    tables::PATH_LOOKUP,
    tables::COMPILE,
    tables::ROUTE_CHANGE,
    tables::ENDPOINT_CHANGE,
    tables::SWAP,
    balance::ROUND_ROBIN,
    balance::LEAST_CONNECTION,
    balance::CONSISTENT_HASH,
    heads::PARSE,
    heads::ENCODE,
    flows::KNOWN,
    flows::NEW,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_has_the_right_answers_and_can_be_repeated() {
        for subject in ALL {
            assert!(subject.sizes.is_sorted() && subject.sizes.len() >= 4, "{}", subject.name);
            let size = subject.sizes[0];
            let mut work =
                (subject.prepare)(size).unwrap_or_else(|error| panic!("{}: {error:?}", subject.name));
            work(100);
            work(1);
        }
    }
}
