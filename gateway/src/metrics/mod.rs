//! Counters that workers write without sharing cache lines, and their Prometheus text.

pub mod cells;
