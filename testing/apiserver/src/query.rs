//! What a request asks for beside its path: parameters, and selectors of labels and fields. Pure; knows no object but
//! through what it is given.

use serde_json::Value;

use crate::error::Failure;
use crate::kinds::{Kind, What};
use crate::store::Object;

/// The parameters of a request, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The value of a parameter; none if it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|text| !text.is_empty())
    }

    /// A parameter that is true or false.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.text(name)? {
            "0" | "false" => Some(false),
            _ => Some(true),
        }
    }

    /// `resourceVersion`; none if it is not said.
    pub(crate) fn version(&self) -> Result<Option<u64>, Failure> {
        let Some(text) = self.text("resourceVersion") else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Failure::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing \
                 {text:?}: invalid syntax"
            ))
        })
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.text(name) else { return Ok(None) };
        // A negative number is none, as the real one has it.
        text.parse()
            .map(|number: i64| u64::try_from(number).ok())
            .map_err(|_| Failure::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
    }
}

/// Percent-decoding; `+` is a space in queries.
pub(crate) fn decode(text: &str, plus: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'%', [high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let decoded =
                    std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                match decoded {
                    Some(byte) => {
                        bytes.push(byte);
                        rest = tail;
                    }
                    None => bytes.push(b'%'),
                }
            }
            (b'+', _) if plus => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Which objects of a list are meant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Clone, Debug)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Exists,
    Missing,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

impl Selector {
    /// `labelSelector` and `fieldSelector` of `query`, for lists of `kind`.
    pub(crate) fn parse(query: &Query, kind: &Kind) -> Result<Self, Failure> {
        let labels = query.text("labelSelector").map(labels).transpose()?.unwrap_or_default();
        let known = selectable(kind);
        let mut fields = Vec::new();
        for term in query.text("fieldSelector").unwrap_or_default().split(',').filter(|term| !term.is_empty())
        {
            let (field, equal, value) = if let Some((field, value)) = term.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (field, true, value)
            } else {
                return Err(Failure::bad_request(format!(
                    "invalid selector: '{term}'; can't understand '{term}'"
                )));
            };
            let field = field.trim();
            let stored = match known.iter().find(|(name, _)| name == field) {
                Some((_, stored)) => *stored,
                None if ["metadata.name", "metadata.namespace"].contains(&field) => field,
                None if known.is_empty() => {
                    return Err(Failure::bad_request(format!(
                        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )));
                }
                None => return Err(Failure::bad_request(format!("field label not supported: {field}"))),
            };
            fields.push((stored.to_owned(), equal, value.trim().to_owned()));
        }
        Ok(Self { labels, fields })
    }

    /// True if every object is meant.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// True if `object` is meant.
    pub(crate) fn selects(&self, object: &Object) -> bool {
        let label =
            |key: &str| object.labels.iter().find(|(name, _)| &**name == key).map(|(_, value)| &**value);
        self.labels.iter().all(|requirement| requirement.holds(label(&requirement.key)))
            && self.fields.iter().all(|(field, equal, wanted)| {
                let value = match field.as_str() {
                    "metadata.name" => &*object.name,
                    "metadata.namespace" => &*object.namespace,
                    other => object
                        .fields
                        .iter()
                        .find(|(name, _)| *name == other)
                        .map_or("", |(_, value)| &**value),
                };
                (value == wanted) == *equal
            })
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
            Test::In(values) => value.is_some_and(|value| values.iter().any(|each| each == value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|each| each != value)),
            Test::Greater(bound) => number().is_some_and(|number| number > *bound),
            Test::Less(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

fn labels(text: &str) -> Result<Vec<Requirement>, Failure> {
    split_outside_parentheses(text).into_iter().map(|term| requirement(term.trim(), text)).collect()
}

fn requirement(term: &str, whole: &str) -> Result<Requirement, Failure> {
    let wrong = || Failure::bad_request(format!("unable to parse requirement: {term:?} in {whole:?}"));
    let of = |key: &str, test| {
        let key = key.trim();
        if key.is_empty() || key.contains(|c: char| c.is_whitespace() || "=!<>()".contains(c)) {
            return Err(wrong());
        }
        Ok(Requirement { key: key.to_owned(), test })
    };
    let number = |text: &str| text.trim().parse().map_err(|_| wrong());
    if let Some((key, values)) = set(term, " notin ").or_else(|| set(term, " notin(")) {
        return of(key, Test::NotIn(values));
    }
    if let Some((key, values)) = set(term, " in ").or_else(|| set(term, " in(")) {
        return of(key, Test::In(values));
    }
    if let Some((key, value)) = term.split_once("!=") {
        return of(key, Test::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return of(key, Test::In(vec![value.trim().to_owned()]));
    }
    if let Some((key, bound)) = term.split_once('>') {
        return of(key, Test::Greater(number(bound)?));
    }
    if let Some((key, bound)) = term.split_once('<') {
        return of(key, Test::Less(number(bound)?));
    }
    match term.strip_prefix('!') {
        Some(key) => of(key, Test::Missing),
        None => of(term, Test::Exists),
    }
}

fn set<'a>(term: &'a str, word: &str) -> Option<(&'a str, Vec<String>)> {
    let (key, rest) = term.split_once(word)?;
    let values = rest.trim().trim_start_matches('(').strip_suffix(')')?;
    Some((key, values.split(',').map(|value| value.trim().to_owned()).collect()))
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
    .filter(|term| !term.trim().is_empty())
    .collect()
}

/// The fields, besides name and namespace, that lists of a kind can be selected by, and how they are called where objects
/// are stored.
pub(crate) fn selectable(kind: &Kind) -> Vec<(String, &'static str)> {
    let stored = stored_fields(&kind.what);
    if !kind.is_new_event() {
        return stored.iter().map(|field| ((*field).to_owned(), *field)).collect();
    }
    stored
        .iter()
        .map(|field| {
            let name = match *field {
                "reportingComponent" => "reportingController".to_owned(),
                other => other.replace("involvedObject.", "regarding."),
            };
            (name, *field)
        })
        .collect()
}

fn stored_fields(what: &What) -> &'static [&'static str] {
    match what {
        What::Event => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        What::Namespace => &["status.phase"],
        What::Node => &["spec.unschedulable"],
        What::Pod => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        What::Secret => &["type"],
        What::Service => &["spec.clusterIP", "spec.type"],
        What::ConfigMap
        | What::Endpoints
        | What::Definition
        | What::Lease
        | What::EndpointSlice
        | What::IngressClass
        | What::Ingress
        | What::Custom(_) => &[],
    }
}

/// The values of those fields in `object`.
pub(crate) fn selectable_values(what: &What, object: &Value) -> Box<[(&'static str, Box<str>)]> {
    stored_fields(what)
        .iter()
        .map(|field| {
            let path = match *field {
                "source" => "source.component",
                other => other,
            };
            let value = path.split('.').try_fold(object, |value, step| value.get(step));
            let text = match value {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Bool(flag)) => flag.to_string(),
                None if ["spec.unschedulable", "spec.hostNetwork"].contains(field) => "false".to_owned(),
                _ => String::new(),
            };
            (*field, text.into_boxed_str())
        })
        .collect()
}
