//! One file's text → objects and problems.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::quality::FixedState;
use serde::Deserialize;

use super::address_pool::{AddressPoolEntry, AddressPoolObject, L2AdvertisementObject, NamespaceObject};
use super::endpoint_slice::EndpointSliceObject;
use super::identity::{HasMeta, guess, kind_of, reference};
use super::ingress::{IngressClassObject, IngressObject};
use super::native::{BackendSpec, RouteSpec};
use super::native_route::Builder;
use super::native_types::{ListenerEntry, made_up_name};
use super::node::{self, MAX_FILE_BYTES, Node, Value};
use super::reader::{self, Findings, ReadError};
use super::secret::{ConfigMapObject, SecretObject};
use super::service::ServiceObject;
use super::{Decoded, Finding, ListenersRead, Object, ObjectSpec, suggest};
use crate::report::{Kind, ObjectRef, Problem, Severity, SourceLocation, brief};

/// Parses one file's text: YAML (any number of documents) or JSON, `List` kinds included. Kinds that we do not
/// read are skipped. `file` is the name that problems show.
#[must_use]
pub fn decode(file: &Arc<str>, text: &[u8]) -> Decoded {
    let texts = HashSet::default();
    let mut decoder = Decoder { file, out: Decoded::default(), texts, routes: 0, has_listeners: false };
    match usable_text(text) {
        Ok(text) => {
            for document in node::documents(text) {
                decoder.document(&document);
            }
        }
        Err((line, reason, message)) => {
            decoder.broken(line, reason, message);
            decoder.doubt(ListenersRead::Unread);
        }
    }
    decoder.out
}

fn usable_text(text: &[u8]) -> Result<&str, (u32, &'static str, String)> {
    if text.len() > MAX_FILE_BYTES {
        let message =
            format!("the file has {} bytes; at most {MAX_FILE_BYTES} are read, split it", text.len());
        return Err((0, "FileTooLarge", message));
    }
    let line_of = |at: usize| {
        let before = text.get(..at).unwrap_or_default();
        u32::try_from(before.iter().filter(|byte| **byte == b'\n').count() + 1).unwrap_or(0)
    };
    if let Some(at) = text.iter().position(|byte| *byte == 0) {
        let message = "the file is binary (it has a NUL byte); only UTF-8 text is read".to_owned();
        return Err((line_of(at), "NotText", message));
    }
    std::str::from_utf8(text).map_err(|error| {
        let message = "the file is not UTF-8 text; save it as UTF-8".to_owned();
        (line_of(error.valid_up_to()), "NotText", message)
    })
}

struct Decoder<'a> {
    file: &'a Arc<str>,
    out: Decoded,
    /// What many objects name alike: namespaces, Services.
    texts: HashSet<Arc<str>, FixedState>,
    /// Native routes so far, over all documents of the file.
    routes: u32,
    /// The native document that is being read has listeners that speak HTTP.
    has_listeners: bool,
}

/// `apiVersion` and `kind`.
struct Head<'a> {
    api_version: &'a str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

impl<'a> Decoder<'a> {
    fn location(&self, line: u32) -> SourceLocation {
        SourceLocation { file: Arc::clone(self.file), line }
    }

    /// A problem of the file itself.
    fn file_problem(
        &mut self,
        line: u32,
        severity: Severity,
        field: &str,
        reason: &'static str,
        message: String,
    ) {
        let object = ObjectRef { kind: Kind::File, namespace: "".into(), name: Arc::clone(self.file) };
        let location = Some(self.location(line));
        self.out.problems.push(Problem {
            object,
            location,
            field: field.to_owned(),
            severity,
            reason,
            message: brief(message),
        });
    }

    fn broken(&mut self, line: u32, reason: &'static str, message: String) {
        self.file_problem(line, Severity::Error, "", reason, message);
        self.out.incomplete = true;
    }

    /// Listeners of the file may have been missed.
    fn doubt(&mut self, read: ListenersRead) {
        self.out.listeners = self.out.listeners.max(read);
    }

    fn document(&mut self, document: &node::Document<'_>) {
        if is_unrelated(document.text) || self.json(document) {
            return;
        }
        match node::parse(document.text, document.offset) {
            Ok(Some(node)) => self.object(&node),
            Ok(None) => {}
            Err(error) => {
                let message = format!("not valid YAML: {}{}", error.message, tab_hint(document, error.line));
                self.broken(error.line, "InvalidYaml", message);
                if top(document.text, "kind").is_none_or(|kind| kind == "Config") {
                    self.doubt(ListenersRead::Unread);
                }
            }
        }
    }

    /// Reads a map in JSON; a list of objects without having all of it in memory as a tree. False, and nothing is read, if
    /// the document is anything else.
    fn json(&mut self, document: &node::Document<'_>) -> bool {
        let texts = std::mem::take(&mut self.texts);
        let mut items = Decoder { file: self.file, out: Decoded::default(), texts, ..*self };
        let mut count = 0_usize;
        let top = node::parse_items(document.text, document.offset, |item| {
            count += 1;
            items.object(&item);
        });
        self.texts = std::mem::take(&mut items.texts);
        match top {
            Some(top) if count == 0 => self.object(&top),
            Some(top) if list_kind(&top).is_some() => {
                (self.routes, self.has_listeners) = (items.routes, items.has_listeners);
                self.out.join(items.out);
            }
            // What has `items` may be no list of objects.
            Some(_) | None => return false,
        }
        true
    }

    fn object(&mut self, node: &Node) {
        if !matches!(node.value, Value::Map(_)) {
            let message = "expected a manifest (a map with `apiVersion` and `kind`)".to_owned();
            self.doubt(ListenersRead::Unread);
            return self.broken(node.line, "WrongType", message);
        }
        let api_version = node.field("apiVersion").and_then(Node::text).unwrap_or_default();
        if is_native(node, api_version) {
            return self.native(node, api_version);
        }
        let Some(kind) = node.field("kind").and_then(Node::text) else {
            let hint = unknown_top_level(node).map(|(_, _, hint)| hint).unwrap_or_default();
            let message = format!("`kind` is required, as in `kind: Ingress`{hint}");
            self.file_problem(node.line, Severity::Error, "kind", "MissingField", message);
            self.out.incomplete = true;
            if is_ours(api_version) && may_mean_listeners(node) {
                self.doubt(ListenersRead::Misread);
            }
            return;
        };
        if list_kind(node).is_some() {
            return self.list(node, kind);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let head = Head { api_version, group, version, kind };
        match (group, kind) {
            ("networking.k8s.io" | "extensions", "Ingress") => {
                self.typed(
                    node,
                    &head,
                    Kind::Ingress,
                    "networking.k8s.io/v1",
                    |object: IngressObject, findings| {
                        let unknown = std::mem::take(findings);
                        ObjectSpec::Ingress(Box::new(object.trim(unknown)))
                    },
                );
            }
            ("networking.k8s.io", "IngressClass") => {
                self.typed(
                    node,
                    &head,
                    Kind::IngressClass,
                    "networking.k8s.io/v1",
                    |object: IngressClassObject, _| ObjectSpec::IngressClass(object.trim()),
                );
            }
            ("", "Service") => {
                self.typed(node, &head, Kind::Service, "v1", |object: ServiceObject, findings| {
                    ObjectSpec::Service(object.trim(findings))
                });
            }
            ("discovery.k8s.io", "EndpointSlice") => {
                self.typed(
                    node,
                    &head,
                    Kind::EndpointSlice,
                    "discovery.k8s.io/v1",
                    |object: EndpointSliceObject, findings| ObjectSpec::EndpointSlice(object.trim(findings)),
                );
            }
            ("", "Secret") => {
                self.typed(node, &head, Kind::Secret, "v1", |object: SecretObject, _| {
                    ObjectSpec::Secret(Box::new(object.trim()))
                });
            }
            ("", "ConfigMap") => {
                self.typed(node, &head, Kind::ConfigMap, "v1", |object: ConfigMapObject, _| {
                    ObjectSpec::ConfigMap(Box::new(object.trim()))
                });
            }
            ("", "Namespace") => {
                self.typed(node, &head, Kind::Namespace, "v1", |object: NamespaceObject, _| {
                    ObjectSpec::Namespace(object.metadata.labels)
                });
            }
            ("sluicegate.dev" | "metallb.io", _) => self.addresses(node, &head),
            _ => self.skipped(node, &head),
        }
    }

    /// What concerns addresses of load balancers.
    fn addresses(&mut self, node: &Node, head: &Head<'_>) {
        let (kind, wanted) = match (head.group, head.kind) {
            ("sluicegate.dev", "AddressPool") => (Kind::AddressPool, NATIVE_VERSION),
            ("metallb.io", "IPAddressPool") => (Kind::IPAddressPool, METALLB_VERSION),
            ("metallb.io", "L2Advertisement") => {
                let (kind, wanted) = (Kind::L2Advertisement, METALLB_VERSION);
                return self.typed(node, head, kind, wanted, |object: L2AdvertisementObject, findings| {
                    ObjectSpec::L2Advertisement(Box::new(object.trim_of_file(findings)))
                });
            }
            _ => return self.skipped(node, head),
        };
        self.typed(node, head, kind, wanted, |object: AddressPoolObject, _| {
            ObjectSpec::AddressPool(Box::new(object.trim()))
        });
    }

    fn list(&mut self, node: &Node, kind: &str) {
        match node.field("items").map(|items| &items.value) {
            Some(Value::List(items)) => {
                for item in items {
                    self.object(item);
                }
            }
            _ => {
                let message = format!("`items` of a {kind} must be a list");
                self.file_problem(node.line, Severity::Error, "items", "WrongType", message);
                self.out.incomplete = true;
            }
        }
    }

    /// A file of the native format: each entry is an object, so that a wrong one costs only itself.
    fn native(&mut self, node: &Node, api_version: &str) {
        if !matches!(api_version, "" | NATIVE_VERSION) {
            let line = node.field("apiVersion").map_or(node.line, |at| at.line);
            let message = format!("`{api_version}` is not read: write `apiVersion: {NATIVE_VERSION}`");
            self.file_problem(line, Severity::Error, "apiVersion", "UnsupportedVersion", message);
            self.out.incomplete = true;
            return self.doubt(ListenersRead::Unread);
        }
        if let Some((key, line, hint)) = unknown_top_level(node) {
            let message = format!("unknown field `{key}`{hint}");
            self.file_problem(line, Severity::Error, &key, "UnknownField", message);
            self.out.incomplete = true;
        }
        let is_http = |item: &Node| {
            let protocol = item.field("protocol").and_then(Node::text).unwrap_or_default();
            !["tcp", "udp"].iter().any(|l4| protocol.eq_ignore_ascii_case(l4))
        };
        let has_http = |node: &Node| match &node.value {
            Value::List(items) => items.iter().any(is_http),
            _ => true,
        };
        let is_misread = may_mean_listeners(node);
        if is_misread {
            self.doubt(ListenersRead::Misread);
        }
        self.has_listeners = is_misread || node.field("listeners").is_some_and(has_http);
        for (section, kind) in [
            ("listeners", Kind::Listener),
            ("routes", Kind::Route),
            ("backends", Kind::Backend),
            ("addressPools", Kind::AddressPool),
        ] {
            match node.field(section).map(|at| (&at.value, at.line)) {
                None => {}
                Some((Value::List(items), _)) => {
                    for (index, item) in items.iter().enumerate() {
                        self.entry(kind, format!("{section}[{index}]"), item);
                    }
                }
                Some((_, line)) => {
                    let message = format!("`{section}` must be a list: start each entry with `- `");
                    self.file_problem(line, Severity::Error, section, "WrongType", message);
                    self.out.incomplete = true;
                    if kind == Kind::Listener {
                        self.doubt(ListenersRead::Misread);
                    }
                }
            }
        }
    }

    fn entry(&mut self, kind: Kind, field: String, node: &Node) {
        if kind == Kind::Route {
            self.routes += 1;
        }
        let written = node.field("name").and_then(Node::text).map(Arc::from);
        let name: Option<Arc<str>> = match kind {
            Kind::Route => written.or_else(|| Some(made_up_name(self.file, self.routes))),
            Kind::Listener => {
                written.or_else(|| node.text().or_else(|| node.field("address")?.text()).map(Arc::from))
            }
            _ => written,
        };
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            let message = "`name` is required".to_owned();
            self.file_problem(node.line, Severity::Error, &format!("{field}.name"), "MissingField", message);
            self.out.incomplete = true;
            if kind == Kind::Listener {
                self.doubt(ListenersRead::Misread);
            }
            return;
        };
        let reference = ObjectRef { kind, namespace: "".into(), name };
        let place = (self.routes, self.has_listeners);
        let result =
            native_object(self.file, kind, &reference.name, &field, node, place).map_err(|finding| {
                // The path within the entry is what follows the entry's own.
                let below = finding.field.get(field.len() + 1..).unwrap_or_default();
                let line = if finding.line == node.line { node.line_at(below) } else { finding.line };
                Finding { line, ..finding }
            });
        match result {
            Ok(spec) => {
                if self.out.objects.iter().any(|object| object.reference == reference) {
                    let message = format!("`{}` is there twice; the first one is used", reference.name);
                    let finding =
                        Finding::error(format!("{field}.name"), node.line, "DuplicateObject", message);
                    let location = self.location(node.line);
                    self.out.problems.push(finding.into_problem(&reference, Some(&location)));
                    return;
                }
                let location = Some(self.location(node.line));
                self.out.objects.push(Object { reference, location, spec });
            }
            Err(finding) => {
                let location = self.location(node.line);
                self.out.problems.push(finding.into_problem(&reference, Some(&location)));
                self.out.invalid.push(reference);
            }
        }
    }

    /// Kinds that we do not read: silence for those of others, a word for near misses and our own group.
    fn skipped(&mut self, node: &Node, head: &Head<'_>) {
        const READ: [(&str, &str); 7] = [
            ("Ingress", "networking.k8s.io/v1"),
            ("IngressClass", "networking.k8s.io/v1"),
            ("Service", "v1"),
            ("EndpointSlice", "discovery.k8s.io/v1"),
            ("Secret", "v1"),
            ("ConfigMap", "v1"),
            ("Namespace", "v1"),
        ];
        let line = node.line;
        if is_ours(head.api_version) && (head.group == "sluicegate.dev" || node.field("listeners").is_some())
        {
            self.doubt(ListenersRead::Misread);
        }
        if head.group == "sluicegate.dev" {
            let hint = suggest::hint(head.kind, ["Config", "AddressPool"]);
            let message = format!("`{}` is not a kind of sluicegate.dev{hint}; it is ignored", head.kind);
            self.file_problem(line, Severity::Warning, "kind", "UnknownKind", message);
        } else if head.group == "gateway.networking.k8s.io" {
            let message = format!("{} is not supported yet; it is ignored", head.kind);
            self.file_problem(line, Severity::Warning, "kind", "Unsupported", message);
        } else if let Some((kind, wanted)) = READ.iter().find(|(kind, _)| *kind == head.kind)
            && (head.api_version.is_empty()
                || matches!(head.group, "" | "networking.k8s.io" | "discovery.k8s.io" | "extensions"))
        {
            let message = match head.api_version {
                "" => format!("`apiVersion` is required: write `apiVersion: {wanted}`"),
                other => format!("{kind} does not exist in `{other}`: write `apiVersion: {wanted}`"),
            };
            self.invalid_object(node, head, line, "apiVersion", "UnsupportedVersion", message);
        }
    }

    /// Reads `node` as a `T` and keeps what `trim` makes of it.
    fn typed<T: for<'de> Deserialize<'de> + HasMeta>(
        &mut self,
        node: &Node,
        head: &Head<'_>,
        kind: Kind,
        wanted: &str,
        trim: impl FnOnce(T, &mut Vec<Finding>) -> ObjectSpec,
    ) {
        if head.api_version != wanted {
            let line = node.field("apiVersion").map_or(node.line, |at| at.line);
            let message = format!(
                "{} in version `{}` is not read: write `apiVersion: {wanted}`",
                head.kind, head.version
            );
            return self.invalid_object(node, head, line, "apiVersion", "UnsupportedVersion", message);
        }
        let (object, found): (T, Findings) = match reader::read(node, "", false) {
            Ok(read) => read,
            Err(error) => return self.unreadable(node, head, &error),
        };
        let mut reference = match reference(kind, object.meta()) {
            Ok(reference) => reference,
            Err((field, reason, message)) => {
                let line = node.field("metadata").map_or(node.line, |at| at.line);
                return self.invalid_object(node, head, line, field, reason, message);
            }
        };
        let location = self.location(node.line);
        let unknown = |(field, line, hint): (String, u32, String)| {
            let message = format!("this field does not exist and has no effect{hint}");
            Finding::warning(field, line, "UnknownField", message)
        };
        let mut findings = found.unknown.into_iter().map(unknown).collect();
        let mut spec = trim(object, &mut findings);
        self.share(&mut reference.namespace);
        if let ObjectSpec::Ingress(ingress) = &mut spec {
            ingress.share(|text| self.share(text));
        }
        let problems = findings.into_iter().map(|finding| finding.into_problem(&reference, Some(&location)));
        self.out.problems.extend(problems);
        self.out.objects.push(Object { reference, location: Some(location), spec });
    }

    /// Replaces `text` by an equal one of another object, if there is such a one.
    fn share(&mut self, text: &mut Arc<str>) {
        match self.texts.get(text) {
            Some(known) => *text = Arc::clone(known),
            None => {
                self.texts.insert(Arc::clone(text));
            }
        }
    }

    fn unreadable(&mut self, node: &Node, head: &Head<'_>, error: &ReadError) {
        let (field, line) = error.place();
        let line = if line == 0 { node.line } else { line };
        self.invalid_object(node, head, line, field, error.reason(), error.message().to_owned());
    }

    /// An object that cannot be used. Its last good version is kept if it can be named.
    fn invalid_object(
        &mut self,
        node: &Node,
        head: &Head<'_>,
        line: u32,
        field: &str,
        reason: &'static str,
        message: String,
    ) {
        let Some(reference) = kind_of(head.kind).and_then(|kind| guess(node, kind)) else {
            self.file_problem(line, Severity::Error, field, reason, format!("{}: {message}", head.kind));
            self.out.incomplete = true;
            return;
        };
        self.out.invalid.push(reference.clone());
        let location = Some(self.location(line));
        let (field, severity, message) = (field.to_owned(), Severity::Error, brief(message));
        self.out.problems.push(Problem { object: reference, location, field, severity, reason, message });
    }
}

/// True if the document says at its top that it is of a kind that we do not read: it is not even parsed, for
/// such objects may be larger and deeper than anything of ours.
fn is_unrelated(text: &str) -> bool {
    let (Some(api_version), Some(kind)) = (top(text, "apiVersion"), top(text, "kind")) else { return false };
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let ours = [
        "networking.k8s.io",
        "extensions",
        "discovery.k8s.io",
        "sluicegate.dev",
        "gateway.networking.k8s.io",
        "metallb.io",
    ];
    let related = match group {
        "" => {
            matches!(
                kind,
                "Service"
                    | "Secret"
                    | "ConfigMap"
                    | "Namespace"
                    | "Ingress"
                    | "IngressClass"
                    | "EndpointSlice"
                    | "Config"
            ) || kind.ends_with("List")
        }
        group => ours.contains(&group),
    };
    !related && !kind.is_empty()
}

/// What stands behind `key` at the top of a YAML document.
fn top<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let value = value.split(" #").next().unwrap_or_default().trim();
    Some(value.trim_matches(['"', '\'']))
}

/// The kind of a list of objects.
fn list_kind(node: &Node) -> Option<&str> {
    let kind = node.field("kind").and_then(Node::text)?;
    (kind.ends_with("List") && node.field("items").is_some()).then_some(kind)
}

const NATIVE_VERSION: &str = "sluicegate.dev/v1alpha1";
const METALLB_VERSION: &str = "metallb.io/v1beta1";
const SECTIONS: [&str; 4] = ["listeners", "routes", "backends", "addressPools"];

const NO_SECTIONS: [&str; 3] = ["apiVersion", "kind", "metadata"];

fn is_native(node: &Node, api_version: &str) -> bool {
    let has_section = SECTIONS.iter().any(|section| node.field(section).is_some());
    match node.field("kind").and_then(Node::text) {
        Some("Config") => is_ours(api_version),
        Some(_) => false,
        None => has_section && is_ours(api_version),
    }
}

/// Whether a document of this `apiVersion` may be of the native format.
fn is_ours(api_version: &str) -> bool {
    api_version.is_empty() || api_version.starts_with("sluicegate.dev/")
}

/// Whether a native document has a field that does not exist and may be a slip for `listeners`. One that is nearer to
/// another word is a slip for that.
fn may_mean_listeners(node: &Node) -> bool {
    let Value::Map(entries) = &node.value else { return false };
    let known = || SECTIONS.into_iter().chain(NO_SECTIONS);
    let mut unknown = entries.iter().filter(|entry| !known().any(|known| *known == *entry.key));
    unknown.any(|entry| suggest::nearest(&entry.key, known()).is_none_or(|word| word == "listeners"))
}

/// The first field of a native file that does not exist: name, line, hint.
fn unknown_top_level(node: &Node) -> Option<(String, u32, String)> {
    let Value::Map(entries) = &node.value else { return None };
    let known = SECTIONS.into_iter().chain(NO_SECTIONS);
    let unknown = entries.iter().find(|entry| !known.clone().any(|known| *known == *entry.key))?;
    Some((unknown.key.to_string(), unknown.line, suggest::hint(&unknown.key, known)))
}

/// Reads one entry of a native file.
fn native_object(
    file: &str,
    kind: Kind,
    name: &Arc<str>,
    field: &str,
    node: &Node,
    (position, has_listeners): (u32, bool),
) -> Result<ObjectSpec, Finding> {
    let builder = Builder { file, field, line: node.line, has_listeners };
    let located = |error: ReadError| {
        let (path, line) = error.place();
        Finding::error(
            path,
            if line == 0 { node.line } else { line },
            error.reason(),
            error.message().to_owned(),
        )
    };
    match kind {
        Kind::Listener => {
            let (entry, _) = reader::read::<ListenerEntry>(node, field, true).map_err(located)?;
            if let Some(written) = &entry.0.name {
                builder.name(written)?;
            }
            Ok(ObjectSpec::Listener(Box::new(builder.listener(name, &entry.0)?)))
        }
        Kind::Route => {
            let (spec, _) = reader::read::<RouteSpec>(node, field, true).map_err(located)?;
            if let Some(written) = &spec.name {
                builder.name(written)?;
            }
            Ok(ObjectSpec::Route(Box::new(builder.route(spec, position)?)))
        }
        Kind::AddressPool => {
            let (entry, _) = reader::read::<AddressPoolEntry>(node, field, true).map_err(located)?;
            builder.name(&entry.name)?;
            Ok(ObjectSpec::AddressPool(Box::new(entry.trim())))
        }
        _ => {
            let (spec, _) = reader::read::<BackendSpec>(node, field, true).map_err(located)?;
            Ok(ObjectSpec::Backend(Box::new(builder.backend(spec)?)))
        }
    }
}

/// The most common reason of all, which parsers put badly.
fn tab_hint(document: &node::Document<'_>, line: u32) -> &'static str {
    let index = line.saturating_sub(document.offset).saturating_sub(1) as usize;
    let near = document.text.lines().skip(index.saturating_sub(1)).take(2);
    let has_tab = near.into_iter().any(|line| {
        let indent: &str = line.split(|c: char| !c.is_whitespace()).next().unwrap_or_default();
        indent.contains('\t')
    });
    if has_tab { "; YAML is indented with spaces, not tabs" } else { "" }
}
