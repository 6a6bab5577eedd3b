//! `sluicegate run`: every thread started, tied together, and ended in order.
//!
//! Threads: main waits for signals; `control` reads, compiles and publishes; `admin` answers the admin port
//! and probes endpoints; `status` writes to a cluster; `announce` has addresses on links; the workers carry traffic. The gateway
//! goes on with its last table whatever happens to the other threads, and `control` is started anew (`again` says when, `told` what
//! is to be taken back then).

mod admin;
mod again;
mod announce;
mod capability;
mod control;
mod ended;
mod listen_error;
mod local_routes;
mod log;
mod own;
mod signals;
mod source;
mod status;
mod told;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use controller::driver::Command;
use controller::problems::ControlMetrics;
use controller::source::kube::Progress;
use controller::status::{Notes, StatusMetrics};
use gateway::access_log::{AccessLog, Destination, Format};
use gateway::admin::{AdminState, Readiness, ReportSlot};
use gateway::live::Shared;
use gateway::metrics::Registry;
use gateway::{BindError, Gateway};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::admin::AdminThread;
use self::again::Again;
use self::announce::AnnounceThread;
use self::control::{ControlThread, Driving, Giving, Publishing, Started};
use self::local_routes::ServiceRoutes;
pub(crate) use self::log::start_log;
pub(crate) use self::signals::{Signal, Signals};
use self::source::{Guarded, Objects};
use self::status::{Prospect, StatusThread};
use crate::cli::{AccessLogFormat, RunArgs};
use crate::settings::{http_address, https_address, node_addresses, run_settings};

/// How long the access log may take to write its last lines.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until a signal ends it.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    start_log(&args.log_level, args.log_format)?;
    capability::take_bind_service();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut running = tokio::select! {
            running = Running::start(args) => running?,
            signal = signals.end() => return Ok(signal.exit_code()),
        };
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Hangup => running.reread(),
                    Signal::Interrupt | Signal::Terminate => break,
                },
                () = running.mend() => {}
            }
        }
        tokio::select! {
            biased;
            signal = signals.end() => {
                tracing::warn!("second signal, ending at once");
                Ok(signal.exit_code())
            }
            () = running.shutdown(args.lame_duck, args.drain_timeout) => Ok(ExitCode::SUCCESS),
        }
    });
    // A drain that a second signal cut short must not be waited for.
    runtime.shutdown_background();
    outcome
}

/// A listener that is open.
#[derive(Clone, Debug)]
pub(crate) struct Reachable {
    pub(crate) name: Arc<str>,
    pub(crate) address: SocketAddr,
    /// `http`, `https`, `tcp` or `udp`.
    pub(crate) scheme: &'static str,
}

/// Where a running gateway listens.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// The listeners.
    pub(crate) listeners: Vec<Reachable>,
    /// The admin port.
    pub(crate) admin: Option<SocketAddr>,
}

/// Everything that serves.
#[derive(Debug)]
pub(crate) struct Running {
    control: ControlThread,
    status: Option<StatusThread>,
    announce: Option<AnnounceThread>,
    commands: mpsc::UnboundedSender<Command>,
    readiness: Arc<Readiness>,
    access_log: AccessLog,
    admin: AdminThread,
    /// Where it can be reached.
    addresses: Addresses,
    /// What another control thread is made of.
    means: Means,
    again: Again,
}

/// What it takes to make a control thread.
#[derive(Debug)]
struct Means {
    args: RunArgs,
    shared: Arc<Shared>,
    notes: Notes,
    metrics: Arc<ControlMetrics>,
    /// Of the source in use.
    progress: Latest,
    admin: Option<SocketAddr>,
}

/// How far a cluster's objects are, for the control thread that runs.
type Latest = Arc<Mutex<Option<Arc<Progress>>>>;

impl Means {
    /// Makes a control thread's source and what it goes by of its objects.
    fn prepare(&self, source: Objects, giving: Giving) -> anyhow::Result<(Guarded, Driving)> {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = source.progress();
        let settings = run_settings(&self.args)?;
        let binds = [settings.http, settings.https].into_iter().flatten();
        let own_admin = || self.admin.into_iter().flat_map(own::of_both_families);
        let fixed = own_admin().chain(binds).collect();
        let refused = own::follow(source.server(), fixed, Arc::clone(&self.shared));
        let driving =
            Driving { settings, metrics: Arc::clone(&self.metrics), status: self.notes.clone(), giving };
        Ok((Guarded::new(source, refused), driving))
    }
}

impl Running {
    /// Starts everything and returns when the first table is served.
    pub(crate) async fn start(args: &RunArgs) -> anyhow::Result<Self> {
        raise_file_limit();
        take_transparency(args)?;
        let local = ServiceRoutes::prepare(args)?;
        let (addresses_of, announcing) = announce::prepare(args)?.unzip();
        let (notes, prospect) = Prospect::new(args);
        let source = Objects::open(args, &notes).await?;
        let giving = source::giving(args)?;
        let progress: Latest = Arc::new(Mutex::new(source.progress()));
        let more = MoreFigures {
            progress: Arc::clone(&progress),
            status: prospect.as_ref().map(Prospect::metrics),
            announce: announcing.as_ref().map(announce::Prospect::figures),
        };
        let workers = worker_count(args);
        let (shared, publisher) = Shared::new(workers);
        let registry = Registry::new(workers);
        let access_log = start_access_log(args, workers)?;
        registry.watch_access_log(Arc::clone(access_log.stats()));
        let metrics = Arc::<ControlMetrics>::default();
        let readiness = Arc::<Readiness>::default();
        let report = Arc::<ReportSlot>::default();
        let admin = start_admin(args, &shared, &registry, &readiness, &report, &metrics, more)?;
        let gateway =
            Gateway::start(workers, &shared, &registry, &access_log).context("cannot start the workers")?;
        let publishing = Publishing::new(gateway, publisher, report, addresses_of, local);
        let (commands, receiver) = mpsc::unbounded_channel();
        let (args_of, admin_at) = (args.clone(), admin.address());
        let means =
            Means { args: args_of, shared: Arc::clone(&shared), notes, metrics, progress, admin: admin_at };
        let (source, driving) = means.prepare(source, giving)?;
        let mut control = ControlThread::start(source, publishing, driving, receiver)?;
        let mut started =
            control.started().await.context("the control thread ended before the first table")?;
        check_binds(args, &started)?;
        // Nothing is sent there; it ends.
        let _none = started.accepting.recv().await;
        readiness.ready();
        let addresses = Addresses { listeners: started.listeners.clone(), admin: admin.address() };
        say_ready(args, workers, &addresses, &started);
        let announce = announcing.map(|prospect| prospect.start(Arc::clone(&shared))).transpose()?;
        let status = prospect.map(Prospect::start).transpose().context("cannot start writing status")?;
        let again = Again::new(Instant::now());
        Ok(Self {
            control,
            status,
            announce,
            commands,
            readiness,
            access_log,
            admin,
            addresses,
            means,
            again,
        })
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Reads everything again and opens the access log anew.
    pub(crate) fn reread(&self) {
        tracing::info!("reading everything again, reopening the access log");
        // Fails only if the control thread ended, and the next one reads everything.
        let _ = self.commands.send(Command::Reread);
        self.access_log.reopen();
    }

    /// Returns, once for each, if a thread ends although nobody told it to; says what that means. The control thread is started
    /// anew, without end: what panics once on some object may do so for ever, and the table of before is better than none.
    pub(crate) async fn mend(&mut self) {
        let status = async {
            match &mut self.status {
                Some(status) => status.ended().await,
                None => std::future::pending().await,
            }
        };
        let announce = async {
            match &mut self.announce {
                Some(announce) => announce.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = announce => tracing::error!(
                "the announcing thread ended; addresses of Services are no longer announced from here until a restart"
            ),
            () = self.control.ended() => {
                self.means.metrics.went_down();
                let seconds = self.again.ended(Instant::now()).as_secs();
                tracing::error!(
                    seconds,
                    "the control thread ended by a fault; the last table is served, and changes are looked for again after these seconds"
                );
            }
            () = self.again.due() => {
                let outcome = self.control_again().await;
                let now = Instant::now();
                match outcome {
                    Ok(()) => self.again.started(now),
                    Err(error) => {
                        let seconds = self.again.ended(now).as_secs();
                        tracing::error!(seconds, "the control thread cannot be started anew: {error:#}");
                    }
                }
            }
            () = status => tracing::error!(
                "the status thread ended; traffic goes on, but this replica writes no status until a restart"
            ),
        }
    }

    /// Starts another control thread.
    async fn control_again(&mut self) -> anyhow::Result<()> {
        let source = Objects::open(&self.means.args, &self.means.notes).await?;
        let giving = source::giving(&self.means.args)?;
        let (source, driving) = self.means.prepare(source, giving)?;
        let (commands, receiver) = mpsc::unbounded_channel();
        self.control.start_again(source, driving, receiver)?;
        self.commands = commands;
        self.means.metrics.restarted();
        tracing::info!("the control thread is started anew; everything is read again");
        Ok(())
    }

    /// Drains and ends everything.
    pub(crate) async fn shutdown(mut self, lame_duck: Duration, drain_timeout: Duration) {
        self.readiness.draining();
        // Another replica is to write from now on.
        if let Some(status) = &mut self.status {
            status.end();
        }
        if !lame_duck.is_zero() {
            tracing::info!(lame_duck = %humantime::format_duration(lame_duck), "not ready any more, still serving");
            tokio::time::sleep(lame_duck).await;
        }
        // New connections go elsewhere from here on; this process answers those that still come.
        if let Some(announce) = &self.announce {
            announce.leave().await;
        }
        tracing::info!(timeout = %humantime::format_duration(drain_timeout), "draining");
        let _ = self.commands.send(Command::Stop);
        let left = self.control.drain(drain_timeout).await;
        if left > 0 {
            tracing::warn!(connections = left, "drain deadline passed, connections were cut");
        }
        if let Some(announce) = self.announce {
            announce.stop().await;
        }
        if let Some(status) = self.status {
            status.join().await;
        }
        self.admin.stop().await;
        close_access_log(self.access_log);
        tracing::info!("drained, ending");
    }
}

fn worker_count(args: &RunArgs) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    args.workers.map_or_else(cores, usize::from)
}

fn start_access_log(args: &RunArgs, workers: usize) -> anyhow::Result<AccessLog> {
    let format = match args.access_log {
        AccessLogFormat::Off => Format::Off,
        AccessLogFormat::Json => Format::Json,
        AccessLogFormat::Combined => Format::Combined,
    };
    let file = args.access_log_file.clone();
    let shown = file.as_ref().map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
    let destination = file.map_or(Destination::Stdout, Destination::File);
    AccessLog::start(format, destination, workers)
        .with_context(|| format!("cannot write the access log to {shown} (--access-log-file)"))
}

fn close_access_log(access_log: AccessLog) {
    if !access_log.close(LOG_TIMEOUT) {
        tracing::warn!("the last lines of the access log could not be written");
    }
}

/// What there is to say of a cluster and of announcing, if there is any.
#[derive(Debug)]
struct MoreFigures {
    progress: Latest,
    status: Option<Arc<StatusMetrics>>,
    announce: Option<announce::Figures>,
}

fn start_admin(
    args: &RunArgs,
    shared: &Arc<Shared>,
    registry: &Arc<Registry>,
    readiness: &Arc<Readiness>,
    report: &Arc<ReportSlot>,
    metrics: &Arc<ControlMetrics>,
    more: MoreFigures,
) -> anyhow::Result<AdminThread> {
    let node_addresses = node_addresses(&args.ingress.services.nodeport_addresses)?;
    let metrics = Arc::clone(metrics);
    let MoreFigures { progress, status, announce } = more;
    let latest = move || progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (remarks, control) = (latest.clone(), Arc::clone(&metrics));
    let state = AdminState {
        shared: Arc::clone(shared),
        registry: Arc::clone(registry),
        readiness: Arc::clone(readiness),
        extra_metrics: Box::new(move |out| {
            metrics.render_metrics(out);
            if let Some(progress) = latest() {
                progress.render_metrics(out);
            }
            if let Some(status) = &status {
                status.render_metrics(out);
            }
            if let Some(announce) = &announce {
                announce.render_metrics(out);
            }
            crate::allocations::render_metrics(out);
        }),
        remarks: Box::new(move || {
            let down = "the control thread has ended by a fault: no change is seen until it is started anew";
            let down = control.is_down().then(|| down.to_owned());
            let known = remarks().map(|progress| progress.lines()).unwrap_or_default();
            down.into_iter().chain(known).collect()
        }),
        report: Arc::clone(report),
    };
    AdminThread::start(args.admin.0, node_addresses, Arc::new(state))
}

/// Every address of the first table must be open: a gateway that starts without a port that it was told to
/// open would only look as if it worked.
fn check_binds(args: &RunArgs, started: &Started) -> anyhow::Result<()> {
    let Some(BindError { address, source }) = started.failures.first() else { return Ok(()) };
    let setting = if http_address(&args.ingress) == Some(*address) {
        "--http"
    } else if https_address(&args.ingress) == Some(*address) {
        "--https"
    } else {
        "the listener's own setting"
    };
    anyhow::bail!("cannot listen on {address}: {}", listen_error::advice(source, setting))
}

fn say_ready(args: &RunArgs, workers: usize, addresses: &Addresses, started: &Started) {
    /// Listeners that are named in the line; a cluster may have thousands.
    const MOST: usize = 32;
    let shown = |Reachable { name, address, scheme }: &Reachable| format!("{name}={scheme}://{address}");
    let mut listeners: Vec<String> = addresses.listeners.iter().take(MOST).map(shown).collect();
    if let Some(more) = addresses.listeners.len().checked_sub(MOST).filter(|more| *more > 0) {
        listeners.push(format!("and {more} more"));
    }
    let admin = addresses.admin.map_or_else(|| "none".to_owned(), |address| format!("http://{address}"));
    let config = source::shown(args);
    tracing::info!(
        listeners = %listeners.join(" "),
        %admin,
        workers,
        config,
        routes = started.routes,
        backends = started.backends,
        errors = started.errors,
        warnings = started.warnings,
        "sluicegate {} is ready",
        env!("CARGO_PKG_VERSION")
    );
}

/// Takes the right into use to speak from addresses of others, if that may be asked for. Before any thread is started.
fn take_transparency(args: &RunArgs) -> anyhow::Result<()> {
    if !args.ingress.services.transparent {
        return Ok(());
    }
    capability::take(CapabilitySet::NET_ADMIN);
    if capability::has(CapabilitySet::NET_ADMIN) {
        return Ok(());
    }
    anyhow::bail!(
        "--transparent needs the capability NET_ADMIN (connections from addresses of clients): run as root, or grant it; in \
         a container, add it to securityContext.capabilities.add and use the host's network"
    )
}

/// Each connection needs a descriptor, and the usual soft limit of 1,024 is for programs that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, limit = ?limit.current, "cannot raise the limit of open files");
    }
}
