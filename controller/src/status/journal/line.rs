//! One matter of one object: whether it is so, and what was told of it. Pure.

use std::sync::Arc;

use config::report::ObjectRef;

use super::{Action, COMES_AGAIN, MAX_NOTE, MEMORY, Matter, SETTLING};
use crate::status::clock::Moment;

#[derive(Debug)]
pub(super) struct Line {
    pub(super) object: ObjectRef,
    reason: &'static str,
    note: Arc<str>,
    since: Moment,
    gone: Option<Moment>,
    told: Option<Told>,
    not_before: Moment,
}

#[derive(Debug)]
struct Told {
    name: Arc<str>,
    count: u32,
    at: Moment,
    /// When it is told again.
    next: Moment,
}

impl Line {
    pub(super) fn new(matter: Matter, now: Moment) -> Self {
        let Matter { object, reason, mut note } = matter;
        note.truncate(note.floor_char_boundary(MAX_NOTE));
        Self {
            object,
            reason,
            note: note.into(),
            since: now,
            gone: None,
            told: None,
            not_before: Moment::START,
        }
    }

    /// It is so.
    pub(super) fn stands(&mut self, now: Moment) {
        if self.gone.take().is_some() {
            self.since = now;
            if let Some(told) = &mut self.told {
                told.next = told.next.min(told.at + COMES_AGAIN);
            }
        }
    }

    /// It is not so. Returns whether that is news of something that was told.
    pub(super) fn goes(&mut self, now: Moment) -> bool {
        let is_news = self.gone.is_none();
        self.gone.get_or_insert(now);
        is_news && self.told.is_some()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// Nothing needs to be remembered of it.
    pub(super) fn is_forgotten(&self, now: Moment) -> bool {
        self.gone.is_some_and(|gone| self.told.is_none() || now.since(gone) >= MEMORY)
    }

    /// When it is to be told; `None` if it is not.
    pub(super) fn due(&self) -> Option<Moment> {
        let due = self.told.as_ref().map_or(self.since, |told| told.next);
        self.gone.is_none().then(|| due.max(self.since + SETTLING).max(self.not_before))
    }

    pub(super) fn action(&self) -> Action {
        match &self.told {
            Some(told) => {
                Action::Repeat { name: Arc::clone(&told.name), count: told.count.saturating_add(1) }
            }
            None => Action::Create { is_warning: true, reason: self.reason, note: Arc::clone(&self.note) },
        }
    }

    pub(super) fn told(&mut self, name: Arc<str>, count: u32, now: Moment, next: Moment) {
        self.told = Some(Told { name, count, at: now, next });
    }

    /// What was told is not there any more.
    pub(super) fn forget(&mut self) {
        self.told = None;
    }

    pub(super) fn set_aside(&mut self, until: Moment) {
        self.not_before = until;
    }
}
