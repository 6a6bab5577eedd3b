//! CustomResourceDefinition, and the objects that it defines: their form, defaults and limits, from the structural schema.
//! Pure. What a definition may say beside that (expressions, conversion by webhook) is not looked at.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{inside, items, names, text};
use crate::error::Cause;
use crate::schema::{Empty, Field, Fields, Listed, Struct, Type, metadata};

/// One version of what a definition defines.
#[derive(Debug)]
pub(crate) struct Definition {
    schema: Value,
    /// `additionalPrinterColumns`.
    pub(crate) columns: Vec<Value>,
}

/// The definition of a version, and the type of its objects.
pub(crate) fn definition(version: &Value) -> (Definition, Type) {
    let schema = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
    let mut is = type_of(&schema);
    if let Type::Struct { is: Struct::Own(fields), .. } = &is {
        let mut all = Fields { fields: fields.fields.clone(), open: fields.open };
        for name in ["apiVersion", "kind"] {
            all.fields.insert(name.to_owned(), kept(Type::String));
        }
        all.fields
            .insert("metadata".to_owned(), Field { empty: Empty::Always(json!({})), ..kept(metadata()) });
        is = Type::Struct { is: Struct::Own(Arc::new(all)), atomic: false };
    }
    let columns = items(version, "additionalPrinterColumns").to_vec();
    (Definition { schema, columns }, is)
}

fn kept(is: Type) -> Field {
    Field { is, empty: Empty::Kept, merge: None }
}

/// The type that a structural schema says. Values are kept as they are; their types are checked with the rest.
fn type_of(schema: &Value) -> Type {
    let open = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    match text(schema, "type") {
        Some("object") => {
            let atomic = text(schema, "x-kubernetes-map-type") == Some("atomic");
            if let Some(of) = schema.get("additionalProperties").filter(|of| of.is_object()) {
                return Type::Map { of: Arc::new(type_of(of)), atomic };
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            if properties.is_none() && open {
                return Type::Any;
            }
            let fields = properties.into_iter().flatten();
            let fields = fields.map(|(name, of)| (name.clone(), kept(type_of(of)))).collect();
            Type::Struct { is: Struct::Own(Arc::new(Fields { fields, open })), atomic }
        }
        Some("array") => {
            let of = Arc::new(schema.get("items").map_or(Type::Any, type_of));
            let keys = items(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str);
            let by = match text(schema, "x-kubernetes-list-type") {
                Some("map") => Listed::Keys(keys.map(str::to_owned).collect()),
                Some("set") => Listed::Set,
                _ => Listed::Whole,
            };
            Type::List { of, by }
        }
        _ => Type::Any,
    }
}

impl Definition {
    /// Fills in what the schema says.
    pub(crate) fn default(&self, object: &mut Value) {
        fill(&self.schema, object);
    }

    /// What is wrong with an object.
    pub(crate) fn check(&self, object: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (name, schema) in self.schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if let Some(value) = object.get(name).filter(|_| name != "metadata") {
                check_value(schema, name, value, &mut causes);
            }
        }
        for name in items(&self.schema, "required").iter().filter_map(Value::as_str) {
            if object.get(name).is_none() {
                causes.push(Cause::required(name, ""));
            }
        }
        causes
    }
}

fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, of) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if let Some(default) = of.get("default") {
                    map.entry(name.clone()).or_insert_with(|| default.clone());
                }
                if let Some(value) = map.get_mut(name) {
                    fill(of, value);
                }
            }
            if let Some(of) = schema.get("additionalProperties").filter(|of| of.is_object()) {
                map.values_mut().for_each(|value| fill(of, value));
            }
        }
        Value::Array(list) => {
            if let Some(of) = schema.get("items") {
                list.iter_mut().for_each(|value| fill(of, value));
            }
        }
        _ => {}
    }
}

fn check_value(schema: &Value, field: &str, value: &Value, causes: &mut Vec<Cause>) {
    if value.is_null() && schema.get("nullable") == Some(&Value::Bool(true)) {
        return;
    }
    let wanted = text(schema, "type").unwrap_or_default();
    let (is, fits) = match value {
        Value::Null => ("null", wanted.is_empty()),
        Value::Bool(_) => ("boolean", wanted == "boolean"),
        Value::Number(number) => {
            ("number", wanted == "number" || wanted == "integer" && (number.is_i64() || number.is_u64()))
        }
        Value::String(_) => ("string", wanted == "string"),
        Value::Array(_) => ("array", wanted == "array"),
        Value::Object(_) => ("object", wanted == "object"),
    };
    let int_or_string = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    if !fits && !wanted.is_empty() && !(int_or_string && (value.is_string() || value.is_i64())) {
        let why = format!("{field} in body must be of type {wanted}: {is:?}");
        let message = format!("Invalid value: {is:?}: {why}");
        causes.push(Cause { reason: "FieldValueTypeInvalid", message, field: field.to_owned() });
        return;
    }
    let known = items(schema, "enum");
    if !known.is_empty() && !known.contains(value) {
        let known: Vec<_> = known.iter().map(|each| each.as_str().unwrap_or_default()).collect();
        causes.push(Cause::unsupported(field, value.clone(), &known));
    }
    check_limits(schema, field, value, causes);
    check_inside(schema, field, value, causes);
}

fn check_limits(schema: &Value, field: &str, value: &Value, causes: &mut Vec<Cause>) {
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    let mut invalid =
        |why: String| causes.push(Cause::invalid(field, value.clone(), &format!("{field} in body {why}")));
    if let Some(number) = value.as_f64() {
        if let Some(least) = limit("minimum").filter(|least| number < *least) {
            invalid(format!("should be greater than or equal to {least}"));
        }
        if let Some(most) = limit("maximum").filter(|most| number > *most) {
            invalid(format!("should be less than or equal to {most}"));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "lengths are small")]
    let length = match value {
        Value::String(text) => Some((text.chars().count() as f64, "Length", "chars long")),
        Value::Array(list) => Some((list.len() as f64, "Items", "items")),
        Value::Object(map) => Some((map.len() as f64, "Properties", "properties")),
        _ => None,
    };
    if let Some((length, what, unit)) = length {
        if let Some(least) = limit(&format!("min{what}")).filter(|least| length < *least) {
            invalid(format!("should be at least {least} {unit}"));
        }
        if let Some(most) = limit(&format!("max{what}")).filter(|most| length > *most) {
            invalid(format!("should be at most {most} {unit}"));
        }
    }
}

fn check_inside(schema: &Value, field: &str, value: &Value, causes: &mut Vec<Cause>) {
    match value {
        Value::Object(map) => {
            for name in items(schema, "required").iter().filter_map(Value::as_str) {
                if !map.contains_key(name) {
                    causes.push(Cause::required(format!("{field}.{name}"), ""));
                }
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            for (name, value) in map {
                let of = properties.and_then(|properties| properties.get(name));
                if let Some(of) =
                    of.or_else(|| schema.get("additionalProperties").filter(|of| of.is_object()))
                {
                    check_value(of, &format!("{field}.{name}"), value, causes);
                }
            }
        }
        Value::Array(list) => {
            let keys: Vec<&str> =
                items(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).collect();
            let unique = ["set", "map"].contains(&text(schema, "x-kubernetes-list-type").unwrap_or_default());
            let mut seen: Vec<Value> = Vec::new();
            for (index, item) in list.iter().enumerate() {
                let at = format!("{field}[{index}]");
                if let Some(of) = schema.get("items") {
                    check_value(of, &at, item, causes);
                }
                let key = if keys.is_empty() {
                    item.clone()
                } else {
                    keys.iter()
                        .map(|key| ((*key).to_owned(), item.get(*key).cloned().unwrap_or_default()))
                        .collect()
                };
                if unique && seen.contains(&key) {
                    causes.push(Cause::duplicate(&at, key.clone()));
                }
                seen.push(key);
            }
        }
        _ => {}
    }
}

/// Fills in a definition.
pub(crate) fn default(definition: &mut Value) {
    let Some(spec) = inside(definition, "spec") else { return };
    spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) else { return };
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
    names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
}

/// A new definition has nothing established yet.
pub(crate) fn on_create(definition: &mut Value) {
    let stored: Vec<_> = stored_versions(definition);
    if let Some(map) = definition.as_object_mut() {
        let nothing = json!({"plural": "", "kind": ""});
        let status = json!({"conditions": null, "acceptedNames": nothing, "storedVersions": stored});
        map.insert("status".to_owned(), status);
    }
    if let Some(metadata) = inside(definition, "metadata") {
        let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if finalizers.as_array().is_some_and(Vec::is_empty) {
            metadata.remove("finalizers");
        }
    }
}

fn stored_versions(definition: &Value) -> Vec<Value> {
    let versions = items(definition.get("spec").unwrap_or(&Value::Null), "versions");
    let stored = versions.iter().filter(|version| version.get("storage") == Some(&Value::Bool(true)));
    stored.filter_map(|version| version.get("name").cloned()).collect()
}

/// The status of a definition whose objects are served.
pub(crate) fn established(definition: &Value, now: &str) -> Value {
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message,
        })
    };
    json!({
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "acceptedNames": definition.pointer("/spec/names").cloned().unwrap_or_default(),
        "storedVersions": stored_versions(definition),
    })
}

/// What is wrong with a definition.
pub(crate) fn check(definition: &Value) -> Vec<Cause> {
    let spec = definition.get("spec").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let group = text(&spec, "group").unwrap_or_default();
    let plural = spec.pointer("/names/plural").and_then(Value::as_str).unwrap_or_default();
    let name = definition.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let mut causes = Vec::new();
    if name != format!("{plural}.{group}") {
        causes.push(Cause::invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
    }
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else {
        causes.extend(names::subdomain(group).iter().map(|why| Cause::invalid("spec.group", group, why)));
    }
    let scope = text(&spec, "scope").unwrap_or_default();
    match scope {
        "" => causes.push(Cause::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        other => causes.push(Cause::unsupported("spec.scope", other, &["Cluster", "Namespaced"])),
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        if spec.pointer(&format!("/names/{field}")).and_then(Value::as_str).unwrap_or_default().is_empty() {
            causes.push(Cause::required(format!("spec.names.{field}"), ""));
        }
    }
    let versions = items(&spec, "versions");
    if stored_versions(definition).len() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", spec.get("versions").cloned().unwrap_or_default(), why));
    }
    for (index, version) in versions.iter().enumerate() {
        let field = format!("spec.versions[{index}]");
        if version.pointer("/schema/openAPIV3Schema").is_none() {
            causes.push(Cause::required(format!("{field}.schema.openAPIV3Schema"), ""));
        } else if version.pointer("/schema/openAPIV3Schema/type").and_then(Value::as_str) != Some("object") {
            let why = "must not be empty at the root";
            causes.push(Cause::required(format!("{field}.schema.openAPIV3Schema.type"), why));
        }
    }
    causes
}
