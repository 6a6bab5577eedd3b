//! What happens on a listening socket before the first protocol byte.

pub mod proxy_protocol;
