//! Room for relayed TCP connections over all Binds: how many there may be, and how many of them one Bind and one client
//! may have. Counts only; no lock, and no memory that clients could make larger.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use config::table::L4Key;
use foldhash::quality::RandomState;

use super::descriptors;
use crate::udp::host_of;

/// Connections that every client may have while there is any room.
const FEW: usize = 4;
/// How many times what is free a Bind may have.
const TIMES_FREE: usize = 4;
/// Counters in a row; a power of two.
const ROW: usize = 1 << 15;

/// Descriptors are the process's, and HTTP wants to live as well.
#[derive(Debug)]
pub(crate) struct Room {
    open: AtomicUsize,
    most: usize,
    clients: Clients,
}

/// What one client has, this connection not included, and what is free to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    has: usize,
    free: usize,
}

impl Share {
    /// A client has no more than is free, so that there is something left for whoever comes next. Not for ever: what is
    /// free halves with each client that takes all it can.
    pub(super) const fn is_spent(self) -> bool {
        self.has >= FEW && self.has >= self.free
    }
}

impl Room {
    /// A quarter of the descriptors in number, of which each needs two: one to the client, one to the endpoint.
    pub(crate) fn of_process() -> Self {
        Self::of(descriptors() / 4)
    }

    pub(super) fn of(most: usize) -> Self {
        Self { open: AtomicUsize::new(0), most: most.max(1), clients: Clients::default() }
    }

    /// Counts one more in; whether there is room for it on a Bind that has so many. A Bind may have no more than some
    /// times of what is free, so that there is always something left for the others.
    pub(super) fn take(&self, of_bind: usize) -> bool {
        let free = self.most.saturating_sub(self.open.fetch_add(1, Ordering::Relaxed));
        of_bind < free.saturating_mul(TIMES_FREE)
    }

    /// Counts out what [`Self::take`] has counted in.
    pub(super) fn give(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection, which was [taken](Self::take), as the client's at this Bind, which has so many besides and
    /// may have `most`. Its shares of the Bind itself, and of all Binds.
    pub(super) fn seat(
        &self,
        bind: L4Key,
        client: IpAddr,
        of_bind: usize,
        most: usize,
    ) -> (Seat, Share, [Share; 2]) {
        let host = host_of(client);
        let seat = Seat { here: self.clients.places(&(bind, host)), all: self.clients.places(&host) };
        let (here, all) = (self.clients.take(seat.here), self.clients.take(seat.all));
        let free = self.most.saturating_sub(self.open.load(Ordering::Relaxed).saturating_sub(1));
        let free_here = free.saturating_mul(TIMES_FREE).saturating_sub(of_bind);
        let of_bind = Share { has: here, free: most.saturating_sub(of_bind) };
        (seat, of_bind, [Share { has: here, free: free_here }, Share { has: all, free }])
    }

    /// Counts out what [`Self::seat`] has counted in.
    pub(super) fn leave(&self, seat: Seat) {
        self.clients.give(seat.here);
        self.clients.give(seat.all);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let is_zero = |count: &AtomicU32| count.load(Ordering::Relaxed) == 0;
        self.open.load(Ordering::Relaxed) == 0 && self.clients.counts.iter().all(is_zero)
    }
}

/// Where a connection is counted as its client's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    here: [u32; 2],
    all: [u32; 2],
}

/// How many connections clients have. Everyone is counted at two places, which others may share, and has the less of what is
/// there: never fewer than it has, and hardly ever many more (Cormode and Muthukrishnan, "An improved data stream summary: the
/// count-min sketch").
#[derive(Debug)]
struct Clients {
    /// Seeded: clients choose their addresses.
    hash: RandomState,
    /// Two rows.
    counts: Box<[AtomicU32]>,
}

impl Default for Clients {
    fn default() -> Self {
        Self { hash: RandomState::default(), counts: (0..2 * ROW).map(|_| AtomicU32::new(0)).collect() }
    }
}

impl Clients {
    fn places(&self, who: &impl std::hash::Hash) -> [u32; 2] {
        const IN_ROW: u64 = ROW as u64 - 1;
        let hash = self.hash.hash_one(who);
        [hash & IN_ROW, (hash >> 32 & IN_ROW) + ROW as u64]
            .map(|place| u32::try_from(place).unwrap_or_default())
    }

    /// Counts one in; how many there were before.
    fn take(&self, places: [u32; 2]) -> usize {
        let before =
            places.map(|place| self.at(place).map_or(0, |count| count.fetch_add(1, Ordering::Relaxed)));
        before.into_iter().min().map_or(0, |before| before as usize)
    }

    fn give(&self, places: [u32; 2]) {
        for count in places.into_iter().filter_map(|place| self.at(place)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn at(&self, place: u32) -> Option<&AtomicU32> {
        self.counts.get(place as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_never_taken_for_many_because_there_are_many_clients() {
        let clients = Clients::default();
        let host = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..16_384 {
            clients.take(clients.places(&host(number)));
        }
        let greedy = clients.places(&host(0));
        assert!((0..8_001).map(|_| clients.take(greedy)).max() >= Some(8_001));
        let worst = (1..16_384).map(|number| {
            let places = clients.places(&host(number));
            let has = clients.take(places);
            clients.give(places);
            has
        });
        assert!(worst.max().is_some_and(|most| most < 20));
        (0..8_001).for_each(|_| clients.give(greedy));
        (0..16_384).for_each(|number| clients.give(clients.places(&host(number))));
        assert!(clients.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0));
    }
}
