//! The flow table of one Bind in one worker: which client's datagrams belong together, who was heard last, and who has
//! to go. Sans-I/O: the present is an argument, in ticks, and what a flow owns is the caller's.
//!
//! All operations take constant time. A flow is in two queues: by its age, and by its last use, of which there is one for
//! flows that may be sacrificed and one for those that may not. Never sends, receives or closes anything.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use foldhash::quality::RandomState;
use slab::Slab;

use super::shares::Shares;

const NONE: u32 = u32::MAX;
/// Ticks (of [`TICK`](crate::worker::timers::TICK)) after which a flow in use is silent: two seconds. Whoever is talking
/// has said something by then.
const SILENCE: u32 = 20;
/// The part of all flows that those not in use may be, at least, before flows in use have to stay: who is new has time
/// for an answer although all before it are in use.
const PART_OF_DOUBTFUL: usize = 8;

/// Whose datagrams make a flow: the client, and the address of ours that it used.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    pub(super) client: SocketAddr,
    pub(super) local: IpAddr,
}

/// How much a flow has shown that somebody is there. Whoever only sends with borrowed addresses gets beyond
/// [`Self::Answered`] by sending once more when there should be an answer, so that [`Self::Assured`] is no shelter for
/// the silent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// The endpoint has not answered.
    Fresh,
    /// The endpoint has answered, and the client has said nothing since.
    Answered,
    /// The client went on after an answer, and has not too many such flows.
    Assured,
}

/// Most flows of one client that can be [`Stage::Assured`] at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// Of this table.
    pub(super) here: u32,
    /// Of all tables of the worker.
    pub(super) all: u32,
}

/// Longest times; 0 = any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Ticks without a datagram.
    pub(super) idle: u32,
    /// Ticks since the first one.
    pub(super) lifetime: u32,
}

/// Which limit a flow has reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Due {
    Idle,
    Lifetime,
}

#[derive(Clone, Copy, Debug)]
struct Links {
    before: u32,
    after: u32,
}

const LOOSE: Links = Links { before: NONE, after: NONE };

/// One flow, with what the caller keeps for it.
#[derive(Debug)]
pub(super) struct Flow<T> {
    pub(super) key: Key,
    pub(super) stage: Stage,
    pub(super) value: T,
    born: u32,
    used: u32,
    by_age: Links,
    by_use: Links,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

impl Default for Ends {
    fn default() -> Self {
        Self { first: NONE, last: NONE }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Queue {
    Age,
    /// By last use: those that are not assured.
    Doubtful,
    /// By last use: those that are.
    Assured,
}

impl Stage {
    const fn queue(self) -> Queue {
        match self {
            Self::Fresh | Self::Answered => Queue::Doubtful,
            Self::Assured => Queue::Assured,
        }
    }
}

/// How many flows there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) all: usize,
    /// Those that are not assured.
    pub(super) doubtful: usize,
}

impl Load {
    /// Whether the doubtful are enough to be the ones that go.
    pub(super) const fn gives_doubtful(self) -> bool {
        self.doubtful_wanted() == 0
    }

    /// How many more doubtful ones there would have to be for that.
    pub(super) const fn doubtful_wanted(self) -> usize {
        self.all.div_ceil(PART_OF_DOUBTFUL).saturating_sub(self.doubtful)
    }
}

/// Which flows may go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Whom {
    /// One that has not shown that somebody is there.
    Doubtful,
    /// One that has, and was silent for a while.
    Silent,
    /// Either, whichever is due.
    Any,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Flows<T> {
    /// key → position
    index: HashMap<Key, u32, RandomState>,
    flows: Slab<Flow<T>>,
    age: Ends,
    doubtful: Ends,
    assured: Ends,
    /// How many are in the queue of the doubtful.
    doubts: usize,
    /// Assured flows of each client, here and in all tables of the worker.
    here: Shares,
    all: Rc<RefCell<Shares>>,
}

impl<T> Default for Flows<T> {
    fn default() -> Self {
        Self::new(Rc::default())
    }
}

impl<T> Flows<T> {
    /// No flow. `all` is shared with the other tables of the worker.
    pub(super) fn new(all: Rc<RefCell<Shares>>) -> Self {
        Self {
            // Clients choose their keys, so the hash is seeded.
            index: HashMap::with_hasher(RandomState::default()),
            flows: Slab::new(),
            age: Ends::default(),
            doubtful: Ends::default(),
            assured: Ends::default(),
            doubts: 0,
            here: Shares::default(),
            all,
        }
    }

    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.index.get(key).copied()
    }

    pub(super) fn at(&self, id: u32) -> Option<&Flow<T>> {
        self.flows.get(id as usize)
    }

    pub(super) fn at_mut(&mut self, id: u32) -> Option<&mut Flow<T>> {
        self.flows.get_mut(id as usize)
    }

    pub(super) fn load(&self) -> Load {
        Load { all: self.flows.len(), doubtful: self.doubts }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.flows.iter().map(|(id, _)| u32::try_from(id).unwrap_or(NONE))
    }

    /// A new flow; the one that `key` has already, if there is one, is given back first.
    pub(super) fn insert(&mut self, key: Key, now: u32, value: T) -> (u32, Option<Flow<T>>) {
        let before = self.find(&key).and_then(|id| self.remove(id));
        let flow =
            Flow { key, stage: Stage::Fresh, value, born: now, used: now, by_age: LOOSE, by_use: LOOSE };
        let id = u32::try_from(self.flows.insert(flow)).unwrap_or(NONE);
        self.index.insert(key, id);
        self.push(Queue::Age, id);
        self.push(Queue::Doubtful, id);
        self.doubts += 1;
        (id, before)
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Flow<T>> {
        let queue = self.at(id)?.stage.queue();
        self.unlink(Queue::Age, id);
        self.unlink(queue, id);
        let flow = self.flows.try_remove(id as usize)?;
        self.index.remove(&flow.key);
        match queue {
            Queue::Assured => {
                self.here.give(flow.key.client.ip());
                self.all.borrow_mut().give(flow.key.client.ip());
            }
            Queue::Doubtful | Queue::Age => self.doubts -= 1,
        }
        // What a flood has made large is given back.
        if self.flows.is_empty() && self.flows.capacity() > 1_024 {
            *self = Self::new(Rc::clone(&self.all));
        }
        Some(flow)
    }

    /// The client has sent a datagram.
    pub(super) fn heard_client(&mut self, id: u32, now: u32, most: Most) {
        let Some(flow) = self.flows.get_mut(id as usize) else { return };
        let (before, client) = (flow.stage, flow.key.client.ip());
        let is_kept = before == Stage::Answered
            && self.here.has_room(client, most.here)
            && self.all.borrow().has_room(client, most.all);
        if is_kept {
            flow.stage = Stage::Assured;
            self.doubts -= 1;
            self.here.take(client);
            self.all.borrow_mut().take(client);
        } else if flow.used == now {
            return;
        }
        self.requeue(id, before.queue(), now);
    }

    /// The endpoint has sent a datagram.
    pub(super) fn heard_endpoint(&mut self, id: u32, now: u32) {
        let Some(flow) = self.flows.get_mut(id as usize) else { return };
        if flow.stage == Stage::Fresh {
            flow.stage = Stage::Answered;
        }
        if flow.used != now {
            let queue = flow.stage.queue();
            self.requeue(id, queue, now);
        }
    }

    /// Who goes when there is no room: the one of `whom` that was silent for longest. `None` if there is none.
    ///
    /// Of all flows, it is one that has not shown that somebody is there; but if these are few, one in use that is silent
    /// goes before.
    pub(super) fn victim(&self, whom: Whom, now: u32) -> Option<u32> {
        let doubtful = || Some(self.doubtful.first).filter(|id| *id != NONE);
        let silent = || {
            let first = self.at(self.assured.first)?;
            (now.saturating_sub(first.used) >= SILENCE).then_some(self.assured.first)
        };
        match whom {
            Whom::Doubtful => doubtful(),
            Whom::Silent => silent(),
            Whom::Any if self.load().gives_doubtful() => doubtful(),
            Whom::Any => silent().or_else(doubtful),
        }
    }

    /// A flow that has reached a limit. Ask again after it was removed.
    pub(super) fn due(&self, now: u32, limits: Limits) -> Option<(u32, Due)> {
        let over = |since: u32, limit: u32| limit > 0 && now.saturating_sub(since) >= limit;
        for first in [self.doubtful.first, self.assured.first] {
            if self.at(first).is_some_and(|flow| over(flow.used, limits.idle)) {
                return Some((first, Due::Idle));
            }
        }
        let first = self.age.first;
        self.at(first).is_some_and(|flow| over(flow.born, limits.lifetime)).then_some((first, Due::Lifetime))
    }

    fn requeue(&mut self, id: u32, from: Queue, now: u32) {
        self.unlink(from, id);
        let Some(flow) = self.flows.get_mut(id as usize) else { return };
        flow.used = now;
        let queue = flow.stage.queue();
        self.push(queue, id);
    }

    fn ends(&mut self, queue: Queue) -> &mut Ends {
        match queue {
            Queue::Age => &mut self.age,
            Queue::Doubtful => &mut self.doubtful,
            Queue::Assured => &mut self.assured,
        }
    }

    fn links(&mut self, queue: Queue, id: u32) -> Option<&mut Links> {
        let flow = self.flows.get_mut(id as usize)?;
        Some(if queue == Queue::Age { &mut flow.by_age } else { &mut flow.by_use })
    }

    fn push(&mut self, queue: Queue, id: u32) {
        let last = std::mem::replace(&mut self.ends(queue).last, id);
        match self.links(queue, last) {
            Some(links) => links.after = id,
            None => self.ends(queue).first = id,
        }
        if let Some(links) = self.links(queue, id) {
            *links = Links { before: last, after: NONE };
        }
    }

    fn unlink(&mut self, queue: Queue, id: u32) {
        let Some(Links { before, after }) =
            self.links(queue, id).map(|links| std::mem::replace(links, LOOSE))
        else {
            return;
        };
        match self.links(queue, before) {
            Some(links) => links.after = after,
            None => self.ends(queue).first = after,
        }
        match self.links(queue, after) {
            Some(links) => links.before = before,
            None => self.ends(queue).last = before,
        }
    }
}

#[cfg(test)]
mod tests;
