//! A small, strict Kubernetes API server for tests: real HTTP, real TLS, bearer tokens, no cluster behind it. It answers
//! as a kube-apiserver does, or more strictly, and it can be made to fail. README.md has the differences.
//!
//! Owns objects and their history; never runs a workload, and never talks to anything but its clients.

mod answer;
mod auth;
mod body;
mod decode;
mod discovery;
mod error;
mod faults;
mod fields;
mod history;
mod kinds;
mod lifecycle;
mod line;
mod list;
mod meta;
mod patch;
mod query;
mod requests;
mod rules;
mod schema;
mod serve;
mod server;
mod shape;
mod state;
mod store;
mod table;
mod watching;
mod write;

pub use auth::{Rule, Token};
pub use faults::{Effect, Fault, FaultId, Faults};
pub use requests::{Request, Requests};
pub use server::{Options, Server};
pub use write::Strictness;
