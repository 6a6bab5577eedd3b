//! What a node's Lease says, as text. A name that is not ours to understand is left out, never guessed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// No Lease binds for longer, whatever it says.
const MAX_DURATION: Duration = Duration::from_secs(300);

/// What a node says of an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Say {
    /// It could announce it; said only of addresses that not every node may announce.
    Able,
    /// It cannot announce it; said only of the others.
    Unable,
    /// It will, as soon as nobody else does or wants to.
    Want,
    /// It does.
    Hold,
    /// It does, until somebody else does.
    Offer,
}

const SAYINGS: [(Say, &str); 5] = [
    (Say::Able, "able"),
    (Say::Unable, "unable"),
    (Say::Want, "want"),
    (Say::Hold, "hold"),
    (Say::Offer, "offer"),
];

/// A node's Lease.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Record {
    /// `metadata.resourceVersion`.
    pub(crate) version: Arc<str>,
    /// The process that renews it; empty if nobody does.
    pub(crate) holder: Arc<str>,
    /// Another number, another renewal.
    pub(crate) renewal: u64,
    pub(crate) duration: Duration,
    /// The node is about to end and takes nothing any more.
    pub(crate) is_leaving: bool,
    pub(crate) says: BTreeMap<IpAddr, Say>,
}

impl Record {
    /// `seconds` as a Lease may state it.
    pub(crate) fn duration(seconds: i32) -> Duration {
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1)).min(MAX_DURATION)
    }

    /// Sayings, as in `192.0.2.1=hold,192.0.2.2=want`.
    pub(crate) fn text(says: &BTreeMap<IpAddr, Say>) -> String {
        let mut out = String::new();
        for (address, say) in says {
            let word = SAYINGS.iter().find(|(known, _)| known == say).map_or("", |(_, word)| word);
            let comma = if out.is_empty() { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = write!(out, "{comma}{address}={word}");
        }
        out
    }

    /// Reads sayings.
    pub(crate) fn read(text: &str) -> BTreeMap<IpAddr, Say> {
        let one = |pair: &str| {
            let (address, word) = pair.split_once('=')?;
            let (say, _) = SAYINGS.iter().find(|(_, known)| *known == word)?;
            Some((address.parse().ok()?, *say))
        };
        text.split(',').filter_map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sayings_survive_text() {
        let says: BTreeMap<IpAddr, Say> = SAYINGS
            .iter()
            .zip(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "10.0.0.1"])
            .map(|((say, _), address)| (address.parse().unwrap(), *say))
            .collect();
        assert_eq!(Record::read(&Record::text(&says)), says);
        assert!(Record::read("").is_empty() && Record::read("=hold,a=b,192.0.2.1=HOLD,,").is_empty());
    }

    #[test]
    fn durations_are_bounded() {
        assert_eq!(Record::duration(-5), Duration::from_secs(1));
        assert_eq!(Record::duration(i32::MAX), MAX_DURATION);
    }
}
