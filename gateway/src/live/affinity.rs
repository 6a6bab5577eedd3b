//! Which endpoint a client's address had last: session affinity, across workers and across swaps.
//!
//! Bounded, and keyed with a seed of the process: whoever can choose addresses can make others lose their place, at
//! the rate at which it opens connections, but cannot make a look-up slow.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use super::endpoint::EndpointState;

/// Parts with a lock of their own.
const SHARDS: usize = 16;
/// Clients that a part remembers.
const MOST: usize = 4_096;
/// Entries that are looked at for one to give up.
const SAMPLE: usize = 32;

/// One endpoint at one time: the address alone may be another's by now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// [`EndpointState::id`].
    pub(super) id: u64,
}

impl Place {
    pub(super) fn of(endpoint: &EndpointState) -> Self {
        Self { address: endpoint.address, id: endpoint.id }
    }
}

/// `client → where it was last, and when`.
type Shard = HashMap<IpAddr, (Place, Instant), RandomState>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Affinity {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

impl Affinity {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::default())),
            hasher: RandomState::default(),
        }
    }

    /// Where `client` was last, if that is not longer ago than `timeout`.
    pub(super) fn find(&self, client: IpAddr, now: Instant, timeout: Duration) -> Option<Place> {
        let shard = self.shard(client)?.lock().unwrap_or_else(PoisonError::into_inner);
        let (place, seen) = shard.get(&client)?;
        (now.saturating_duration_since(*seen) <= timeout).then_some(*place)
    }

    /// Remembers that `client` is at `place` now, unless another of its connections has found a place since `unusable`
    /// was all there was: then that one, which is for all of them.
    pub(super) fn settle(
        &self,
        client: IpAddr,
        place: Place,
        unusable: Option<Place>,
        now: Instant,
        timeout: Duration,
    ) -> Option<Place> {
        let mut shard = self.shard(client)?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, seen)) = shard.get(&client).copied()
            && known != place
            && Some(known) != unusable
            && now.saturating_duration_since(seen) <= timeout
        {
            return Some(known);
        }
        insert(&mut shard, client, place, now);
        None
    }

    /// Remembers where `client` is now. If too many are remembered, one of those that were away longest goes.
    pub(super) fn remember(&self, client: IpAddr, place: Place, now: Instant) {
        let Some(shard) = self.shard(client) else { return };
        insert(&mut shard.lock().unwrap_or_else(PoisonError::into_inner), client, place, now);
    }

    fn shard(&self, client: IpAddr) -> Option<&Mutex<Shard>> {
        self.shards.get((self.hasher.hash_one(client) >> 32) as usize % SHARDS)
    }
}

fn insert(shard: &mut Shard, client: IpAddr, place: Place, now: Instant) {
    if shard.len() >= MOST && !shard.contains_key(&client) {
        let oldest = shard.iter().take(SAMPLE).min_by_key(|(_, (_, seen))| *seen);
        if let Some(oldest) = oldest.map(|(client, _)| *client) {
            shard.remove(&oldest);
        }
    }
    shard.insert(client, (place, now));
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    fn place(id: u64) -> Place {
        Place { address: SocketAddr::from(([10, 0, 0, 1], 80)), id }
    }

    #[test]
    fn a_client_is_remembered_until_it_was_away_for_too_long() {
        let (affinity, start) = (Affinity::new(), Instant::now());
        let timeout = Duration::from_secs(10);
        assert_eq!(affinity.find(client(1), start, timeout), None);
        affinity.remember(client(1), place(7), start);
        assert_eq!(affinity.find(client(1), start + timeout, timeout), Some(place(7)));
        assert_eq!(affinity.find(client(1), start + timeout + Duration::from_millis(1), timeout), None);
        assert_eq!(affinity.find(client(2), start, timeout), None);
    }

    #[test]
    fn the_first_place_that_can_be_used_is_for_all_connections_of_a_client() {
        let (affinity, now) = (Affinity::new(), Instant::now());
        let timeout = Duration::from_secs(10);
        let settle = |at, unusable: Option<u64>, now| {
            affinity.settle(client(1), place(at), unusable.map(place), now, timeout)
        };
        assert_eq!(settle(7, None, now), None);
        assert_eq!(settle(8, None, now), Some(place(7)));
        assert_eq!(settle(7, None, now), None);
        assert_eq!(settle(8, Some(7), now), None, "its endpoint may not be used any more");
        assert_eq!(settle(9, Some(7), now), Some(place(8)));
        assert_eq!(settle(9, None, now + timeout * 2), None, "it was away for too long");
        assert_eq!(affinity.find(client(1), now + timeout * 2, timeout), Some(place(9)));
    }

    #[test]
    fn whoever_comes_last_is_remembered_however_many_there_are() {
        let (affinity, now) = (Affinity::new(), Instant::now());
        for number in 0..200_000 {
            affinity.remember(client(number), place(1), now + Duration::from_micros(number.into()));
        }
        let kept: usize = affinity.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(kept <= SHARDS * MOST, "{kept}");
        let end = now + Duration::from_secs(1);
        let recent =
            (199_900..200_000).filter(|number| affinity.find(client(*number), end, Duration::MAX).is_some());
        assert_eq!(recent.count(), 100);
    }
}
