//! Kubernetes LabelSelector: which labels an object must have. Knows nothing of the objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::reader;

/// Conditions that must all hold; without any, everything is selected.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels with exactly these values.
    #[serde(default, deserialize_with = "reader::absent")]
    match_labels: BTreeMap<String, String>,
    /// Conditions on labels.
    #[serde(default, deserialize_with = "reader::absent")]
    match_expressions: Vec<LabelExpression>,
}

/// A condition on one label.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LabelExpression {
    /// The label.
    key: Arc<str>,
    /// What must hold.
    operator: LabelOperator,
    /// Values of `In` and `NotIn`.
    #[serde(default, deserialize_with = "reader::absent")]
    values: Vec<String>,
}

/// What a [`LabelExpression`] asks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
enum LabelOperator {
    /// The label is there, with one of the values.
    In,
    /// The label is absent, or has another value.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with `labels` is selected.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let is_exact = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.match_labels.iter().all(is_exact)
            && self.match_expressions.iter().all(|condition| {
                let value = labels.get(&*condition.key);
                let is_listed = value.is_some_and(|value| condition.values.contains(value));
                match condition.operator {
                    LabelOperator::In => is_listed,
                    LabelOperator::NotIn => !is_listed,
                    LabelOperator::Exists => value.is_some(),
                    LabelOperator::DoesNotExist => value.is_none(),
                }
            })
    }
}
