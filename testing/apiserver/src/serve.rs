//! One request: who asks, for what, and what is answered. Routes to lists, watches, writes and discovery; decides nothing
//! about objects.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT, WARNING};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::answer::Form;
use crate::auth::{self, Deed, Token};
use crate::body::Answer;
use crate::decode::read;
use crate::error::{Cause, Failure};
use crate::faults::{End, control};
use crate::kinds::{Kind, What};
use crate::line::Line;
use crate::query::{Query, Selector, decode};
use crate::state::State;
use crate::store::{Object, key};
use crate::watching::{Terms, Watching};
use crate::write::{Body, Deletion, Edit, PatchBody, Propagation, Strictness, Writer, Writing, Written};
use crate::{discovery, list, patch, shape};

/// The largest body that is taken, as the real one does.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// What a path names.
#[derive(Debug)]
struct Target {
    kind: Arc<Kind>,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
}

/// Answers a request that came on `line`.
pub(crate) async fn serve(
    state: Arc<State>,
    line: Arc<Line>,
    request: Request<Incoming>,
) -> Response<Answer> {
    let answer = match respond(&state, &line, request).await {
        Ok(response) => response,
        Err(failure) => failed(&failure),
    };
    state.faults.heard().await;
    answer
}

async fn respond(
    state: &Arc<State>,
    line: &Line,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Failure> {
    let (head, body) = request.into_parts();
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let path = head.uri.path();
    if !path.starts_with("/_") {
        state.faults.heard().await;
    }
    if ["/healthz", "/livez", "/readyz"].contains(&path) {
        return Ok(text(StatusCode::OK, "ok"));
    }
    let token = auth::authenticate(&state.options.tokens, header(AUTHORIZATION))?;
    let query = Query::parse(head.uri.query().unwrap_or_default());
    if path.starts_with("//") {
        return Ok(text(StatusCode::NOT_FOUND, "404 page not found\n"));
    }
    let segments: Vec<String> =
        path.split('/').filter(|segment| !segment.is_empty()).map(|segment| decode(segment, false)).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    if path.starts_with("/_") {
        auth::may_control(token)?;
        return control(state, &head.method, &segments, &collect(body).await?);
    }
    if let Some(value) = discover(state, &segments, header(ACCEPT).unwrap_or_default()) {
        return match (&head.method, value) {
            (&Method::GET, Some((value, media))) => Ok(whole(StatusCode::OK, value.to_string(), media)),
            (&Method::GET, None) => Ok(text(StatusCode::NOT_FOUND, "404 page not found\n")),
            _ => Err(Failure::method_not_allowed()),
        };
    }
    let target = match target(state, &segments) {
        Some(target) => target,
        None if state.knows_group(&segments) => return Err(Failure::no_such_path()),
        None => return Ok(text(StatusCode::NOT_FOUND, "404 page not found\n")),
    };
    let form = Form::parse(header(ACCEPT).unwrap_or_default(), &query)?;
    let call = Call { state, token, target, query, form, headers: &head.headers, method: &head.method };
    let verb = call.verb()?;
    let resource = call.resource();
    let deed = call.admit(verb, &resource)?;
    let plan = state.faults.plan(deed, &token.user);
    tokio::time::sleep(plan.delay).await;
    match plan.end {
        None => {}
        Some(End::Drop) => line.cut(false).await,
        Some(End::Reset) => line.cut(true).await,
        Some(End::Hang) => std::future::pending().await,
        Some(End::Status { code, retry_after }) => return Err(Failure::of_code(code, retry_after)),
    }
    let response = if verb == "watch" {
        call.watch()?
    } else {
        let body = collect(body).await?;
        // A failure is an answer that can be lost as well.
        call.answer(verb, deed, &body).unwrap_or_else(|failure| failed(&failure))
    };
    let response = call.deprecated(response);
    if plan.lose_answer {
        line.cut(true).await;
    }
    Ok(if plan.truncate { response.map(|body| Answer::Broken(Box::new(body), false)) } else { response })
}

async fn collect(body: Incoming) -> Result<Bytes, Failure> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::too_large(MAX_BODY)),
        Err(error) => Err(Failure::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// A request for a resource.
struct Call<'a> {
    state: &'a Arc<State>,
    token: &'a Token,
    target: Target,
    query: Query,
    form: Form,
    headers: &'a HeaderMap,
    method: &'a Method,
}

impl Call<'_> {
    fn header(&self, name: http::header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn verb(&self) -> Result<&'static str, Failure> {
        let named = self.target.name.is_some();
        if self.target.subresource.is_some() && !["GET", "PUT", "PATCH"].contains(&self.method.as_str()) {
            return Err(Failure::method_not_allowed());
        }
        let watched = self.query.flag("watch").unwrap_or(false);
        Ok(match (self.method.as_str(), named) {
            ("GET", true) => "get",
            ("GET", false) if watched => "watch",
            ("GET", false) => "list",
            ("POST", false) => "create",
            ("PUT", true) => "update",
            ("PATCH", true) => "patch",
            ("DELETE", true) => "delete",
            ("DELETE", false) if self.target.kind.delete_collection => "deletecollection",
            _ => return Err(Failure::method_not_allowed()),
        })
    }

    fn resource(&self) -> String {
        match &self.target.subresource {
            Some(subresource) => format!("{}/{subresource}", self.target.kind.plural),
            None => self.target.kind.plural.to_string(),
        }
    }

    /// Counts the request and sees whether it is allowed.
    fn admit<'b>(&'b self, verb: &'b str, resource: &'b str) -> Result<Deed<'b>, Failure> {
        let applies = verb == "patch" && self.header(CONTENT_TYPE).contains("apply-patch");
        self.state.requests.count(if applies { "apply" } else { verb }, resource);
        let deed = Deed {
            verb,
            group: &self.target.kind.group,
            resource,
            namespace: self.target.namespace.as_deref().unwrap_or_default(),
            name: self.target.name.as_deref().unwrap_or_default(),
        };
        auth::authorize(self.token, deed)?;
        Ok(deed)
    }

    /// The answer, with a warning if the kind is one that nobody should use any more.
    fn deprecated(&self, mut response: Response<Answer>) -> Response<Answer> {
        if matches!(self.target.kind.what, What::Endpoints) {
            let words =
                "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
            response.headers_mut().append(WARNING, http::HeaderValue::from_static(words));
        }
        response
    }

    fn selector(&self) -> Result<Selector, Failure> {
        Selector::parse(&self.query, &self.target.kind)
    }

    fn watch(&self) -> Result<Response<Answer>, Failure> {
        let watching = Watching {
            kind: self.target.kind.clone(),
            namespace: self.target.namespace.clone(),
            selector: self.selector()?,
            form: self.form,
            user: self.token.user.clone(),
            terms: Terms::parse(&self.query)?,
        };
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(watching.run(self.state.clone(), sender));
        let mut response = Response::new(Answer::Events(receiver));
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        Ok(response)
    }

    fn answer(&self, verb: &str, deed: Deed<'_>, body: &[u8]) -> Result<Response<Answer>, Failure> {
        let Target { kind, namespace, name, subresource } = &self.target;
        let name = name.as_deref().unwrap_or_default();
        let namespace = namespace.as_deref();
        match verb {
            "get" => {
                if let Some(version) = self.query.version()?
                    && version > self.state.store().version()
                {
                    return Err(Failure::too_large_version(version, self.state.store().version()));
                }
                let key = key(namespace.unwrap_or_default(), name);
                let object = self.state.store().object(&kind.storage, &key);
                let object = object.ok_or_else(|| Failure::not_found(kind, name))?;
                Ok(self.object(StatusCode::OK, &object))
            }
            "list" => {
                let stale = self.state.faults.stale(deed, &self.token.user);
                let page = list::read(self.state, kind, namespace, &self.query, &self.selector()?, stale)?;
                Ok(whole(StatusCode::OK, self.form.write_list(kind, &page), JSON))
            }
            "create" => {
                if kind.namespaced && namespace.is_none() {
                    return Err(Failure::method_not_allowed());
                }
                let writing = self.writing("CreateOptions")?;
                let written = Writer::new(self.state, kind, namespace).create(self.json(body)?, &writing)?;
                Ok(self.written(&written))
            }
            "update" => {
                let writing = self.writing("UpdateOptions")?;
                let edit = Edit::Replace(self.json(body)?);
                Ok(self.written(&Writer::new(self.state, kind, namespace).edit(name, edit, &writing)?))
            }
            "patch" => {
                if subresource.as_deref().is_some_and(|name| name != "status") {
                    return Err(Failure::method_not_allowed());
                }
                let writing = self.writing("PatchOptions")?;
                let (patch, duplicates) = patch::Patch::parse(self.header(CONTENT_TYPE), body)?;
                let text = String::from_utf8_lossy(body).into_owned();
                let edit = Edit::Patch(PatchBody { patch, text, duplicates });
                Ok(self.written(&Writer::new(self.state, kind, namespace).edit(name, edit, &writing)?))
            }
            "delete" => self.delete(name, body),
            "deletecollection" => self.delete_all(body),
            _ => Err(Failure::method_not_allowed()),
        }
    }

    fn object(&self, code: StatusCode, object: &Object) -> Response<Answer> {
        let mut bytes = Vec::with_capacity(object.json.len() + 64);
        self.form.write(&self.target.kind, object, true, &mut bytes);
        whole(code, bytes, JSON)
    }

    fn written(&self, written: &Written) -> Response<Answer> {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = self.object(code, &written.object);
        for warning in &written.warnings {
            let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = http::HeaderValue::from_str(&format!("299 - \"{text}\"")) {
                response.headers_mut().append(WARNING, value);
            }
        }
        response
    }

    fn json(&self, body: &[u8]) -> Result<Body, Failure> {
        let media = self.header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        match media {
            "" | "application/json" => read(body).map(|(value, duplicates)| Body { value, duplicates }).map_err(|error| {
                Failure::bad_request(format!(
                    "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse \
                     error: {error}",
                    self.target.kind.kind
                ))
            }),
            "application/yaml" => std::str::from_utf8(body)
                .map_err(|error| Failure::bad_request(error.to_string()))
                .and_then(|text| {
                    // The reader of YAML refuses fields that stand twice.
                    serde_saphyr::from_str(text).map_err(|error| Failure::bad_request(error.to_string()))
                })
                .map(|value| Body { value, duplicates: Vec::new() }),
            _ => Err(Failure::unsupported_media(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml",
            )),
        }
    }

    fn dry_run(&self, options: &str) -> Result<bool, Failure> {
        match self.query.text("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => {
                let cause = Cause::unsupported("dryRun", json!([other]), &["All"]);
                Err(Failure::invalid_options(options, &[cause]))
            }
        }
    }

    fn writing(&self, options: &str) -> Result<Writing, Failure> {
        let invalid = |cause| Err(Failure::invalid_options(options, &[cause]));
        let applies = self.header(CONTENT_TYPE).contains("apply-patch");
        let manager = match self.query.text("fieldManager") {
            Some(manager) if manager.len() > 128 => return invalid(Cause::too_long("fieldManager", 128)),
            Some(manager) => manager.to_owned(),
            None if applies => {
                return invalid(Cause::required("fieldManager", "is required for apply patch"));
            }
            None => self.header(USER_AGENT).split('/').next().unwrap_or_default().to_owned(),
        };
        let strictness = match self.query.text("fieldValidation") {
            None => self.state.options.unknown_fields,
            Some("Strict") => Strictness::Strict,
            Some("Warn") => Strictness::Warn,
            Some("Ignore") => Strictness::Ignore,
            Some(other) => {
                let known = ["", "Ignore", "Strict", "Warn"];
                return invalid(Cause::unsupported("fieldValidation", other, &known));
            }
        };
        let force = self.query.flag("force");
        if force.is_some() && !applies && options == "PatchOptions" {
            return invalid(Cause::forbidden("force", "may not be specified for non-apply patch"));
        }
        Ok(Writing {
            dry_run: self.dry_run(options)?,
            manager,
            force: force.unwrap_or(false),
            strictness,
            subresource: self.target.subresource.clone(),
        })
    }

    fn deletion(&self, body: &[u8]) -> Result<Deletion, Failure> {
        let options = if body.is_empty() { Value::Null } else { self.json(body)?.value };
        if let Some(kind) =
            options.get("kind").and_then(Value::as_str).filter(|kind| *kind != "DeleteOptions")
        {
            return Err(Failure::bad_request(format!(
                "no kind {kind:?} is registered for options of a deletion"
            )));
        }
        let precondition = |field: &str| {
            options.pointer(&format!("/preconditions/{field}")).and_then(Value::as_str).map(str::to_owned)
        };
        let policy = self
            .query
            .text("propagationPolicy")
            .or_else(|| options.get("propagationPolicy").and_then(Value::as_str));
        let propagation = match policy {
            None | Some("Background") => Propagation::Background,
            Some("Foreground") => Propagation::Foreground,
            Some("Orphan") => Propagation::Orphan,
            Some(other) => {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                let cause = Cause::unsupported("propagationPolicy", other, &known);
                return Err(Failure::invalid_options("DeleteOptions", &[cause]));
            }
        };
        let grace = match self.query.number("gracePeriodSeconds")? {
            Some(seconds) => Some(seconds),
            None => options.get("gracePeriodSeconds").and_then(Value::as_u64),
        };
        let dry_run = self.dry_run("DeleteOptions")?
            || options.pointer("/dryRun/0").and_then(Value::as_str).is_some_and(|value| value == "All");
        let (uid, version) = (precondition("uid"), precondition("resourceVersion"));
        Ok(Deletion { uid, version, propagation, grace, dry_run })
    }

    fn delete(&self, name: &str, body: &[u8]) -> Result<Response<Answer>, Failure> {
        let deletion = self.deletion(body)?;
        let kind = &self.target.kind;
        let (object, gone) =
            Writer::new(self.state, kind, self.target.namespace.as_deref()).delete(name, &deletion)?;
        let returns_object = matches!(kind.what, What::Pod | What::Service);
        if !gone || returns_object {
            return Ok(self.object(StatusCode::OK, &object));
        }
        let mut details = json!({"name": name, "kind": &*kind.plural});
        let uid = crate::meta::text(&object.value(), "uid").unwrap_or_default();
        shape::put(&mut details, "uid", Some(uid.into()));
        if !kind.group.is_empty() {
            shape::put(&mut details, "group", Some((&*kind.group).into()));
        }
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
        });
        Ok(whole(StatusCode::OK, status.to_string(), JSON))
    }

    fn delete_all(&self, body: &[u8]) -> Result<Response<Answer>, Failure> {
        let deletion = self.deletion(body)?;
        let Target { kind, namespace, .. } = &self.target;
        let page = list::read(self.state, kind, namespace.as_deref(), &self.query, &self.selector()?, None)?;
        for object in &page.objects {
            let namespace = Some(&*object.namespace).filter(|namespace| !namespace.is_empty());
            match Writer::new(self.state, kind, namespace).delete(&object.name, &deletion) {
                Err(failure) if failure.code != 404 => return Err(failure),
                _ => {}
            }
        }
        Ok(whole(StatusCode::OK, self.form.write_list(kind, &page), JSON))
    }
}

/// What is answered for a path of discovery; the inner none if nothing is there.
fn discover(state: &State, segments: &[&str], accept: &str) -> Option<Option<(Value, http::HeaderValue)>> {
    let aggregated = accept.contains("g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let found = |value: Option<Value>| Some(value.map(|value| (value, JSON)));
    match segments {
        ["version"] => found(Some(discovery::version())),
        ["api"] | ["apis"] if aggregated => {
            Some(Some((discovery::aggregated(state, segments == ["api"]), AGGREGATED)))
        }
        ["api"] => found(Some(discovery::core_versions(&state.address()))),
        ["apis"] => found(Some(discovery::groups(state))),
        ["api", version] => found(discovery::resources(state, "", version)),
        ["apis", group] => found(discovery::group(state, group)),
        ["apis", group, version] => found(discovery::resources(state, group, version)),
        _ => None,
    }
}

fn target(state: &State, segments: &[&str]) -> Option<Target> {
    let (group, version, rest) = match segments {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        // `namespaces/NAME/status` is of the namespace itself.
        ["namespaces", _, "status" | "finalize"] if group.is_empty() => (None, rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some(*name), None),
        [plural, name, subresource] => (*plural, Some(*name), Some(*subresource)),
        _ => return None,
    };
    let kind = state.kind(group, version, plural)?;
    if namespace.is_some() && !kind.namespaced || namespace.is_none() && kind.namespaced && name.is_some() {
        return None;
    }
    match subresource {
        Some("status") if kind.status => {}
        Some("finalize") if matches!(kind.what, What::Namespace) => {}
        None => {}
        Some(_) => return None,
    }
    Some(Target {
        kind,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
    })
}

pub(crate) const JSON: http::HeaderValue = http::HeaderValue::from_static("application/json");
const AGGREGATED: http::HeaderValue =
    http::HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");

fn text(code: StatusCode, text: &'static str) -> Response<Answer> {
    whole(
        code,
        Bytes::from_static(text.as_bytes()),
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    )
}

/// A whole answer.
pub(crate) fn whole(code: StatusCode, bytes: impl Into<Bytes>, media: http::HeaderValue) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Some(bytes.into())));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}

/// The answer of a failure.
pub(crate) fn failed(failure: &Failure) -> Response<Answer> {
    let code = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = whole(code, failure.status().to_string(), JSON);
    if let Some(seconds) = failure.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}
