//! The control plane: reads the user's objects, keeps them in an index, and publishes a new table when they
//! change.
//!
//! It owns the I/O with files and DNS, the hold-off that turns bursts into one compile, the status of
//! objects, and the log of problems. It never depends on the gateway: both meet in the binary, through [`Publish`].

pub mod announce;
pub mod cluster;
pub mod dns;
pub mod driver;
pub mod hold_off;
pub mod ipam;
pub mod problems;
pub mod source;
pub mod status;

use std::sync::Arc;

use config::report::{ObjectRef, Report};
use config::table::RouteTable;

use self::ipam::VirtualAddress;

/// Takes each new table into use: the one seam between control plane and data plane.
pub trait Publish {
    /// Called after every compile, on the control thread. `table` is complete: nothing is published before
    /// the first full read. An implementation keeps serving its former table if it cannot take this one.
    fn publish(&mut self, table: &Arc<RouteTable>, report: &Arc<Report>);

    /// Called after [`Self::publish`] with the Services of type LoadBalancer that may be served at other addresses than
    /// before, or may be announced from elsewhere: all the addresses of each, none if it has none any more. A Service that
    /// is not named is as it was when it was named last.
    fn announce(&mut self, services: &[(ObjectRef, Box<[VirtualAddress]>)]) {
        let _ = services;
    }

    /// Called once all is done that a compile brings with it: the next change is taken up at once.
    fn finished(&mut self) {}
}
