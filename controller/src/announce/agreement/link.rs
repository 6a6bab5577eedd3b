//! Addresses that strangers have: an address that none of the nodes had is asked for on the link before it is taken
//! (RFC 5227 §2.1, with shorter waits), while the word about it is on its way. If a stranger has it, this node cannot
//! announce it for a while, and says so. What one of us had of late needs no question, so that failover does not wait.

use std::net::IpAddr;
use std::time::Duration;

use super::{Agreement, FORGET, Mine, Peer, Say, State};
use crate::status::clock::Moment;

/// Probes before an address is taken that none of us had, and the time after each.
const PROBES: u32 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// Whether strangers may have an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Link {
    /// So many probes were sent; the next thing happens then.
    Asked(u32, Moment),
    /// Nobody answered, or one of us had it, then.
    Free(Moment),
}

impl Agreement {
    /// From the claim of a stranger until the link is asked again.
    pub(crate) const RETRY: Duration = Duration::from_secs(10);

    /// A neighbour claims `address`. What we announce without being sure of it is left to it; so is what the link is being
    /// asked for. True if it is a stranger who has it for that reason, which was not known before.
    pub(crate) fn claimed(&mut self, address: IpAddr, now: Moment) -> bool {
        let Some(mine) = self.mine.get(&address).filter(|mine| mine.state == State::Want) else {
            return false;
        };
        let is_asked = !mine.is_up && matches!(mine.link, Link::Asked(1.., _));
        let is_ours = || self.is_in_play(address, now) || self.was_ours(address, now);
        let is_foreign = is_asked && !is_ours();
        if mine.is_up || is_foreign {
            self.mine.remove(&address);
            self.is_news = true;
        }
        if is_foreign {
            self.foreign.insert(address, now + Self::RETRY);
        }
        is_foreign
    }

    /// Whether one of us announced `address` of late. Who found only the Lease of another does not know.
    pub(super) fn was_ours(&self, address: IpAddr, now: Moment) -> bool {
        let is_late = |peer: &Peer| now < peer.renewed + peer.record.duration * FORGET;
        let has = |peer: &Peer| peer.is_seen && peer.has(address) && is_late(peer);
        self.had.contains_key(&address) || self.peers.values().any(has)
    }

    /// Whether another of us has, offers or wants `address`.
    fn is_in_play(&self, address: IpAddr, now: Moment) -> bool {
        let says = |peer: &Peer| matches!(peer.says(address), Some(Say::Want | Say::Hold | Say::Offer));
        self.peers.values().any(|peer| says(peer) && peer.is_live(now))
    }

    /// Forgets what is long ago. What one of us has since is no stranger's any more.
    pub(super) fn forget(&mut self, now: Moment) {
        let memory = self.duration * FORGET;
        self.had.retain(|_, at| now < *at + memory);
        let has = |address: &IpAddr| {
            self.peers.values().any(|peer| peer.is_live(now) && peer.says(*address) == Some(Say::Hold))
        };
        let count = self.foreign.len();
        let mut foreign = std::mem::take(&mut self.foreign);
        foreign.retain(|address, at| now < *at && !has(address));
        self.is_news |= foreign.len() != count;
        self.foreign = foreign;
    }

    /// Asks the link for what is wanted and nobody of us had; returns what to send probes for.
    pub(super) fn ask(&mut self, now: Moment) -> Vec<IpAddr> {
        let memory = self.duration * FORGET;
        let is_open = |mine: &Mine| !mine.is_up && mine.state == State::Want;
        let asked = self.mine.iter().filter(|(_, mine)| is_open(mine));
        let asked: Vec<IpAddr> = asked.map(|(address, _)| *address).collect();
        let mut probe = Vec::new();
        for address in asked {
            let (is_free, waits) = (self.was_ours(address, now), self.is_in_play(address, now));
            let Some(mine) = self.mine.get_mut(&address) else { continue };
            mine.link = match mine.link {
                Link::Asked(..) if is_free => Link::Free(now),
                Link::Asked(PROBES.., at) if now >= at => Link::Free(now),
                // Whoever of us has it would answer.
                Link::Asked(sent, at) if now >= at && !waits => {
                    probe.push(address);
                    Link::Asked(sent + 1, now + PROBE_INTERVAL)
                }
                Link::Free(since) if now >= since + memory => Link::Asked(0, now),
                same => same,
            };
        }
        probe
    }
}
