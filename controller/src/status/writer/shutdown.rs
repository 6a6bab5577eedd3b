//! The end: what is ours is taken back if that is wanted, and the Lease is released, so that another replica goes on at
//! once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use config::report::Kind;

use super::{Writer, lease};
use crate::status::api::Failure;
use crate::status::clock::Moment;
use crate::status::lease::Claim;
use crate::status::publish::others_run;

/// For finding out whether others run.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(3);
/// For taking everything back.
const CLEAR_TIMEOUT: Duration = Duration::from_secs(10);
/// For what is being written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// For releasing the Lease, which expires otherwise.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

impl Writer {
    /// Ends everything, in a bounded time.
    pub(super) async fn end(mut self) {
        if self.settings.clears_at_end && self.election.leads(Moment::now()) && self.is_last().await {
            self.clear().await;
        }
        let is_done = self.finish_writes().await;
        self.gate.set(None);
        self.writes.abort_all();
        self.events.abort_all();
        self.metrics.lead(false);
        if !is_done {
            tracing::debug!("a status may still be on its way, so that the Lease is left to expire");
            return;
        }
        if tokio::time::timeout(RELEASE_TIMEOUT, self.give_way()).await.is_err() {
            tracing::debug!("the Lease could not be released in time; it will expire");
        }
    }

    /// Waits for Services that are being written: whoever leads next looks at them once, when the Lease is theirs. False if
    /// something may come later than that.
    async fn finish_writes(&mut self) -> bool {
        let is_under_way =
            |writer: &Self| writer.tasks.values().any(|task| task.object.kind == Kind::Service);
        let waiting = async {
            while is_under_way(self)
                && let Some(done) = self.writes.join_next_with_id().await
            {
                self.written(done, Moment::now());
            }
        };
        let _ = tokio::time::timeout(WRITE_TIMEOUT, waiting).await;
        !is_under_way(self)
    }

    async fn give_way(&mut self) {
        if let Some(done) = self.lease_requests.join_next().await {
            self.lease_done(done, Moment::now());
            self.gate.set(None);
        }
        if let Some((version, claim)) = self.election.release() {
            self.release(version, claim).await;
        }
    }

    /// True if no other replica runs, as far as that can be known.
    async fn is_last(&self) -> bool {
        let Some(pods) = &self.settings.replicas else { return true };
        let asking = others_run(&self.api, &self.namespace, pods, &self.settings.instance);
        let answer = tokio::time::timeout(OTHERS_TIMEOUT, asking).await;
        match answer.unwrap_or(Err(Failure::Silent(OTHERS_TIMEOUT))) {
            Ok(false) => true,
            Ok(true) => {
                tracing::info!("other replicas run, so the status of Ingresses stays");
                false
            }
            Err(failure) => {
                tracing::warn!(
                    "it is not known whether other replicas run, so the status of Ingresses stays: {failure}"
                );
                false
            }
        }
    }

    /// Takes our addresses out of every status.
    async fn clear(&mut self) {
        tracing::info!("taking our addresses out of the status of Ingresses (--update-status-on-shutdown)");
        self.is_found_for_good = true;
        if !self.ledger.is_certain() {
            tracing::warn!("it was never certain which Ingresses are ours, so their status stays");
            return;
        }
        self.ledger.publish(BTreeSet::new(), Moment::now());
        let deadline = Moment::now() + CLEAR_TIMEOUT;
        let work = async {
            while !self.ledger.is_idle() && Moment::now() < deadline {
                self.turn().await;
            }
        };
        if tokio::time::timeout(CLEAR_TIMEOUT, work).await.is_err() || !self.ledger.is_idle() {
            tracing::warn!("not all addresses could be taken back in time");
        }
    }

    async fn release(&self, version: Arc<str>, claim: Claim) {
        let request = lease::Request::Change(version, claim.clone());
        let (mut news, _) = lease::perform(&self.api, &self.place, request, Moment::now()).await;
        if matches!(news, lease::News::Refused) {
            // Our own last renewal, most likely, of which we did not hear.
            let read = lease::perform(&self.api, &self.place, lease::Request::Read, Moment::now()).await;
            if let lease::News::Read(Some(record)) = read.0
                && self.election.is_ours(&record)
            {
                let request = lease::Request::Change(record.version, claim);
                news = lease::perform(&self.api, &self.place, request, Moment::now()).await.0;
            }
        }
        match news {
            lease::News::Written(..) => tracing::debug!("the Lease is released"),
            other => tracing::debug!(?other, "the Lease could not be released; it will expire"),
        }
    }
}
