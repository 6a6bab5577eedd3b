//! Single objects by name: Secrets and ConfigMaps that were named just now, and the node that we run on. Asks until there
//! is an answer; decides nothing on what it means.

use std::sync::Arc;
use std::time::Duration;

use config::index::Event;
use config::report::ObjectRef;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::Message;
use super::failure::Failure;
use super::feed::Common;
use super::resource::{Resource, encode};

/// The first delay after a failure, and the longest.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(30);
/// The zone of a node is looked at again this often.
const ZONE_INTERVAL: Duration = Duration::from_secs(600);
/// Label of a node.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What came of asking for an object.
#[derive(Debug)]
pub(super) enum Fetched {
    /// Its JSON.
    Object(Vec<u8>),
    /// There is none of that name.
    Absent,
    /// It is not known; it is asked for again.
    Failed(Failure),
}

/// Asks for `reference` until there is an answer. At most as many at a time as `turns` allows.
pub(super) async fn fetch(common: Common, turns: Arc<Semaphore>, reference: ObjectRef) {
    let Some(resource) = Resource::of(reference.kind) else { return };
    let path = resource.object(&reference.namespace, &reference.name);
    let mut delay = FIRST_DELAY;
    loop {
        let outcome = {
            let _turn = turns.acquire().await;
            common.transport.object(&path).await
        };
        let (fetched, is_over) = match outcome {
            Ok(json) => (Fetched::Object(json), true),
            Err(Failure::Status { code: 404, .. }) => (Fetched::Absent, true),
            Err(failure) => (Fetched::Failed(failure), false),
        };
        let wanted = match &fetched {
            Fetched::Failed(Failure::Status { retry_after, .. }) => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let message = Message::Fetched { reference: reference.clone(), fetched };
        if common.news.send(message).is_err() || is_over {
            return;
        }
        tokio::time::sleep(wanted.min(MAX_DELAY) + delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        delay = (delay * 2).min(MAX_DELAY);
    }
}

/// Tells the zone of `node`, and when it changes. That it cannot be seen is no failure: then there is no zone.
pub(super) async fn follow_zone(common: Common, node: Arc<str>) {
    let path = format!("/api/v1/nodes/{}", encode(&node));
    let mut delay = FIRST_DELAY;
    let mut has_told = false;
    loop {
        let zone = match common.transport.object(&path).await {
            Ok(json) => Ok(zone_of(&json)),
            Err(Failure::Status { code: code @ (401 | 403 | 404), .. }) => Err(Some(code)),
            Err(_) => Err(None),
        };
        let pause = match zone {
            Ok(zone) => {
                delay = FIRST_DELAY;
                tracing::debug!(node = &*node, ?zone, "zone of the node");
                let zone = zone.map(Arc::from);
                if common.news.send(Message::Zone(Event::Zone(zone))).is_err() {
                    return;
                }
                ZONE_INTERVAL
            }
            Err(refused) => {
                if let Some(code) = refused
                    && !std::mem::replace(&mut has_told, true)
                {
                    tracing::info!(
                        node = &*node,
                        code,
                        "the node cannot be read, so that its zone is not known; --zone names it"
                    );
                    // Nobody must wait for what will not come.
                    let _ = common.news.send(Message::Zone(Event::Zone(None)));
                }
                delay = (delay * 2).min(MAX_DELAY);
                delay
            }
        };
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

fn zone_of(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Node {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        labels: std::collections::BTreeMap<String, String>,
    }
    let mut node: Node = serde_json::from_slice(json).ok()?;
    node.metadata.labels.remove(ZONE_LABEL).filter(|zone| !zone.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_is_a_label_of_the_node() {
        let json = br#"{"metadata":{"name":"a","labels":{"topology.kubernetes.io/zone":"west"}}}"#;
        assert_eq!(zone_of(json).as_deref(), Some("west"));
        assert_eq!(zone_of(br#"{"metadata":{"name":"a"}}"#), None);
    }
}
