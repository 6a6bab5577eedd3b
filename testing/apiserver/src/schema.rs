//! The types of the fields of all kinds: of the built-in ones from `schema.txt`, which is cut from the published OpenAPI
//! document; of others from their definitions. Says what may stand where, and never looks at an object.
//!
//! A line of `schema.txt` without indent names a struct; each indented line is a field: name, type, what becomes of a value
//! that says nothing, and how strategic patches merge it. Types: a scalar (`string`, `int32`, `time` …); `Struct`, or
//! `!Struct` if it is replaced as a whole; `[]T` a list that is replaced as a whole, `[=]T` a set, `[a,b]T` a list whose
//! entries are told apart by those fields; `{}T` a map, `{!}T` one that is replaced as a whole. What says nothing is dropped
//! (`-`), kept if it was said (`?`), or always there in the form behind `+`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

/// What may stand somewhere.
#[derive(Clone, Debug)]
pub(crate) enum Type {
    String,
    Bool,
    Int32,
    Int64,
    Number,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// Anything; what it is shows.
    Any,
    Struct {
        is: Struct,
        /// Replaced as a whole by server-side apply.
        atomic: bool,
    },
    List {
        of: Arc<Self>,
        by: Listed,
    },
    Map {
        of: Arc<Self>,
        atomic: bool,
    },
}

/// How the entries of a list are told apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Listed {
    /// They are not: the list is one value.
    Whole,
    /// By themselves.
    Set,
    /// By these fields.
    Keys(Vec<String>),
}

/// A struct, by name or by itself.
#[derive(Clone, Debug)]
pub(crate) enum Struct {
    /// One of `schema.txt`.
    Named(&'static str),
    /// One of a definition.
    Own(Arc<Fields>),
}

/// The fields of a struct.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    /// name → field
    pub(crate) fields: BTreeMap<String, Field>,
    /// Whether unknown fields are kept.
    pub(crate) open: bool,
}

/// One field.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) is: Type,
    pub(crate) empty: Empty,
    /// How strategic patches merge it; replaced if not said.
    pub(crate) merge: Option<Merge>,
}

/// What becomes of a value that says nothing: null, an empty text, list or map, 0, false.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Empty {
    /// It is dropped.
    Dropped,
    /// Only null is dropped.
    Kept,
    /// There is always something, this if nothing else.
    Always(Value),
}

/// How strategic patches merge a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Merge {
    /// As a set of scalars, or as a struct.
    Plain,
    /// Entries with the same value in this field are the same.
    By(&'static str),
}

impl Struct {
    /// Its fields.
    pub(crate) fn fields(&self) -> &Fields {
        static NONE: Fields = Fields { fields: BTreeMap::new(), open: true };
        match self {
            Self::Named(name) => structs().get(name).unwrap_or(&NONE),
            Self::Own(fields) => fields,
        }
    }
}

/// The type of a kind's objects; anything if it is not known.
pub(crate) fn of_kind(group: &str, kind: &str) -> Type {
    let prefix = match group {
        "" => "core",
        other => other.split('.').next().unwrap_or_default(),
    };
    match structs().get_key_value(format!("{prefix}.{kind}").as_str()) {
        Some((name, _)) => Type::Struct { is: Struct::Named(name), atomic: false },
        None => Type::Any,
    }
}

/// `metadata` of any object.
pub(crate) fn metadata() -> Type {
    Type::Struct { is: Struct::Named("ObjectMeta"), atomic: false }
}

fn structs() -> &'static HashMap<&'static str, Fields> {
    static STRUCTS: OnceLock<HashMap<&'static str, Fields>> = OnceLock::new();
    STRUCTS.get_or_init(|| read(include_str!("schema.txt")))
}

fn read(text: &'static str) -> HashMap<&'static str, Fields> {
    let mut structs: HashMap<&'static str, Fields> = HashMap::new();
    let mut current = "";
    for line in text.lines() {
        let Some(field) = line.strip_prefix("  ") else {
            current = line;
            structs.insert(current, Fields::default());
            continue;
        };
        let mut words = field.split(' ');
        let (Some(name), Some(is)) = (words.next(), words.next()) else { continue };
        let empty = match words.next().unwrap_or("-") {
            "-" => Empty::Dropped,
            "?" => Empty::Kept,
            other => {
                let text = other.strip_prefix('+').unwrap_or("null");
                Empty::Always(serde_json::from_str(text).unwrap_or_default())
            }
        };
        let merge =
            words.next().map(|word| word.split_once(':').map_or(Merge::Plain, |(_, key)| Merge::By(key)));
        if let Some(current) = structs.get_mut(current) {
            current.fields.insert(name.to_owned(), Field { is: read_type(is), empty, merge });
        }
    }
    structs
}

fn read_type(text: &'static str) -> Type {
    if let Some(rest) = text.strip_prefix('[')
        && let Some((keys, of)) = rest.split_once(']')
    {
        let by = match keys {
            "" => Listed::Whole,
            "=" => Listed::Set,
            keys => Listed::Keys(keys.split(',').map(str::to_owned).collect()),
        };
        return Type::List { of: Arc::new(read_type(of)), by };
    }
    if let Some(of) = text.strip_prefix("{}") {
        return Type::Map { of: Arc::new(read_type(of)), atomic: false };
    }
    if let Some(of) = text.strip_prefix("{!}") {
        return Type::Map { of: Arc::new(read_type(of)), atomic: true };
    }
    match text {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "number" => Type::Number,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "quantity" => Type::Quantity,
        "intstr" => Type::IntOrString,
        "any" => Type::Any,
        name => match name.strip_prefix('!') {
            Some(name) => Type::Struct { is: Struct::Named(name), atomic: true },
            None => Type::Struct { is: Struct::Named(name), atomic: false },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(is: &Type, seen: &mut Vec<&'static str>) {
        match is {
            Type::Struct { is: Struct::Named(name), .. } => {
                assert!(structs().contains_key(name), "{name} is not defined");
                if !seen.contains(name) {
                    seen.push(name);
                    structs()[name].fields.values().for_each(|field| each(&field.is, seen));
                }
            }
            Type::List { of, .. } | Type::Map { of, .. } => each(of, seen),
            _ => {}
        }
    }

    #[test]
    fn every_kind_has_a_schema_and_every_name_in_it_is_defined() {
        let mut seen = Vec::new();
        for kind in crate::kinds::built_in() {
            let is = of_kind(&kind.group, &kind.kind);
            assert!(matches!(is, Type::Struct { .. }), "{}", kind.kind);
            each(&is, &mut seen);
        }
        assert_eq!(seen.len(), structs().len(), "structs that nothing names");
    }

    #[test]
    fn a_line_says_type_emptiness_and_merging() {
        let spec = &structs()["core.ServiceSpec"];
        let ports = &spec.fields["ports"];
        assert_eq!(ports.merge, Some(Merge::By("port")));
        assert!(
            matches!(&ports.is, Type::List { by: Listed::Keys(keys), .. } if keys == &["port", "protocol"])
        );
        assert_eq!(
            structs()["discovery.EndpointSlice"].fields["endpoints"].empty,
            Empty::Always(Value::Null)
        );
    }
}
