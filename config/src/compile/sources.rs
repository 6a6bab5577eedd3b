//! Which hosts get terms of TLS from other hosts, so that a change is followed to those that it means something to, and
//! to no others. It never says what the terms are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use foldhash::quality::FixedState;

use super::vault::Lack;
use crate::report::{ObjectRef, SourceLocation};
use crate::resource::tls::TlsSettings;
use crate::table::{Certificate, Hostname, TrustRoots};

/// What hosts get from the wildcard above them, or from the rules without a host.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Terms {
    pub(super) is_served: bool,
    pub(super) demands: Vec<Demand>,
    pub(super) certificate: Option<Vec<Arc<Certificate>>>,
}

/// What one route asks for.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Demand {
    pub(super) object: ObjectRef,
    pub(super) location: Option<SourceLocation>,
    pub(super) settings: Arc<TlsSettings>,
    /// The authorities that it names, as far as they can be had.
    pub(super) roots: Option<Result<Arc<TrustRoots>, Lack>>,
}

/// A host whose terms others share.
#[derive(Debug)]
struct Source {
    terms: Terms,
    users: HashSet<Hostname, FixedState>,
}

/// All hosts whose terms others share.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// host that others get something from → what they get, and who they are
    sources: HashMap<Hostname, Source, FixedState>,
    /// host whose outcome depends on that of other hosts → those
    dependent: HashMap<Hostname, BTreeSet<Hostname>, FixedState>,
}

impl Sources {
    /// Some host gets something from `host`.
    pub(super) fn has(&self, host: &Hostname) -> bool {
        self.sources.contains_key(host)
    }

    /// `host` gets something from others.
    pub(super) fn is_dependent(&self, host: &Hostname) -> bool {
        self.dependent.contains_key(host)
    }

    /// Replaces the terms of `host`; returns those for whom they are others than before.
    pub(super) fn update(&mut self, host: &Hostname, terms: Terms) -> Vec<Hostname> {
        match self.sources.get_mut(host) {
            Some(source) if source.terms != terms => {
                source.terms = terms;
                source.users.iter().cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Notes that the outcome of `host` depends on exactly `sources`, of which `new` are those that nobody else depends
    /// on, with their terms.
    pub(super) fn depend(
        &mut self,
        host: &Hostname,
        sources: BTreeSet<Hostname>,
        new: Vec<(Hostname, Terms)>,
    ) {
        for (source, terms) in new {
            self.sources.insert(source, Source { terms, users: HashSet::default() });
        }
        let former = self.dependent.remove(host).unwrap_or_default();
        for lost in former.difference(&sources) {
            if let Some(source) = self.sources.get_mut(lost) {
                source.users.remove(host);
                if source.users.is_empty() {
                    self.sources.remove(lost);
                }
            }
        }
        for source in sources.difference(&former) {
            if let Some(source) = self.sources.get_mut(source) {
                source.users.insert(host.clone());
            }
        }
        if !sources.is_empty() {
            self.dependent.insert(host.clone(), sources);
        }
    }
}
