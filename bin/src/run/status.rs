//! The thread that writes status and events, and what the arguments say of it. Traffic goes on whatever becomes of it.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use controller::status::{self, Inbox, NodeAddress, Notes, Pods, Publish, Settings, StatusMetrics};
use tokio::sync::oneshot;

use super::ended::{Ended, watched};
use crate::cli::{NodeAddressKind, RunArgs, ServiceName, StatusArgs};

/// What is to be written, before anything is.
#[derive(Debug)]
pub(super) struct Prospect {
    settings: Settings,
    inbox: Inbox,
    metrics: Arc<StatusMetrics>,
}

/// The running thread.
#[derive(Debug)]
pub(super) struct StatusThread {
    thread: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
    ended: Ended,
}

impl Prospect {
    /// `None` if nothing is to be written. Nothing is asked yet; notes are kept until the thread reads them.
    pub(super) fn new(args: &RunArgs) -> (Notes, Option<Self>) {
        if !args.cluster.kubernetes || !args.status.update_status {
            return (Notes::to_nobody(), None);
        }
        let (notes, inbox) = Notes::new();
        (notes, Some(Self { settings: settings(args), inbox, metrics: Arc::default() }))
    }

    /// The figures.
    pub(super) fn metrics(&self) -> Arc<StatusMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Starts the thread.
    pub(super) fn start(self) -> io::Result<StatusThread> {
        let Self { settings, inbox, metrics } = self;
        if settings.publish == Publish::Nothing {
            tracing::warn!(
                "no addresses are known for the status of Ingresses, so it is not written; set --publish-service, \
                 --publish-address, or --pod-selector"
            );
        }
        let (stop, stopped) = oneshot::channel();
        let (alive, ended) = watched();
        let thread = std::thread::Builder::new().name("status".to_owned()).spawn(move || {
            let _alive = alive;
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "cannot start writing status");
                    return;
                }
            };
            if let Err(error) = runtime.block_on(status::run(settings, inbox, metrics, stopped)) {
                tracing::error!("cannot write status: {error}");
            }
            // A name that is just being resolved must not be waited for.
            runtime.shutdown_background();
        })?;
        Ok(StatusThread { thread, stop: Some(stop), ended })
    }
}

impl StatusThread {
    /// Tells it to end.
    pub(super) fn end(&mut self) {
        self.stop = None;
    }

    /// Returns when the thread has ended, and only once.
    pub(super) async fn ended(&mut self) {
        self.ended.once().await;
    }

    /// Waits for its end, which it must have been told.
    pub(super) async fn join(self) {
        // A panic of the thread was printed when it happened.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

fn settings(args: &RunArgs) -> Settings {
    let StatusArgs { pod_namespace, election_id, election_namespace, .. } = &args.status;
    let own = pod_namespace.as_deref().filter(|name| !name.is_empty());
    Settings {
        kubeconfig: args.cluster.kubeconfig.clone(),
        publish: publish(&args.status),
        own_namespace: own.map(Arc::from),
        election_namespace: election_namespace.as_deref().map(Arc::from),
        election: election_id.as_str().into(),
        instance: pod(&args.status).map_or_else(machine, Arc::from),
        verifies_gone: args.cluster.watch_selector.is_some()
            || args.cluster.watch_namespace_selector.is_some(),
        namespaces: args.cluster.watch_namespace.iter().map(|name| Arc::from(&**name)).collect(),
        clears_at_end: args.status.update_status_on_shutdown,
        replicas: pods(&args.status),
    }
}

/// The Pod that this runs in.
fn pod(args: &StatusArgs) -> Option<&str> {
    args.pod_name.as_deref().filter(|name| !name.is_empty())
}

/// Which Pods are our replicas, as far as that is known.
fn pods(args: &StatusArgs) -> Option<Pods> {
    match (&args.pod_selector, pod(args)) {
        (Some(selector), _) => Some(Pods::Selected(selector.as_str().into())),
        (None, Some(name)) => Some(Pods::Like(name.into())),
        (None, None) => None,
    }
}

fn publish(args: &StatusArgs) -> Publish {
    if let Some(ServiceName(namespace, name)) = &args.publish_service {
        return Publish::Service { namespace: namespace.as_str().into(), name: name.as_str().into() };
    }
    if !args.publish_address.is_empty() {
        return Publish::Addresses(args.publish_address.iter().cloned().collect());
    }
    let kind = match args.publish_node_address {
        NodeAddressKind::External => NodeAddress::External,
        NodeAddressKind::Internal => NodeAddress::Internal,
    };
    pods(args).map_or(Publish::Nothing, |pods| Publish::Nodes { pods, kind })
}

/// The name of this machine.
fn machine() -> Arc<str> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "sluicegate".into() } else { name.into() }
}
