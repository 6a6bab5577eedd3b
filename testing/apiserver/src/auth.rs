//! Who asks, and whether they may: bearer tokens and rules per token. Never looks at an object.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// A bearer token and what it may do.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Token {
    /// What stands behind `Bearer`.
    pub token: String,
    /// Name of the user in messages and in `managedFields` of nothing.
    pub user: String,
    /// What it may do; everything if this is missing.
    #[serde(default)]
    pub rules: Option<Vec<Rule>>,
}

impl Token {
    /// A token that may do everything.
    #[must_use]
    pub fn admin(token: &str) -> Self {
        Self { token: token.to_owned(), user: "admin".to_owned(), rules: None }
    }
}

/// What is allowed, as in a Role. `*` stands for all.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// `""` is the core group.
    pub api_groups: Vec<String>,
    /// Plurals; `ingresses/status` for a subresource.
    pub resources: Vec<String>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verbs: Vec<String>,
    /// Only in these namespaces; everywhere if empty.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Only objects of these names; all if empty.
    #[serde(default)]
    pub resource_names: Vec<String>,
}

/// What is to be done with what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deed<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    /// With its subresource.
    pub(crate) resource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// The token in an `Authorization` header. Without the header, whoever asks is anonymous, and may do nothing.
pub(crate) fn authenticate<'a>(tokens: &'a [Token], header: Option<&str>) -> Result<&'a Token, Failure> {
    static ANONYMOUS: LazyLock<Token> = LazyLock::new(|| Token {
        token: String::new(),
        user: "system:anonymous".to_owned(),
        rules: Some(Vec::new()),
    });
    let Some(header) = header else { return Ok(&ANONYMOUS) };
    let (scheme, sent) = header.split_once(' ').ok_or_else(Failure::unauthorized)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Failure::unauthorized());
    }
    let sent = sent.trim();
    tokens.iter().find(|token| token.token == sent).ok_or_else(Failure::unauthorized)
}

/// Whether `token` may use what only this server has.
pub(crate) fn may_control(token: &Token) -> Result<(), Failure> {
    if token.rules.is_none() { Ok(()) } else { Err(Failure::forbidden("not with this token", "", "", "")) }
}

/// Whether `token` may do `deed`.
pub(crate) fn authorize(token: &Token, deed: Deed<'_>) -> Result<(), Failure> {
    let Some(rules) = &token.rules else { return Ok(()) };
    if rules.iter().any(|rule| rule.allows(deed)) {
        return Ok(());
    }
    Err(refusal(&token.user, deed))
}

/// The words with which a deed is refused.
pub(crate) fn refusal(user: &str, deed: Deed<'_>) -> Failure {
    let place = if deed.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", deed.namespace)
    };
    let (plural, subresource) = match deed.resource.split_once('/') {
        Some((plural, subresource)) => (plural, format!("/{subresource}")),
        None => (deed.resource, String::new()),
    };
    let qualified =
        if deed.group.is_empty() { plural.to_owned() } else { format!("{plural}.{}", deed.group) };
    let name = if deed.name.is_empty() { String::new() } else { format!(" {:?}", deed.name) };
    let message = format!(
        "{qualified}{name} is forbidden: User {user:?} cannot {} resource \"{plural}{subresource}\" in API group {:?} {place}",
        deed.verb, deed.group
    );
    Failure::forbidden(message, deed.group, plural, deed.name)
}

impl Rule {
    fn allows(&self, deed: Deed<'_>) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|each| each == "*" || each == wanted);
        let subresource = deed.resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
        has(&self.verbs, deed.verb)
            && has(&self.api_groups, deed.group)
            && (has(&self.resources, deed.resource)
                || subresource.is_some_and(|any| self.resources.contains(&any)))
            && (self.namespaces.is_empty() || self.namespaces.iter().any(|each| each == deed.namespace))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|each| each == deed.name))
    }
}
