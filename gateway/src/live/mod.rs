//! The one swapped value: the route table with the runtime state that outlives it.

pub mod state;
