//! The objects and their history: every kind is a table of versions in the order of keys, and a log of its latest changes.
//! A list can be read as it was at any version that is still remembered. Knows nothing of kinds or requests.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

/// One version of one object, as it is served: text, and what selectors and watches need of it.
#[derive(Debug)]
pub(crate) struct Object {
    /// `namespace/name`, or the name alone.
    pub(crate) key: Box<str>,
    /// Empty for kinds of the cluster.
    pub(crate) namespace: Box<str>,
    /// `metadata.name`.
    pub(crate) name: Box<str>,
    /// `metadata.resourceVersion`.
    pub(crate) version: u64,
    /// `metadata.labels`.
    pub(crate) labels: Box<[(Box<str>, Box<str>)]>,
    /// Fields that selectors may name, besides name and namespace.
    pub(crate) fields: Box<[(&'static str, Box<str>)]>,
    /// The object without `apiVersion` and `kind`: `{"metadata":…}`.
    pub(crate) json: Bytes,
}

impl Object {
    /// The object as a value, without `apiVersion` and `kind`.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }
}

/// The key of an object.
pub(crate) fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// One change of one object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The version that it made.
    pub(crate) version: u64,
    /// What was there.
    pub(crate) old: Option<Arc<Object>>,
    /// What is there now.
    pub(crate) new: Option<Arc<Object>>,
}

#[derive(Debug)]
struct Version {
    version: u64,
    object: Option<Arc<Object>>,
}

/// The objects of one kind.
#[derive(Debug)]
struct Table {
    /// key → its versions that are remembered, oldest first
    entries: BTreeMap<Box<str>, Vec<Version>>,
    log: VecDeque<Change>,
    /// Lists and watches older than this are gone.
    forgotten: u64,
    /// The latest version of this table; watchers wait for it.
    latest: watch::Sender<u64>,
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Store {
    /// storage → table
    tables: HashMap<Box<str>, Table>,
    version: u64,
    history: usize,
}

/// The version asked for is no longer known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forgotten {
    /// The oldest that is.
    pub(crate) oldest: u64,
}

impl Table {
    fn new(forgotten: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            log: VecDeque::new(),
            forgotten,
            latest: watch::Sender::new(forgotten),
        }
    }

    /// Forgets the oldest change, and the version that it replaced.
    fn forget_one(&mut self) {
        let Some(change) = self.log.pop_front() else { return };
        self.forgotten = change.version;
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return };
        let Some(versions) = self.entries.get_mut(&object.key) else { return };
        let keep_from = versions.partition_point(|version| version.version < change.version);
        versions.drain(..keep_from);
        if let [Version { object: None, .. }] = versions.as_slice() {
            self.entries.remove(&object.key);
        }
    }
}

impl Store {
    /// A store whose next version is `version + 1`, that remembers `history` changes of each kind.
    pub(crate) fn new(version: u64, history: usize) -> Self {
        Self { tables: HashMap::new(), version, history: history.max(1) }
    }

    /// The latest version of all.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The version that the next write will make.
    pub(crate) fn next_version(&self) -> u64 {
        self.version + 1
    }

    /// Uses up a version for a change that is not of an object.
    pub(crate) fn skip_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// The oldest version of `storage` that is remembered.
    pub(crate) fn oldest(&self, storage: &str) -> u64 {
        self.tables.get(storage).map_or(0, |table| table.forgotten)
    }

    /// The object as it is now.
    pub(crate) fn object(&self, storage: &str, key: &str) -> Option<Arc<Object>> {
        self.tables.get(storage)?.entries.get(key)?.last()?.object.clone()
    }

    /// The objects of a namespace (or of all) as they were at `version`, in the order of keys, from the one after `after`.
    pub(crate) fn list(
        &self,
        storage: &str,
        namespace: Option<&str>,
        after: Option<&str>,
        version: u64,
    ) -> Result<Vec<Arc<Object>>, Forgotten> {
        let Some(table) = self.tables.get(storage) else { return Ok(Vec::new()) };
        if version < table.forgotten {
            return Err(Forgotten { oldest: table.forgotten });
        }
        let prefix = namespace.map(|namespace| format!("{namespace}/"));
        let from: Bound<&str> = match (after, &prefix) {
            (Some(after), _) => Bound::Excluded(after),
            (None, Some(prefix)) => Bound::Included(prefix),
            (None, None) => Bound::Unbounded,
        };
        let mut objects = Vec::new();
        for (key, versions) in table.entries.range::<str, _>((from, Bound::Unbounded)) {
            if prefix.as_ref().is_some_and(|prefix| !key.starts_with(prefix.as_str())) {
                break;
            }
            let then = versions.iter().rev().find(|each| each.version <= version);
            objects.extend(then.and_then(|version| version.object.clone()));
        }
        Ok(objects)
    }

    /// Makes `object` the latest version. Its `version` must be [`Store::next_version`].
    pub(crate) fn put(&mut self, storage: &str, object: Arc<Object>) {
        self.version = object.version;
        let key = object.key.clone();
        self.record(storage, key, Some(object));
    }

    /// Removes an object; `last` is how it is told to watchers, with the version of the removal.
    pub(crate) fn remove(&mut self, storage: &str, last: &Arc<Object>) {
        self.version = last.version;
        self.record_removal(storage, last);
    }

    fn record(&mut self, storage: &str, key: Box<str>, new: Option<Arc<Object>>) {
        let version = self.version;
        let history = self.history;
        let table = self.table(storage);
        let versions = table.entries.entry(key).or_default();
        let old = versions.last().and_then(|last| last.object.clone());
        versions.push(Version { version, object: new.clone() });
        table.log.push_back(Change { version, old, new });
        while table.log.len() > history {
            table.forget_one();
        }
        table.latest.send_replace(version);
    }

    fn record_removal(&mut self, storage: &str, last: &Arc<Object>) {
        let version = self.version;
        let history = self.history;
        let table = self.table(storage);
        let Some(versions) = table.entries.get_mut(&last.key) else { return };
        versions.push(Version { version, object: None });
        table.log.push_back(Change { version, old: Some(last.clone()), new: None });
        while table.log.len() > history {
            table.forget_one();
        }
        table.latest.send_replace(version);
    }

    fn table(&mut self, storage: &str) -> &mut Table {
        self.tables.entry(storage.into()).or_insert_with(|| Table::new(0))
    }

    /// The changes of `storage` after `version`, at most `limit`.
    pub(crate) fn changes(
        &self,
        storage: &str,
        version: u64,
        limit: usize,
    ) -> Result<Vec<Change>, Forgotten> {
        let Some(table) = self.tables.get(storage) else { return Ok(Vec::new()) };
        if version < table.forgotten {
            return Err(Forgotten { oldest: table.forgotten });
        }
        let from = table.log.partition_point(|change| change.version <= version);
        Ok(table.log.range(from..).take(limit).cloned().collect())
    }

    /// Tells of every new version of `storage`.
    pub(crate) fn subscribe(&mut self, storage: &str) -> watch::Receiver<u64> {
        self.table(storage).latest.subscribe()
    }

    /// Forgets all changes: only what is there now is known.
    pub(crate) fn forget(&mut self) {
        for table in self.tables.values_mut() {
            while !table.log.is_empty() {
                table.forget_one();
            }
            table.forgotten = self.version;
        }
    }

    /// Every table with its objects, for whoever rewrites them all.
    pub(crate) fn everything(&self) -> Vec<(Box<str>, Vec<Arc<Object>>)> {
        self.tables
            .iter()
            .map(|(storage, table)| {
                let now = table.entries.values().filter_map(|versions| versions.last()?.object.clone());
                (storage.clone(), now.collect())
            })
            .collect()
    }

    /// Replaces all objects and the version, as if they had been restored from a backup: nothing older is known.
    pub(crate) fn restore(&mut self, version: u64, everything: Vec<(Box<str>, Vec<Arc<Object>>)>) {
        self.version = version;
        for (storage, objects) in everything {
            let table = self.table(&storage);
            table.log.clear();
            table.entries = objects
                .into_iter()
                .map(|object| {
                    (object.key.clone(), vec![Version { version: object.version, object: Some(object) }])
                })
                .collect();
            table.forgotten = version;
            table.latest.send_replace(version);
        }
    }
}
