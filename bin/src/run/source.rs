//! Where the objects come from, as the arguments have it: files, or a cluster.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use config::index::Event;
use controller::cluster;
use controller::ipam::memory::Memory;
use controller::source::file::FileSource;
use controller::source::kube::{KubeSource, Pools, Progress, Settings, prepare_state};
use controller::source::{Batch, Certainty, Knowledge, Source};
use controller::status::Notes;
use tokio::sync::watch;

use super::control::Giving;
use crate::cli::{ClusterArgs, MapName, RunArgs, SecretName, ServiceArgs, ServiceType, StateDir};
use crate::settings::{api_server, in_cluster, run_classes};

/// Where a cluster's objects are kept if nothing is said.
const STATE_DIR: &str = "/var/lib/sluicegate";

/// Objects, and where no Service may lead.
#[derive(Debug)]
pub(super) struct Guarded {
    objects: Objects,
    refused: watch::Receiver<Vec<SocketAddr>>,
    /// The first batch, which must have it, was given.
    has_begun: bool,
    /// Nobody will tell of any other.
    is_final: bool,
}

impl Guarded {
    pub(super) fn new(objects: Objects, refused: watch::Receiver<Vec<SocketAddr>>) -> Self {
        Self { objects, refused, has_begun: false, is_final: false }
    }

    fn refused(&mut self) -> Event {
        Event::Refused(self.refused.borrow_and_update().clone())
    }
}

impl Source for Guarded {
    async fn next(&mut self) -> Batch {
        if !self.has_begun {
            let mut batch = self.objects.next().await;
            self.has_begun = true;
            batch.events.insert(0, self.refused());
            return batch;
        }
        tokio::select! {
            changed = self.refused.changed(), if !self.is_final => {
                self.is_final = changed.is_err();
                Batch { events: vec![self.refused()] }
            }
            batch = self.objects.next() => batch,
        }
    }

    fn want(&mut self, files: &BTreeSet<Arc<str>>, unread: &BTreeSet<Arc<str>>) -> Vec<Event> {
        self.objects.want(files, unread)
    }

    fn certainty(&self) -> Certainty {
        self.objects.certainty()
    }

    fn knows_pools(&self) -> Knowledge {
        self.objects.knows_pools()
    }

    fn catch_up(&mut self) {
        self.objects.catch_up();
    }

    fn reread(&mut self) {
        self.objects.reread();
    }
}

/// One of the two.
#[derive(Debug)]
pub(super) enum Objects {
    Files(Box<FileSource>),
    Cluster { source: Box<KubeSource>, server: Option<(String, u16)> },
}

impl Objects {
    /// Checks that the arguments can be used; nothing is read or asked yet. News for the status of objects go to `notes`.
    pub(super) async fn open(args: &RunArgs, notes: &Notes) -> anyhow::Result<Self> {
        if !args.cluster.kubernetes {
            let files = FileSource::new(args.config.clone()).context("--config")?;
            return Ok(Self::Files(Box::new(files)));
        }
        let config = cluster::configuration(args.cluster.kubeconfig.as_deref()).await?;
        // Only to see that it can be made: the source makes its own, on its own thread.
        drop(cluster::client(&config)?);
        let settings = Settings { state: state_dir(args.cluster.state_dir.as_ref())?, ..settings(args) };
        let server = &config.cluster_url;
        let usual = if server.scheme_str() == Some("http") { 80 } else { 443 };
        let port = server.port_u16().unwrap_or(usual);
        // An IPv6 address is in brackets there.
        let host = server.host().map(|host| host.trim_matches(['[', ']']).to_owned());
        let server = host.map(|host| (host, port));
        let source = Box::new(KubeSource::new(config, settings, notes.clone()));
        Ok(Self::Cluster { source, server })
    }

    /// Where the API server is, if there is one: host and port.
    pub(super) fn server(&self) -> Option<(String, u16)> {
        match self {
            Self::Files(_) => api_server(),
            Self::Cluster { server, .. } => server.clone(),
        }
    }

    /// How far a cluster's objects are.
    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Files(_) => None,
            Self::Cluster { source, .. } => Some(source.progress()),
        }
    }
}

impl Source for Objects {
    async fn next(&mut self) -> Batch {
        match self {
            Self::Files(source) => source.next().await,
            Self::Cluster { source, .. } => source.next().await,
        }
    }

    fn want(&mut self, files: &BTreeSet<Arc<str>>, unread: &BTreeSet<Arc<str>>) -> Vec<Event> {
        match self {
            Self::Files(source) => source.want(files, unread),
            Self::Cluster { source, .. } => source.want(files, unread),
        }
    }

    fn certainty(&self) -> Certainty {
        match self {
            Self::Files(source) => source.certainty(),
            Self::Cluster { source, .. } => source.certainty(),
        }
    }

    fn knows_pools(&self) -> Knowledge {
        match self {
            Self::Files(source) => source.knows_pools(),
            Self::Cluster { source, .. } => source.knows_pools(),
        }
    }

    fn catch_up(&mut self) {
        match self {
            Self::Files(source) => source.catch_up(),
            Self::Cluster { source, .. } => source.catch_up(),
        }
    }

    fn reread(&mut self) {
        match self {
            Self::Files(source) => source.reread(),
            Self::Cluster { source, .. } => source.reread(),
        }
    }
}

fn settings(args: &RunArgs) -> Settings {
    let ClusterArgs {
        kubernetes: _,
        kubeconfig,
        watch_namespace,
        watch_namespace_selector,
        watch_selector,
        state_dir: _,
    } = &args.cluster;
    let text = |text: &Option<String>| text.as_deref().map(Arc::from);
    Settings {
        kubeconfig: kubeconfig.clone(),
        namespaces: watch_namespace.iter().map(|name| Arc::from(&**name)).collect(),
        namespace_selector: text(watch_namespace_selector),
        selector: text(watch_selector),
        default_certificate: args.ingress.default_certificate.as_ref().map(SecretName::pair),
        maps: maps(&args.ingress.services),
        pools: pools(&args.ingress.services),
        classes: run_classes(args),
        node: text(&args.ingress.node_name),
        zone: text(&args.ingress.zone),
        state: None,
    }
}

/// Whose pools give addresses.
fn pools(args: &ServiceArgs) -> Pools {
    match (args.service_types.contains(&ServiceType::LoadBalancer), args.metallb_pools) {
        (false, _) => Pools::None,
        (true, false) => Pools::Ours,
        (true, true) => Pools::WithMetallb,
    }
}

/// ConfigMaps that say where ports lead to.
fn maps(args: &ServiceArgs) -> BTreeSet<(Arc<str>, Arc<str>)> {
    let named = args.tcp_services_configmap.iter().chain(&args.udp_services_configmap);
    named.map(MapName::pair).collect()
}

/// Who gives addresses to Services.
pub(super) fn giving(args: &RunArgs) -> anyhow::Result<Giving> {
    if args.cluster.kubernetes {
        return Ok(Giving::InCluster);
    }
    match &args.cluster.state_dir {
        Some(StateDir(Some(path))) => {
            let memory = Memory::open(path).with_context(|| {
                format!("--state-dir: cannot write to {}; choose another folder, or `none`", path.display())
            })?;
            // Given anew, they would move under their clients.
            memory.read().with_context(|| {
                format!("--state-dir: the addresses of Services in {} cannot be read", path.display())
            })?;
            Ok(Giving::Alone(Some(memory)))
        }
        Some(StateDir(None)) | None => Ok(Giving::Alone(None)),
    }
}

/// Where objects are kept.
fn state_dir(given: Option<&StateDir>) -> anyhow::Result<Option<PathBuf>> {
    match given {
        Some(StateDir(None)) => Ok(None),
        Some(StateDir(Some(path))) => {
            prepare_state(path).with_context(|| {
                format!("--state-dir: cannot write to {}; choose another folder, or `none`", path.display())
            })?;
            Ok(Some(path.clone()))
        }
        None => {
            let path = Path::new(STATE_DIR);
            let is_usable = in_cluster() && path.is_dir() && prepare_state(path).is_ok();
            Ok(is_usable.then(|| path.to_owned()))
        }
    }
}

/// Where the objects come from, for the log.
pub(super) fn shown(args: &RunArgs) -> String {
    if args.cluster.kubernetes {
        return "kubernetes".to_owned();
    }
    let paths: Vec<String> = args.config.iter().map(|path| path.display().to_string()).collect();
    paths.join(" ")
}
