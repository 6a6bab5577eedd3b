//! Stable small ids: key → id → value. An id lives as long as its key and is used again afterwards, lowest
//! first, so that the tables indexed by it stay dense.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::quality::FixedState;

use crate::table::Chunks;

#[derive(Debug)]
pub(super) struct Slots<K, V> {
    /// key → id
    ids: HashMap<K, u32, FixedState>,
    /// id → value
    values: Vec<Option<V>>,
    free: BTreeSet<u32>,
}

impl<K, V> Default for Slots<K, V> {
    fn default() -> Self {
        Self { ids: HashMap::default(), values: Vec::new(), free: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Slots<K, V> {
    pub(super) fn id(&self, key: &K) -> Option<u32> {
        self.ids.get(key).copied()
    }

    /// All keys, in no particular order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.ids.keys()
    }

    pub(super) fn at(&self, id: u32) -> Option<&V> {
        self.values.get(id as usize)?.as_ref()
    }

    pub(super) fn at_mut(&mut self, id: u32) -> Option<&mut V> {
        self.values.get_mut(id as usize)?.as_mut()
    }

    /// The id of `key`, new if need be; a new id has no value until [`Slots::put`].
    pub(super) fn reserve(&mut self, key: &K) -> u32 {
        if let Some(id) = self.ids.get(key) {
            return *id;
        }
        let id = self.free.pop_first().unwrap_or_else(|| {
            self.values.push(None);
            u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX)
        });
        self.ids.insert(key.clone(), id);
        id
    }

    pub(super) fn put(&mut self, id: u32, value: V) -> Option<V> {
        self.values.get_mut(id as usize)?.replace(value)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let id = self.ids.remove(key)?;
        self.free.insert(id);
        self.values.get_mut(id as usize)?.take()
    }
}

/// Values of a table, each at the slot of its key.
#[derive(Debug)]
pub(super) struct Keyed<K, T> {
    slots: Slots<K, ()>,
    table: Chunks<T>,
}

impl<K, T> Default for Keyed<K, T> {
    fn default() -> Self {
        Self { slots: Slots::default(), table: Chunks::default() }
    }
}

impl<K: Clone + Eq + Hash, T: PartialEq> Keyed<K, T> {
    /// All values by slot; a slot is kept while its key has a value.
    pub(super) fn table(&self) -> &Chunks<T> {
        &self.table
    }

    /// Gives `key` this value, or takes it away; true if that is another one than before.
    pub(super) fn set(&mut self, key: &K, value: Option<Arc<T>>) -> bool {
        let Some(value) = value else {
            let Some(id) = self.slots.id(key) else { return false };
            self.slots.remove(key);
            self.table.set(id, None);
            return true;
        };
        let id = self.slots.reserve(key);
        if self.table.at(id).is_some_and(|old| *old == value) {
            return false;
        }
        self.table.set(id, Some(value));
        true
    }
}
