//! Watches: what comes in one, and when it is left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::failure::Failure;
use super::super::item::{self, WatchLine};
use super::super::progress::Count;
use super::super::split::{LineSplitter, Part};
use super::super::transport::{Form, shown};
use super::super::version::Version;
use super::Feed;

/// A watch that has been silent for this much longer than it was asked for is dead.
const SILENCE: Duration = Duration::from_secs(5);

impl Feed {
    /// Watches, until there is a reason not to.
    pub(super) async fn watch(&mut self, from: &Version, time: Duration) {
        self.intake.abandon_list();
        let form = if self.target().resource.is_by_metadata() { Form::Metadata } else { Form::Whole };
        let path = self.target().watch(from, time);
        let mut answer = match self.common.transport.open_within(self.patience(), &path, form).await {
            Ok(answer) => answer,
            Err(failure) => return self.failed(&failure),
        };
        self.common.outage.end();
        self.common.progress.count(self.id, Count::Watches);
        self.reflector.opened(Instant::now());
        self.well(false);
        let mut lines = LineSplitter::default();
        loop {
            tokio::select! {
                chunk = answer.chunk(time + SILENCE) => match chunk {
                    Ok(Some(chunk)) => match self.take_in(&mut lines, &chunk) {
                        Ok(true) => {}
                        Ok(false) => return,
                        Err(failure) => return self.failed(&failure),
                    },
                    Ok(None) => return self.reflector.ended(Instant::now()),
                    Err(failure) => return self.failed(&failure),
                },
                order = self.orders.recv() => {
                    self.obey(order).await;
                    if self.is_over || !self.reflector.is_watching() {
                        return;
                    }
                }
                Ok(()) = self.histories.changed() => {
                    self.histories.mark_changed();
                    return self.reflector.suspect();
                }
            }
        }
    }

    /// Takes in a part of a watch. False if the watch must be left.
    fn take_in(&mut self, lines: &mut LineSplitter, chunk: &[u8]) -> Result<bool, Failure> {
        let mut outcome = Ok(true);
        lines.push(chunk, |part| {
            if outcome == Ok(true) {
                outcome = match part {
                    Part::Object(line) => self.line(line),
                    Part::TooLarge => Ok(self.missed()),
                };
            }
        });
        self.count_decode_failures();
        self.well(false);
        let changes = std::mem::take(&mut self.unsent);
        self.send(changes, false);
        outcome
    }

    pub(super) fn line(&mut self, line: &[u8]) -> Result<bool, Failure> {
        let progress = Arc::clone(&self.common.progress);
        match item::watch_line(line) {
            Some(WatchLine::Object(happened, json)) => {
                progress.event(self.id, happened.name());
                match self.intake.watch_item(happened, json) {
                    Ok((version, new)) => {
                        self.unsent.extend(new);
                        Ok(self.reflector.heard(version, false))
                    }
                    Err(_) => Ok(self.missed()),
                }
            }
            Some(WatchLine::Bookmark(version)) => {
                progress.event(self.id, "bookmark");
                Ok(self.reflector.heard(version, true))
            }
            Some(WatchLine::Error(object)) => {
                progress.event(self.id, "error");
                let (code, text) = item::status(object).unwrap_or((500, String::new()));
                let text = shown(&text);
                Err(match code {
                    410 => Failure::Gone(text),
                    code => Failure::Status { code, text, retry_after: None },
                })
            }
            // A newer server's news may be told in types that we do not know; objects are never among them.
            Some(WatchLine::Unknown) => Ok(true),
            None => Ok(self.missed()),
        }
    }

    fn missed(&mut self) -> bool {
        tracing::debug!(target = %self.target(), "an event cannot be read, so that everything is listed again");
        !self.reflector.missed(Instant::now())
    }
}
