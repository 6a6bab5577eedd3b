//! Strategic merge patches: merge patches in which lists are merged by the key that the type names, with directives in the
//! patch (`$patch`, `$retainKeys`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…`). Pure.

use serde_json::{Map, Value};

use crate::schema::{Field, Fields, Merge, Type};

/// `target` after `patch`, or what is wrong with the patch.
pub(crate) fn merge(target: &mut Value, patch: Value, is: &Type) -> Result<(), String> {
    let (Value::Object(_), Value::Object(patch)) = (&*target, patch.clone()) else {
        *target = clean(patch);
        return Ok(());
    };
    let map = std::mem::take(target).as_object_mut().map(std::mem::take).unwrap_or_default();
    *target = Value::Object(maps(map, patch, is)?);
    Ok(())
}

fn maps(
    mut target: Map<String, Value>,
    mut patch: Map<String, Value>,
    is: &Type,
) -> Result<Map<String, Value>, String> {
    match patch.remove("$patch").as_ref().and_then(Value::as_str) {
        Some("replace") => return Ok(cleaned(patch)),
        Some("delete") => return Ok(Map::new()),
        None | Some("merge") => {}
        Some(other) => return Err(format!("unknown patch type found: {other}")),
    }
    let retain = patch.remove("$retainKeys");
    for (name, value) in patch.clone() {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(Value::Array(items)) = target.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (name, value) in &patch {
        if name.starts_with('$') {
            continue;
        }
        if value.is_null() {
            target.remove(name);
            continue;
        }
        let order = patch.get(&format!("$setElementOrder/{name}")).and_then(Value::as_array);
        let field = field(is, name);
        let old = target.remove(name);
        if let Some(new) = entry(old, value.clone(), field, item_type(is, name), order)? {
            target.insert(name.clone(), new);
        }
    }
    // An order may come without entries.
    for (name, order) in &patch {
        if let (Some(list), Some(order)) = (name.strip_prefix("$setElementOrder/"), order.as_array())
            && !patch.contains_key(list)
            && let Some(Value::Array(items)) = target.get_mut(list)
        {
            let key = field(is, list).and_then(|field| field.merge.clone());
            let taken = std::mem::take(items);
            *items = ordered(Vec::new(), taken, Some(order), key.as_ref());
        }
    }
    if let Some(Value::Array(keep)) = retain {
        target.retain(|name, _| keep.iter().any(|each| each == name));
    }
    Ok(target)
}

fn field<'a>(is: &'a Type, name: &str) -> Option<&'a Field> {
    match is {
        Type::Struct { is, .. } => is.fields().fields.get(name),
        _ => None,
    }
}

fn item_type<'a>(is: &'a Type, name: &str) -> &'a Type {
    match is {
        Type::Map { of, .. } => of,
        Type::Struct { is, .. } => {
            let fields: &Fields = is.fields();
            fields.fields.get(name).map_or(&Type::Any, |field| &field.is)
        }
        _ => &Type::Any,
    }
}

/// One field after the patch; none if it is gone.
fn entry(
    old: Option<Value>,
    new: Value,
    field: Option<&Field>,
    is: &Type,
    order: Option<&Vec<Value>>,
) -> Result<Option<Value>, String> {
    match (old, new, field.and_then(|field| field.merge.as_ref())) {
        (old, Value::Array(items), Some(how)) => {
            let old = match old {
                Some(Value::Array(old)) => old,
                _ => Vec::new(),
            };
            let Type::List { of, .. } = is else { return Ok(Some(Value::Array(items))) };
            lists(old, items, how, of, order).map(Value::Array).map(Some)
        }
        (_, other, Some(Merge::By(_))) => Err(format!("cannot restore slice from {}", kind_of(&other))),
        (Some(Value::Object(old)), Value::Object(new), _) => {
            let deleted = new.get("$patch").is_some_and(|how| how == "delete");
            let merged = maps(old, new, is)?;
            Ok((!deleted || !merged.is_empty()).then_some(Value::Object(merged)))
        }
        (None, Value::Object(new), _) => {
            if new.get("$patch").is_some_and(|how| how == "delete") {
                return Ok(None);
            }
            maps(Map::new(), new, is).map(Value::Object).map(Some)
        }
        (_, new, _) => Ok(Some(clean(new))),
    }
}

fn lists(
    old: Vec<Value>,
    patch: Vec<Value>,
    how: &Merge,
    of: &Type,
    order: Option<&Vec<Value>>,
) -> Result<Vec<Value>, String> {
    let Merge::By(key) = how else {
        let (kept, new): (Vec<_>, Vec<_>) = (old, patch);
        let rest = kept.into_iter().filter(|item| !new.contains(item)).collect();
        return Ok(ordered(new, rest, order, None));
    };
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(str::to_owned);
    if patch.iter().any(|item| directive(item).as_deref() == Some("replace") && item.get(*key).is_none()) {
        return Ok(patch.into_iter().filter(|item| directive(item).is_none()).map(clean).collect());
    }
    let original = old.clone();
    let mut old = old;
    let mut merged = Vec::new();
    for item in patch {
        let Some(name) = item.get(*key).cloned() else {
            return Err(format!("map: {item} does not contain declared merge key: {key}"));
        };
        let mine = |each: &Value| each.get(*key) == Some(&name);
        let before = old.iter().position(mine).map(|index| old.remove(index));
        old.retain(|each| !mine(each));
        if directive(&item).as_deref() == Some("delete") {
            continue;
        }
        let mut value = before.unwrap_or_else(|| Value::Object(Map::new()));
        merge(&mut value, item, of)?;
        merged.push(value);
    }
    Ok(match order {
        Some(order) => ordered(merged, old, Some(order), Some(how)),
        None => interleaved(merged, old, &original, key),
    })
}

/// Patched entries in the order of the patch; the others before the patched one that followed them.
fn interleaved(patched: Vec<Value>, others: Vec<Value>, original: &[Value], key: &str) -> Vec<Value> {
    let place = |item: &Value| original.iter().position(|each| each.get(key) == item.get(key));
    let mut list = Vec::new();
    let mut others = others.into_iter().peekable();
    for item in patched {
        if let Some(here) = place(&item) {
            while let Some(other) = others.next_if(|other| place(other).is_some_and(|there| there < here)) {
                list.push(other);
            }
        }
        list.push(item);
    }
    list.extend(others);
    list
}

/// Entries in the order that the patch says; those it does not name come last.
fn ordered(
    patched: Vec<Value>,
    others: Vec<Value>,
    order: Option<&Vec<Value>>,
    how: Option<&Merge>,
) -> Vec<Value> {
    let mut list = patched;
    let Some(order) = order else {
        let mut all = others;
        all.append(&mut list);
        return all;
    };
    list.extend(others);
    let place = |item: &Value| {
        order
            .iter()
            .position(|each| match how {
                Some(Merge::By(key)) => each.get(*key).is_some() && each.get(*key) == item.get(*key),
                _ => each == item,
            })
            .unwrap_or(usize::MAX)
    };
    list.sort_by_key(place);
    list
}

/// Without directives and nulls.
fn clean(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(cleaned(map)),
        Value::Array(items) => Value::Array(items.into_iter().map(clean).collect()),
        other => other,
    }
}

fn cleaned(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .filter(|(name, value)| !name.starts_with('$') && !value.is_null())
        .map(|(name, value)| (name, clean(value)))
        .collect()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::of_kind;

    fn ports(old: Value, patch: Value) -> Value {
        let mut service = json!({"spec": {"ports": old}});
        merge(&mut service, json!({ "spec": patch }), &of_kind("", "Service")).unwrap();
        service["spec"]["ports"].clone()
    }

    #[test]
    fn entries_are_merged_by_their_key() {
        let old = json!([{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]);
        let patch = json!({"ports": [{"port": 81, "name": "c"}, {"port": 82}]});
        let wanted = json!([{"port": 80, "name": "a"}, {"port": 81, "name": "c"}, {"port": 82}]);
        assert_eq!(ports(old, patch), wanted);
    }

    #[test]
    fn directives_delete_replace_and_order() {
        let old = json!([{"port": 80}, {"port": 81}]);
        assert_eq!(
            ports(old.clone(), json!({"ports": [{"port": 80, "$patch": "delete"}]})),
            json!([{"port": 81}])
        );
        let replace = json!({"ports": [{"$patch": "replace"}, {"port": 9}]});
        assert_eq!(ports(old.clone(), replace), json!([{"port": 9}]));
        let order = json!({"$setElementOrder/ports": [{"port": 81}, {"port": 80}], "ports": [{"port": 80, "name": "x"}]});
        assert_eq!(ports(old, order), json!([{"port": 81}, {"port": 80, "name": "x"}]));
    }

    #[test]
    fn an_entry_without_its_key_is_refused() {
        let mut service = json!({"spec": {"ports": [{"port": 80}]}});
        let patch = json!({"spec": {"ports": [{"name": "x"}]}});
        assert!(merge(&mut service, patch, &of_kind("", "Service")).is_err());
    }

    #[test]
    fn sets_of_scalars_are_joined() {
        let mut object = json!({"metadata": {"finalizers": ["a/b"]}});
        let patch = json!({"metadata": {"finalizers": ["c/d"]}});
        merge(&mut object, patch, &of_kind("", "ConfigMap")).unwrap();
        assert_eq!(object["metadata"]["finalizers"], json!(["a/b", "c/d"]));
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"]}});
        merge(&mut object, patch, &of_kind("", "ConfigMap")).unwrap();
        assert_eq!(object["metadata"]["finalizers"], json!(["c/d"]));
    }
}
