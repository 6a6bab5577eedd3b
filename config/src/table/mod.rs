//! The compiled value: a [`RouteTable`] is immutable, cheap to share and cheap to change in one place.
//!
//! Everything that can be known before a request arrives is decided here; the gateway only looks up.
//! Rules name their backends by [`BackendId`], never by pointer, so that an endpoint change touches one
//! slot of one chunk and no rule (ARCHITECTURE, invariant 4).

mod backend;
mod bind;
mod chunks;
pub mod explain;
pub mod explain_l4;
mod filter;
mod hosts;
mod l4;
mod matcher;
pub mod oracle;
mod path;
mod rule;
mod service_check;
mod tls;

use std::sync::Arc;

pub use backend::{
    ActiveProbe, Backend, BackendPolicy, BackendProtocol, Balance, Endpoint, HashKey, HealthPolicy,
    PassivePolicy, ProbeKind,
};
pub use bind::{Bind, BindConfig, Limits, Listener, TrustedProxies};
pub use chunks::Chunks;
pub use filter::{Filters, HeaderModifier, PathModifier, Redirect, Rewrite};
pub use hosts::{HostMap, HostRules, Hostname, WildcardDepth};
pub use l4::{
    ALL_ADDRESSES, L4Bind, L4Key, L4Policy, OnRemoved, ProxyProtocolIn, ProxyProtocolOut, SourceAddress,
    SourceRanges, Transport, overlaps,
};
pub use matcher::{HeaderMatch, Matcher, QueryMatch, RequestParts, ValueMatch};
pub use path::{PathMap, PathMatch};
pub use rule::{
    Action, BackendId, Candidate, HttpsPolicy, Retry, RouteId, RouteInfo, Rule, RulePolicy, Split, Timeouts,
    TimeoutsSet, Unavailable, WeightedBackend,
};
pub use service_check::ServiceCheck;
pub use tls::{
    BackendTls, Certificate, ClientPolicy, Passthrough, TlsHost, TlsMap, TlsPolicy, TlsVersion, TrustRoots,
};

/// The immutable compiled value that the gateway serves from.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// Increases with every compile that changed something.
    pub version: u64,
    /// Every socket on which HTTP is spoken, sorted by address.
    pub binds: Vec<Arc<Bind>>,
    /// `slot → socket whose bytes are relayed as they are`. A slot is kept while its [`L4Key`] exists, so that whoever
    /// listens finds the route of now in one step; it may get another key afterwards. No key is there twice, and none
    /// has the address of one of [`Self::binds`] if it is of TCP.
    pub l4: Chunks<L4Bind>,
    /// `slot → what health checks of a Service are told`. A slot is kept while its Service has one.
    pub service_checks: Chunks<ServiceCheck>,
    /// `RouteId` → who the route is. Ids are stable across compiles; a freed slot holds `None`.
    pub routes: Chunks<RouteInfo>,
    /// `BackendId` → resolved pool. Ids are stable across compiles; a freed slot holds `None`.
    pub backends: Chunks<Backend>,
}
