//! The form of what is written: from the words of a client to a checked value, and from there to what is stored.

use serde_json::{Map, Value};

use super::{Body, PatchBody, Writer, Writing, untyped};
use crate::decode::{Findings, decode};
use crate::error::Failure;
use crate::kinds::Kind;
use crate::patch::Patch;
use crate::shape;

/// What is done with fields that the schema does not have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Strictness {
    /// They are dropped.
    Ignore,
    /// They are dropped, with a warning.
    Warn,
    /// They are refused.
    #[default]
    Strict,
}

impl Writer<'_> {
    /// The body of a create or update, in the form in which it is stored, without its kind.
    pub(super) fn decode_body(&mut self, body: Body, writing: &Writing) -> Result<Value, Failure> {
        let value = self.check_type(body.value)?;
        let mut findings = Findings { duplicates: body.duplicates, ..Findings::default() };
        let decoded = decode(value, &self.kind.schema, &mut findings);
        let refused = decoded.as_ref().ok().and_then(|_| self.judge(&findings, writing));
        let cannot = |why: &str| {
            let Kind { kind, version, .. } = &*self.kind;
            Failure::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
            ))
        };
        let value = decoded.map_err(|why| cannot(&why))?;
        if let Some(refused) = refused {
            return Err(cannot(&refused));
        }
        Ok(untyped(value))
    }

    /// `before` after a patch that is no apply, in the form in which it is stored.
    pub(super) fn patched(
        &mut self,
        before: &Value,
        body: PatchBody,
        writing: &Writing,
    ) -> Result<Value, Failure> {
        let PatchBody { patch, text, duplicates } = body;
        let text = text.as_str();
        if matches!(patch, Patch::Strategic(_)) && self.kind.is_custom() {
            return Err(Failure::unsupported_media(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        let patched = patch.apply(&self.kind, before.clone(), text)?;
        let said = |field: &str| patched.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        if said("kind") != *self.kind.kind || said("apiVersion") != self.kind.api_version() {
            let why = format!("the object is of another kind now ({}, {})", said("kind"), said("apiVersion"));
            return Err(Failure::unfit_patch(text, &why));
        }
        let mut findings = Findings { duplicates, ..Findings::default() };
        let value = decode(patched, &self.kind.schema, &mut findings)
            .map_err(|why| Failure::unfit_patch(text, &why))?;
        if let Some(refused) = self.judge(&findings, writing) {
            return Err(Failure::unfit_patch(text, &refused));
        }
        Ok(untyped(value))
    }

    /// Why unknown fields are refused, if they are.
    fn judge(&mut self, findings: &Findings, writing: &Writing) -> Option<String> {
        let unknown = findings.unknown.iter().map(|field| format!("unknown field {field:?}"));
        let words =
            unknown.chain(findings.duplicates.iter().map(|field| format!("duplicate field {field:?}")));
        match writing.strictness {
            Strictness::Ignore => None,
            Strictness::Warn => {
                self.warnings.extend(words);
                None
            }
            Strictness::Strict => {
                let words: Vec<_> = words.collect();
                (!words.is_empty()).then(|| format!("strict decoding error: {}", words.join(", ")))
            }
        }
    }

    /// That an object is of the kind of this path. A built-in kind need not say it.
    fn check_type(&self, mut value: Value) -> Result<Value, Failure> {
        let kind = &self.kind.kind;
        let unrecognized = |why: &str| {
            Failure::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): {why}"
            ))
        };
        let Some(map) = value.as_object_mut() else {
            return Err(unrecognized("couldn't get version/kind; json parse error: not an object"));
        };
        let text = |map: &Map<String, Value>, field: &str| match map.get(field) {
            None | Some(Value::Null) => Some(String::new()),
            Some(value) => value.as_str().map(str::to_owned),
        };
        let (Some(said), Some(version)) = (text(map, "kind"), text(map, "apiVersion")) else {
            return Err(unrecognized("couldn't get version/kind; json parse error: not a string"));
        };
        let wanted = self.kind.api_version();
        if self.kind.is_custom() && (said.is_empty() || version.is_empty()) {
            let missing = if said.is_empty() { "Kind" } else { "apiVersion" };
            return Err(unrecognized(&format!("Object '{missing}' is missing")));
        }
        if !version.is_empty() && version != wanted {
            return Err(Failure::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({wanted})"
            )));
        }
        if !said.is_empty() && said != **kind {
            return Err(Failure::bad_request(format!(
                "{said} in version {:?} cannot be handled as a {kind}: it is of another kind",
                self.kind.version
            )));
        }
        Ok(value)
    }

    /// What is stored of a value in the words of this kind.
    pub(super) fn inside(&self, value: Value) -> Value {
        let value = untyped(value);
        if self.kind.is_new_event() { shape::to_core_event(value) } else { value }
    }

    /// An object of this kind that says nothing.
    pub(super) fn empty(&self) -> Value {
        if self.kind.is_custom() {
            return Value::Object(Map::new());
        }
        decode(Value::Object(Map::new()), &self.kind.schema, &mut Findings::default()).unwrap_or_default()
    }
}
