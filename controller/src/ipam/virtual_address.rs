//! What whoever announces addresses must know of each. A plain value; decides nothing.

use std::net::IpAddr;
use std::sync::Arc;

use config::report::ObjectRef;
use config::resource::LabelSelector;

/// An address of a Service of type LoadBalancer that is served here. Several Services that share one agree on `pool` and
/// `needs_local`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VirtualAddress {
    /// The address.
    pub address: IpAddr,
    /// The pool that it is from; `None` if the Service asked for it where anybody may ask: then the host has it already.
    pub pool: Option<ObjectRef>,
    /// From where it may be announced, one of them is enough; nowhere if there are none.
    pub announcements: Box<[Announcement]>,
    /// `externalTrafficPolicy: Local`: a node without a ready endpoint refuses its clients.
    pub needs_local: bool,
    /// With [`Self::needs_local`]: there is a ready endpoint on this node.
    pub has_local: bool,
}

/// From where addresses are announced.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Announcement {
    /// Names of interfaces; all when there are none.
    pub interfaces: Box<[Arc<str>]>,
    /// Labels of nodes, of which one must select; all nodes when there are none.
    pub node_selectors: Box<[LabelSelector]>,
}
