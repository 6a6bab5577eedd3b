//! Counters of routes, and what of them belongs to which route.
//!
//! They lie next to each other, in the order of [`RouteId`], so that a request finds them by arithmetic. A slot that a
//! route leaves is used again: what was counted there before is taken off its successor's values.

use std::sync::Arc;

use config::table::{RouteId, RouteInfo};

use crate::metrics::cells::{PerWorker, ROUTES_PER_BLOCK, RouteBlock, RouteCounters};
use crate::metrics::sums::RouteSums;

/// `worker → block` for each run of neighbouring routes. Blocks are made when a worker first counts in them.
type Blocks = Arc<PerWorker<RouteBlock>>;

/// `RouteId → worker → counters`. Grows, and never shrinks; all versions of a table share the blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteCells {
    blocks: Vec<Blocks>,
}

impl RouteCells {
    #[inline]
    pub(super) fn at(&self, route: RouteId, worker: usize) -> Option<&RouteCounters> {
        let index = route.0 as usize;
        self.blocks.get(index / ROUTES_PER_BLOCK)?.of(worker)?.at(index)
    }

    /// With room for `routes` routes of `workers` workers.
    pub(super) fn grown(self: &Arc<Self>, routes: usize, workers: usize) -> Arc<Self> {
        let wanted = routes.div_ceil(ROUTES_PER_BLOCK);
        if self.blocks.len() >= wanted {
            return Arc::clone(self);
        }
        let mut blocks = self.blocks.clone();
        blocks.resize_with(wanted, || Arc::new(PerWorker::new(workers)));
        Arc::new(Self { blocks })
    }

    fn block_of(&self, route: u32) -> Option<&Blocks> {
        self.blocks.get(route as usize / ROUTES_PER_BLOCK)
    }
}

/// One route in its slot; found again across swaps by the route's object and name.
#[derive(Debug)]
pub struct RouteState {
    /// Who the route is.
    pub info: Arc<RouteInfo>,
    blocks: Option<Blocks>,
    slot: usize,
    /// What the slot had counted when the route came, less what the route brought from another slot.
    before: Option<Box<RouteSums>>,
}

impl RouteState {
    /// The route `info` in slot `index` of `cells`, with all that `moved`, its state in another slot, has counted.
    pub(super) fn new(cells: &RouteCells, index: u32, info: &Arc<RouteInfo>, moved: Option<&Self>) -> Self {
        let mut state = Self {
            info: Arc::clone(info),
            blocks: cells.block_of(index).cloned(),
            slot: index as usize % ROUTES_PER_BLOCK,
            before: None,
        };
        let there = state.counted();
        let brought = moved.and_then(Self::sums);
        state.before = match (there, brought) {
            (None, None) => None,
            (there, brought) => Some(Box::new(there.unwrap_or_default().since(&brought.unwrap_or_default()))),
        };
        state
    }

    /// Where `worker` counts what it did for this route.
    #[must_use]
    pub fn counters(&self, worker: usize) -> Option<&RouteCounters> {
        self.blocks.as_ref()?.of(worker)?.at(self.slot)
    }

    /// What all workers have counted for this route; `None` if that is nothing. Requests that end after their route
    /// has left its slot count for the slot's next route.
    pub(crate) fn sums(&self) -> Option<RouteSums> {
        let Some(before) = &self.before else { return self.counted() };
        let sums = self.counted().unwrap_or_default().since(before);
        sums.has_counted().then_some(sums)
    }

    fn counted(&self) -> Option<RouteSums> {
        RouteSums::of_slot(self.blocks.as_ref()?, self.slot)
    }
}
