//! What a bench may time of flows: their table is private. No datagram passes through here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::flow::{Flows, Key, Most, Whom};

const MOST: Most = Most { here: u32::MAX, all: u32::MAX };

/// The flows of one Bind in one worker, without sockets.
#[derive(Debug, Default)]
pub struct FlowTable {
    flows: Flows<()>,
    ticks: u32,
}

impl FlowTable {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.load().all
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A datagram of `client`, and its answer; a tick later than the one before. False if it had no flow, and has one now.
    pub fn exchange(&mut self, client: SocketAddr) -> bool {
        self.ticks = self.ticks.wrapping_add(1);
        let key = Key { client, local: IpAddr::V4(Ipv4Addr::LOCALHOST) };
        let found = self.flows.find(&key);
        let id = found.unwrap_or_else(|| self.flows.insert(key, self.ticks, ()).0);
        self.flows.heard_client(id, self.ticks, MOST);
        self.flows.heard_endpoint(id, self.ticks);
        found.is_some()
    }

    /// Gives up the flow that has to go when there is no room. False if none has to.
    pub fn evict(&mut self) -> bool {
        let victim = self.flows.victim(Whom::Any, self.ticks);
        victim.and_then(|id| self.flows.remove(id)).is_some()
    }
}
