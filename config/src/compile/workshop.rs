//! What the compilation of one object may use of the compiler: the index, the listeners, and ids for the
//! backends that it refers to.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::quality::FixedState;

use super::Settings;
use super::backend::BackendKey;
use super::native::Listeners;
use super::policy;
use super::slots::Slots;
use super::vault::Vault;
use crate::index::{Index, ServiceKey};
use crate::resource::annotations;
use crate::shared::Shared;
use crate::table::{BackendId, L4Policy, PathMatch, RulePolicy};

/// A backend in use.
#[derive(Debug)]
pub(super) struct BackendSlot {
    pub(super) key: BackendKey,
    /// Routes that hold it.
    pub(super) users: u32,
    /// DNS names that it depends on.
    pub(super) names: Vec<Arc<str>>,
}

/// What the compilation of one object may use of the compiler.
pub(super) struct Workshop<'a> {
    pub(super) index: &'a Index,
    pub(super) settings: &'a Settings,
    pub(super) ingress_binds: Arc<[SocketAddr]>,
    pub(super) listeners: &'a Listeners,
    pub(super) native_namespace: Arc<str>,
    pub(super) backends: &'a mut Slots<BackendKey, BackendSlot>,
    pub(super) backends_of: &'a mut HashMap<ServiceKey, Vec<u32>, FixedState>,
    pub(super) rule_policies: &'a mut Shared<RulePolicy>,
    pub(super) l4_policies: &'a mut Shared<L4Policy>,
    pub(super) texts: &'a RefCell<HashSet<Arc<str>, FixedState>>,
    pub(super) vault: &'a mut Vault,
    pub(super) dirty_backends: &'a mut BTreeSet<u32>,
}

impl Workshop<'_> {
    /// The id of the backend `key`, held by the route whose set is `held`.
    pub(super) fn acquire(&mut self, key: BackendKey, held: &mut BTreeSet<BackendId>) -> BackendId {
        let id = self.backends.reserve(&key);
        if self.backends.at(id).is_none() {
            self.backends_of.entry(key.service()).or_default().push(id);
            self.backends.put(id, BackendSlot { key, users: 0, names: Vec::new() });
        }
        // An Ingress' own settings may have changed with it.
        self.dirty_backends.insert(id);
        if held.insert(BackendId(id))
            && let Some(slot) = self.backends.at_mut(id)
        {
            slot.users += 1;
        }
        BackendId(id)
    }

    pub(super) fn rule_policy(
        &mut self,
        levels: [Option<Arc<annotations::Settings>>; 2],
        path: Option<&PathMatch>,
    ) -> Arc<RulePolicy> {
        let [own, service] = &levels;
        self.rule_policies.intern(policy::rule(
            [own.as_deref(), service.as_deref()],
            &self.settings.rule,
            path,
        ))
    }

    /// One copy of a name that many objects say.
    pub(super) fn intern(&self, text: &Arc<str>) -> Arc<str> {
        let mut texts = self.texts.borrow_mut();
        if let Some(known) = texts.get(text) {
            return Arc::clone(known);
        }
        texts.insert(Arc::clone(text));
        Arc::clone(text)
    }
}
