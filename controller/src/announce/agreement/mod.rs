//! Who announces which address: what one node concludes from the Leases of all. A pure state machine: time is an argument,
//! and it never does I/O.
//!
//! Each node has a Lease of its own, which it renews, and which says of addresses what the node does with them. A node
//! takes an address in two steps: it says that it wants it, and takes it once it has *seen its own word among everybody's*
//! and nobody else says that they have or want it. Writes are in one order for all: of two that want the same, the later one
//! has seen the earlier, so at most one goes on. The word of a node counts until its Lease is over: it was not renewed for
//! its whole duration, by our clock, up to a moment at which we have seen a later word of our own. A node that has not seen
//! a renewal of its own for four fifths of that time stops first.
//!
//! Planned moves overlap: who is to give an address up offers it and keeps it until somebody else says that they have it.
//!
//! An address that none of the nodes had is asked for on the link before (`link`).

mod link;
mod record;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use self::link::Link;
pub(crate) use self::record::{Record, Say};
use super::Wanted;
use crate::status::clock::Moment;

/// After a successor announces, both do for so long: what is on its way to the former one is still answered.
const GRACE: Duration = Duration::from_millis(150);
/// Peers that were silent for so many of their durations count as never seen.
const FORGET: u32 = 10;

/// A node's word, to be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Word {
    /// The Lease is made; else it is changed if it still has this version.
    pub(crate) version: Option<Arc<str>>,
    pub(crate) holder: Arc<str>,
    pub(crate) renewal: u64,
    pub(crate) duration: Duration,
    pub(crate) is_leaving: bool,
    pub(crate) says: BTreeMap<IpAddr, Say>,
}

/// What to do now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Step {
    /// Announce these and no others; true if nobody else may.
    pub(crate) hold: BTreeMap<IpAddr, bool>,
    /// The kernel may keep them for so long.
    pub(crate) lifetime: Duration,
    /// The kernel is to be told so of these, which are announced already.
    pub(crate) renew: BTreeSet<IpAddr>,
    /// Ask the link who has these, and then tell [`Agreement::claimed`].
    pub(crate) probe: Vec<IpAddr>,
    /// Write this, and then tell [`Agreement::answered`].
    pub(crate) write: Option<Word>,
    /// Look again then, if nothing happens before.
    pub(crate) next: Moment,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Want,
    Hold,
    /// Since then; and since when somebody else has it.
    Offer(Moment, Option<Moment>),
}

/// An address that concerns us.
#[derive(Clone, Copy, Debug)]
struct Mine {
    state: State,
    link: Link,
    /// The first word that said so.
    said_in: Option<u64>,
    /// It is announced.
    is_up: bool,
}

#[derive(Clone, Debug)]
struct Peer {
    record: Record,
    /// When it was renewed, as far as we saw.
    renewed: Moment,
    /// It was not only found there: we saw how it was made or renewed.
    is_seen: bool,
}

impl Peer {
    fn is_released(&self) -> bool {
        self.record.holder.is_empty()
    }

    /// When its word counts no more.
    fn ends(&self) -> Moment {
        self.renewed + self.record.duration
    }

    fn is_live(&self, now: Moment) -> bool {
        !self.is_released() && now < self.ends()
    }

    fn says(&self, address: IpAddr) -> Option<Say> {
        self.record.says.get(&address).copied()
    }

    /// Whether it says that it announces `address`.
    fn has(&self, address: IpAddr) -> bool {
        matches!(self.says(address), Some(Say::Hold | Say::Offer))
    }

    /// What it announces, if it was there and not only its Lease.
    fn holdings(&self) -> impl Iterator<Item = IpAddr> {
        self.record.says.keys().copied().filter(|address| self.is_seen && self.has(*address))
    }
}

/// The state of one node.
#[derive(Debug)]
pub(crate) struct Agreement {
    node: Arc<str>,
    identity: Arc<str>,
    duration: Duration,
    /// Everything was seen once.
    is_synced: bool,
    /// node → its word
    peers: BTreeMap<Arc<str>, Peer>,
    /// Our Lease as seen among the others, and when it was renewed.
    own: Option<Peer>,
    /// Its newest version, perhaps not seen yet, with the renewal that made it.
    version: Option<(u64, Arc<str>)>,
    /// Number of the last word, and when words were sent that were not seen yet.
    renewal: u64,
    sent: VecDeque<(u64, Moment)>,
    /// When the latest of our words that was seen was sent.
    confirmed: Option<Moment>,
    wanted: BTreeMap<IpAddr, Wanted>,
    mine: BTreeMap<IpAddr, Mine>,
    /// address → when it was last seen that one of us who has it no more had it
    had: BTreeMap<IpAddr, Moment>,
    /// address that a stranger has → when the link is asked again
    foreign: BTreeMap<IpAddr, Moment>,
    is_leaving: bool,
    is_writing: bool,
    /// There is something new to say.
    is_news: bool,
    /// No word before.
    write_at: Moment,
    renew_at: Moment,
    lapses: u64,
    was_valid: bool,
    /// What the kernel's lifetimes rest on.
    renewed_for: Option<Moment>,
}

impl Agreement {
    /// `identity` must be another one for each start; the first words of two must not have one number.
    pub(crate) fn new(node: Arc<str>, identity: Arc<str>, duration: Duration) -> Self {
        Self {
            node,
            identity,
            duration,
            is_synced: false,
            peers: BTreeMap::new(),
            own: None,
            version: None,
            renewal: 0,
            sent: VecDeque::new(),
            confirmed: None,
            wanted: BTreeMap::new(),
            mine: BTreeMap::new(),
            had: BTreeMap::new(),
            foreign: BTreeMap::new(),
            is_leaving: false,
            is_writing: false,
            is_news: true,
            write_at: Moment::START,
            renew_at: Moment::START,
            lapses: 0,
            was_valid: false,
            renewed_for: None,
        }
    }

    /// These are the addresses, and what of them this node can announce.
    pub(crate) fn want(&mut self, wanted: impl IntoIterator<Item = Wanted>) {
        let wanted: BTreeMap<IpAddr, Wanted> = wanted.into_iter().map(|one| (one.address, one)).collect();
        self.is_news |= wanted != self.wanted;
        self.wanted = wanted;
    }

    /// Hand everything over; take nothing any more.
    pub(crate) fn leave(&mut self) {
        self.is_leaving = true;
        self.is_news = true;
    }

    /// Whether everything was handed over that somebody would take.
    pub(crate) fn has_left(&self, now: Moment) -> bool {
        let is_heir = |peer: &Peer| peer.is_live(now) && !peer.record.is_leaving;
        self.is_leaving && (self.mine.is_empty() || !self.peers.values().any(is_heir))
    }

    /// How often the right to announce was lost because our own word was not seen in time.
    pub(crate) fn lapses(&self) -> u64 {
        self.lapses
    }

    /// Nodes whose word counts, this one included.
    pub(crate) fn members(&self, now: Moment) -> usize {
        self.peers.values().filter(|peer| peer.is_live(now)).count() + usize::from(self.is_valid(now))
    }

    /// All Leases there are, node → what it says.
    pub(crate) fn reset(&mut self, all: Vec<(Arc<str>, Record)>, now: Moment) {
        self.is_synced = true;
        let names: BTreeSet<Arc<str>> = all.iter().map(|(name, _)| Arc::clone(name)).collect();
        let gone: Vec<Arc<str>> = self.peers.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            self.gone(&name, now);
        }
        if !names.contains(&self.node) {
            self.gone(&Arc::clone(&self.node), now);
        }
        for (name, record) in all {
            self.take(&name, record, false, now);
        }
    }

    /// A Lease is now this.
    pub(crate) fn put(&mut self, name: &Arc<str>, record: Record, now: Moment) {
        self.take(name, record, true, now);
    }

    /// A Lease is this, and `is_new`: was made or changed.
    fn take(&mut self, name: &Arc<str>, record: Record, is_new: bool, now: Moment) {
        let is_own = *name == self.node;
        let last = if is_own { self.own.as_ref() } else { self.peers.get(name) };
        let renewal = |record: &Record| (Arc::clone(&record.holder), record.renewal);
        let (renewed, is_seen) = match last {
            Some(last) if renewal(&last.record) == renewal(&record) => (last.renewed, last.is_seen),
            Some(_) => (now, true),
            None => (now, is_new),
        };
        let peer = Peer { record, renewed, is_seen };
        if !is_own {
            let last = self.peers.insert(Arc::clone(name), peer);
            let lost = last.iter().flat_map(Peer::holdings);
            self.had.extend(lost.map(|address| (address, now)));
            return;
        }
        if *peer.record.holder == *self.identity {
            self.confirm(&peer.record);
        } else {
            // Another process has it, or will have it once its word is over.
            self.confirmed = None;
            self.version = Some((0, Arc::clone(&peer.record.version)));
        }
        self.own = Some(peer);
    }

    /// Our own word was seen among the others.
    fn confirm(&mut self, record: &Record) {
        while let Some((renewal, at)) = self.sent.front().copied().filter(|(sent, _)| *sent <= record.renewal)
        {
            self.sent.pop_front();
            if renewal == record.renewal {
                self.confirmed = self.confirmed.max(Some(at));
            }
        }
        if self.version.as_ref().is_none_or(|(known, _)| *known <= record.renewal) {
            self.version = Some((record.renewal, Arc::clone(&record.version)));
        }
    }

    /// A Lease is gone.
    pub(crate) fn gone(&mut self, name: &Arc<str>, now: Moment) {
        if *name == self.node {
            self.own = None;
            self.version = None;
            self.confirmed = None;
        } else {
            let last = self.peers.remove(name);
            let lost = last.iter().flat_map(Peer::holdings);
            self.had.extend(lost.map(|address| (address, now)));
        }
    }

    /// What came of a word: the version that the Lease has now, or nothing if it was refused or nobody knows.
    pub(crate) fn answered(&mut self, renewal: u64, version: Option<Arc<str>>, now: Moment) {
        self.is_writing = false;
        match version {
            Some(version) if self.version.as_ref().is_none_or(|(known, _)| *known < renewal) => {
                self.version = Some((renewal, version));
            }
            Some(_) => {}
            None => {
                self.is_news = true;
                self.write_at = now + self.duration / 20;
            }
        }
    }

    fn valid_until(&self) -> Option<Moment> {
        self.confirmed.map(|sent| sent + self.duration * 4 / 5)
    }

    fn is_valid(&self, now: Moment) -> bool {
        self.valid_until().is_some_and(|until| now < until)
    }

    /// Whether nobody else was there for long when our word was last seen.
    fn is_sole(&self) -> bool {
        let Some(confirmed) = self.confirmed else { return false };
        let is_forgotten =
            |peer: &Peer| peer.is_released() || peer.renewed + peer.record.duration * FORGET < confirmed;
        self.peers.values().all(is_forgotten)
    }

    /// Whether it is proven that the word of `peer` counts no more: it was not renewed before a word of ours that came
    /// after its end.
    fn is_over(&self, peer: &Peer) -> bool {
        peer.is_released() || self.confirmed.is_some_and(|sent| sent >= peer.ends())
    }

    fn is_able(&self, address: IpAddr) -> bool {
        !self.is_leaving
            && !self.foreign.contains_key(&address)
            && self.wanted.get(&address).is_some_and(|wanted| wanted.is_able)
    }

    /// Who should announce `address`: of those who can, the one with the highest hash.
    fn best(&self, wanted: &Wanted, now: Moment) -> Option<&Arc<str>> {
        let address = wanted.address;
        let can = |peer: &Peer| {
            let is_able = match peer.says(address) {
                None => !wanted.is_restricted,
                Some(Say::Able | Say::Want | Say::Hold) => true,
                Some(Say::Unable | Say::Offer) => false,
            };
            is_able && peer.is_live(now) && !peer.record.is_leaving
        };
        let peers = self.peers.iter().filter(|(_, peer)| can(peer)).map(|(name, _)| name);
        let own = Some(&self.node).filter(|_| self.is_able(address));
        peers.chain(own).max_by_key(|name| rank(name, address))
    }

    /// What to do at `now`.
    pub(crate) fn step(&mut self, now: Moment) -> Step {
        let is_valid = self.is_valid(now);
        if self.was_valid && !is_valid {
            self.lapses += 1;
        }
        self.was_valid = is_valid;
        self.forget(now);
        let mut probe = self.ask(now);
        if self.is_synced {
            let all: BTreeSet<IpAddr> = self.wanted.keys().chain(self.mine.keys()).copied().collect();
            for address in all {
                let last = self.mine.get(&address).copied();
                let next = self.decide(address, last, is_valid, now);
                let said = |mine: Option<Mine>| mine.map(|mine| std::mem::discriminant(&mine.state));
                self.is_news |= said(last) != said(next);
                if last.is_some_and(|mine| mine.is_up) && next.is_none() {
                    self.had.insert(address, now);
                }
                match next {
                    Some(next) => self.mine.insert(address, next),
                    None => self.mine.remove(&address),
                };
            }
            probe.extend(self.ask(now));
        }
        let write = self.write(now);
        let is_firm = |mine: &Mine| mine.state == State::Hold;
        let up = self.mine.iter().filter(|(_, mine)| mine.is_up);
        let hold = up.map(|(address, mine)| (*address, is_firm(mine))).collect();
        let lifetime = match self.valid_until() {
            Some(until) if is_valid => until.since(now),
            _ => self.duration,
        };
        // Alone, our own clock renews what nobody confirms.
        let basis = if is_valid { self.confirmed } else { Some(self.renew_at) };
        let renews = std::mem::replace(&mut self.renewed_for, basis) != basis;
        // What is offered may have another owner from here on, so its time runs from the offer.
        let is_renewed = |mine: &Mine| match mine.state {
            State::Offer(since, _) => since == now,
            State::Want | State::Hold => renews,
        };
        let renewed = self.mine.iter().filter(|(_, mine)| mine.is_up && is_renewed(mine));
        let renew = renewed.map(|(address, _)| *address).collect();
        Step { hold, lifetime, renew, probe, write, next: self.next(now) }
    }

    /// What becomes of one address.
    fn decide(&self, address: IpAddr, mine: Option<Mine>, is_valid: bool, now: Moment) -> Option<Mine> {
        let wanted = self.wanted.get(&address)?;
        let best = self.best(wanted, now);
        let is_best = best == Some(&self.node);
        let Some(mine) = mine else {
            let link = Link::Asked(0, now);
            let new = Mine { state: State::Want, link, said_in: None, is_up: false };
            return (is_best && !self.is_outranked(address, now)).then_some(new);
        };
        match mine.state {
            State::Want if mine.is_up && self.is_contested(address, now) => None,
            State::Want if !mine.is_up && (!is_best || self.is_outranked(address, now)) => None,
            State::Want => {
                let is_seen = || {
                    let own = self.own.as_ref().filter(|own| *own.record.holder == *self.identity);
                    mine.said_in.is_some_and(|said| own.is_some_and(|own| own.record.renewal >= said))
                };
                let begins =
                    is_valid && matches!(mine.link, Link::Free(_)) && is_seen() && self.is_clear(address);
                let keeps = mine.is_up && (is_valid || self.is_sole());
                let state = if begins { State::Hold } else { State::Want };
                Some(Mine { state, is_up: begins || keeps, ..mine })
            }
            State::Hold | State::Offer(..) if !is_valid => {
                // From the beginning again; alone, without a break.
                let link = Link::Free(now);
                let again = Mine { state: State::Want, link, said_in: None, is_up: self.is_sole() };
                (self.is_able(address) || (self.is_leaving && again.is_up)).then_some(again)
            }
            State::Hold => self.hold(address, mine, best, now),
            State::Offer(since, taken) => self.offer(address, mine, (since, taken), is_best, now),
        }
    }

    fn hold(&self, address: IpAddr, mine: Mine, best: Option<&Arc<str>>, now: Moment) -> Option<Mine> {
        let own_rank = rank(&self.node, address);
        let live = || self.peers.iter().filter(|(_, peer)| peer.is_live(now));
        // Both thought they could: it must not last.
        if live().any(|(name, peer)| peer.says(address) == Some(Say::Hold) && rank(name, address) > own_rank)
        {
            return None;
        }
        let offered = || Mine { state: State::Offer(now, None), ..mine };
        let says_want =
            |name: &Arc<str>| self.peers.get(name).is_some_and(|peer| peer.says(address) == Some(Say::Want));
        match best {
            Some(other) if *other != self.node && (!self.is_able(address) || says_want(other)) => {
                Some(offered())
            }
            None if self.is_leaving => Some(offered()),
            None => None,
            Some(_) => Some(mine),
        }
    }

    fn offer(
        &self,
        address: IpAddr,
        mine: Mine,
        (since, taken): (Moment, Option<Moment>),
        is_best: bool,
        now: Moment,
    ) -> Option<Mine> {
        let live = || self.peers.values().filter(|peer| peer.is_live(now));
        if live().any(|peer| peer.says(address) == Some(Say::Hold)) {
            let since_taken = taken.unwrap_or(now);
            let offered = Mine { state: State::Offer(since, Some(since_taken)), ..mine };
            return (now < since_taken + GRACE.min(self.duration / 4)).then_some(offered);
        }
        if now < since + self.duration {
            return Some(mine);
        }
        let is_wanted = live().any(|peer| peer.says(address) == Some(Say::Want));
        match (is_wanted, is_best, self.is_leaving) {
            // Two would announce it for longer than a Lease otherwise.
            (true, ..) => None,
            (false, true, _) => Some(Mine { state: State::Hold, ..mine }),
            // Nobody takes it: better served to the end than by nobody.
            (false, false, true) => Some(Mine { state: State::Offer(now, None), ..mine }),
            (false, false, false) => None,
        }
    }

    /// Somebody with a higher hash has or wants it.
    fn is_outranked(&self, address: IpAddr, now: Moment) -> bool {
        let own = rank(&self.node, address);
        self.peers.iter().any(|(name, peer)| {
            matches!(peer.says(address), Some(Say::Want | Say::Hold))
                && peer.is_live(now)
                && rank(name, address) > own
        })
    }

    /// Somebody else has or wants it.
    fn is_contested(&self, address: IpAddr, now: Moment) -> bool {
        let says = |peer: &Peer| matches!(peer.says(address), Some(Say::Want | Say::Hold));
        self.peers.values().any(|peer| says(peer) && peer.is_live(now))
    }

    /// Nobody whose word counts has or wants it.
    fn is_clear(&self, address: IpAddr) -> bool {
        self.peers
            .values()
            .all(|peer| !matches!(peer.says(address), Some(Say::Want | Say::Hold)) || self.is_over(peer))
    }

    /// True if something hangs on a newer word of ours, for the proof that another's counts no more.
    fn needs_proof(&self, now: Moment) -> bool {
        let last = self.sent.back().map(|(_, at)| *at).max(self.confirmed);
        let is_unproven = |peer: &Peer| {
            !peer.is_live(now) && !self.is_over(peer) && last.is_none_or(|sent| sent < peer.ends())
        };
        let wants = |mine: &Mine| mine.state == State::Want;
        let blocked = |address: &IpAddr| {
            self.peers
                .values()
                .any(|peer| matches!(peer.says(*address), Some(Say::Want | Say::Hold)) && is_unproven(peer))
        };
        self.mine.iter().any(|(address, mine)| wants(mine) && blocked(address))
    }

    fn write(&mut self, now: Moment) -> Option<Word> {
        let is_due = self.is_news || now >= self.renew_at || self.needs_proof(now);
        if !self.is_synced || self.is_writing || now < self.write_at || !is_due {
            return None;
        }
        let is_foreign = |own: &Peer| *own.record.holder != *self.identity && own.is_live(now);
        if self.own.as_ref().is_some_and(is_foreign) {
            return None;
        }
        self.renewal += 1;
        let mut says = BTreeMap::new();
        for (address, wanted) in &self.wanted {
            let say = match (wanted.is_restricted, self.is_able(*address)) {
                (true, true) => Say::Able,
                (false, false) => Say::Unable,
                (true, false) | (false, true) => continue,
            };
            says.insert(*address, say);
        }
        for (address, mine) in &mut self.mine {
            mine.said_in.get_or_insert(self.renewal);
            let say = match mine.state {
                State::Want => Say::Want,
                State::Hold => Say::Hold,
                State::Offer(..) => Say::Offer,
            };
            says.insert(*address, say);
        }
        self.is_writing = true;
        self.is_news = false;
        self.renew_at = now + self.duration / 3;
        self.sent.push_back((self.renewal, now));
        Some(Word {
            version: self.version.as_ref().map(|(_, version)| Arc::clone(version)),
            holder: Arc::clone(&self.identity),
            renewal: self.renewal,
            duration: self.duration,
            is_leaving: self.is_leaving,
            says,
        })
    }

    fn next(&self, now: Moment) -> Moment {
        let ends = self.peers.values().chain(&self.own).map(Peer::ends);
        let offers = self.mine.values().filter_map(|mine| match mine.state {
            State::Offer(since, None) => Some(since + self.duration),
            State::Offer(_, Some(taken)) => Some(taken + GRACE.min(self.duration / 4)),
            State::Want | State::Hold => None,
        });
        let own = [self.renew_at, self.write_at].into_iter().chain(self.valid_until());
        let asked = self.mine.values().filter_map(|mine| match mine.link {
            Link::Asked(_, at) => Some(at),
            Link::Free(_) => None,
        });
        let own = own.chain(asked).chain(self.foreign.values().copied());
        let later = ends.chain(offers).chain(own).filter(|at| *at > now);
        later.min().unwrap_or(now + self.duration / 3)
    }
}

/// The order of nodes for an address: rendezvous hashing, so that who comes or goes moves only what is theirs.
fn rank(node: &str, address: IpAddr) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(node.as_bytes());
    add(&[0]);
    match address {
        IpAddr::V4(address) => add(&address.octets()),
        IpAddr::V6(address) => add(&address.octets()),
    }
    // The last bytes of the input have moved only the low bits so far.
    hash ^= hash >> 30;
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 27;
    hash = hash.wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests;
