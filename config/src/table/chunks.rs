//! A persistent vector of two levels: changing one slot copies one chunk and the spine, nothing else.

use std::sync::Arc;

/// Slots per chunk. At 10,000 backends the spine has 157 pointers and a change copies 221 in all.
const CHUNK: usize = 64;

/// One chunk: up to [`CHUNK`] slots, shared between table versions.
type Chunk<T> = Arc<Vec<Option<Arc<T>>>>;

/// `index → Option<Arc<T>>`, sharing all untouched chunks between clones.
#[derive(Debug)]
pub struct Chunks<T> {
    spine: Vec<Chunk<T>>,
}

impl<T> Chunks<T> {
    /// The value at `index`, or `None` for a free or absent slot.
    #[inline]
    #[must_use]
    pub fn at(&self, index: u32) -> Option<&Arc<T>> {
        let index = index as usize;
        self.spine.get(index / CHUNK)?.get(index % CHUNK)?.as_ref()
    }

    /// Puts `value` at `index`, growing with free slots as needed. Copies one chunk if it is shared.
    pub fn set(&mut self, index: u32, value: Option<Arc<T>>) {
        let (outer, inner) = (index as usize / CHUNK, index as usize % CHUNK);
        while self.spine.len() <= outer {
            self.spine.push(Arc::new(Vec::new()));
        }
        let Some(chunk) = self.spine.get_mut(outer) else { return };
        let chunk = Arc::make_mut(chunk);
        if chunk.len() <= inner {
            chunk.resize(inner + 1, None);
        }
        if let Some(slot) = chunk.get_mut(inner) {
            *slot = value;
        }
    }

    /// Number of addressable slots, free ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.spine.last() {
            Some(last) => (self.spine.len() - 1) * CHUNK + last.len(),
            None => 0,
        }
    }

    /// True if there is no slot at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spine.is_empty()
    }

    /// All occupied slots with their index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<T>)> {
        self.spine.iter().enumerate().flat_map(|(outer, chunk)| {
            chunk.iter().enumerate().filter_map(move |(inner, slot)| {
                let index = u32::try_from(outer * CHUNK + inner).unwrap_or(u32::MAX);
                slot.as_ref().map(|value| (index, value))
            })
        })
    }

    /// Calls `visit(index, before, after)` for each slot whose value is not the same allocation in `old`.
    /// Chunks that both share are skipped, so the cost is that of the spine plus the touched chunks.
    pub fn changes(&self, old: &Self, mut visit: impl FnMut(u32, Option<&Arc<T>>, Option<&Arc<T>>)) {
        for outer in 0..self.spine.len().max(old.spine.len()) {
            let (before, after) = (old.spine.get(outer), self.spine.get(outer));
            if let (Some(before), Some(after)) = (before, after)
                && Arc::ptr_eq(before, after)
            {
                continue;
            }
            let (before, after) =
                (before.map_or(&[][..], |chunk| chunk), after.map_or(&[][..], |chunk| chunk));
            for inner in 0..before.len().max(after.len()) {
                let before = before.get(inner).and_then(Option::as_ref);
                let after = after.get(inner).and_then(Option::as_ref);
                let same = match (before, after) {
                    (Some(before), Some(after)) => Arc::ptr_eq(before, after),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                };
                if !same {
                    let index = u32::try_from(outer * CHUNK + inner).unwrap_or(u32::MAX);
                    visit(index, before, after);
                }
            }
        }
    }

    /// A parallel vector: calls `convert` with the old and new input of each slot whose input changed since
    /// `old_inputs`, and shares every chunk of `old_outputs` whose input chunk is the same allocation.
    #[must_use]
    pub fn derive<U>(
        &self,
        old_inputs: &Self,
        old_outputs: &Chunks<U>,
        mut convert: impl FnMut(u32, &Arc<T>) -> Arc<U>,
    ) -> Chunks<U> {
        let spine = self.spine.iter().enumerate().map(|(outer, chunk)| {
            let old = old_inputs.spine.get(outer).zip(old_outputs.spine.get(outer));
            if let Some((old_input, old_output)) = old
                && Arc::ptr_eq(chunk, old_input)
            {
                return Arc::clone(old_output);
            }
            let convert_slot = |(inner, slot): (usize, &Option<Arc<T>>)| {
                let value = slot.as_ref()?;
                if let Some((old_input, old_output)) = old
                    && let Some(Some(before)) = old_input.get(inner)
                    && Arc::ptr_eq(before, value)
                    && let Some(Some(output)) = old_output.get(inner)
                {
                    return Some(Arc::clone(output));
                }
                Some(convert(u32::try_from(outer * CHUNK + inner).unwrap_or(u32::MAX), value))
            };
            Arc::new(chunk.iter().enumerate().map(convert_slot).collect())
        });
        Chunks { spine: spine.collect() }
    }
}

impl<T> Clone for Chunks<T> {
    fn clone(&self) -> Self {
        Self { spine: self.spine.clone() }
    }
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { spine: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shares_every_other_chunk_with_the_old_version() {
        let mut old = Chunks::default();
        for index in 0..1_000 {
            old.set(index, Some(Arc::new(index)));
        }
        let mut new = old.clone();
        new.set(500, Some(Arc::new(7)));
        assert_eq!(old.at(500).map(|v| **v), Some(500));
        assert_eq!(new.at(500).map(|v| **v), Some(7));
        let shared = old.spine.iter().zip(&new.spine).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, old.spine.len() - 1);
    }

    #[test]
    fn changes_names_every_added_replaced_and_removed_slot_once() {
        let mut old = Chunks::default();
        for index in 0..200 {
            old.set(index, Some(Arc::new(index)));
        }
        let mut new = old.clone();
        new.set(3, None);
        new.set(70, Some(Arc::new(7)));
        new.set(300, Some(Arc::new(8)));
        let list = |after: &Chunks<u32>, before: &Chunks<u32>| {
            let mut seen = Vec::new();
            after.changes(before, |index, a, b| seen.push((index, a.map(|v| **v), b.map(|v| **v))));
            seen
        };
        assert_eq!(list(&new, &old), [(3, Some(3), None), (70, Some(70), Some(7)), (300, None, Some(8))]);
        assert_eq!(list(&old, &new), [(3, None, Some(3)), (70, Some(7), Some(70)), (300, Some(8), None)]);
        assert!(list(&new, &new.clone()).is_empty());
    }

    #[test]
    fn derive_converts_only_what_changed() {
        let mut old = Chunks::default();
        for index in 0..300 {
            old.set(index, Some(Arc::new(index)));
        }
        let empty = Chunks::default();
        let outputs = old.derive(&empty, &Chunks::default(), |_, v| Arc::new(**v * 2));
        let mut new = old.clone();
        new.set(299, Some(Arc::new(1)));
        new.set(10, None);
        let mut converted = 0;
        let outputs = new.derive(&old, &outputs, |_, v| {
            converted += 1;
            Arc::new(**v * 2)
        });
        assert_eq!(converted, 1);
        assert_eq!(outputs.at(299).map(|v| **v), Some(2));
        assert!(outputs.at(10).is_none());
        assert_eq!(outputs.at(11).map(|v| **v), Some(22));
    }
}
