//! The shell: keeps addresses on interfaces, tells neighbours, and listens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::ear::Ear;
use super::filter::Protocol;
use super::frame::{Claim, Mac};
use super::links::{Links, Pattern};
use super::netlink::{LinkEvents, Netlink};
use super::stats::AnnounceStats;
use super::{arp, ndp};
use crate::live::Shared;

/// Announcements after an address was taken or its link came up, and the time between them.
const ANNOUNCEMENTS: u32 = 3;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(1);
/// An address is defended at most this often (RFC 5227 §2.4 (c)).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// What the kernel has is read again this often, also if it says nothing.
const REFRESH: Duration = Duration::from_secs(5);
/// Claims that wait to be looked at.
const CLAIMS: usize = 64;

/// How an address is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hold {
    /// It is ours: claims of others are answered.
    Firm,
    /// Somebody else may be taking it: claims are only told.
    Loose,
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Heard {
    /// Interfaces or their addresses may have changed.
    Links,
    /// Somebody else claims an address that is listened for.
    Claim(Claim),
    /// Somebody else claims an address that is firmly ours.
    Conflict(Claim),
}

/// An address on an interface.
#[derive(Debug)]
struct Taken {
    index: u32,
    hold: Hold,
    /// The kernel keeps it so long; whoever was stopped meanwhile has it no more.
    until: Instant,
    /// Announcements to come, and when.
    announce: Option<(u32, Instant)>,
    defended: Option<Instant>,
}

/// The interfaces of this host.
#[derive(Debug)]
pub struct Station {
    allowed: Vec<Pattern>,
    /// address → names of the only interfaces that may be used for it
    limits: BTreeMap<IpAddr, Box<[Arc<str>]>>,
    lease: Duration,
    netlink: Netlink,
    events: LinkEvents,
    links: Links,
    /// address → where it is
    taken: BTreeMap<IpAddr, Taken>,
    /// What claims are heard of.
    listened: BTreeSet<IpAddr>,
    /// interface → its sockets
    ears: BTreeMap<u32, [Ear; 2]>,
    to_heard: mpsc::Sender<(u32, Claim)>,
    heard: mpsc::Receiver<(u32, Claim)>,
    refresh_at: Instant,
    stats: Arc<AnnounceStats>,
    /// Told which addresses are this host's, so that no route leads to them and round.
    shared: Arc<Shared>,
    /// What the kernel refuses and was told.
    refused: BTreeSet<IpAddr>,
}

impl Station {
    /// Looks at the interfaces of this host; `allowed` are those that may be used, all if it is empty. Addresses are held
    /// for no longer than `lease`, by which those of an earlier process are known if the kernel keeps no origins. The gateway
    /// of `shared` is told which they are. Needs a tokio runtime, and `CAP_NET_ADMIN` and `CAP_NET_RAW` for everything that
    /// follows.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn new(
        allowed: Vec<Pattern>,
        lease: Duration,
        stats: Arc<AnnounceStats>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let (to_heard, heard) = mpsc::channel(CLAIMS);
        // First, so that no change is missed.
        let events = LinkEvents::new()?;
        let mut station = Self {
            allowed,
            limits: BTreeMap::new(),
            lease,
            netlink: Netlink::new()?,
            events,
            links: Links::default(),
            taken: BTreeMap::new(),
            listened: BTreeSet::new(),
            ears: BTreeMap::new(),
            to_heard,
            heard,
            refresh_at: Instant::now(),
            stats,
            shared,
            refused: BTreeSet::new(),
        };
        station.refresh()?;
        Ok(station)
    }

    /// Addresses that a process of ours put on interfaces, this one or one before.
    #[must_use]
    pub fn ours(&self) -> BTreeSet<IpAddr> {
        self.links.ours().map(|one| one.address).collect()
    }

    /// Whether `address` can be announced from here: there is an interface for it, and it is up.
    #[must_use]
    pub fn is_able(&self, address: IpAddr) -> bool {
        self.chosen(address).is_some()
    }

    /// Addresses for which only some of the interfaces may be used: the names of these. What is elsewhere is given up.
    pub fn limit(&mut self, limits: BTreeMap<IpAddr, Box<[Arc<str>]>>) {
        if self.limits != limits {
            self.limits = limits;
            self.leave_others();
            self.tune();
        }
    }

    /// Claims of others are heard of for these addresses.
    pub fn listen_for(&mut self, addresses: BTreeSet<IpAddr>) {
        if self.listened != addresses {
            self.listened = addresses;
            self.tune();
        }
    }

    /// Takes from interfaces what a process of ours left there and `kept` does not have.
    pub fn clear(&mut self, kept: &BTreeSet<IpAddr>) {
        let is_left = |address| !kept.contains(address) && !self.taken.contains_key(address);
        let left: Vec<_> = self.links.ours().filter(|one| is_left(&one.address)).copied().collect();
        for one in left {
            tracing::info!(address = %one.address, "removing an address that an earlier process announced");
            self.note(one.address, "remove", |netlink| netlink.remove(one.address, one.index));
        }
    }

    /// Has exactly `wanted`, as far as there are interfaces for them: takes what is new, gives up what is not wanted.
    /// The kernel keeps what is new for `lifetime`.
    pub fn hold(&mut self, wanted: &BTreeMap<IpAddr, Hold>, lifetime: Duration) {
        let gone: Vec<IpAddr> =
            self.taken.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in gone {
            self.give_up(address);
        }
        let now = Instant::now();
        // First, since traffic may come as soon as the kernel has them.
        self.shared.occupied().announces(wanted.keys().copied());
        for (address, hold) in wanted {
            match self.taken.get_mut(address) {
                Some(taken) => taken.hold = *hold,
                None => self.take(*address, *hold, lifetime, now),
            }
        }
        self.stats.held.store(u64::try_from(self.taken.len()).unwrap_or(0), Relaxed);
        self.announce_due(now);
    }

    /// Lets the kernel keep those of `addresses` that are held for `lifetime` from now.
    pub fn renew(&mut self, addresses: &BTreeSet<IpAddr>, lifetime: Duration) {
        let held = |address: &IpAddr| Some((*address, self.taken.get(address)?.index));
        let all: Vec<(IpAddr, u32)> = addresses.iter().filter_map(held).collect();
        for (address, index) in all {
            let until = Instant::now() + lifetime;
            if self.note(address, "renew", |netlink| netlink.assign(address, index, lifetime))
                && let Some(taken) = self.taken.get_mut(&address)
            {
                taken.until = until;
            }
        }
    }

    /// Asks the link who has `address`.
    pub fn probe(&self, address: IpAddr) {
        let Some(index) = self.chosen(address) else { return };
        self.send(index, address, |mac| match address {
            IpAddr::V4(address) => vec![arp::probe(mac, address)],
            IpAddr::V6(address) => vec![ndp::probe(mac, address)],
        });
    }

    /// Waits for what happens, and announces meanwhile what is due. Safe to drop while waiting.
    pub async fn next(&mut self) -> Heard {
        loop {
            let now = Instant::now();
            let next = self.announce_due(now);
            if now >= self.refresh_at {
                self.look_again();
                return Heard::Links;
            }
            tokio::select! {
                () = self.events.changed() => {
                    self.look_again();
                    return Heard::Links;
                }
                Some((index, claim)) = self.heard.recv() => {
                    if let Some(heard) = self.judge(index, claim) {
                        return heard;
                    }
                }
                () = sleep_until(next.map_or(self.refresh_at, |next| next.min(self.refresh_at))) => {}
            }
        }
    }

    fn take(&mut self, address: IpAddr, hold: Hold, lifetime: Duration, now: Instant) {
        let Some(index) = self.chosen(address) else { return };
        if !self.note(address, "take", |netlink| netlink.assign(address, index, lifetime)) {
            return;
        }
        let interface = self.links.link(index).map_or("", |link| &link.name);
        tracing::info!(%address, interface, "announcing the address");
        self.stats.taken.fetch_add(1, Relaxed);
        let announce = Some((ANNOUNCEMENTS, now));
        let until = now + lifetime;
        self.taken.insert(address, Taken { index, hold, until, announce, defended: None });
    }

    fn give_up(&mut self, address: IpAddr) {
        let Some(Taken { index, .. }) = self.taken.remove(&address) else { return };
        tracing::info!(%address, "giving the address up");
        self.stats.withdrawn.fetch_add(1, Relaxed);
        // Gone already: with its interface, or because its lifetime was over.
        let is_gone = |error: &io::Error| matches!(error.raw_os_error(), Some(19 | 99));
        self.note(address, "remove", |netlink| match netlink.remove(address, index) {
            Err(error) if is_gone(&error) => Ok(()),
            other => other,
        });
    }

    /// Asks the kernel for a change; says once for each address that it is refused. False if it was.
    fn note(
        &mut self,
        address: IpAddr,
        what: &str,
        change: impl FnOnce(&mut Netlink) -> io::Result<()>,
    ) -> bool {
        match change(&mut self.netlink) {
            Ok(()) => {
                self.refused.remove(&address);
                true
            }
            Err(error) => {
                self.stats.errors.fetch_add(1, Relaxed);
                if self.refused.insert(address) {
                    tracing::error!(%address, %error, "the kernel refuses to {what} the address");
                }
                false
            }
        }
    }

    fn look_again(&mut self) {
        self.refresh_at = Instant::now() + REFRESH;
        if let Err(error) = self.refresh() {
            self.stats.errors.fetch_add(1, Relaxed);
            tracing::error!(%error, "the interfaces of this host cannot be read");
        }
    }

    /// Reads what the kernel has. Addresses whose interface is no longer theirs are given up; those whose link came up
    /// are announced anew.
    fn refresh(&mut self) -> io::Result<()> {
        let taken = |address| self.taken.get(&address).map(|taken| taken.index);
        let links = Links::new(self.netlink.links()?, self.netlink.addresses()?, self.lease, taken);
        let last = std::mem::replace(&mut self.links, links);
        self.leave_others();
        let now = Instant::now();
        let was_up = |index| last.link(index).is_some_and(|link| link.is_up);
        for taken in self.taken.values_mut().filter(|taken| !was_up(taken.index)) {
            taken.announce = Some((ANNOUNCEMENTS, now));
        }
        self.stats.held.store(u64::try_from(self.taken.len()).unwrap_or(0), Relaxed);
        self.tune();
        Ok(())
    }

    /// Where `address` is to be announced.
    fn chosen(&self, address: IpAddr) -> Option<u32> {
        let only = self.limits.get(&address).map_or(&[][..], |only| only);
        self.links.choose(address, &self.allowed, only)
    }

    /// Gives up addresses whose interface is no longer theirs.
    fn leave_others(&mut self) {
        let is_elsewhere = |(address, taken): &(&IpAddr, &Taken)| self.chosen(**address) != Some(taken.index);
        let moved: Vec<IpAddr> =
            self.taken.iter().filter(is_elsewhere).map(|(address, _)| *address).collect();
        for address in moved {
            self.give_up(address);
        }
    }

    /// Has sockets at the interfaces of the addresses that are listened for, and only there.
    fn tune(&mut self) {
        let mut wanted = BTreeMap::<u32, BTreeSet<IpAddr>>::new();
        for address in &self.listened {
            if let Some(index) = self.chosen(*address) {
                wanted.entry(index).or_default().insert(*address);
            }
        }
        self.ears.retain(|index, _| wanted.contains_key(index));
        for (index, addresses) in wanted {
            if let Err(error) = self.listen_at(index, &addresses) {
                self.stats.errors.fetch_add(1, Relaxed);
                let interface = self.links.link(index).map_or("", |link| &link.name);
                tracing::error!(interface, %error, "cannot listen to the neighbours of the interface");
            }
        }
    }

    fn listen_at(&mut self, index: u32, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        if !self.ears.contains_key(&index) {
            let open = |protocol| Ear::open(index, protocol, self.to_heard.clone());
            self.ears.insert(index, [open(Protocol::Arp)?, open(Protocol::Ndp)?]);
        }
        for ear in self.ears.get(&index).into_iter().flatten() {
            ear.listen_for(addresses.iter().copied())?;
        }
        Ok(())
    }

    /// Announces what is due at `now`; returns when the next is.
    fn announce_due(&mut self, now: Instant) -> Option<Instant> {
        let due = |taken: &Taken| taken.announce.is_some_and(|(_, at)| at <= now) && now < taken.until;
        let all: Vec<(IpAddr, u32)> = self
            .taken
            .iter()
            .filter(|(_, one)| due(one))
            .map(|(address, one)| (*address, one.index))
            .collect();
        for (address, index) in all {
            self.announce(index, address);
            if let Some(taken) = self.taken.get_mut(&address)
                && let Some((left, at)) = taken.announce
            {
                taken.announce = (left > 1).then(|| (left - 1, at + ANNOUNCEMENT_INTERVAL));
            }
        }
        let later = self.taken.values().filter(|taken| now < taken.until);
        later.filter_map(|taken| Some(taken.announce?.1)).min()
    }

    fn announce(&self, index: u32, address: IpAddr) {
        self.send(index, address, |mac| match address {
            IpAddr::V4(address) => vec![arp::announcement(mac, address), arp::reply_to_all(mac, address)],
            IpAddr::V6(address) => vec![ndp::announcement(mac, address)],
        });
    }

    fn send(&self, index: u32, address: IpAddr, frames: impl FnOnce(Mac) -> Vec<Vec<u8>>) {
        let Some(mac) = self.links.link(index).and_then(|link| link.mac) else { return };
        let Some([arp, ndp]) = self.ears.get(&index) else { return };
        let ear = if address.is_ipv4() { arp } else { ndp };
        for frame in frames(mac) {
            if let Err(error) = ear.send(&frame) {
                self.stats.errors.fetch_add(1, Relaxed);
                tracing::debug!(%address, %error, "a frame was not sent");
            }
        }
    }

    /// What `claim` means, if it is another's and of concern. Answers it if the address is firmly ours.
    fn judge(&mut self, index: u32, claim: Claim) -> Option<Heard> {
        let is_own = |link: &super::netlink::Link| link.mac == Some(claim.mac);
        if !self.listened.contains(&claim.address) || self.links.link(index).is_none_or(is_own) {
            return None;
        }
        let now = Instant::now();
        let Some(taken) = self.taken.get_mut(&claim.address).filter(|taken| taken.index == index) else {
            return Some(Heard::Claim(claim));
        };
        if taken.hold == Hold::Loose || now >= taken.until {
            return Some(Heard::Claim(claim));
        }
        self.stats.conflicts.fetch_add(1, Relaxed);
        if taken.defended.is_some_and(|at| now < at + DEFEND_INTERVAL) {
            return Some(Heard::Conflict(claim));
        }
        taken.defended = Some(now);
        self.stats.defences.fetch_add(1, Relaxed);
        tracing::warn!(
            address = %claim.address,
            mac = %claim.mac,
            "another host claims an address that is ours; announcing it again"
        );
        self.announce(index, claim.address);
        Some(Heard::Conflict(claim))
    }
}

impl Drop for Station {
    /// The end of the process must not leave addresses that nobody serves until their lifetime is over.
    fn drop(&mut self) {
        self.hold(&BTreeMap::new(), Duration::ZERO);
    }
}
