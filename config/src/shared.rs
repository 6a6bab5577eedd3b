//! Values of which one copy is enough, however many objects say them.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use foldhash::quality::FixedState;

/// Values of which one copy is enough.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    values: HashSet<Arc<T>, FixedState>,
    /// Sweep when there are more.
    limit: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { values: HashSet::default(), limit: 256 }
    }
}

impl<T: Eq + Hash> Shared<T> {
    pub(crate) fn intern(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return Arc::clone(known);
        }
        self.keep(Arc::new(value))
    }

    /// As [`Self::intern`], of a value that is allocated already.
    pub(crate) fn share(&mut self, value: &Arc<T>) -> Arc<T> {
        match self.values.get(value) {
            Some(known) => Arc::clone(known),
            None => self.keep(Arc::clone(value)),
        }
    }

    fn keep(&mut self, value: Arc<T>) -> Arc<T> {
        if self.values.len() >= self.limit {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.limit = (self.values.len() * 2).max(256);
        }
        self.values.insert(Arc::clone(&value));
        value
    }
}
