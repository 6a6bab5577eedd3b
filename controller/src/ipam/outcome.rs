//! What became of a request, in a form from which status, conditions and messages can be written.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use config::report::ObjectRef;
use config::table::Transport;
use ipnet::IpNet;

use super::request::Family;

/// An address that a Service has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assigned {
    /// The address.
    pub address: IpAddr,
    /// The pool that it is from.
    pub pool: ObjectRef,
}

/// What a Service has, and why it has not more.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// At most one of each family, IPv4 first.
    pub assigned: Vec<Assigned>,
    /// Why it has less than it asked for.
    pub lack: Option<Lack>,
}

/// What a call of [`super::Allocator::settle`] changed for one Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settled {
    /// The Service.
    pub service: ObjectRef,
    /// What it has now; `None` if it asks for nothing any more.
    pub outcome: Option<Outcome>,
    /// Addresses that it had and has no longer, and why.
    pub withdrawn: Vec<(IpAddr, Withdrawal)>,
}

/// Why a Service lost an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Withdrawal {
    /// It asks for nothing any more: it is gone, of another type, or somebody else's.
    Released,
    /// No pool has it any more, or none that admits the Service.
    PoolChanged,
    /// It asks for something else now.
    RequestChanged,
    /// Its ports or the terms of sharing no longer go together with the others that have the address.
    SharingEnded,
}

impl Withdrawal {
    /// Stable reason code.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Released => "AddressReleased",
            Self::PoolChanged => "AddressNotInPool",
            Self::RequestChanged => "AddressNotWanted",
            Self::SharingEnded => "SharingEnded",
        }
    }
}

/// Why a Service has no address, or not all that it wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lack {
    /// What it asks for cannot be read.
    Misread(Arc<str>),
    /// It asks for an address of a family that it does not have, or for two of one.
    NotItsFamily(IpAddr),
    /// The pool that it names does not exist.
    NoSuchPool(Arc<str>),
    /// The pool that it names, or that has the address that it asks for, is not for it.
    NotAdmitted(ObjectRef),
    /// The pool that it names has no addresses of the family.
    FamilyNotInPool(ObjectRef, Family),
    /// No pool has the address that it asks for, or not the one that it names.
    OutsidePools(IpAddr),
    /// The address that it asks for is another Service's.
    InUse(IpAddr, Conflict),
    /// No pool gives addresses of the family to it.
    NoPool(Family),
    /// The pool cannot be read as a whole, and gives nothing until it can.
    Unreadable(ObjectRef),
    /// The address that it asks for is in this network, which is that object's.
    Closed(IpAddr, IpNet, ObjectRef),
    /// The other one had the address as well, according to its record.
    Disputed(IpAddr, ObjectRef),
    /// Every pool that it could get one from is used up.
    Exhausted(Family, Vec<ObjectRef>),
}

/// Why a Service cannot have the address that another one has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Conflict {
    /// The other one cannot be read, and may have it.
    Unreadable(ObjectRef),
    /// One of them does not share, or under another key.
    NotShared(ObjectRef),
    /// They share by the same key, but their Pods are not the same, and one wants traffic only where its Pods are.
    OtherNodes(ObjectRef),
    /// Both have this port.
    Port(ObjectRef, Transport, u16),
}

impl Lack {
    /// Reason code of [`Self::Unreadable`].
    pub(super) const UNREADABLE: &'static str = "PoolUnreadable";
    /// Reason code of [`Self::Disputed`].
    pub(super) const DISPUTED: &'static str = "AddressDisputed";

    /// Reason code of [`Self::Closed`].
    pub(super) const CLOSED: &'static str = "OverlapsCluster";

    /// Stable reason code, for problems and conditions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Misread(_) => "InvalidAddress",
            Self::NotItsFamily(_) => "AddressFamilyMismatch",
            Self::NoSuchPool(_) => "PoolNotFound",
            Self::NotAdmitted(_) => "PoolNotAllowed",
            Self::FamilyNotInPool(..) | Self::NoPool(_) => "NoPool",
            Self::OutsidePools(_) => "AddressNotInPool",
            Self::InUse(..) => "AddressInUse",
            Self::Unreadable(_) => Self::UNREADABLE,
            Self::Disputed(..) => Self::DISPUTED,
            Self::Closed(..) => Self::CLOSED,
            Self::Exhausted(..) => "PoolExhausted",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misread(text) => write!(f, "`{text}` is not an address that a Service can have"),
            Self::NotItsFamily(address) => {
                write!(f, "{address} is asked for, but the Service wants no other address of that family")
            }
            Self::NoSuchPool(name) => write!(f, "there is no pool `{name}`"),
            Self::NotAdmitted(pool) => {
                write!(f, "{pool} is not for this Service: see its namespaces and selectors")
            }
            Self::FamilyNotInPool(pool, family) => write!(f, "{pool} has no {family} addresses"),
            Self::OutsidePools(address) => {
                write!(f, "{address} is asked for, and is in no pool that the Service may ask")
            }
            Self::InUse(address, Conflict::Unreadable(other)) => {
                write!(f, "{address} is that of {other}, which cannot be read: mend that one, or delete it")
            }
            Self::InUse(address, Conflict::NotShared(other)) => {
                write!(
                    f,
                    "{address} is that of {other}; to share it, both must be of one namespace and have the same sharing key"
                )
            }
            Self::InUse(address, Conflict::OtherNodes(other)) => write!(
                f,
                "{address} is that of {other}; to share it, both need externalTrafficPolicy Cluster, or the same Pods"
            ),
            Self::InUse(address, Conflict::Port(other, transport, port)) => {
                write!(f, "{address} is shared with {other}, which has {transport} port {port} there")
            }
            Self::NoPool(family) => write!(f, "no pool gives {family} addresses to this Service"),
            Self::Closed(address, network, object) => write!(
                f,
                "{address} is asked for, and {network} is the cluster's own, of {object}: a Service would take what is meant for \
                 others"
            ),
            Self::Disputed(address, other) => write!(
                f,
                "{address} stands in the status of {other} as well, and which of them is right cannot be known: empty the \
                 other one's status.loadBalancer.ingress"
            ),
            Self::Unreadable(pool) => {
                write!(
                    f,
                    "{pool} cannot be read as a whole: nothing is given of it, or in place of what it gave"
                )
            }
            Self::Exhausted(family, pools) => {
                write!(f, "no {family} address is left in ")?;
                for (index, pool) in pools.iter().enumerate() {
                    write!(f, "{}{pool}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}
