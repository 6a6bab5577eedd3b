//! The little that must be known of an object before it is decided whether it is decoded at all, and the frames of
//! lists and watches. Never keeps what it was given.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};

use foldhash::quality::RandomState;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::version::Version;

/// Who an object is and which version of it this is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Item<'a> {
    /// Empty for what has no namespace.
    pub(super) namespace: Cow<'a, str>,
    pub(super) name: Cow<'a, str>,
    pub(super) uid: Cow<'a, str>,
    pub(super) version: Option<Version>,
    /// Only its `metadata` was sent.
    pub(super) is_partial: bool,
    /// What it says, before and after its version.
    content: (&'a [u8], &'a [u8]),
}

impl Item<'_> {
    /// Short for the uid; two are different if their marks are, and hardly ever otherwise.
    pub(super) fn uid_mark(&self, state: &RandomState) -> u64 {
        state.hash_one(&*self.uid)
    }

    /// Short for everything that it says besides its version.
    pub(super) fn content_mark(&self, state: &RandomState) -> u64 {
        let mut hasher = state.build_hasher();
        hasher.write(self.content.0);
        hasher.write(self.content.1);
        hasher.finish()
    }
}

/// `json` without `version`, which is a part of it. Watches of some servers say `kind` and `apiVersion` first, where lists do
/// not, so that these are left out if they come first.
fn content<'a>(json: &'a [u8], version: Option<&Cow<'a, str>>) -> (&'a [u8], &'a [u8]) {
    let start = json.len() - without_type(json).len();
    let range = match version {
        Some(Cow::Borrowed(text)) => {
            let at = (text.as_ptr() as usize).saturating_sub(json.as_ptr() as usize);
            Some((at, at + text.len()))
        }
        _ => None,
    };
    let (from, to) = range.filter(|(from, to)| *from >= start && *to <= json.len()).unwrap_or((start, start));
    (json.get(start..from).unwrap_or_default(), json.get(to..).unwrap_or_default())
}

/// An object without its brace and a `kind` and `apiVersion` that follow it.
fn without_type(json: &[u8]) -> &[u8] {
    let mut rest = json.trim_ascii_start();
    rest = rest.strip_prefix(b"{").unwrap_or(rest).trim_ascii_start();
    while let Some(value) = ["\"kind\"", "\"apiVersion\""]
        .iter()
        .find_map(|key| rest.strip_prefix(key.as_bytes()))
        .and_then(|rest| rest.trim_ascii_start().strip_prefix(b":"))
        .and_then(|rest| rest.trim_ascii_start().strip_prefix(b"\""))
    {
        // Neither of them has escapes.
        let Some((_, after)) = memchr::memchr(b'"', value).and_then(|end| value.split_at_checked(end + 1))
        else {
            return rest;
        };
        let after = after.trim_ascii_start();
        rest = after.strip_prefix(b",").unwrap_or(after).trim_ascii_start();
    }
    rest
}

#[derive(Deserialize)]
struct Peek<'a> {
    #[serde(borrow)]
    metadata: PeekMeta<'a>,
    spec: Option<IgnoredAny>,
    data: Option<IgnoredAny>,
    #[serde(rename = "type")]
    secret_type: Option<IgnoredAny>,
    #[serde(rename = "binaryData")]
    binary_data: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeekMeta<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Option<Text<'a>>,
    #[serde(borrow)]
    uid: Option<Text<'a>>,
    #[serde(borrow)]
    resource_version: Option<Text<'a>>,
}

/// A text that is not copied. (Within an `Option`, serde would copy it.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Text<'a> {
    fn or_empty(text: Option<Self>) -> Cow<'a, str> {
        text.map(|text| text.0).unwrap_or_default()
    }
}

/// Looks at the object's `metadata`; `None` if it has no name, or is no JSON.
pub(super) fn peek(json: &[u8]) -> Option<Item<'_>> {
    let Ok(peek) = serde_json::from_slice(json) else { return look(json) };
    let Peek { metadata, spec, data, secret_type, binary_data } = peek;
    if metadata.name.is_empty() {
        return None;
    }
    Some(Item {
        content: content(json, metadata.resource_version.as_ref().map(|text| &text.0)),
        namespace: Text::or_empty(metadata.namespace),
        name: metadata.name,
        uid: Text::or_empty(metadata.uid),
        version: metadata.resource_version.and_then(|version| Version::parse(&version.0)),
        is_partial: spec.is_none() && data.is_none() && secret_type.is_none() && binary_data.is_none(),
    })
}

/// The slow way, which is not put off by a wrong type next to the name.
fn look(json: &[u8]) -> Option<Item<'_>> {
    let object: serde_json::Value = serde_json::from_slice(json).ok()?;
    let text = |field: &str| {
        let text = object.get("metadata")?.get(field)?.as_str()?;
        Some(Cow::<'_, str>::Owned(text.to_owned()))
    };
    let name = text("name").filter(|name| !name.is_empty())?;
    Some(Item {
        content: content(json, None),
        namespace: text("namespace").unwrap_or_default(),
        name,
        uid: text("uid").unwrap_or_default(),
        version: text("resourceVersion").and_then(|version| Version::parse(&version)),
        is_partial: false,
    })
}

/// `metadata` of a list.
#[derive(Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMeta {
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(rename = "continue", default)]
    pub(super) next: String,
    /// What is left after this page, if the server says so.
    pub(super) remaining_item_count: Option<u64>,
}

#[derive(Deserialize)]
struct Envelope {
    metadata: ListMeta,
    items: Option<IgnoredAny>,
}

/// Reads a list without its items; `None` if that is no list.
pub(super) fn list_meta(envelope: &[u8]) -> Option<ListMeta> {
    #[derive(Deserialize)]
    struct Named {
        kind: String,
    }
    let read: Envelope = serde_json::from_slice(envelope).ok()?;
    // `items` may be absent or null where there is nothing; then the kind says that it is a list.
    let is_list = read.items.is_some()
        || serde_json::from_slice::<Named>(envelope).is_ok_and(|named| named.kind.ends_with("List"));
    is_list.then_some(read.metadata)
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Happened {
    /// It is new or has changed.
    Applied,
    /// It is gone.
    Deleted,
}

impl Happened {
    /// Value of the label `type` in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Deleted => "deleted",
        }
    }
}

/// One line of a watch.
#[derive(Debug)]
pub(super) enum WatchLine<'a> {
    /// Something happened to this object.
    Object(Happened, &'a [u8]),
    /// Everything up to this version was sent.
    Bookmark(Option<Version>),
    /// The watch is over; the object is a `Status`.
    Error(&'a [u8]),
    /// A type of event that we do not know.
    Unknown,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Reads one line of a watch; `None` if that is no event at all.
pub(super) fn watch_line(line: &[u8]) -> Option<WatchLine<'_>> {
    let frame: Frame<'_> = serde_json::from_slice(line).ok()?;
    let object = frame.object.get().as_bytes();
    Some(match &*frame.kind {
        "ADDED" | "MODIFIED" => WatchLine::Object(Happened::Applied, object),
        "DELETED" => WatchLine::Object(Happened::Deleted, object),
        "BOOKMARK" => WatchLine::Bookmark(version_of(object)),
        "ERROR" => WatchLine::Error(object),
        _ => WatchLine::Unknown,
    })
}

/// `metadata.resourceVersion`, of objects that may have no name.
fn version_of(json: &[u8]) -> Option<Version> {
    #[derive(Deserialize)]
    struct Bookmark {
        metadata: ListMeta,
    }
    let bookmark: Bookmark = serde_json::from_slice(json).ok()?;
    Version::parse(&bookmark.metadata.resource_version)
}

/// A `Status` of the API server: code and message.
pub(super) fn status(json: &[u8]) -> Option<(u16, String)> {
    #[derive(Deserialize)]
    struct Status {
        kind: String,
        #[serde(default)]
        message: String,
        #[serde(default)]
        reason: String,
        #[serde(default)]
        code: u16,
    }
    let status: Status =
        serde_json::from_slice(json).ok().filter(|status: &Status| status.kind == "Status")?;
    let text = if status.message.is_empty() { status.reason } else { status.message };
    Some((status.code, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_and_version_of_an_object_are_looked_at() {
        let json = br#"{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"12",
            "creationTimestamp":"2026-01-02T03:04:05Z","managedFields":[{"x":[1,2]}]},"spec":{"rules":"no list"}}"#;
        let item = peek(json).unwrap();
        assert_eq!(
            (&*item.namespace, &*item.name, item.version.clone()),
            ("n", "a", Some(Version::Number(12)))
        );
        assert!(!item.is_partial);
        assert!(peek(br#"{"metadata":{"name":""}}"#).is_none());
        assert!(peek(br#"{"metadata":{"name":7}}"#).is_none());
        assert!(peek(br#"null"#).is_none());
        let odd =
            peek(br#"{"metadata":{"name":"a","namespace":null,"uid":7,"resourceVersion":"9"}}"#).unwrap();
        assert_eq!((&*odd.namespace, &*odd.name, odd.version), ("", "a", Some(Version::Number(9))));
    }

    #[test]
    fn metadata_alone_is_told_from_a_whole_object() {
        assert!(peek(br#"{"kind":"PartialObjectMetadata","metadata":{"name":"a"}}"#).unwrap().is_partial);
        assert!(!peek(br#"{"metadata":{"name":"a"},"type":"Opaque"}"#).unwrap().is_partial);
        assert!(!peek(br#"{"metadata":{"name":"a"},"data":{}}"#).unwrap().is_partial);
    }

    #[test]
    fn content_is_all_but_the_version_and_the_same_in_lists_and_watches() {
        let state = RandomState::default();
        let mark = |json: &str| peek(json.as_bytes()).unwrap().content_mark(&state);
        let listed =
            mark(r#"{"metadata":{"name":"a","resourceVersion":"12","labels":{"x":"12"}},"spec":{}}"#);
        let watched = r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"9","labels":{"x":"12"}},"spec":{}}"#;
        assert_eq!(mark(watched), listed);
        assert_ne!(mark(&watched.replace(r#""x":"12""#, r#""x":"9""#)), listed);
        assert_ne!(mark(&watched.replace(r#""spec":{}"#, r#""spec":{"a":1}"#)), listed);
        let sorted = r#"{"addressType":"IPv4","apiVersion":"v1","endpoints":[1],"metadata":{"name":"a","resourceVersion":"9"}}"#;
        assert_ne!(
            mark(sorted),
            mark(&sorted.replace("[1]", "[2]")),
            "what comes before the metadata counts"
        );
        assert_eq!(mark(sorted), mark(&sorted.replace(r#""9""#, r#""12""#)));
        let other = r#"{"apiVersion":"v1","kind":"EndpointSlice","#;
        assert_eq!(mark(sorted), mark(&sorted.replacen('{', other, 1)));
    }

    #[test]
    fn list_says_its_version_and_what_follows() {
        let meta = list_meta(
            br#"{"kind":"IngressList","metadata":{"resourceVersion":"9","continue":"t"},"items":[]}"#,
        );
        assert_eq!(
            meta.map(|meta| (meta.resource_version, meta.next)),
            Some(("9".to_owned(), "t".to_owned()))
        );
        assert!(
            list_meta(br#"{"kind":"IngressList","metadata":{"resourceVersion":"9"},"items":null}"#).is_some()
        );
        assert!(list_meta(br#"{"kind":"Status","metadata":{},"code":500}"#).is_none());
    }

    #[test]
    fn watch_has_events_bookmarks_and_errors() {
        let applied = br#"{"type":"MODIFIED","object":{"metadata":{"name":"a"}}}"#;
        assert!(matches!(watch_line(applied), Some(WatchLine::Object(Happened::Applied, _))));
        let bookmark =
            br#"{"type":"BOOKMARK","object":{"kind":"Ingress","metadata":{"resourceVersion":"31"}}}"#;
        let Some(WatchLine::Bookmark(version)) = watch_line(bookmark) else { panic!("no bookmark") };
        assert_eq!(version, Some(Version::Number(31)));
        let error =
            br#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old","metadata":{}}}"#;
        let Some(WatchLine::Error(object)) = watch_line(error) else { panic!("no error") };
        assert_eq!(status(object), Some((410, "too old".to_owned())));
        assert!(watch_line(br#"{"type":"MODIFIED"}"#).is_none());
        assert!(watch_line(br#"{"type":"MODIFIED","object":{"#).is_none());
    }
}
