//! Who wrote which field (`managedFields`), and server-side apply, which is decided by it. Pure: values in, values out.

mod apply;
mod compare;
mod managed;
mod merge;
mod set;

use serde_json::{Map, Value};

pub(crate) use self::apply::{Applied, Apply, Conflict};
pub(crate) use self::compare::check;
pub(crate) use self::managed::{Managers, Writer, forgets, on_update};
pub(crate) use self::set::Set;
use self::set::Step;
use crate::schema::{Listed, Type};

/// What a value is for the purposes of merging and owning.
pub(crate) enum Atom<'a> {
    /// One value, owned as a whole.
    Leaf,
    /// A list whose entries are owned one by one.
    List(&'a Type, &'a Listed),
    /// A map or struct whose fields are owned one by one.
    Map(Entries<'a>),
}

/// The types of the entries of a map.
#[derive(Clone, Copy)]
pub(crate) enum Entries<'a> {
    Fields(&'a crate::schema::Fields),
    All(&'a Type),
}

impl<'a> Entries<'a> {
    /// The type of an entry; none if there can be no such.
    fn of(self, name: &str) -> Option<&'a Type> {
        match self {
            Self::Fields(fields) => match fields.fields.get(name) {
                Some(field) => Some(&field.is),
                None if fields.open => Some(&Type::Any),
                None => None,
            },
            Self::All(of) => Some(of),
        }
    }

    /// True if `name` is a field that the type names.
    fn names(self, name: &str) -> bool {
        matches!(self, Self::Fields(fields) if fields.fields.contains_key(name))
    }
}

/// What `is` makes of the values on both sides; what is not typed is what it looks like.
pub(crate) fn atom<'a>(is: &'a Type, left: Option<&Value>, right: Option<&Value>) -> Atom<'a> {
    match is {
        Type::Struct { is, atomic: false } => Atom::Map(Entries::Fields(is.fields())),
        Type::Map { of, atomic: false } => Atom::Map(Entries::All(of)),
        Type::List { of, by } if *by != Listed::Whole => Atom::List(of, by),
        Type::Any => {
            let is_map =
                |value: Option<&Value>| value.is_none_or(|value| value.is_object() || value.is_null());
            let any_map = left.is_some_and(Value::is_object) || right.is_some_and(Value::is_object);
            if any_map && is_map(left) && is_map(right) {
                Atom::Map(Entries::All(&Type::Any))
            } else {
                Atom::Leaf
            }
        }
        _ => Atom::Leaf,
    }
}

/// The step to an entry of a list.
fn step_of(item: &Value, by: &Listed) -> Result<Step, String> {
    match by {
        Listed::Whole | Listed::Set => match item {
            Value::Null => Err("associative list without keys has an element that's null".to_owned()),
            Value::Object(_) | Value::Array(_) => Err("set has an element that is no scalar".to_owned()),
            scalar => Ok(Step::Value(scalar.to_string())),
        },
        Listed::Keys(keys) => {
            let Some(item) = item.as_object() else {
                return Err("associative list with keys may not have non-map elements".to_owned());
            };
            let mut step = Map::new();
            for key in keys {
                let value = match item.get(key) {
                    Some(Value::Null) | None if key == "protocol" => Value::from("TCP"),
                    Some(Value::Null) | None => continue,
                    Some(value) => value.clone(),
                };
                step.insert(key.clone(), value);
            }
            if step.is_empty() {
                let keys = keys.join(", ");
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{keys:?}]"
                ));
            }
            Ok(Step::Key(Value::Object(step).to_string()))
        }
    }
}

/// The entries of a list with the steps to them.
fn steps<'a>(items: Option<&'a Value>, by: &Listed) -> Result<Vec<(Step, &'a Value)>, String> {
    let items = items.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let step = step_of(item, by).map_err(|error| format!("element {index}: {error}"))?;
            Ok((step, item))
        })
        .collect()
}

/// True for what has no entries.
fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}
