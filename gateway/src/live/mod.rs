//! The one swapped value: the route table with the runtime state that outlives it.
//!
//! [`Shared`] holds it, [`Publisher`] replaces it, and everything that a request needs to choose an endpoint
//! hangs off [`LiveBackend`]. State is found again by what it belongs to, never by its place in a table:
//! endpoints by address, identity and health policy, backends by name, routes by object and name. Nothing here
//! decides where a request goes before a Backend is known, and nothing here opens a connection.

mod backend;
mod budget;
mod clock;
mod endpoint;
#[cfg(test)]
pub(crate) mod fixture;
mod pick;
mod queue;
mod registry;
mod shared;

use std::sync::Arc;

use config::table::{Chunks, RouteInfo, RouteTable};

pub use self::backend::{BackendState, BackendStatus, LiveBackend};
pub use self::endpoint::{EndpointState, EndpointStatus, HealthStatus};
pub use self::pick::{InFlight, PickError, PickRequest};
pub use self::shared::{Publisher, Shared};
pub use crate::health::Outcome;
use crate::metrics::cells::{PerWorker, RouteCounters};
pub use crate::tls::ServerConfigs;

/// One version of everything a worker serves from. Load it once per request, connection or new flow.
#[derive(Debug)]
pub struct Live {
    /// The compiled table.
    pub table: Arc<RouteTable>,
    /// `BackendId` → backend with its endpoints' state; parallel to [`RouteTable::backends`].
    pub backends: Chunks<LiveBackend>,
    /// Policy → TLS configuration, of the encrypted Binds.
    pub tls: Arc<ServerConfigs>,
    /// `RouteId` → counters; parallel to [`RouteTable::routes`].
    pub routes: Chunks<RouteState>,
}

/// Counters of one route; found again across swaps by the route's object and name.
#[derive(Debug)]
pub struct RouteState {
    /// Who the route is.
    pub info: Arc<RouteInfo>,
    /// `worker → counters`.
    pub counters: PerWorker<RouteCounters>,
}

#[cfg(test)]
mod tests;
