//! TCP and UDP routes as clients and endpoints see them: the real binary between plain sockets. Time passes only where time is
//! what is tested.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

mod abuse;
mod balance;
mod binds;
#[path = "../common/mod.rs"]
mod common;
mod loops;
mod pressure;
mod proxy;
mod relay;
mod rig;
mod small_pieces;
mod terms;
mod udp;
mod udp_life;
mod udp_rig;
mod udp_room;
