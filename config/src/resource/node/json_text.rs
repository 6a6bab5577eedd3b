//! JSON text → [`Node`], in one pass that counts lines. Owns the syntax of JSON (RFC 8259) as far as it means the same to a
//! reader of YAML, which takes everything else: it has no words for what is wrong, only that this is not for it.

use super::{Entry, MAX_DEPTH, MAX_NODES, Node, Value};

/// Maps with more keys than this are searched for duplicates by sorting.
const FEW_KEYS: usize = 16;

/// The only value of `text`, which starts `offset` lines into its file. `None` for anything but JSON within the limits in
/// which no map has a key twice.
pub(super) fn parse(text: &str, offset: u32) -> Option<Node> {
    let mut reader = Reader { rest: text, line: offset.saturating_add(1), nodes: 0 };
    reader.space()?;
    if !reader.rest.starts_with(['{', '[']) {
        return None;
    }
    let node = reader.value(0)?;
    reader.end(node)
}

/// As [`parse`] for a map, but each item of a list in its field [`ITEMS`] goes to `take` and is not kept: a list of objects may
/// be large, and each of them is small. They are told before it is known whether all of `text` is JSON, so where `None`
/// comes back they count for nothing.
pub(super) fn parse_items(text: &str, offset: u32, take: &mut impl FnMut(Node)) -> Option<Node> {
    let mut reader = Reader { rest: text, line: offset.saturating_add(1), nodes: 0 };
    reader.space()?;
    let line = reader.line;
    let value = reader.map(|reader, key| {
        if key != ITEMS || !reader.rest.starts_with('[') {
            return reader.value(1);
        }
        let line = reader.line;
        reader.count()?;
        reader.list(1, take)?;
        Some(Node { line, value: Value::List(Vec::new()) })
    })?;
    reader.end(Node { line, value })
}

/// Where the objects of a `List` are.
pub(super) const ITEMS: &str = "items";

struct Reader<'t> {
    /// What was not read yet.
    rest: &'t str,
    /// The line of its first character.
    line: u32,
    nodes: usize,
}

impl<'t> Reader<'t> {
    /// Skips white space. A carriage return alone ends a line in YAML.
    fn space(&mut self) -> Option<()> {
        let bytes = self.rest.as_bytes();
        let mut skipped = 0;
        while let Some(byte) = bytes.get(skipped) {
            match byte {
                b' ' | b'\t' => {}
                b'\n' => self.line = self.line.saturating_add(1),
                b'\r' if bytes.get(skipped + 1) == Some(&b'\n') => {}
                b'\r' => return None,
                _ => break,
            }
            skipped += 1;
        }
        self.skip(skipped)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.rest = self.rest.get(bytes..)?;
        Some(())
    }

    fn take(&mut self, token: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    /// `node`, if there is nothing behind it.
    fn end(mut self, node: Node) -> Option<Node> {
        self.space()?;
        self.rest.is_empty().then_some(node)
    }

    fn count(&mut self) -> Option<()> {
        self.nodes += 1;
        (self.nodes <= MAX_NODES).then_some(())
    }

    fn value(&mut self, depth: usize) -> Option<Node> {
        self.count()?;
        if depth > MAX_DEPTH {
            return None;
        }
        let line = self.line;
        let value = match self.rest.as_bytes().first()? {
            b'{' => self.map(|reader, _| reader.value(depth + 1))?,
            b'[' => {
                let mut items = Vec::new();
                self.list(depth, &mut |item| items.push(item))?;
                Value::List(items)
            }
            b'"' => Value::Text(self.string()?),
            b't' => self.word("true", Value::Bool(true))?,
            b'f' => self.word("false", Value::Bool(false))?,
            b'n' => self.word("null", Value::Null)?,
            _ => self.number()?,
        };
        Some(Node { line, value })
    }

    fn word(&mut self, word: &str, value: Value) -> Option<Value> {
        self.rest = self.rest.strip_prefix(word)?;
        Some(value)
    }

    fn list(&mut self, depth: usize, take: &mut impl FnMut(Node)) -> Option<()> {
        self.take('[')?;
        self.space()?;
        if self.take(']').is_some() {
            return Some(());
        }
        loop {
            take(self.value(depth + 1)?);
            self.space()?;
            if self.take(']').is_some() {
                return Some(());
            }
            self.take(',')?;
            self.space()?;
        }
    }

    /// A map, whose values are read by `value`, which is told their keys.
    fn map(&mut self, mut value: impl FnMut(&mut Self, &str) -> Option<Node>) -> Option<Value> {
        self.take('{')?;
        self.space()?;
        let mut entries = Vec::new();
        if self.take('}').is_some() {
            return Some(Value::Map(entries));
        }
        loop {
            let line = self.line;
            let key = self.string()?;
            self.count()?;
            self.space()?;
            self.take(':')?;
            self.space()?;
            let node = value(self, &key)?;
            entries.push(Entry { key, line, node });
            self.space()?;
            if self.take('}').is_some() {
                break;
            }
            self.take(',')?;
            self.space()?;
        }
        is_distinct(&entries).then_some(Value::Map(entries))
    }

    /// A number as a whole or a floating one; one that is neither finite nor an `i64` is for the other reader to name.
    fn number(&mut self) -> Option<Value> {
        let bytes = self.rest.as_bytes();
        let digits = |from: usize| {
            let rest = bytes.get(from..).unwrap_or_default();
            rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len())
        };
        let mut end = usize::from(bytes.first() == Some(&b'-'));
        match (bytes.get(end)?, digits(end)) {
            (_, 0) => return None,
            (b'0', count) if count > 1 => return None,
            (_, count) => end += count,
        }
        let mut is_whole = true;
        if bytes.get(end) == Some(&b'.') {
            is_whole = false;
            end += 1 + Some(digits(end + 1)).filter(|count| *count > 0)?;
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            is_whole = false;
            end += 1;
            end += usize::from(matches!(bytes.get(end), Some(b'+' | b'-')));
            end += Some(digits(end)).filter(|count| *count > 0)?;
        }
        let text = self.rest.get(..end)?;
        let value = if is_whole {
            Value::Int(text.parse().ok()?)
        } else {
            Value::Float(text.parse().ok().filter(|number: &f64| number.is_finite())?)
        };
        self.skip(end)?;
        Some(value)
    }

    fn string(&mut self) -> Option<Box<str>> {
        self.take('"')?;
        let plain = self.plain()?;
        if self.take('"').is_some() {
            return Some(plain.into());
        }
        let mut text = plain.to_owned();
        loop {
            self.take('\\')?;
            let (character, length) = match self.rest.as_bytes().first()? {
                b'"' => ('"', 1),
                b'\\' => ('\\', 1),
                b'/' => ('/', 1),
                b'b' => ('\u{8}', 1),
                b'f' => ('\u{c}', 1),
                b'n' => ('\n', 1),
                b'r' => ('\r', 1),
                b't' => ('\t', 1),
                b'u' => self.unicode()?,
                _ => return None,
            };
            text.push(character);
            self.skip(length)?;
            text.push_str(self.plain()?);
            if self.take('"').is_some() {
                return Some(text.into());
            }
        }
    }

    /// What comes before the next quote or backslash.
    fn plain(&mut self) -> Option<&'t str> {
        let end = self.rest.bytes().position(|byte| byte < b' ' || byte == b'"' || byte == b'\\')?;
        let plain = self.rest.get(..end)?;
        self.skip(end)?;
        Some(plain)
    }

    /// The character that `u` and four hexadecimal digits stand for, or two such with a backslash between, and the length.
    fn unicode(&self) -> Option<(char, usize)> {
        let unit = |from: usize| {
            let digits = self.rest.get(from..from + 4)?;
            let are_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u32::from_str_radix(digits, 16).ok().filter(|_| are_digits)
        };
        let first = unit(1)?;
        if let Some(character) = char::from_u32(first) {
            return Some((character, 5));
        }
        let second = (self.rest.get(5..7) == Some("\\u")).then(|| unit(7)).flatten()?;
        let pair = (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(&second);
        let character = 0x1_0000 + ((first & 0x3ff) << 10) + (second & 0x3ff);
        pair.then(|| char::from_u32(character)).flatten().map(|character| (character, 11))
    }
}

fn is_distinct(entries: &[Entry]) -> bool {
    if entries.len() <= FEW_KEYS {
        let mut rest = entries;
        while let Some((first, others)) = rest.split_first() {
            if others.iter().any(|other| other.key == first.key) {
                return false;
            }
            rest = others;
        }
        return true;
    }
    let mut keys: Vec<&str> = entries.iter().map(|entry| &*entry.key).collect();
    keys.sort_unstable();
    keys.windows(2).all(|pair| !matches!(pair, [one, other] if one == other))
}

#[cfg(test)]
mod tests;
