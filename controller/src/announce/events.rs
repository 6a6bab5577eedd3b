//! Events of Services whose addresses other hosts claim: told by the node that sees it, whoever writes status. Owns what was
//! told and how often that may be; never whether a claim is another's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use config::report::ObjectRef;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::status::clock::Moment;
use crate::status::number;

/// Who reports.
const CONTROLLER: &str = "sluicegate.dev/load-balancer";
/// The same of a Service is told again after that time at most.
const REPEAT: Duration = Duration::from_secs(10 * 60);
/// So many at once, and one more each time that this has gone by: a neighbour that claims everything writes no flood.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(30);
/// Of Services that share an address, so many are told.
const MOST_SERVICES: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest name of a Service within the name of an Event, and of who reports.
const MAX_NAME: usize = 200;
const MAX_INSTANCE: usize = 128;

/// What there is to tell.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Matter {
    /// Another host claims an address that is announced here.
    Conflict,
    /// Another host has an address, which is not announced here for that.
    InUse,
}

impl Matter {
    fn reason(self) -> &'static str {
        match self {
            Self::Conflict => "AddressConflict",
            Self::InUse => "AddressInUse",
        }
    }

    fn note(self, address: IpAddr, neighbour: &str, node: &str) -> String {
        match self {
            Self::Conflict => format!(
                "another host ({neighbour}) claims {address}, which node {node} announces for this Service: clients may \
                 reach either"
            ),
            Self::InUse => format!(
                "another host ({neighbour}) has {address}, so node {node} does not announce it for this Service; it is \
                 tried again"
            ),
        }
    }
}

/// What may be told when. Pure.
#[derive(Debug)]
struct Pace {
    /// what was told → when, and how often
    told: BTreeMap<(ObjectRef, IpAddr, Matter), (Moment, u32)>,
    left: u32,
    refilled: Moment,
}

impl Pace {
    const fn new(now: Moment) -> Self {
        Self { told: BTreeMap::new(), left: BURST, refilled: now }
    }

    /// Whether it may be told now: which time that is.
    fn next(&mut self, what: (ObjectRef, IpAddr, Matter), now: Moment) -> Option<u32> {
        // Twice the time, so that what lasts is counted on.
        self.told.retain(|_, (at, _)| now < *at + REPEAT * 2);
        while self.left < BURST && now >= self.refilled + REFILL {
            self.left += 1;
            self.refilled = self.refilled + REFILL;
        }
        if self.left == BURST {
            self.refilled = now;
        }
        let last = self.told.get(&what).copied();
        if self.left == 0 || last.is_some_and(|(at, _)| now < at + REPEAT) {
            return None;
        }
        self.left -= 1;
        let count = last.map_or(0, |(_, count)| count).saturating_add(1);
        self.told.insert(what, (now, count));
        Some(count)
    }
}

/// Writes Events.
pub(super) struct Events {
    client: Client,
    node: Arc<str>,
    pace: Pace,
    writes: JoinSet<()>,
}

impl Events {
    /// Of this `node`. Needs a tokio runtime when it tells.
    pub(super) fn new(client: Client, node: Arc<str>, now: Moment) -> Self {
        Self { client, node, pace: Pace::new(now), writes: JoinSet::new() }
    }

    /// Tells `services` that `neighbour` claims their `address`, if it is time to.
    pub(super) fn tell(
        &mut self,
        services: &[ObjectRef],
        address: IpAddr,
        (matter, neighbour): (Matter, &str),
        now: Moment,
    ) {
        // What has ended is not kept.
        while self.writes.try_join_next().is_some() {}
        for service in services.iter().take(MOST_SERVICES) {
            let Some(count) = self.pace.next((service.clone(), address, matter), now) else { continue };
            let (client, node, service) = (self.client.clone(), Arc::clone(&self.node), service.clone());
            let note = matter.note(address, neighbour, &node);
            self.writes.spawn(async move {
                let written = timeout(TIMEOUT, write(client, &node, &service, address, (matter, note, count)));
                let failure = match written.await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer in time".to_owned(),
                };
                tracing::debug!(service = %service.name, %address, error = failure, "an Event was not written");
            });
        }
    }
}

async fn write(
    client: Client,
    node: &str,
    service: &ObjectRef,
    address: IpAddr,
    (matter, note, count): (Matter, String, u32),
) -> kube::Result<()> {
    let services = Api::<Service>::namespaced(client.clone(), &service.namespace);
    let found = services.get_metadata(&service.name).await?;
    let uid = found.metadata.uid.unwrap_or_default();
    let name = name(service, &uid, address, matter, node);
    let now = format!("{:.6}", Timestamp::now());
    let event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": &*service.namespace},
        "eventTime": now,
        "reportingController": CONTROLLER,
        "reportingInstance": node.get(..node.floor_char_boundary(MAX_INSTANCE)),
        "action": "Announce",
        "type": "Warning",
        "reason": matter.reason(),
        "note": note,
        "regarding": {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": &*service.namespace,
            "name": &*service.name,
            "uid": uid,
        },
    });
    let event: Event = serde_json::from_value(event).map_err(kube::Error::SerdeError)?;
    let events = Api::<Event>::namespaced(client, &service.namespace);
    match events.create(&PostParams::default(), &event).await {
        // Told before, by this process or an earlier one.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let series: Value = json!({"series": {"count": count.max(2), "lastObservedTime": now}});
            events.patch(&name, &PatchParams::default(), &Patch::Merge(series)).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// The same for the same matter, so that it is not told twice.
fn name(service: &ObjectRef, uid: &str, address: IpAddr, matter: Matter, node: &str) -> String {
    let number = number(&[uid, &address.to_string(), matter.reason(), node]);
    let start = service.name.get(..service.name.floor_char_boundary(MAX_NAME)).unwrap_or_default();
    // A part of a name may end where a name must not.
    format!("{}.{:016x}", start.trim_end_matches(['.', '-']), number)
}

#[cfg(test)]
mod tests {
    use config::report::Kind;

    use super::*;

    fn what(name: &str, matter: Matter) -> (ObjectRef, IpAddr, Matter) {
        let service = ObjectRef { kind: Kind::Service, namespace: "shop".into(), name: name.into() };
        (service, "192.0.2.1".parse().unwrap(), matter)
    }

    #[test]
    fn the_same_is_told_again_only_after_a_while() {
        let start = Moment::START;
        let mut pace = Pace::new(start);
        assert_eq!(pace.next(what("web", Matter::Conflict), start), Some(1));
        assert_eq!(pace.next(what("web", Matter::Conflict), start + REPEAT / 2), None);
        assert_eq!(pace.next(what("web", Matter::InUse), start + REPEAT / 2), Some(1));
        assert_eq!(pace.next(what("web", Matter::Conflict), start + REPEAT), Some(2));
        assert_eq!(pace.next(what("web", Matter::Conflict), start + REPEAT * 9), Some(1), "another time");
    }

    #[test]
    fn who_claims_everything_writes_no_flood() {
        let start = Moment::START;
        let mut pace = Pace::new(start);
        let mut told = |range: std::ops::Range<u32>, now| {
            range.filter(|n| pace.next(what(&n.to_string(), Matter::Conflict), now).is_some()).count()
        };
        assert_eq!(told(0..1_000, start), 10);
        assert_eq!(told(1_000..2_000, start + REFILL * 2), 2);
        assert_eq!(told(2_000..3_000, start + REFILL * 100), 10);
    }

    #[test]
    fn a_name_follows_from_service_and_matter() {
        let (service, address, _) = what(&format!("{}-b", "a".repeat(199)), Matter::Conflict);
        let one = name(&service, "u", address, Matter::Conflict, "n");
        assert_eq!(one, name(&service, "u", address, Matter::Conflict, "n"));
        assert_ne!(one, name(&service, "v", address, Matter::Conflict, "n"));
        assert!(one.len() < 253 && one.starts_with("aaa") && !one.contains("-."), "{one}");
    }
}
