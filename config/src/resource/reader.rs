//! [`Node`] → typed value through serde, keeping for every error the dotted path and the line of the field,
//! and collecting the fields that a type does not know.

use std::cell::RefCell;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

use super::known;
use super::node::{Entry, Node, Value};
use super::suggest;

/// What a read brought besides the value.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Fields that are in no version of the type: path, line, hint.
    pub(crate) unknown: Vec<(String, u32, String)>,
}

/// Reads `node` as `T`; `at` is the path of `node` itself. With `strict`, an unknown field is an error.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(
    node: &Node,
    at: &str,
    strict: bool,
) -> Result<(T, Findings), ReadError> {
    let context = Context { strict, findings: RefCell::default() };
    let root = Path { parent: None, step: Step::Field(at) };
    let reader = Reader { node, path: &root, context: &context };
    match T::deserialize(reader) {
        Ok(value) => Ok((value, context.findings.into_inner())),
        Err(error) => Err(error.located(&root, node.line)),
    }
}

/// A value with the line it was read from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct At<T> {
    pub(crate) line: u32,
    pub(crate) value: T,
}

/// Reads a field that may be null, as Go's encoders write lists and maps with nothing in them: then it is not there.
pub(crate) fn absent<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

const AT: &str = "$at";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AtVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for AtVisitor<T> {
            type Value = At<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<At<T>, D::Error> {
                Ok(At { line: 0, value: T::deserialize(inner)? })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<At<T>, A::Error> {
                let line = seq.next_element()?.unwrap_or(0);
                let missing = || serde::de::Error::custom("expected a value");
                Ok(At { line, value: seq.next_element()?.ok_or_else(missing)? })
            }
        }
        deserializer.deserialize_newtype_struct(AT, AtVisitor(std::marker::PhantomData))
    }
}

/// What is wrong with a field, and where.
#[derive(Debug)]
pub(crate) struct ReadError(Box<Failure>);

#[derive(Debug)]
struct Failure {
    reason: &'static str,
    message: String,
    /// A field below the node at which the error arose.
    leaf: Option<String>,
    place: Option<(String, u32)>,
}

impl ReadError {
    fn new(reason: &'static str, message: String) -> Self {
        Self(Box::new(Failure { reason, message, leaf: None, place: None }))
    }

    fn located(mut self, path: &Path<'_>, line: u32) -> Self {
        if self.0.place.is_none() {
            let mut text = path.to_string();
            if let Some(leaf) = self.0.leaf.take() {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&leaf);
            }
            self.0.place = Some((text, line));
        }
        self
    }

    /// Stable reason code.
    pub(crate) fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// What is wrong.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// Dotted path and line.
    pub(crate) fn place(&self) -> (&str, u32) {
        self.0.place.as_ref().map_or(("", 0), |(path, line)| (path, *line))
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ReadError {}

impl serde::de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new("InvalidValue", message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        let wanted = plain_words(expected);
        let scalar = matches!(unexpected, Unexpected::Signed(_) | Unexpected::Float(_) | Unexpected::Bool(_));
        let hint = if scalar && wanted.contains("string") { " (put quotes around it)" } else { "" };
        Self::new("WrongType", format!("expected {wanted}, found {}{hint}", Found(unexpected)))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::new("InvalidValue", format!("expected {}, found {}", plain_words(expected), Found(unexpected)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = suggest::hint(variant, expected.iter().copied());
        Self::new("InvalidValue", format!("`{variant}` is not one of {}{hint}", expected.join(", ")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let hint = suggest::hint(field, expected.iter().copied());
        let mut error = Self::new("UnknownField", format!("unknown field `{field}`{hint}"));
        error.0.leaf = Some(field.to_owned());
        error
    }

    fn missing_field(field: &'static str) -> Self {
        let mut error = Self::new("MissingField", format!("`{field}` is required"));
        error.0.leaf = Some(field.to_owned());
        error
    }
}

/// What was expected, for people who do not write Rust.
fn plain_words(expected: &dyn serde::de::Expected) -> String {
    let text = expected.to_string();
    match &*text {
        "u8" => "a number from 0 to 255".to_owned(),
        "u16" => "a number from 0 to 65535".to_owned(),
        "u32" | "u64" | "usize" => "a number, not negative".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        _ if text.starts_with("struct ") => "a map".to_owned(),
        _ => text,
    }
}

struct Found<'a>(Unexpected<'a>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Signed(number) => write!(f, "the number {number}"),
            Unexpected::Float(number) => write!(f, "the number {number}"),
            Unexpected::Bool(flag) => write!(f, "`{flag}`"),
            Unexpected::Str(text) if text.len() <= 60 => write!(f, "the text {text:?}"),
            Unexpected::Str(_) => f.write_str("a long text"),
            Unexpected::Map => f.write_str("a map"),
            Unexpected::Seq => f.write_str("a list"),
            other => write!(f, "{other}"),
        }
    }
}

struct Context {
    strict: bool,
    findings: RefCell<Findings>,
}

#[derive(Clone, Copy)]
struct Path<'a> {
    parent: Option<&'a Self>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut dot = "";
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            dot = if parent.is_root_without_name() { "" } else { "." };
        }
        match self.step {
            Step::Field(name) if name.contains(['.', '/']) && !dot.is_empty() => write!(f, "[{name:?}]"),
            Step::Field(name) => write!(f, "{dot}{name}"),
            Step::Item(index) => write!(f, "[{index}]"),
        }
    }
}

impl Path<'_> {
    fn is_root_without_name(&self) -> bool {
        self.parent.is_none() && matches!(self.step, Step::Field(""))
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    path: &'a Path<'a>,
    context: &'a Context,
}

impl<'a> Reader<'a> {
    fn list<'de, V: Visitor<'de>>(self, items: &'a [Node], visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_seq(Items { reader: self, items: items.iter().enumerate() })
    }

    fn map<'de, V: Visitor<'de>>(self, entries: Vec<&'a Entry>, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_map(Fields { reader: self, entries: entries.into_iter(), current: None })
    }

    /// The entries that the struct knows; the others are recorded or refused.
    fn known(
        self,
        name: &str,
        fields: &[&'static str],
        all: &'a [Entry],
    ) -> Result<Vec<&'a Entry>, ReadError> {
        let unused = known::unused_fields(name);
        let mut kept = Vec::with_capacity(all.len());
        for entry in all {
            if fields.contains(&&*entry.key) {
                if entry.node.value != Value::Null {
                    kept.push(entry);
                }
                continue;
            }
            if unused.contains(&&*entry.key) {
                continue;
            }
            let path = Path { parent: Some(self.path), step: Step::Field(&entry.key) };
            let hint = suggest::hint(&entry.key, fields.iter().chain(unused).copied());
            if self.context.strict {
                let error = ReadError::new("UnknownField", format!("unknown field `{}`{hint}", entry.key));
                return Err(error.located(&path, entry.line));
            }
            self.context.findings.borrow_mut().unknown.push((path.to_string(), entry.line, hint));
        }
        Ok(kept)
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => self.list(items, visitor),
            Value::Map(entries) => {
                self.map(entries.iter().filter(|entry| entry.node.value != Value::Null).collect(), visitor)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        if self.node.value == Value::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if name == AT {
            visitor.visit_seq(LineThenValue { reader: self, state: 0 })
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Map(entries) => self.map(self.known(name, fields, entries)?, visitor),
            // A list must not fill a struct's fields by position.
            Value::List(_) => Err(serde::de::Error::invalid_type(Unexpected::Seq, &"a map")),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Text(text) => visitor.visit_enum((&**text).into_deserializer()),
            Value::Map(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Variant { reader: self, entry }),
                _ => Err(serde::de::Error::custom("expected a map with exactly one field")),
            },
            _ => Err(serde::de::Error::invalid_type(self.unexpected(), &"a string")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier
    }
}

impl Reader<'_> {
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.node.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(flag) => Unexpected::Bool(*flag),
            Value::Int(number) => Unexpected::Signed(*number),
            Value::Float(number) => Unexpected::Float(*number),
            Value::Text(text) => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        }
    }
}

struct LineThenValue<'a> {
    reader: Reader<'a>,
    state: u8,
}

impl<'de> SeqAccess<'de> for LineThenValue<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        self.state += 1;
        match self.state {
            1 => seed.deserialize(self.reader.node.line.into_deserializer()).map(Some),
            2 => seed.deserialize(self.reader).map(Some),
            _ => Ok(None),
        }
    }
}

struct Items<'a> {
    reader: Reader<'a>,
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let path = Path { parent: Some(self.reader.path), step: Step::Item(index) };
        let reader = Reader { node, path: &path, context: self.reader.context };
        seed.deserialize(reader).map(Some).map_err(|error| error.located(&path, node.line))
    }
}

struct Fields<'a> {
    reader: Reader<'a>,
    entries: std::vec::IntoIter<&'a Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        self.current = self.entries.next();
        match self.current {
            Some(entry) => seed.deserialize((&*entry.key).into_deserializer()).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some(entry) = self.current.take() else {
            return Err(serde::de::Error::custom("expected a value"));
        };
        let path = Path { parent: Some(self.reader.path), step: Step::Field(&entry.key) };
        let reader = Reader { node: &entry.node, path: &path, context: self.reader.context };
        seed.deserialize(reader).map_err(|error| error.located(&path, entry.line))
    }
}

struct Variant<'a> {
    reader: Reader<'a>,
    entry: &'a Entry,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = ReadError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), ReadError> {
        Ok((seed.deserialize((&*self.entry.key).into_deserializer())?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = ReadError;

    fn unit_variant(self) -> Result<(), ReadError> {
        Err(serde::de::Error::custom(format!("`{}` takes no value here", self.entry.key)))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, ReadError> {
        let path = Path { parent: Some(self.reader.path), step: Step::Field(&self.entry.key) };
        let reader = Reader { node: &self.entry.node, path: &path, context: self.reader.context };
        seed.deserialize(reader).map_err(|error| error.located(&path, self.entry.line))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, ReadError> {
        Reader { node: &self.entry.node, ..self.reader }.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        Reader { node: &self.entry.node, ..self.reader }.deserialize_struct("", fields, visitor)
    }
}
