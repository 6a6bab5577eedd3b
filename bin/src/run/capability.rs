//! The one right that the process may take into use: to listen on ports below 1024 without being root. Takes it only if it
//! was granted, and never any other.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Takes `CAP_NET_BIND_SERVICE` into use where it is permitted. The image's binary has it as permitted only: with the
/// effective bit as well, the kernel would refuse to start it wherever the container does not grant it.
///
/// Rights belong to threads and are inherited by those that are started later: call this before any other.
pub(super) fn take_bind_service() {
    let Ok(sets) = capabilities(None) else { return };
    let Some(wanted) = with_bind_service(sets) else { return };
    // Whether it is needed shows when a port is opened, and that error says what to do.
    if let Err(error) = set_capabilities(None, wanted) {
        tracing::warn!(%error, "cannot take the permitted capability CAP_NET_BIND_SERVICE into use");
    }
}

/// `sets` with the right in effect; `None` if it is not permitted, or in effect already.
fn with_bind_service(mut sets: CapabilitySets) -> Option<CapabilitySets> {
    let right = CapabilitySet::NET_BIND_SERVICE;
    if !sets.permitted.contains(right) || sets.effective.contains(right) {
        return None;
    }
    sets.effective |= right;
    Some(sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIND: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

    fn sets(permitted: CapabilitySet, effective: CapabilitySet) -> CapabilitySets {
        CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() }
    }

    #[test]
    fn a_permitted_right_is_taken_and_nothing_besides() {
        let other = CapabilitySet::NET_RAW;
        assert_eq!(with_bind_service(sets(BIND | other, other)), Some(sets(BIND | other, BIND | other)));
        assert_eq!(
            with_bind_service(sets(BIND | other, CapabilitySet::empty())),
            Some(sets(BIND | other, BIND))
        );
    }

    #[test]
    fn a_right_that_is_not_permitted_is_not_asked_for() {
        assert_eq!(with_bind_service(sets(CapabilitySet::empty(), CapabilitySet::empty())), None);
        assert_eq!(with_bind_service(sets(CapabilitySet::all(), CapabilitySet::all())), None);
    }
}
