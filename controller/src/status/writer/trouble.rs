//! What goes wrong while status is written, as an operator hears of it: once when it begins, once when it ends, and rarely.

use std::time::Duration;

use config::report::ObjectRef;

use crate::source::Certainty;
use crate::status::clock::Moment;
use crate::status::metrics::Ending;

/// Lines of one kind are at least this far apart.
const INTERVAL: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Trouble {
    lease: State,
    status: State,
    events: State,
    certainty: Certainty,
}

#[derive(Debug, Default)]
struct State {
    /// What it is that was told.
    told: Option<String>,
    at: Moment,
}

impl State {
    /// True if that is to be told at `now`.
    fn begins(&mut self, what: &str, now: Moment) -> bool {
        let is_news = self.told.as_deref() != Some(what) && now.since(self.at) >= INTERVAL;
        if is_news {
            self.told = Some(what.to_owned());
            self.at = now;
        }
        is_news
    }

    /// True if the end of it is to be told.
    fn ends(&mut self) -> bool {
        self.told.take().is_some()
    }
}

impl Trouble {
    /// It is known so well whose Ingresses are, which never becomes less.
    pub(super) fn certainty(&mut self, certainty: Certainty) {
        let former = self.certainty;
        self.certainty = former.max(certainty);
        match (former, self.certainty) {
            (Certainty::Unknown, Certainty::ByName) => tracing::warn!(
                "IngressClasses may not be read, so status is written only to Ingresses that name our class (--ingress-class) \
                 themselves, and entries that a former process left on others stay; the verbs list and watch of \
                 ingressclasses (networking.k8s.io) are missing"
            ),
            (Certainty::ByName, Certainty::Whole) => {
                tracing::info!("IngressClasses can be read now, status goes by their controllers");
            }
            _ => {}
        }
    }

    /// The Lease could not be had, and why; or it could.
    pub(super) fn lease(&mut self, message: Option<String>) {
        match message {
            Some(message) if self.lease.begins(&message, Moment::now()) => {
                tracing::warn!("the Lease cannot be used, so this replica writes no status: {message}");
            }
            Some(_) => {}
            None if self.lease.ends() => tracing::info!("the Lease can be used again"),
            None => {}
        }
    }

    /// A request about the status of `object` ended like this.
    pub(super) fn status(&mut self, object: &ObjectRef, ending: Ending, message: &str) {
        match ending {
            Ending::Done if self.status.ends() => tracing::info!("status can be written again"),
            Ending::Done | Ending::Conflict | Ending::Gone | Ending::Aborted => {}
            Ending::Invalid | Ending::Denied | Ending::Throttled | Ending::Failed => {
                if self.status.begins(&format!("{ending:?}"), Moment::now()) {
                    tracing::warn!(%object, "status cannot be written, which is tried again: {message}");
                }
            }
        }
    }

    /// A request about an Event ended like this.
    pub(super) fn events(&mut self, ending: Ending, message: &str) {
        match ending {
            Ending::Done if self.events.ends() => tracing::info!("Events can be written again"),
            Ending::Done | Ending::Conflict | Ending::Gone | Ending::Aborted => {}
            Ending::Invalid | Ending::Denied | Ending::Throttled | Ending::Failed => {
                if self.events.begins(&format!("{ending:?}"), Moment::now()) {
                    tracing::warn!("an Event cannot be written, which is tried again: {message}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_once_and_not_with_every_change_of_mind() {
        let start = Moment::START + Duration::from_secs(1_000);
        let mut state = State::default();
        assert!(state.begins("denied", start));
        assert!(!state.begins("denied", start + Duration::from_secs(60)));
        assert!(state.begins("failed", start + Duration::from_secs(60)));
        assert!(state.ends());
        assert!(!state.ends());
        assert!(!state.begins("failed", start + Duration::from_secs(61)));
        assert!(state.begins("failed", start + Duration::from_secs(90)));
    }
}
