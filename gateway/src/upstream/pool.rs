//! Idle connections of one worker, by endpoint. Taking one costs no syscall: whether it is still usable shows
//! in the readiness that the reactor keeps anyway.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use super::{Connection, Key};
use crate::live::EndpointState;
use crate::stream::Stream;
use foldhash::fast::FixedState;

/// Idle connections over all endpoints of one worker; the least recently used give way.
const MOST: usize = 4_096;

#[derive(Debug)]
struct Idle {
    stream: Stream,
    /// Tick at which it was put back.
    since: u32,
    /// Tick from which it must not be used any more.
    until: u32,
}

#[derive(Debug)]
struct Slot {
    endpoint: Arc<EndpointState>,
    /// Oldest first; the youngest is used first, so that the old ones can go.
    idle: Vec<Idle>,
}

/// The idle connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// whom they lead to, and as whom → idle connections
    slots: RefCell<HashMap<Key, Slot, FixedState>>,
    count: Cell<usize>,
    evicted: Cell<u64>,
}

impl Pool {
    /// The youngest usable connection to `endpoint` that was idle since `not_before` or later.
    pub(crate) fn take(
        &self,
        key: Key,
        endpoint: &Arc<EndpointState>,
        now: u32,
        not_before: u32,
    ) -> Option<Connection> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(&key)?;
        while let Some(mut idle) = slot.idle.pop() {
            if idle.since < not_before && idle.until > now {
                slot.idle.push(idle);
                return None;
            }
            self.count.set(self.count.get().saturating_sub(1));
            if idle.until > now && idle.stream.is_quiet() {
                return Some(Connection {
                    stream: idle.stream,
                    endpoint: Arc::clone(endpoint),
                    reused: true,
                });
            }
            self.evicted.set(self.evicted.get() + 1);
        }
        None
    }

    /// Puts a connection back. The caller vouches for its state: request written, response read, nothing over.
    pub(crate) fn put(&self, key: Key, connection: Connection, now: u32, until: u32, most_per_endpoint: u32) {
        if connection.endpoint.is_retired() || until <= now || self.count.get() >= MOST {
            self.evicted.set(self.evicted.get() + 1);
            return;
        }
        let mut slots = self.slots.borrow_mut();
        let slot = slots
            .entry(key)
            .or_insert_with(|| Slot { endpoint: Arc::clone(&connection.endpoint), idle: Vec::new() });
        if slot.idle.len() >= most_per_endpoint as usize {
            self.evicted.set(self.evicted.get() + 1);
            return;
        }
        slot.idle.push(Idle { stream: connection.stream, since: now, until });
        self.count.set(self.count.get() + 1);
    }

    /// Closes what is too old, was closed by its endpoint, or leads to an endpoint that no table names.
    pub(crate) fn sweep(&self, now: u32) {
        let before = self.count.get();
        let mut left = 0;
        self.slots.borrow_mut().retain(|_, slot| {
            if slot.endpoint.is_retired() {
                return false;
            }
            slot.idle.retain_mut(|idle| idle.until > now && idle.stream.is_quiet());
            left += slot.idle.len();
            true
        });
        self.count.set(left);
        self.evicted.set(self.evicted.get() + u64::try_from(before.saturating_sub(left)).unwrap_or(0));
    }

    /// Closes every idle connection, for want of descriptors or at the end.
    pub(crate) fn clear(&self) {
        self.evicted.set(self.evicted.get() + u64::try_from(self.count.take()).unwrap_or(0));
        self.slots.borrow_mut().clear();
    }

    /// Connections closed while idle since the last call.
    pub(crate) fn take_evicted(&self) -> u64 {
        self.evicted.take()
    }
}
