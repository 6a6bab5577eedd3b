//! The rights that the process may take into use: to listen on ports below 1024 without being root, and what was asked for
//! by a flag. Takes only what was granted, and never any other.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Takes `CAP_NET_BIND_SERVICE` into use where it is permitted. The image's binary has it as permitted only: with the
/// effective bit as well, the kernel would refuse to start it wherever the container does not grant it.
///
/// Rights belong to threads and are inherited by those that are started later: call this before any other.
pub(super) fn take_bind_service() {
    take(CapabilitySet::NET_BIND_SERVICE);
}

/// Takes `rights` into use as far as they are permitted, in this thread and those that it starts later.
pub(super) fn take(rights: CapabilitySet) {
    let Ok(sets) = capabilities(None) else { return };
    let Some(wanted) = with(sets, rights) else { return };
    // Whether they are needed shows when they are used, and that error says what to do.
    if let Err(error) = set_capabilities(None, wanted) {
        tracing::warn!(%error, ?rights, "cannot take permitted capabilities into use");
    }
}

/// True if all of `rights` are in effect in this thread.
pub(super) fn has(rights: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(rights))
}

/// `sets` with what is permitted of `rights` in effect; `None` if nothing changes.
fn with(mut sets: CapabilitySets, rights: CapabilitySet) -> Option<CapabilitySets> {
    let granted = sets.permitted & rights;
    if sets.effective.contains(granted) {
        return None;
    }
    sets.effective |= granted;
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
        assert_eq!(with(sets(BIND | other, other), BIND), Some(sets(BIND | other, BIND | other)));
        assert_eq!(with(sets(BIND | other, CapabilitySet::empty()), BIND), Some(sets(BIND | other, BIND)));
    }

    #[test]
    fn a_right_that_is_not_permitted_is_not_asked_for() {
        assert_eq!(with(sets(CapabilitySet::empty(), CapabilitySet::empty()), BIND), None);
        assert_eq!(with(sets(CapabilitySet::all(), CapabilitySet::all()), BIND), None);
    }
}
