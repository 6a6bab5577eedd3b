//! What to do about an address that cannot be listened on.

use std::io::{self, ErrorKind};

/// The error, and what to do about it; `setting` is where the address comes from.
pub(super) fn advice(error: &io::Error, setting: &str) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            format!("another program listens there; stop it, or choose another address in {setting}")
        }
        ErrorKind::PermissionDenied => format!(
            "permission denied; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE, \
             or choose a higher port in {setting}"
        ),
        ErrorKind::AddrNotAvailable => {
            format!("this machine does not have that address; choose another one in {setting}")
        }
        _ => format!("{error} (from {setting})"),
    }
}
