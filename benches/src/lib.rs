//! What the benches and the fault drivers share: an epoll loop that is load and backend in one thread, so that the
//! proxy under test has a CPU to itself, and the small tools to start a proxy and to read what it used.
//!
//! Everything here checks its own answers byte by byte. It never runs in production and never opens a socket to
//! anything but the addresses it is given.

pub mod backend;
pub mod certificates;
pub mod cluster;
pub mod compare;
pub mod endurance;
pub mod engine;
pub mod grpc;
pub mod in_process;
pub mod link;
pub mod load;
pub mod manifest;
pub mod pattern;
pub mod peer;
pub mod poller;
pub mod process;
pub mod report;
pub mod tls;
pub mod websocket;
pub mod wire;
