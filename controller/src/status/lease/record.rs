//! A Lease (`coordination.k8s.io/v1`) as text. Keeps what we read of it; writes patches, so that what others put there
//! stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The annotation with the addresses that we have written, so that whoever leads next knows them for ours.
const PUBLISHED: &str = "sluicegate.dev/published-addresses";
/// No Lease binds for longer, whatever it says: it may be anybody's text.
const MAX_DURATION: Duration = Duration::from_secs(600);

/// What a Lease says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::status) struct Record {
    /// `metadata.resourceVersion`.
    pub(in crate::status) version: Arc<str>,
    /// Empty if nobody holds it.
    pub(in crate::status) holder: Arc<str>,
    pub(in crate::status) duration: Duration,
    /// By the holder's wall clock, which nobody trusts.
    pub(in crate::status) acquired: Arc<str>,
    /// Likewise; another text means that the Lease was renewed.
    pub(in crate::status) renewed: Arc<str>,
    pub(in crate::status) transitions: u32,
    /// Addresses that were published, separated by commas.
    pub(in crate::status) published: Arc<str>,
}

/// What we want a Lease to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::status) struct Claim {
    pub(in crate::status) holder: Arc<str>,
    pub(in crate::status) duration: Duration,
    /// It becomes ours with this: the time of acquisition is set, too.
    pub(in crate::status) is_new: bool,
    pub(in crate::status) transitions: u32,
    /// `None` leaves what stands there.
    pub(in crate::status) published: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct Lease {
    metadata: Metadata,
    #[serde(default)]
    spec: Option<Spec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: Arc<str>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, Arc<str>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    holder_identity: Option<Arc<str>>,
    lease_duration_seconds: Option<i64>,
    acquire_time: Option<Arc<str>>,
    renew_time: Option<Arc<str>>,
    lease_transitions: Option<i64>,
}

impl Record {
    /// Reads a Lease. `None` if it is none.
    pub(in crate::status) fn from_json(json: &[u8]) -> Option<Self> {
        let Lease { metadata, spec } = serde_json::from_slice(json).ok()?;
        let spec = spec.unwrap_or_default();
        let nothing = || Arc::<str>::from("");
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let mut annotations = metadata.annotations.unwrap_or_default();
        Some(Self {
            version: metadata.resource_version,
            holder: spec.holder_identity.unwrap_or_else(nothing),
            duration: Duration::from_secs(seconds.unwrap_or_default()).min(MAX_DURATION),
            acquired: spec.acquire_time.unwrap_or_else(nothing),
            renewed: spec.renew_time.unwrap_or_else(nothing),
            transitions: spec
                .lease_transitions
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or_default(),
            published: annotations.remove(PUBLISHED).unwrap_or_else(nothing),
        })
    }
}

impl Claim {
    /// A whole Lease, for one that does not exist. `now` is RFC 3339 with microseconds.
    pub(in crate::status) fn to_object(&self, name: &str, now: &str) -> String {
        let metadata = Patch { name: Some(name), resource_version: None, annotations: self.annotations() };
        let version = Some("coordination.k8s.io/v1");
        text(&Written { api_version: version, kind: Some("Lease"), metadata, spec: self.spec(now) })
    }

    /// A merge patch for the Lease at `version`; a server refuses it if there is a newer one.
    pub(in crate::status) fn to_patch(&self, version: &str, now: &str) -> String {
        let metadata = Patch { name: None, resource_version: Some(version), annotations: self.annotations() };
        text(&Written { api_version: None, kind: None, metadata, spec: self.spec(now) })
    }

    fn annotations(&self) -> Option<BTreeMap<&str, &str>> {
        self.published.as_deref().map(|published| BTreeMap::from([(PUBLISHED, published)]))
    }

    fn spec<'c>(&'c self, now: &'c str) -> WrittenSpec<'c> {
        WrittenSpec {
            holder_identity: Some(&*self.holder).filter(|holder| !holder.is_empty()),
            lease_duration_seconds: self.duration.as_secs(),
            acquire_time: self.is_new.then_some(now),
            renew_time: now,
            lease_transitions: self.transitions,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'c str>,
    metadata: Patch<'c>,
    spec: WrittenSpec<'c>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Patch<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<&'c str, &'c str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenSpec<'c> {
    /// `null` takes the field away: nobody holds the Lease.
    holder_identity: Option<&'c str>,
    lease_duration_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    acquire_time: Option<&'c str>,
    renew_time: &'c str,
    lease_transitions: u32,
}

fn text(written: &Written<'_>) -> String {
    // Texts and numbers under fixed names cannot fail to be written.
    serde_json::to_string(written).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lease_of_anybody_is_read() {
        let json = br#"{"metadata":{"resourceVersion":"7","annotations":{"sluicegate.dev/published-addresses":"192.0.2.1"}},
            "spec":{"holderIdentity":"a","leaseDurationSeconds":15,"renewTime":"2026-01-01T00:00:00.000000Z","leaseTransitions":3}}"#;
        let record = Record::from_json(json).unwrap();
        assert_eq!((&*record.holder, record.duration.as_secs(), record.transitions), ("a", 15, 3));
        assert_eq!(&*record.published, "192.0.2.1");
        let empty = Record::from_json(br#"{"metadata":{"resourceVersion":"7"}}"#).unwrap();
        assert_eq!(&*empty.holder, "");
    }

    #[test]
    fn absurd_figures_do_not_bind_for_ever() {
        let json = br#"{"metadata":{"resourceVersion":"7"},"spec":{"holderIdentity":"a","leaseDurationSeconds":999999999999,"leaseTransitions":-5}}"#;
        let record = Record::from_json(json).unwrap();
        assert_eq!((record.duration, record.transitions), (MAX_DURATION, 0));
    }

    #[test]
    fn patch_names_the_version_that_it_changes() {
        let claim = Claim {
            holder: "a".into(),
            duration: Duration::from_secs(15),
            is_new: false,
            transitions: 1,
            published: None,
        };
        let patch: serde_json::Value = serde_json::from_str(&claim.to_patch("7", "T")).unwrap();
        assert_eq!(patch["metadata"], json!({"resourceVersion": "7"}));
        assert_eq!(patch["spec"]["renewTime"], "T");
        assert_eq!(patch["spec"].get("acquireTime"), None);
        let release = Claim { holder: "".into(), ..claim };
        let patch: serde_json::Value = serde_json::from_str(&release.to_patch("7", "T")).unwrap();
        assert_eq!(patch["spec"].get("holderIdentity"), Some(&serde_json::Value::Null));
    }
}
