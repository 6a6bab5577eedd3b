//! Where objects come from. Every source yields the same events; the driver does not know which one it has.

pub mod file;
pub mod kube;

use std::collections::BTreeSet;
use std::sync::Arc;

use config::index::Event;

/// Events that belong together, in order.
#[derive(Debug, Default)]
pub struct Batch {
    /// What changed since the batch before.
    pub events: Vec<Event>,
}

/// Yields changes of the user's objects.
pub trait Source {
    /// Waits for the next changes. The first batch is complete: it holds everything that exists, and may be
    /// empty. Must be safe to drop while waiting.
    fn next(&mut self) -> impl Future<Output = Batch>;

    /// Follows exactly these `files` of certificates and keys from now on, besides the objects; returns what is in
    /// those that are `unread`. Their changes come with [`Self::next`].
    fn want(&mut self, files: &BTreeSet<Arc<str>>, unread: &BTreeSet<Arc<str>>) -> Vec<Event> {
        let _ = (files, unread);
        Vec::new()
    }

    /// True if the batches so far say with certainty which Ingresses are whose: all Ingresses and IngressClasses in them are
    /// those that there are, and none are from former times. Once true, it stays so; a batch follows when it becomes true.
    fn is_certain(&self) -> bool {
        true
    }

    /// Makes the next batch a fresh look at everything, whatever was seen before.
    fn reread(&mut self);
}
