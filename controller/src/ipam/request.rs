//! What a Service asks for. Says nothing about what it gets.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use config::table::Transport;

/// A family of addresses.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of `address`.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The member of a pair that is of this family.
    pub(super) fn pick<T>(self, pair: &[T; 2]) -> &T {
        let [v4, v6] = pair;
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }

    /// The member of a pair that is of this family.
    pub(super) fn pick_mut<T>(self, pair: &mut [T; 2]) -> &mut T {
        let [v4, v6] = pair;
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Which families a Service wants an address of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Families {
    /// One of this.
    One(Family),
    /// One of each, or of one if there is none of the other: `PreferDualStack`.
    Prefer,
    /// One of each, or nothing: `RequireDualStack`.
    Require,
}

impl Families {
    /// Whether an address of `family` is wanted.
    #[must_use]
    pub fn wants(self, family: Family) -> bool {
        match self {
            Self::One(one) => one == family,
            Self::Prefer | Self::Require => true,
        }
    }
}

/// On which terms a Service shares its addresses with others. Those with equal terms and no port in common may have the
/// same address (MetalLB's rules).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Sharing {
    /// The key that its owner chose, not empty.
    pub key: Arc<str>,
    /// To which nodes traffic goes: all nodes are alike for all of them, or they have the same Pods.
    pub nodes: Nodes,
}

/// Which nodes may take the traffic of a Service.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Nodes {
    /// All: `externalTrafficPolicy: Cluster`.
    All,
    /// Those with such Pods: `externalTrafficPolicy: Local`.
    WithPods {
        /// Of the Pods.
        namespace: Arc<str>,
        /// The Service's selector. A Service without one has Pods that nobody else knows; it shares with nobody.
        selector: BTreeMap<String, String>,
    },
}

/// What a Service asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// When the Service was made, in seconds since 1970; older ones are served first, those that do not know last.
    pub created: Option<i64>,
    /// Of which families.
    pub families: Families,
    /// Addresses that it asks for, at most one of a family; of a family without one, any.
    pub addresses: Box<[IpAddr]>,
    /// Text that was meant as addresses and is none: then it gets nothing, for it would not be what was asked for.
    pub misread: Option<Arc<str>>,
    /// The name of the only pool that it wants.
    pub pool: Option<Arc<str>>,
    /// `None` if it wants addresses of its own.
    pub sharing: Option<Sharing>,
    /// Its ports.
    pub ports: Box<[(Transport, u16)]>,
    /// The Service's labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// The labels of its namespace; `None` if they are not known.
    pub namespace_labels: Option<Arc<BTreeMap<String, String>>>,
    /// What it had according to its status, before whoever asks began to remember. Honoured as long as it may have it.
    pub hint: Box<[IpAddr]>,
}
