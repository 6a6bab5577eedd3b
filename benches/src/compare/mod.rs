//! Proxies side by side: the rounds, what was written down of them, and what is told of it.

pub mod record;
