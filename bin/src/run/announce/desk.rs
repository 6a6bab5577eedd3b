//! Which addresses are to be announced: what Services have, and what it means for this node, told to whoever announces.

use std::collections::BTreeMap;

use config::report::ObjectRef;
use controller::announce::Board;
use controller::ipam::VirtualAddress;
use ipnet::IpNet;
use tokio::sync::watch;

/// Takes the addresses of Services and the labels of this node.
#[derive(Debug)]
pub(super) struct Desk {
    board: watch::Sender<Board>,
    needs_labels: watch::Sender<bool>,
}

impl Desk {
    /// Services may ask for any address within `networks`.
    pub(super) fn new(networks: Box<[IpNet]>) -> Self {
        Self { board: watch::Sender::new(Board::new(networks)), needs_labels: watch::Sender::default() }
    }

    /// Follows what is to be announced. Whoever looks at it keeps others from changing it.
    pub(super) fn board(&self) -> watch::Receiver<Board> {
        self.board.subscribe()
    }

    /// Follows whether the labels of this node matter.
    pub(super) fn needs_labels(&self) -> watch::Receiver<bool> {
        self.needs_labels.subscribe()
    }

    /// These Services have these now.
    pub(super) fn services(&self, services: &[(ObjectRef, Box<[VirtualAddress]>)]) {
        let mut needs_labels = false;
        self.board.send_if_modified(|board| {
            let mut is_changed = false;
            for (service, addresses) in services {
                is_changed |= board.set(service, addresses);
            }
            needs_labels = board.needs_labels();
            is_changed
        });
        self.needs_labels.send_if_modified(|last| std::mem::replace(last, needs_labels) != needs_labels);
    }

    /// This node has these, as far as is known.
    pub(super) fn labels(&self, labels: Option<BTreeMap<String, String>>) {
        self.board.send_if_modified(|board| board.set_labels(labels));
    }
}
