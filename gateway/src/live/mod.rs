//! The one swapped value: the route table with the runtime state that outlives it.
//!
//! [`Shared`] holds it, [`Publisher`] replaces it, and everything that a request needs to choose an endpoint
//! hangs off [`LiveBackend`]. State is found again by what it belongs to, never by its place in a table:
//! endpoints by address, identity and health policy, backends by name, routes by object and name. Nothing here
//! decides where a request goes before a Backend is known, and nothing here opens a connection.

mod affinity;
mod backend;
mod budget;
mod clock;
mod endpoint;
#[cfg(test)]
pub(crate) mod fixture;
mod occupied;
mod pick;
mod queue;
mod registry;
mod route;
mod shared;

use std::sync::Arc;

use config::table::{Chunks, RouteId, RouteTable};

pub use self::backend::{BackendState, BackendStatus, LiveBackend};
pub use self::endpoint::{EndpointState, EndpointStatus, HealthStatus};
pub use self::occupied::Occupied;
pub use self::pick::{InFlight, PickError, PickRequest};
use self::route::RouteCells;
pub use self::route::RouteState;
pub use self::shared::{Publisher, Shared};
pub use crate::health::Outcome;
use crate::metrics::cells::RouteCounters;
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
    /// `RouteId` → state; parallel to [`RouteTable::routes`].
    pub routes: Chunks<RouteState>,
    /// Where requests count for their routes.
    pub(crate) cells: Arc<RouteCells>,
}

impl Live {
    /// Where `worker` counts what it did for `route`. Reads nothing of the route but its counters, which is what a
    /// request among 10,000 routes costs.
    #[inline]
    #[must_use]
    pub fn route_counters(&self, route: RouteId, worker: usize) -> Option<&RouteCounters> {
        self.cells.at(route, worker)
    }
}

#[cfg(test)]
mod tests;
