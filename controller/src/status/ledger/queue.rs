//! Whose turn it is, and when the server is left in peace.

use std::sync::Arc;
use std::time::Duration;

use config::report::ObjectRef;

use super::item::{Lane, Ours, Want};
use super::{Action, Ledger, NOTHING, Next, Outcome, Scope, Task};
use crate::status::clock::Moment;
use crate::status::pace::backoff;

/// Requests at a time. A slow server gets no more of them.
const MAX_IN_FLIGHT: usize = 10;
/// Delays of all requests after failures of the server.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The longest that a server can have us wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Delays of a namespace in which we may not write.
const FIRST_DENIED: Duration = Duration::from_secs(30);
const MAX_DENIED: Duration = Duration::from_secs(300);
/// Of so many turns, one is of objects to which nothing happened.
const COLD_TURN: u32 = 8;

impl Ledger {
    /// What to do at `now`.
    pub(in crate::status) fn next(&mut self, now: Moment) -> Next {
        self.expire(now);
        let is_recorded = self.scope == Scope::Whole
            || self.current.as_ref().is_some_and(|current| current.is_subset(&self.recorded));
        // After a failure, one request finds out whether it is over.
        let most = if self.failures == 0 { MAX_IN_FLIGHT } else { 1 };
        if !self.leads || !is_recorded || !self.is_certain() || self.in_flight >= most {
            return Next::Wait(None);
        }
        while let Some(lane) = self.lane() {
            let ready = self.bucket.ready(now).max(self.paused_until);
            if now < ready {
                return Next::Wait(Some(ready));
            }
            let queue = if lane == Lane::Hot { &mut self.hot } else { &mut self.cold };
            let Some(object) = queue.pop_front() else { break };
            if let Some(task) = self.task(&object, now) {
                self.bucket.take(now);
                self.turn = self.turn.wrapping_add(1);
                return Next::Task(task);
            }
        }
        Next::Wait(self.timers.first().map(|(at, _)| *at))
    }

    /// Something happened to the object: if there is anything to be done with it, it gets in line.
    pub(super) fn touch(&mut self, object: ObjectRef, lane: Lane, now: Moment) {
        if !self.leads {
            // All are, once we do.
            return;
        }
        let ours = Ours {
            is_whole: self.scope == Scope::Whole,
            current: self.current.as_ref().unwrap_or(&NOTHING),
            former: &self.former,
            manager: &self.manager,
            compiles: self.compiles,
            is_certain: self.compiles > 0 || self.is_by_name,
        };
        let Some(item) = self.items.get_mut(&object) else { return };
        if item.flight.is_some() || item.lane == Some(Lane::Hot) || item.lane == Some(lane) {
            return;
        }
        match item.want(&ours, now) {
            Want::Nothing => {}
            Want::Later(at) => {
                self.timers.insert((at, object));
            }
            Want::Look | Want::Write(..) | Want::Finalize(_) => {
                item.lane = Some(lane);
                match lane {
                    Lane::Hot => self.hot.push_back(object),
                    Lane::Cold => self.cold.push_back(object),
                }
            }
        }
    }

    /// Something happened to all objects.
    pub(super) fn touch_all(&mut self, now: Moment) {
        self.cold.clear();
        for item in self.items.values_mut().filter(|item| item.lane == Some(Lane::Cold)) {
            item.lane = None;
        }
        let mut objects: Vec<ObjectRef> = self.items.keys().cloned().collect();
        objects.sort_unstable();
        for object in objects {
            self.touch(object, Lane::Cold, now);
        }
    }

    /// What `outcome` says of the server.
    pub(super) fn pace(&mut self, object: &ObjectRef, outcome: &Outcome, now: Moment) {
        // A burst of failures is one.
        let is_news = now >= self.paused_until;
        match outcome {
            Outcome::Done(_) => {
                self.failures = 0;
                if self.denied.remove(&object.namespace).is_some() {
                    self.touch_all(now);
                }
            }
            Outcome::Gone | Outcome::Conflict | Outcome::Invalid => {
                self.failures = 0;
                // It says nothing of whether we may, but the server does not fail.
                if let Some(denied) = self.denied.get_mut(&object.namespace).filter(|denied| denied.is_tried)
                {
                    (denied.until, denied.is_tried) = (now, false);
                }
            }
            Outcome::Denied => {
                self.failures = 0;
                self.deny(object, false, now);
            }
            Outcome::Failed if !self.fails_widely(object, now) => {}
            Outcome::Busy(_) | Outcome::Failed => {
                self.failures += u32::from(is_news);
                let delay = backoff(self.failures, FIRST_PAUSE, MAX_PAUSE, &mut self.random);
                if let Outcome::Busy(Some(wanted)) = outcome {
                    let wanted = (*wanted).min(MAX_RETRY_AFTER);
                    self.paused_until = self.paused_until.max(now + delay.max(wanted));
                } else if is_news {
                    self.paused_until = now + delay;
                }
            }
            Outcome::Aborted => {
                if let Some(denied) = self.denied.get_mut(&object.namespace).filter(|denied| denied.is_tried)
                {
                    (denied.until, denied.is_tried) = (now, false);
                }
            }
        }
    }

    /// A write was denied, or failed: those in its namespace wait.
    fn deny(&mut self, object: &ObjectRef, has_failed: bool, now: Moment) {
        let denied = self.denied.entry(Arc::clone(&object.namespace)).or_default();
        if now >= denied.until || denied.is_tried {
            let (first, most) =
                if has_failed { (FIRST_PAUSE, MAX_PAUSE) } else { (FIRST_DENIED, MAX_DENIED) };
            denied.times += 1;
            denied.is_tried = false;
            denied.has_failed = has_failed;
            denied.until = now + backoff(denied.times, first, most, &mut self.random);
        }
    }

    /// Notes that a write failed. True if writes fail in more namespaces than one, so that it is the server that does.
    fn fails_widely(&mut self, object: &ObjectRef, now: Moment) -> bool {
        self.deny(object, true, now);
        let failing = |denied: &&super::Denied| denied.has_failed && (now < denied.until || denied.is_tried);
        self.denied.values().filter(failing).count() > 1
    }

    /// The lane of whose turn it is; `None` if nobody waits.
    fn lane(&mut self) -> Option<Lane> {
        let items = &self.items;
        let is_in = |object: &ObjectRef, lane| items.get(object).is_some_and(|item| item.lane == Some(lane));
        // Whoever changed the lane, or is gone.
        while self.hot.front().is_some_and(|object| !is_in(object, Lane::Hot)) {
            self.hot.pop_front();
        }
        while self.cold.front().is_some_and(|object| !is_in(object, Lane::Cold)) {
            self.cold.pop_front();
        }
        match (self.hot.is_empty(), self.cold.is_empty()) {
            (true, true) => None,
            (false, true) => Some(Lane::Hot),
            (true, false) => Some(Lane::Cold),
            (false, false) if self.turn % COLD_TURN == COLD_TURN - 1 => Some(Lane::Cold),
            (false, false) => Some(Lane::Hot),
        }
    }

    fn task(&mut self, object: &ObjectRef, now: Moment) -> Option<Task> {
        let ours = Ours {
            is_whole: self.scope == Scope::Whole,
            current: self.current.as_ref().unwrap_or(&NOTHING),
            former: &self.former,
            manager: &self.manager,
            compiles: self.compiles,
            is_certain: self.compiles > 0 || self.is_by_name,
        };
        let item = self.items.get_mut(object)?;
        item.lane = None;
        let denied =
            self.denied.get(&object.namespace).map(|denied| denied.until).filter(|until| now < *until);
        let want = item.want(&ours, now);
        if let (Some(until), Want::Look | Want::Write(..) | Want::Finalize(_)) = (denied, &want) {
            self.timers.insert((until, object.clone()));
            return None;
        }
        let action = match want {
            Want::Nothing => return None,
            Want::Later(at) => {
                self.timers.insert((at, object.clone()));
                return None;
            }
            Want::Look => Action::Look,
            Want::Write(entries, conditions) => {
                let version = Arc::clone(&item.observed.as_ref()?.resource_version);
                Action::Write { version, entries, conditions }
            }
            Want::Finalize(finalizers) => {
                let version = Arc::clone(&item.observed.as_ref()?.resource_version);
                Action::Finalize { version, finalizers }
            }
        };
        if let Some(denied) = self.denied.get_mut(&object.namespace) {
            (denied.until, denied.is_tried) = (now + MAX_PAUSE, true);
        }
        self.flights += 1;
        self.in_flight += 1;
        item.flight = Some(self.flights);
        Some(Task { object: object.clone(), flight: self.flights, action })
    }

    fn expire(&mut self, now: Moment) {
        while let Some((at, object)) = self.timers.pop_first() {
            if at > now {
                self.timers.insert((at, object));
                return;
            }
            if let Some(item) = self.items.get_mut(&object) {
                item.believe_late(now);
                self.touch(object, Lane::Cold, now);
            }
        }
    }
}
