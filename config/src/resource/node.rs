//! Text → [`Node`]: a tree that knows the line of everything in it. Owns the limits on hostile text (size,
//! depth, aliases); never knows what a field means.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

mod json_text;

/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 16 << 20;
/// Deepest nesting of lists and maps; bounds the stack as well, of which an unoptimised build takes 40 KiB per
/// level. What we read is a third as deep.
const MAX_DEPTH: usize = 32;
/// Nodes in one document; 16 MiB of the tersest useful YAML stays below it.
const MAX_NODES: usize = 4_000_000;
/// Nodes that aliases (`*name`) may repeat in one document.
const MAX_ALIAS_NODES: usize = 200_000;

/// One value of a document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// 1-based line in the file.
    pub(crate) line: u32,
    pub(crate) value: Value,
}

/// What a [`Node`] holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One field of a map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: Box<str>,
    /// 1-based line of the key.
    pub(crate) line: u32,
    pub(crate) node: Node,
}

impl Node {
    /// The field `key` of a map, unless it is absent or null.
    pub(crate) fn field(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        let entry = entries.iter().find(|entry| &*entry.key == key)?;
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    /// The text of a string.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The line of the field at `path` (`a.b[2].c`), or of the nearest one above it.
    pub(crate) fn line_at(&self, path: &str) -> u32 {
        let (mut node, mut line) = (self, self.line);
        let mut rest = path;
        while !rest.is_empty() {
            let (found, next) = match (&node.value, rest.strip_prefix('[')) {
                (Value::List(items), Some(indexed)) => {
                    let Some((index, next)) = indexed.split_once(']') else { return line };
                    let Some(item) = index.parse::<usize>().ok().and_then(|index| items.get(index)) else {
                        return line;
                    };
                    ((item, item.line), next)
                }
                (Value::Map(entries), None) => {
                    // The longest key that fits, since keys may have dots themselves.
                    let fits = |entry: &&Entry| {
                        let after = rest.strip_prefix(&*entry.key);
                        after.is_some_and(|after| after.is_empty() || after.starts_with(['.', '[']))
                    };
                    let Some(entry) = entries.iter().filter(fits).max_by_key(|entry| entry.key.len()) else {
                        return line;
                    };
                    ((&entry.node, entry.line), rest.get(entry.key.len()..).unwrap_or_default())
                }
                _ => return line,
            };
            (node, line) = found;
            rest = next.trim_start_matches('.');
        }
        line
    }

    /// Adds `offset` to every line, for a document that is not the first of its file.
    fn shift(&mut self, offset: u32) {
        self.line = self.line.saturating_add(offset);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.shift(offset)),
            Value::Map(entries) => {
                for entry in entries {
                    entry.line = entry.line.saturating_add(offset);
                    entry.node.shift(offset);
                }
            }
            _ => {}
        }
    }
}

/// Why a document is not a tree.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    /// 1-based line in the file; 0 when unknown.
    pub(crate) line: u32,
    pub(crate) message: String,
}

/// Parses one document that starts `offset` lines into its file; `None` if it holds nothing. JSON is read as such, many
/// times quicker; the reader of YAML has the last word on what is none, and says what is wrong with it.
pub(crate) fn parse(text: &str, offset: u32) -> Result<Option<Node>, SyntaxError> {
    json_text::parse(text, offset).map_or_else(|| parse_yaml(text, offset), |node| Ok(Some(node)))
}

/// The map at the top of a document of JSON, without the items of its list `items`: those go to `take` one by one. `None`
/// for everything else, and then what `take` was told counts for nothing.
pub(crate) fn parse_items(text: &str, offset: u32, mut take: impl FnMut(Node)) -> Option<Node> {
    json_text::parse_items(text, offset, &mut take)
}

fn parse_yaml(text: &str, offset: u32) -> Result<Option<Node>, SyntaxError> {
    match serde_saphyr::from_str_with_options::<Option<Node>>(text, options()) {
        Ok(Some(mut node)) => {
            node.shift(offset);
            Ok((node.value != Value::Null).then_some(node))
        }
        Ok(None) => Ok(None),
        Err(error) => {
            let error = error.without_snippet();
            let line = error.location().and_then(|at| u32::try_from(at.line()).ok()).unwrap_or(0);
            let line = if line == 0 { 0 } else { line.saturating_add(offset) };
            Err(SyntaxError { line, message: describe(&error.to_string()) })
        }
    }
}

/// JSON as a tree without lines. Of a key that is there twice the last one counts, as for an API server.
pub(crate) fn of_json(value: serde_json::Value) -> Node {
    let value = match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::Int(number),
            (None, number) => Value::Float(number.unwrap_or(f64::INFINITY)),
        },
        serde_json::Value::String(text) => Value::Text(text.into()),
        serde_json::Value::Array(items) => Value::List(items.into_iter().map(of_json).collect()),
        serde_json::Value::Object(fields) => Value::Map(
            fields
                .into_iter()
                .map(|(key, value)| Entry { key: key.into(), line: 0, node: of_json(value) })
                .collect(),
        ),
    };
    Node { line: 0, value }
}

/// The parser's first sentence, without its own (document-relative) position and advice to programmers.
fn describe(message: &str) -> String {
    if message.contains("alias replay limit") {
        return format!("aliases (`*name`) repeat more than {MAX_ALIAS_NODES} values; write less of them");
    }
    if message.contains("budget breached") || message.contains("nesting") || message.contains("max_depth") {
        return format!(
            "too deep or too large: at most {MAX_DEPTH} levels and {MAX_NODES} values per document"
        );
    }
    let first = message.lines().next().unwrap_or_default();
    let cuts = [" at line ", " (line ", ", set DuplicateKeyPolicy"];
    let end = cuts.iter().filter_map(|cut| first.find(cut)).min().unwrap_or(first.len());
    first
        .get(..end)
        .unwrap_or(first)
        .trim_start_matches("error: ")
        .trim_end_matches([':', ',', ' '])
        .to_owned()
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: MAX_NODES * 2,
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIAS_NODES,
        },
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

/// One document of a file.
pub(crate) struct Document<'a> {
    pub(crate) text: &'a str,
    /// Lines of the file before it.
    pub(crate) offset: u32,
}

/// Cuts a file at its `---` lines, so that a broken document costs only itself. YAML forbids such a line
/// inside any scalar, so the cut needs no parsing.
pub(crate) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        if is_separator(line) && at > start {
            documents.push(Document { text: text.get(start..at).unwrap_or_default(), offset: start_line });
            (start, start_line) = (at, number);
        }
        at += line.len();
    }
    documents.push(Document { text: text.get(start..).unwrap_or_default(), offset: start_line });
    documents.retain(|document| !document.text.lines().all(is_idle));
    documents
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Comments, directives and markers: a document of nothing else is not one.
fn is_idle(line: &str) -> bool {
    let text = line.trim_start_matches('\u{feff}').trim();
    text.is_empty() || text.starts_with('#') || line.starts_with('%') || text == "---" || text == "..."
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: u32::try_from(spanned.referenced.line()).unwrap_or(0), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        #[expect(clippy::cast_precision_loss, reason = "no field we read takes a number this large")]
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::Text(String::from_utf8_lossy(value).into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Node>()? {
            let node = map.next_value()?;
            entries.push(Entry { key: key_text(key.value), line: key.line, node });
        }
        Ok(Value::Map(entries))
    }
}

fn key_text(key: Value) -> Box<str> {
    match key {
        Value::Text(text) => text,
        Value::Int(number) => number.to_string().into(),
        Value::Bool(flag) => flag.to_string().into(),
        Value::Float(number) => number.to_string().into(),
        Value::Null | Value::List(_) | Value::Map(_) => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<u32> {
        documents(text).iter().map(|document| document.offset).collect()
    }

    #[test]
    fn every_node_and_key_knows_its_line_in_the_file() {
        let text = "a: 1\n---\n# note\nb:\n  - x\n  - c: {d: 'e'}\n";
        let parts = documents(text);
        let node = parse(parts[1].text, parts[1].offset).unwrap().unwrap();
        let Value::Map(entries) = &node.value else { panic!("{node:?}") };
        assert_eq!((&*entries[0].key, entries[0].line), ("b", 4));
        let Value::List(items) = &entries[0].node.value else { panic!("{node:?}") };
        assert_eq!(items[0].line, 5);
        let inner = items[1].field("c").unwrap().field("d").unwrap();
        assert_eq!((inner.line, inner.text()), (6, Some("e")));
    }

    #[test]
    fn documents_are_cut_at_separators_only() {
        assert_eq!(lines("a: 1\n"), [0]);
        assert_eq!(lines("---\na: 1\n---\nb: 2\n"), [0, 2]);
        assert_eq!(lines("# only a comment\n---\na: 1\n---\n"), [1]);
        assert_eq!(lines("a: |\n  text\n  --- not a separator\n"), [0]);
        assert_eq!(lines("%YAML 1.2\n---\na: 1\n"), [1]);
        assert!(lines("\n\n# nothing\n").is_empty());
    }

    #[test]
    fn a_json_document_is_a_document() {
        let node = parse("{\n\t\"a\": [1, true, null, \"x\\/y\\u00e9\"]\n}\n", 0).unwrap().unwrap();
        let Value::List(items) = &node.field("a").unwrap().value else { panic!("{node:?}") };
        assert_eq!(items.len(), 4);
        assert_eq!(items[3].text(), Some("x/y\u{e9}"));
    }

    #[test]
    fn alias_bombs_and_deep_nesting_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let before = level - 1;
            let alias = format!("*a{before}, ").repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
        }
        assert!(parse(&bomb, 0).is_err());
        assert!(parse(&"[".repeat(100_000), 0).is_err());
        let mut nested = String::new();
        for depth in 0..200 {
            nested.push_str(&" ".repeat(depth));
            nested.push_str("a:\n");
        }
        assert!(parse(&nested, 0).is_err());
    }
}
