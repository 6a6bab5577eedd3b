//! HTTP/2 connections of one worker, by endpoint and identity: each carries as many requests as it can, and another one
//! is opened only when all are full. Requests that come while one is being opened wait for it together.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;
use tokio::sync::Notify;

use super::{Connection, Key};
use crate::http2::client::{Driver, Http2Client, Session};
use crate::live::EndpointState;
use crate::stream::Stream;

/// Connections to one endpoint with one identity, those that finish what they have included.
const MOST_CONNECTIONS: usize = 128;
/// Connections that are being opened to one endpoint at a time.
const MOST_OPENING: usize = 8;

/// The HTTP/2 connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Http2Pool {
    groups: RefCell<HashMap<Key, Rc<Group>, FixedState>>,
    closed: Rc<Cell<u64>>,
}

/// The connections to one endpoint with one identity.
#[derive(Debug)]
struct Group {
    endpoint: Arc<EndpointState>,
    sessions: RefCell<Vec<Rc<Session>>>,
    opening: Cell<usize>,
    waiting: Cell<usize>,
    /// Streams that the last connection had room for when it was new.
    room_of_one: Cell<usize>,
    failures: Cell<u64>,
    failure: RefCell<Option<Failure>>,
    freed: Rc<Notify>,
    closed: Rc<Cell<u64>>,
}

/// Why no connection came about, for everybody who waited for it.
#[derive(Debug)]
struct Failure {
    error: io::Error,
    /// Somebody was told.
    told: Cell<bool>,
}

/// No connection came about.
#[derive(Debug)]
pub(crate) struct NoConnection {
    /// The kernel's reason, or what else went wrong.
    pub(crate) error: io::Error,
    /// Nobody else was told so: many may have waited for one connection.
    pub(crate) first: bool,
}

impl Http2Pool {
    /// A stream of a connection that has room; costs neither a wait nor a system call.
    pub(crate) fn take(&self, key: Key, endpoint: &Arc<EndpointState>) -> Option<Connection> {
        self.groups.borrow().get(&key)?.take(endpoint)
    }

    /// A stream, once there is one. `connect` opens a connection within the time that it grants itself; it goes on
    /// when the caller no longer waits, for the others. `keep` = ticks for which the connection is kept when idle.
    pub(crate) async fn wait<F>(
        &self,
        key: Key,
        endpoint: &Arc<EndpointState>,
        keep: u32,
        connect: impl Fn() -> F,
    ) -> Result<Connection, NoConnection>
    where
        F: Future<Output = io::Result<Driver>> + 'static,
    {
        let group = Rc::clone(self.groups.borrow_mut().entry(key).or_insert_with(|| {
            Rc::new(Group {
                endpoint: Arc::clone(endpoint),
                sessions: RefCell::default(),
                opening: Cell::new(0),
                waiting: Cell::new(0),
                room_of_one: Cell::new(usize::MAX),
                failures: Cell::new(0),
                failure: RefCell::default(),
                freed: Rc::default(),
                closed: Rc::clone(&self.closed),
            })
        }));
        let _waiting = Waiting::new(&group);
        let failures = group.failures.get();
        loop {
            // Armed before looking, so that nothing that happens in between is missed.
            let freed = group.freed.notified();
            if let Some(connection) = group.take(endpoint) {
                return Ok(connection);
            }
            if group.failures.get() != failures {
                return Err(group.why());
            }
            if group.wants_another() {
                group.opening.set(group.opening.get() + 1);
                let opening = Opening(Rc::clone(&group));
                tokio::task::spawn_local(run(Rc::clone(&group), opening, connect(), keep));
            }
            freed.await;
        }
    }

    /// Whether every connection that there may be is there, and full.
    pub(crate) fn is_full(&self, key: Key) -> bool {
        self.groups.borrow().get(&key).is_some_and(|group| {
            group.opening.get() == 0 && group.sessions.borrow().len() >= MOST_CONNECTIONS
        })
    }

    /// Closes what was idle for too long or leads to an endpoint that no table names.
    pub(crate) fn sweep(&self) {
        self.groups.borrow_mut().retain(|_, group| {
            let retired = group.endpoint.is_retired();
            group.sessions.borrow_mut().retain(|session| {
                if retired || session.is_stale() {
                    session.retire();
                }
                !(session.is_over() && session.is_idle())
            });
            !(group.sessions.borrow().is_empty() && group.opening.get() == 0 && group.waiting.get() == 0)
        });
    }

    /// Closes every idle connection, for want of descriptors.
    pub(crate) fn clear(&self) {
        for group in self.groups.borrow().values() {
            group
                .sessions
                .borrow()
                .iter()
                .filter(|session| session.is_idle())
                .for_each(|session| session.retire());
        }
    }

    /// Connections that have ended since the last call.
    pub(crate) fn take_closed(&self) -> u64 {
        self.closed.take()
    }
}

impl Group {
    fn take(&self, endpoint: &Arc<EndpointState>) -> Option<Connection> {
        let sessions = self.sessions.borrow();
        let session = sessions.iter().find(|session| session.has_room())?;
        let reused = session.is_used();
        let stream = Stream::Http2Client(Box::new(Http2Client::reserve(session, &self.freed)));
        Some(Connection { stream, endpoint: Arc::clone(endpoint), reused })
    }

    /// Whether those who wait are more than what is being opened will serve.
    fn wants_another(&self) -> bool {
        let opening = self.opening.get();
        let served = self.room_of_one.get().saturating_mul(opening);
        opening < MOST_OPENING
            && self.waiting.get() > served
            && self.sessions.borrow().len() + opening < MOST_CONNECTIONS
    }

    fn why(&self) -> NoConnection {
        let failure = self.failure.borrow();
        let Some(Failure { error, told }) = &*failure else {
            return NoConnection { error: io::ErrorKind::Other.into(), first: false };
        };
        let copy = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        NoConnection { error: copy, first: !told.replace(true) }
    }
}

/// One who waits for a stream.
struct Waiting<'a>(&'a Group);

impl<'a> Waiting<'a> {
    fn new(group: &'a Group) -> Self {
        group.waiting.set(group.waiting.get() + 1);
        Self(group)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
    }
}

/// A connection that is being opened.
struct Opening(Rc<Group>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get().saturating_sub(1));
        self.0.freed.notify_waiters();
    }
}

/// A connection of the group; leaves it when its task ends, however that is.
struct Member {
    group: Rc<Group>,
    session: Rc<Session>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.session.retire();
        self.group.sessions.borrow_mut().retain(|session| !Rc::ptr_eq(session, &self.session));
        self.group.closed.set(self.group.closed.get() + 1);
        // Whoever waited for a stream of it looks for another.
        self.group.freed.notify_waiters();
    }
}

/// Opens a connection and moves it until it has ended.
async fn run<F>(group: Rc<Group>, opening: Opening, connect: F, keep: u32)
where
    F: Future<Output = io::Result<Driver>>,
{
    let mut driver = match connect.await {
        Ok(driver) => driver,
        Err(error) => {
            group.failures.set(group.failures.get() + 1);
            *group.failure.borrow_mut() = Some(Failure { error, told: Cell::new(false) });
            return drop(opening);
        }
    };
    let session = Rc::clone(driver.session());
    session.keep_for(keep);
    group.room_of_one.set(session.streams_left());
    group.sessions.borrow_mut().push(Rc::clone(&session));
    let member = Member { group, session };
    drop(opening);
    if let Err(error) = driver.run(|| member.group.freed.notify_waiters()).await {
        tracing::debug!(%error, endpoint.addr = %member.group.endpoint.address, "an HTTP/2 connection has failed");
    }
}
