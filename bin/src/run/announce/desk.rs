//! Which addresses are to be announced: what Services have, and what it means for this node, told to whoever announces.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use controller::announce::{Wanted, needs_labels, wanted};
use controller::ipam::VirtualAddress;
use ipnet::IpNet;
use tokio::sync::watch;

/// Takes the addresses of Services and the labels of this node.
#[derive(Debug)]
pub(super) struct Desk {
    /// Where Services may ask for any address.
    networks: Box<[IpNet]>,
    known: Mutex<Known>,
    wanted: watch::Sender<Arc<[Wanted]>>,
    needs_labels: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Box<[VirtualAddress]>,
    labels: Option<BTreeMap<String, String>>,
}

impl Desk {
    pub(super) fn new(networks: Box<[IpNet]>) -> Self {
        let (wanted, needs_labels) = (watch::Sender::default(), watch::Sender::default());
        Self { networks, known: Mutex::default(), wanted, needs_labels }
    }

    /// Follows what is to be announced.
    pub(super) fn wanted(&self) -> watch::Receiver<Arc<[Wanted]>> {
        self.wanted.subscribe()
    }

    /// Follows whether the labels of this node matter.
    pub(super) fn needs_labels(&self) -> watch::Receiver<bool> {
        self.needs_labels.subscribe()
    }

    /// Services have these.
    pub(super) fn addresses(&self, addresses: &[VirtualAddress]) {
        self.needs_labels.send_if_modified(|last| {
            let now = needs_labels(addresses);
            std::mem::replace(last, now) != now
        });
        self.change(|known| known.addresses = addresses.into());
    }

    /// This node has these, as far as is known.
    pub(super) fn labels(&self, labels: Option<BTreeMap<String, String>>) {
        self.change(|known| known.labels = labels);
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        let now = wanted(&known.addresses, &self.networks, known.labels.as_ref());
        // Still under the lock, so that the last word is the newest.
        self.wanted.send_if_modified(|last| {
            let is_new = *last != now;
            *last = now;
            is_new
        });
    }
}
