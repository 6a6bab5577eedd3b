//! The faults as a resource over HTTP, for whoever has the program and not the library: `/_faults`, `/_requests`,
//! `/_objects`. Only tokens without rules may use it.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::rule::{Fault, FaultId};
use crate::body::Answer;
use crate::error::Failure;
use crate::serve::{JSON, whole};
use crate::state::State;

/// Answers a request for a path that begins with `_`.
pub(crate) fn control(
    state: &Arc<State>,
    method: &Method,
    segments: &[&str],
    body: &[u8],
) -> Result<Response<Answer>, Failure> {
    let value: Value = if body.is_empty() {
        json!({})
    } else {
        serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))?
    };
    let answer = match (method.as_str(), segments) {
        ("GET", ["_faults"]) => rules(state),
        ("POST", ["_faults"]) => {
            let fault: Fault =
                serde_json::from_value(value).map_err(|error| Failure::bad_request(error.to_string()))?;
            json!({"id": state.add_fault(fault)})
        }
        ("DELETE", ["_faults"]) => {
            state.faults.clear();
            json!({})
        }
        ("DELETE", ["_faults", id]) => {
            let id = id.parse().map_err(|_| Failure::no_such_path())?;
            if !state.faults.remove(FaultId(id)) {
                return Err(Failure::no_such_path());
            }
            json!({})
        }
        ("POST", ["_faults", switch]) => turn(state, switch, &value)?,
        ("GET", ["_requests"]) => requests(state),
        ("DELETE", ["_requests"]) => {
            state.requests.reset();
            json!({})
        }
        ("PUT", ["_objects"]) => {
            state.plant(value)?;
            json!({})
        }
        _ => return Err(Failure::no_such_path()),
    };
    Ok(whole(StatusCode::OK, answer.to_string(), JSON))
}

fn rules(state: &State) -> Value {
    let rules = state.faults.rules_now();
    let list: Vec<_> = rules.iter().map(|(id, fault)| json!({"id": id, "fault": fault})).collect();
    json!(list)
}

fn requests(state: &State) -> Value {
    let list: Vec<_> = state
        .requests
        .all()
        .iter()
        .map(|(request, count)| json!({"verb": request.verb, "resource": request.resource, "count": count}))
        .collect();
    json!(list)
}

/// What concerns the whole server. A switch that would make it unreachable says for how long.
fn turn(state: &Arc<State>, switch: &str, value: &Value) -> Result<Value, Failure> {
    let millis = value.get("millis").and_then(Value::as_u64);
    match switch {
        "end-watches" => state.faults.end_watches(),
        "reset-connections" => state.faults.reset_connections(),
        "compact" => state.compact(),
        "forget-history" => {
            let version = state.forget_history(value.get("version").and_then(Value::as_u64));
            return Ok(json!({ "version": version }));
        }
        "silence" => {
            state.faults.set_silent(true);
            after(state, millis, |state| state.faults.set_silent(false))?;
        }
        "refuse" => {
            after(state, millis, |state| state.faults.set_refusing(false))?;
            state.faults.set_refusing(true);
        }
        _ => return Err(Failure::no_such_path()),
    }
    Ok(json!({}))
}

fn after(state: &Arc<State>, millis: Option<u64>, then: fn(&State)) -> Result<(), Failure> {
    let millis = millis.ok_or_else(|| Failure::bad_request("millis: for how long?"))?;
    let state = state.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        then(&state);
    });
    Ok(())
}
