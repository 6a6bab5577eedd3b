//! The loop of the control plane: events into the index, a compile when the hold-off says so, the outcome
//! published. It holds no opinion on objects and knows nothing of where they come from or who serves them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::report::{Kind, ObjectRef, Report};
use tokio::sync::{mpsc, watch};

use crate::Publish;
use crate::dns::Dns;
use crate::hold_off::HoldOff;
use crate::ipam::memory::Memory;
use crate::ipam::{Assigner, Desired, Role};
use crate::problems::{ControlMetrics, ProblemLog};
use crate::source::{Certainty, Knowledge, Source};
use crate::status::{Note, Notes};

/// What the driver can be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// Look at everything again, whatever the source thinks it has seen (SIGHUP).
    Reread,
    /// Return from [`Driver::run`]. What was published last stays.
    Stop,
}

/// Source, index, compiler and publisher, tied together.
#[derive(Debug)]
pub struct Driver<S, P> {
    source: S,
    publisher: P,
    index: Index,
    compiler: Compiler,
    /// What was applied and not yet compiled.
    change: Change,
    hold_off: HoldOff,
    dns: Dns,
    problems: ProblemLog,
    metrics: Arc<ControlMetrics>,
    status: Notes,
    /// Who gives addresses to Services.
    assigner: Assigner,
    /// Where they are remembered.
    memory: Option<Memory>,
    /// It was said that they cannot be kept there.
    has_told_memory: bool,
    /// In a cluster, for which term we decide on them for all replicas; `None` if another one always does.
    term: Option<watch::Receiver<u64>>,
    /// For whoever writes status.
    desired: Vec<(ObjectRef, Option<Desired>)>,
    /// The term for which we decided on addresses for other replicas; 0 if we did not.
    decides_for: u64,
    /// The term for which the source was told to look at everything again.
    catches_up_for: u64,
    /// How well the source knew at the last compile whose Ingresses are.
    certainty: Certainty,
    /// When to compile although nothing changed: a certificate becomes valid, or expires.
    wake: Option<Instant>,
}

/// The longest sleep until a certificate's time, for the wall clock may be set meanwhile.
const MAX_SLEEP: Duration = Duration::from_secs(3_600);

/// After this time it is tried again to keep addresses where that was not possible.
const MEMORY_RETRY: Duration = Duration::from_secs(5);

impl<S: Source, P: Publish> Driver<S, P> {
    /// A driver that has read nothing yet. Its figures are noted in `metrics`, what it compiled in `status`.
    pub fn new(
        source: S,
        publisher: P,
        settings: Settings,
        metrics: Arc<ControlMetrics>,
        status: Notes,
    ) -> Self {
        Self {
            source,
            publisher,
            assigner: Assigner::new(settings.services.clone(), Role::Alone),
            memory: None,
            has_told_memory: false,
            term: None,
            desired: Vec::new(),
            index: Index::new(),
            dns: Dns::new(Arc::clone(&metrics), settings.endpoints.ipv4),
            compiler: Compiler::new(settings),
            change: Change::default(),
            hold_off: HoldOff::default(),
            problems: ProblemLog::default(),
            metrics,
            status,
            decides_for: 0,
            catches_up_for: 0,
            certainty: Certainty::Unknown,
            wake: None,
        }
    }

    /// The objects are those of a cluster, where other replicas may be: whoever writes status decides on addresses of
    /// Services.
    #[must_use]
    pub fn in_cluster(mut self) -> Self {
        self.assigner.set_role(Role::Follower);
        self.term = self.status.term();
        self
    }

    /// Services keep the addresses that `memory` has, and it keeps those that they get. Blocks.
    #[must_use]
    pub fn remembering(mut self, memory: Memory) -> Self {
        if self.assigner.is_off() {
            return self;
        }
        match memory.read() {
            Ok(addresses) => {
                self.assigner.remember(addresses);
                self.memory = Some(memory);
            }
            Err(error) => tracing::error!(
                %error,
                "the addresses of Services cannot be read from --state-dir: they are given anew, and not kept"
            ),
        }
        self
    }

    /// Runs until told to stop, or until `commands` is closed. Nothing is published before everything has
    /// been read once; then there is always a publish, even of an empty table. Needs a tokio runtime with
    /// time and I/O. Hands the publisher back.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) -> P {
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Reread) => self.source.reread(),
                    Some(Command::Stop) | None => return self.publisher,
                },
                first = self.source.next() => {
                    self.apply(first.events);
                    break;
                }
            }
        }
        self.publish();
        // What everything cost says nothing of what a change will.
        self.hold_off = HoldOff::default();
        loop {
            let deadline = self.hold_off.deadline();
            let deadline = deadline.into_iter().chain(self.wake).min();
            let wait = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            let another_term = async {
                match &mut self.term {
                    Some(term) => term.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Reread) => {
                        self.source.reread();
                        self.dns.reread();
                    }
                    Some(Command::Stop) | None => return self.publisher,
                },
                is_told = another_term => {
                    if !is_told {
                        // Nobody writes status any more, so that nobody decides.
                        self.term = None;
                    }
                    self.publish();
                }
                () = wait => self.publish(),
                batch = self.source.next() => self.take_in(batch.events),
                event = self.dns.next() => self.take_in(vec![event]),
            }
        }
    }

    fn take_in(&mut self, events: Vec<Event>) {
        self.apply(events);
        let is_news = self.source.certainty() != self.certainty || self.deciding_term() != self.decides_for;
        if self.change.is_empty() && !is_news {
            return;
        }
        let now = Instant::now();
        self.hold_off.event(now);
        // What is due is compiled right here: a turn of the event loop would only add to its delay.
        if self.hold_off.deadline().is_some_and(|deadline| deadline <= now) {
            self.publish();
        }
    }

    fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            self.change.merge(self.index.apply(event));
        }
    }

    fn publish(&mut self) {
        let start = Instant::now();
        let loaded = self.source.want(&self.index.files(), &self.index.unread_files());
        self.apply(loaded);
        let assigned = self.assign();
        let change = std::mem::take(&mut self.change);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (table, report) =
            self.compiler.compile(&self.index, &change, i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        self.wake = self.compiler.wake().map(|at| {
            let at = Duration::from_secs(u64::try_from(at).unwrap_or_default());
            // A clock that stands still or runs back must not make this a busy loop.
            Instant::now() + at.saturating_sub(now).clamp(Duration::from_secs(1), MAX_SLEEP)
        });
        if self.has_told_memory {
            let again = Instant::now() + MEMORY_RETRY;
            self.wake = Some(self.wake.map_or(again, |at| at.min(again)));
        }
        self.publisher.publish(&table, &report);
        self.announce(assigned, &change);
        let end = Instant::now();
        self.metrics.compiled(&report, table.version, end - start, SystemTime::now());
        self.problems.update(&report);
        let problems = report.problems.len();
        let claims = self.compiler.take_claims();
        let used = self.used(&report);
        self.certainty = self.source.certainty();
        let desired = std::mem::take(&mut self.desired);
        self.status.send(Note::Compiled {
            claims,
            report,
            used,
            desired,
            term: self.decides_for,
            certainty: self.certainty,
        });
        self.dns.want(&self.compiler.dns_names());
        let ended = Instant::now();
        self.hold_off.published(ended - start, ended);
        self.publisher.finished();
        tracing::debug!(
            table.version,
            duration_us = u64::try_from((end - start).as_micros()).unwrap_or(u64::MAX),
            problems,
            hosts = self.compiler.rebuilt_hosts(),
            "table published"
        );
    }

    /// Gives addresses to Services. Returns those of which there may be something else to announce.
    fn assign(&mut self) -> BTreeSet<ObjectRef> {
        self.catch_up();
        let term = self.deciding_term();
        if std::mem::replace(&mut self.decides_for, term) != term {
            // What was decided in a former term is not ours to go on with.
            self.assigner.set_role(Role::Follower);
            self.desired.clear();
        }
        if self.assigner.is_off() {
            return BTreeSet::new();
        }
        if term != 0 {
            self.assigner.set_role(Role::Leader);
        }
        let given = self.assigner.give(&mut self.index, &mut self.change);
        self.desired.extend(given.desired);
        if given.is_different || self.has_told_memory {
            // Before any of it is served, so that a restart finds what clients know.
            self.remember();
        }
        if given.is_touched {
            self.metrics.pools(self.assigner.usage());
        }
        given.services
    }

    /// Before anything is decided in a term: what the replica has written that decided before may be missing here.
    fn catch_up(&mut self) {
        if self.assigner.is_off() {
            return;
        }
        let term = self.term.as_ref().map_or(0, |term| *term.borrow());
        if std::mem::replace(&mut self.catches_up_for, term) != term && term != 0 {
            self.source.catch_up();
        }
        if self.source.knows_pools() == Knowledge::Unconfirmed {
            // Whether that matters depends on what there is by now.
            self.assigner.look(&self.index, &self.change);
        }
    }

    /// Keeps the addresses of Services, if there is a place for them.
    fn remember(&mut self) {
        let Some(memory) = &self.memory else { return };
        match memory.write(self.assigner.memory()) {
            Ok(()) if std::mem::take(&mut self.has_told_memory) => {
                tracing::info!("the addresses of Services are kept in --state-dir again");
            }
            Ok(()) => {}
            Err(error) if !std::mem::replace(&mut self.has_told_memory, true) => {
                tracing::warn!(%error, "the addresses of Services cannot be kept in --state-dir");
            }
            Err(_) => {}
        }
    }

    /// The term for which we decide on addresses of Services for other replicas, as we know everything that there is; else 0.
    fn deciding_term(&mut self) -> u64 {
        let term = self.term.as_ref().map_or(0, |term| *term.borrow());
        if term == 0 {
            return 0;
        }
        let are_pools_known = match self.source.knows_pools() {
            Knowledge::Partial => false,
            // What is recorded is of one that is not known, perhaps.
            Knowledge::Unconfirmed => !self.assigner.has_unexplained_records(),
            Knowledge::Whole => true,
        };
        let is_known = are_pools_known && self.source.certainty() != Certainty::Unknown;
        if is_known { term } else { 0 }
    }

    /// Tells the publisher at which addresses these `services` are served, and those with other endpoints on this node.
    fn announce(&mut self, mut services: BTreeSet<ObjectRef>, change: &Change) {
        if self.assigner.is_off() {
            return;
        }
        let moved = change.services_with_other_endpoints();
        services.extend(moved.filter(|service| self.assigner.needs_local(service)));
        let addresses = |service: ObjectRef| {
            let has_local = || self.compiler.endpoints_here(&self.index, &service) > 0;
            let addresses = self.assigner.addresses_of(&service, has_local);
            (service, addresses)
        };
        let services: Vec<_> = services.into_iter().map(addresses).collect();
        if !services.is_empty() {
            self.publisher.announce(&services);
        }
    }

    /// The Services and EndpointSlices of which the report tells and that are in use, for whoever tells it further.
    fn used(&self, report: &Report) -> Vec<ObjectRef> {
        if !self.status.are_read() {
            return Vec::new();
        }
        let objects = report.problems.iter().map(|problem| &problem.object);
        let parts = objects.filter(|object| matches!(object.kind, Kind::Service | Kind::EndpointSlice));
        // One that keeps addresses from others is theirs to know of.
        let holds = |object: &ObjectRef| !self.assigner.is_off() && self.index.undecoded(object).is_some();
        let is_used = |object: &&ObjectRef| self.compiler.uses(&self.index, object) || holds(object);
        let mut used: Vec<ObjectRef> = parts.filter(is_used).cloned().collect();
        used.dedup();
        used
    }
}

#[cfg(test)]
mod tests;
