//! The global allocator: mimalloc, or, in a build with the feature `count-allocations`, the system's with a counter that
//! the gates read. Never both, and never a counter in what is shipped.

#[cfg(not(feature = "count-allocations"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "count-allocations")]
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

/// Appends the number of heap allocations of all threads since the start, re-allocations included.
#[cfg(feature = "count-allocations")]
pub(crate) fn render_metrics(out: &mut String) {
    use std::fmt::Write;

    let stats = ALLOCATOR.stats();
    let count = stats.allocations + stats.reallocations;
    out.push_str("# HELP sluicegate_allocations_total Heap allocations and re-allocations.\n");
    out.push_str("# TYPE sluicegate_allocations_total counter\n");
    // Writing to a String cannot fail.
    let _ = writeln!(out, "sluicegate_allocations_total {count}");
}

/// Appends nothing: nothing is counted.
#[cfg(not(feature = "count-allocations"))]
pub(crate) const fn render_metrics(_out: &mut String) {}
