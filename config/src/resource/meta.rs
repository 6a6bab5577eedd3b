//! `metadata` as far as we read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::annotations::Text;
use super::reader;

/// Kubernetes ObjectMeta on the wire.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectMeta {
    pub(super) name: Option<Arc<str>>,
    pub(super) namespace: Option<Arc<str>>,
    pub(super) creation_timestamp: Option<String>,
    pub(super) deletion_timestamp: Option<String>,
    #[serde(default, deserialize_with = "reader::absent")]
    pub(super) annotations: Text,
    #[serde(default, deserialize_with = "reader::absent")]
    pub(super) labels: BTreeMap<String, String>,
}
