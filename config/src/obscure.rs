//! Sources whose listeners nobody could read, and the native routes that were served before them. It stores, and never
//! says what is served.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::report::ObjectRef;
use crate::resource::NativeRoute;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Obscure {
    sources: BTreeSet<Arc<str>>,
    /// Routes on the addresses of Ingresses when the first of the sources came: a file that is broken costs only itself.
    served: BTreeSet<ObjectRef>,
}

impl Obscure {
    /// Takes in what became of `source`; true if that changes anything. `routes` are those in the index, `has_listeners`
    /// says whether there are native listeners: routes that name none are on these then.
    pub(crate) fn set<'r>(
        &mut self,
        source: Arc<str>,
        are_known: bool,
        has_listeners: bool,
        routes: impl Iterator<Item = (&'r ObjectRef, &'r NativeRoute)>,
    ) -> bool {
        let was_empty = self.sources.is_empty();
        let changed = if are_known { self.sources.remove(&source) } else { self.sources.insert(source) };
        if self.sources.is_empty() {
            self.served.clear();
        } else if was_empty {
            let served = routes.filter(|(_, route)| !has_listeners || names_ingress_binds(route));
            self.served = served.map(|(reference, _)| reference.clone()).collect();
        }
        changed
    }

    /// Takes in that native listeners are there: a route that names none is on them from now on.
    pub(crate) fn listener_came<'r>(&mut self, route: impl Fn(&ObjectRef) -> Option<&'r NativeRoute>) {
        self.served.retain(|reference| route(reference).is_some_and(names_ingress_binds));
    }

    /// Takes in that an object is gone.
    pub(crate) fn forget(&mut self, reference: &ObjectRef) {
        self.served.remove(reference);
    }

    /// The source that keeps `route` from the addresses of Ingresses, if one does.
    pub(crate) fn source(&self, route: &ObjectRef) -> Option<&Arc<str>> {
        self.sources.first().filter(|_| !self.served.contains(route))
    }
}

fn names_ingress_binds(route: &NativeRoute) -> bool {
    route.listeners.iter().flatten().any(|name| matches!(&**name, "http" | "https"))
}
