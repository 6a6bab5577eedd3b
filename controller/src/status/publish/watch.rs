//! Follows where the published addresses come from. A watch only says that something has changed; what there is comes
//! from a list, so that nothing that a watch misses, repeats or reorders makes a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{List, Node, NodeAddress, Pod, Pods, Publish, Service, nodes};
use crate::status::api::{Answer, Api, Failure, Payload, escape};
use crate::status::clock::Moment;
use crate::status::observed::Address;
use crate::status::pace::backoff;

/// For one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A watch lasts this long, and then everything is listed again.
const WATCH: Duration = Duration::from_secs(30);
/// A watch that lasted this long was no failure.
const FAIR_WATCH: Duration = Duration::from_secs(5);
/// Between two lists.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(30);
/// Pods of one page.
const PAGE: usize = 250;
/// Addresses of a node are asked for again this often.
const NODE_INTERVAL: Duration = Duration::from_secs(300);

/// Addresses to publish; `None` while they are not known.
pub(in crate::status) type Found = Option<BTreeSet<Address>>;

/// Follows one [`Publish`].
#[derive(Debug)]
pub(in crate::status) struct Follower {
    api: Api,
    publish: Publish,
    /// Where our Pods are.
    namespace: Arc<str>,
    /// node → its addresses, and when they were asked for
    nodes: BTreeMap<String, (BTreeSet<Address>, Moment)>,
    /// Own Pod's labels, once they are known.
    selector: Option<String>,
    trouble: Option<String>,
    random: fastrand::Rng,
}

impl Follower {
    pub(in crate::status) fn new(
        api: Api,
        publish: Publish,
        namespace: Arc<str>,
        random: fastrand::Rng,
    ) -> Self {
        Self { api, publish, namespace, nodes: BTreeMap::new(), selector: None, trouble: None, random }
    }

    /// Tells `out` what is found, for ever. Nodes are looked at only while we lead: there may be as many replicas as nodes.
    pub(in crate::status) async fn run(
        mut self,
        mut leads: watch::Receiver<bool>,
        out: watch::Sender<Found>,
    ) {
        let is_for_leaders = match &self.publish {
            Publish::Addresses(addresses) => {
                out.send_replace(Some(addresses.clone()));
                return;
            }
            // Nothing is written, and nothing is taken back: it may have been another process's to know.
            Publish::Nothing => return,
            Publish::Service { .. } => false,
            Publish::Nodes { .. } => true,
        };
        let mut failures = 0;
        loop {
            if is_for_leaders && !*leads.borrow_and_update() {
                out.send_replace(None);
                if leads.wait_for(|leads| *leads).await.is_err() {
                    return;
                }
            }
            let start = Moment::now();
            let watched = self.look(&out).await;
            failures = if Moment::now().since(start) >= FAIR_WATCH { 0 } else { failures + 1 };
            if let Err(failure) = watched {
                self.tell_trouble(failure.to_string());
            }
            let delay = backoff(failures, FIRST_DELAY, MAX_DELAY, &mut self.random);
            tokio::time::sleep(delay).await;
        }
    }

    /// Looks once, and then waits until there may be something else to see.
    async fn look(&mut self, out: &watch::Sender<Found>) -> Result<(), Failure> {
        let (found, watch_path, lack) = match self.publish.clone() {
            Publish::Service { namespace, name } => {
                let path = format!(
                    "/api/v1/namespaces/{}/services?fieldSelector=metadata.name%3D{}",
                    escape(&namespace),
                    escape(&name)
                );
                let list: List<Service> = get(&self.api, &path).await?;
                let service = list.items.first();
                let found = service.map(Service::addresses).unwrap_or_default();
                let lack = match service {
                    Some(_) => format!("the Service {namespace}/{name} has no address"),
                    None => format!("there is no Service {namespace}/{name}"),
                };
                (found, watch_of(&path, &list.metadata.resource_version), lack)
            }
            Publish::Nodes { pods, kind } => {
                let selector = self.selector(&pods).await?;
                let path = format!(
                    "/api/v1/namespaces/{}/pods?labelSelector={}",
                    escape(&self.namespace),
                    escape(&selector)
                );
                let (pods, version) = list_pods(&self.api, &path).await?;
                let found = self.node_addresses(&nodes(&pods), kind).await?;
                let lack = "no node of ours has an address".to_owned();
                (found, watch_of(&path, &version), lack)
            }
            Publish::Addresses(_) | Publish::Nothing => return Ok(()),
        };
        // That there is nothing is not known to be meant: a Service is made anew, a load balancer replaced, a name
        // mistyped. What is published stays; only at the end is everything taken back, if that is wanted.
        let is_known = !found.is_empty();
        if is_known {
            out.send_if_modified(|known| {
                let is_other = known.as_ref() != Some(&found);
                if is_other {
                    *known = Some(found);
                }
                is_other
            });
        } else {
            self.tell_trouble(lack);
        }
        self.api.await_change(&watch_path, WATCH + Duration::from_millis(10)).await?;
        if is_known {
            self.tell_relief();
        }
        Ok(())
    }

    async fn selector(&mut self, pods: &Pods) -> Result<String, Failure> {
        match (pods, &self.selector) {
            (Pods::Selected(selector), _) => Ok(selector.as_ref().to_owned()),
            (Pods::Like(_), Some(selector)) => Ok(selector.clone()),
            (Pods::Like(name), None) => {
                let selector = selector_of(&self.api, &self.namespace, name).await?;
                self.selector = Some(selector.clone());
                Ok(selector)
            }
        }
    }

    /// Addresses of these nodes. One that cannot be asked for keeps those that are known.
    async fn node_addresses(
        &mut self,
        names: &BTreeSet<&str>,
        kind: NodeAddress,
    ) -> Result<BTreeSet<Address>, Failure> {
        self.nodes.retain(|name, _| names.contains(name.as_str()));
        let mut failed = None;
        for name in names {
            let now = Moment::now();
            let known = self.nodes.get(*name).filter(|(addresses, _)| !addresses.is_empty());
            if known.is_some_and(|(_, at)| now.since(*at) < NODE_INTERVAL) {
                continue;
            }
            match find::<Node>(&self.api, &format!("/api/v1/nodes/{}", escape(name))).await {
                // A node that is gone has no address, though its Pods are still there for minutes; it may come back.
                Ok(node) => {
                    let addresses = node.map(|node| node.addresses(kind)).unwrap_or_default();
                    self.nodes.insert((*name).to_owned(), (addresses, now));
                }
                Err(failure) => failed = Some(failure),
            }
        }
        match failed {
            // A part of them would take the rest out of every status.
            Some(failure) if names.iter().any(|name| !self.nodes.contains_key(*name)) => Err(failure),
            Some(failure) => {
                tracing::debug!(%failure, "addresses of a node cannot be read");
                Ok(self.all_addresses())
            }
            None => Ok(self.all_addresses()),
        }
    }

    fn all_addresses(&self) -> BTreeSet<Address> {
        self.nodes.values().flat_map(|(addresses, _)| addresses.iter().cloned()).collect()
    }

    /// Says once that something is wrong.
    fn tell_trouble(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!("addresses to publish cannot be determined, those that are known stay: {trouble}");
            self.trouble = Some(trouble);
        }
    }

    fn tell_relief(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!("addresses to publish can be determined again");
        }
    }
}

/// Follows `publish` until `out` is not heard any more.
pub(in crate::status) async fn follow(
    follower: Follower,
    leads: watch::Receiver<bool>,
    out: watch::Sender<Found>,
) {
    let ends = out.clone();
    tokio::select! {
        () = follower.run(leads, out) => {}
        () = ends.closed() => {}
    }
}

/// True if another Pod like ours runs, which nobody has asked to end.
pub(in crate::status) async fn others_run(
    api: &Api,
    namespace: &str,
    pods: &Pods,
    own: &str,
) -> Result<bool, Failure> {
    let selector = match pods {
        Pods::Selected(selector) => selector.as_ref().to_owned(),
        Pods::Like(name) => selector_of(api, namespace, name).await?,
    };
    let path = format!("/api/v1/namespaces/{}/pods?labelSelector={}", escape(namespace), escape(&selector));
    let (pods, _) = list_pods(api, &path).await?;
    Ok(pods.iter().any(|pod| pod.is_running() && pod.metadata.name != own))
}

/// A selector of the Pods like `name`.
async fn selector_of(api: &Api, namespace: &str, name: &str) -> Result<String, Failure> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", escape(namespace), escape(name));
    let pod: Pod = get(api, &path).await?;
    let lack = || Failure::Lost(format!("the Pod {namespace}/{name} has no labels; set --pod-selector"));
    pod.selector().ok_or_else(lack)
}

/// All Pods of a list, and its version.
async fn list_pods(api: &Api, path: &str) -> Result<(Vec<Pod>, String), Failure> {
    let (mut pods, mut token) = (Vec::new(), String::new());
    loop {
        let page = format!("{path}&limit={PAGE}&continue={}", escape(&token));
        let list: List<Pod> = get(api, &page).await?;
        pods.extend(list.items);
        token = list.metadata.token;
        if token.is_empty() {
            return Ok((pods, list.metadata.resource_version));
        }
    }
}

/// `None` if there is no such thing.
async fn find<T: DeserializeOwned>(api: &Api, path: &str) -> Result<Option<T>, Failure> {
    let answer = api.ask(Method::GET, path, Payload::None, TIMEOUT).await?;
    if answer.status == StatusCode::NOT_FOUND { Ok(None) } else { read(&answer).map(Some) }
}

async fn get<T: DeserializeOwned>(api: &Api, path: &str) -> Result<T, Failure> {
    read(&api.ask(Method::GET, path, Payload::None, TIMEOUT).await?)
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, Failure> {
    if answer.status != StatusCode::OK {
        return Err(Failure::Lost(answer.message()));
    }
    serde_json::from_slice(&answer.body).map_err(|error| Failure::Lost(error.to_string()))
}

fn watch_of(path: &str, version: &str) -> String {
    format!("{path}&watch=true&timeoutSeconds={}&resourceVersion={}", WATCH.as_secs(), escape(version))
}

#[cfg(test)]
mod tests;
