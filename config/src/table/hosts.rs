//! Hostnames and the sharded map from host to rules.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::FixedState;
use serde::Serialize;
use smol_str::SmolStr;

use super::matcher::RequestParts;
use super::path::PathMap;
use super::rule::Rule;

/// Number of shards: a change to one host of 100,000 copies about 400 entries.
const SHARDS: usize = 256;

/// A hostname as routes are filed under: lower-case, without port and trailing dot.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case", tag = "type", content = "value")]
pub enum Hostname {
    /// `shop.example.com`.
    Exact(Arc<str>),
    /// `*.example.com`, stored as `.example.com`.
    Wildcard(Arc<str>),
    /// No host condition.
    Any,
}

/// How many labels a wildcard stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WildcardDepth {
    /// Exactly one (Ingress).
    OneLabel,
    /// One or more (Gateway API).
    AnyDepth,
}

/// The rules of one host. With many hosts these are in no cache when a request comes: what a lookup reads is in front.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct HostRules {
    /// Rules by path.
    pub paths: PathMap,
    /// Taken when no path matches (an Ingress' `defaultBackend`).
    pub fallback: Option<Arc<Rule>>,
    /// The host.
    pub hostname: Hostname,
    /// What a wildcard host stands for; not used for other hosts.
    pub depth: WildcardDepth,
    /// `Strict-Transport-Security` of answers for the host that no rule decides: that of the oldest route that has one.
    pub hsts: Option<Arc<str>>,
}

/// exact host, or wildcard suffix with its leading dot → rules; short names are compared without another step through
/// memory
type Shard = HashMap<SmolStr, Filed, FixedState>;

/// What a host is filed with.
#[derive(Clone, Debug)]
struct Filed {
    /// The rule that takes every request, if there is such a one: most hosts have a single rule for `/`, and this
    /// spares them a step through memory that is in no cache.
    only: Option<Arc<Rule>>,
    rules: Arc<HostRules>,
}

/// host → rules for one Bind. Cloning copies 256 pointers; changing a host copies its shard.
#[derive(Clone, Debug)]
pub struct HostMap {
    shards: Vec<Arc<Shard>>,
    any: Option<Arc<HostRules>>,
    /// Number of wildcards of [`WildcardDepth::AnyDepth`].
    deep_wildcards: usize,
}

impl Default for HostMap {
    fn default() -> Self {
        Self { shards: vec![Arc::default(); SHARDS], any: None, deep_wildcards: 0 }
    }
}

impl HostMap {
    /// Sets or (with `None`) removes the rules of `hostname`.
    pub fn set(&mut self, hostname: &Hostname, rules: Option<Arc<HostRules>>) {
        let (Hostname::Exact(key) | Hostname::Wildcard(key)) = hostname else {
            self.any = rules;
            return;
        };
        let is_deep = |rules: &Arc<HostRules>| {
            matches!(rules.hostname, Hostname::Wildcard(_)) && rules.depth == WildcardDepth::AnyDepth
        };
        self.deep_wildcards += usize::from(rules.as_ref().is_some_and(is_deep));
        let Some(shard) = self.shards.get_mut(shard_of(key)) else { return };
        let shard = Arc::make_mut(shard);
        let old = match rules {
            Some(rules) => {
                let filed = Filed { only: rules.paths.only().cloned(), rules };
                shard.insert(SmolStr::from(Arc::clone(key)), filed)
            }
            None => shard.remove(&**key),
        };
        self.deep_wildcards -= usize::from(old.is_some_and(|old| is_deep(&old.rules)));
    }

    /// The rules of the most specific host that covers `host` (lower-case, no port, no trailing dot):
    /// exact, then the longest wildcard, then the rules without host. Hosts never fall through to less
    /// specific ones for want of a matching path.
    #[inline]
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&Arc<HostRules>> {
        let exact = if host.starts_with('.') { None } else { self.entry(host) };
        exact.or_else(|| self.find_beyond(host))
    }

    /// [`Self::find`] for a host that is not filed itself.
    fn find_beyond(&self, host: &str) -> Option<&Arc<HostRules>> {
        if host.starts_with('.') {
            return self.any.as_ref();
        }
        self.find_wildcard(host).or(self.any.as_ref())
    }

    fn find_wildcard(&self, host: &str) -> Option<&Arc<HostRules>> {
        let mut suffix = host.get(host.find('.')?..)?;
        if let Some(rules) = self.entry(suffix) {
            return Some(rules);
        }
        if self.deep_wildcards == 0 {
            return None;
        }
        loop {
            let next = suffix.get(1..)?.find('.')? + 1;
            suffix = suffix.get(next..)?;
            if let Some(rules) = self.entry(suffix)
                && rules.depth == WildcardDepth::AnyDepth
            {
                return Some(rules);
            }
        }
    }

    #[inline]
    fn filed(&self, key: &str) -> Option<&Filed> {
        self.shards.get(shard_of(key))?.get(key)
    }

    fn entry(&self, key: &str) -> Option<&Arc<HostRules>> {
        self.filed(key).map(|filed| &filed.rules)
    }

    /// `Strict-Transport-Security` of answers for `host` that no rule decides.
    #[must_use]
    pub fn hsts(&self, host: &str) -> Option<&Arc<str>> {
        self.find(host)?.hsts.as_ref()
    }

    /// The rules without host condition.
    #[must_use]
    pub fn any(&self) -> Option<&Arc<HostRules>> {
        self.any.as_ref()
    }

    /// The rules filed under exactly this hostname.
    #[must_use]
    pub fn exactly(&self, hostname: &Hostname) -> Option<&Arc<HostRules>> {
        match hostname {
            Hostname::Exact(key) | Hostname::Wildcard(key) => self.entry(key),
            Hostname::Any => self.any.as_ref(),
        }
    }

    /// Every host's rules, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<HostRules>> {
        self.shards.iter().flat_map(|shard| shard.values().map(|filed| &filed.rules)).chain(self.any.as_ref())
    }

    /// The rule for a request: host, then path, then the host's fallback, then the fallback of the rules
    /// without host.
    #[inline]
    #[must_use]
    pub fn route(&self, host: &str, path: &str, request: &impl RequestParts) -> Option<&Arc<Rule>> {
        // Names with a leading dot are those of wildcards.
        let exact = if host.starts_with('.') { None } else { self.filed(host) };
        if let Some(Filed { only: Some(rule), .. }) = exact {
            return Some(rule);
        }
        let rules = exact.map(|filed| &filed.rules).or_else(|| self.find_beyond(host))?;
        rules
            .paths
            .find(path, request)
            .or(rules.fallback.as_ref())
            .or_else(|| self.any.as_ref().and_then(|any| any.fallback.as_ref()))
    }
}

#[inline]
fn shard_of(key: &str) -> usize {
    // The map's own hash uses the same function, so the shard takes bits that a table index does not.
    usize::try_from(FixedState::with_seed(1).hash_one(key) >> 56).unwrap_or(0)
}
