//! Runtime state that outlives a swap.
