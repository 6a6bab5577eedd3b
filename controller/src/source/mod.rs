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

/// How well it is known which Ingresses are whose.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Certainty {
    /// Something is missing, or from former times.
    #[default]
    Unknown,
    /// All Ingresses are those that there are. IngressClasses may not be read, so classes are names and no more.
    ByName,
    /// All Ingresses and IngressClasses are those that there are.
    Whole,
}

/// How well it is known which addresses Services have and may have.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Knowledge {
    /// Something is missing.
    #[default]
    Partial,
    /// There is everything that the server knows of; but it says that there is no such kind as some pools are, and has not
    /// said so for long.
    Unconfirmed,
    /// There is everything.
    Whole,
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

    /// How well the batches so far say which Ingresses are whose. It never becomes less; a batch follows when it becomes more.
    fn certainty(&self) -> Certainty;

    /// Whether the batches so far have all pools of addresses, and all Services that may have addresses of them. It becomes
    /// less only by [`Self::catch_up`]; a batch follows when it becomes more.
    fn knows_pools(&self) -> Knowledge;

    /// Looks at everything again that [`Self::knows_pools`] is about: it is not known before the batches so far say how that
    /// was at this moment, or later.
    fn catch_up(&mut self);

    /// Makes the next batch a fresh look at everything, whatever was seen before.
    fn reread(&mut self);
}
