//! One list of the API server, followed for ever: asks when [`Reflector`] says so, hands what comes to [`Intake`], and
//! passes on the changes. Decides neither when nor what.

mod panics;
mod watching;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use self::panics::caught;
use super::failure::Failure;
use super::intake::{Change, Intake};
use super::item::{self, ListMeta};
use super::outage::Outage;
use super::progress::{Count, FeedId, Progress};
use super::reflector::{Found, Reflector, Step};
use super::resource::Target;
use super::split::{ListSplitter, Part};
use super::transport::{CHUNK_TIMEOUT, Form, HEAD_TIMEOUT, Transport};
use super::version::Version;

/// The first answer of a server is waited for this long before it is asked once more, with more patience.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
/// An answer is waited for this long by the one who asks whether the server is there again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A list with which something went wrong by a mistake of ours is followed again after this time.
const RESTART_DELAY: Duration = Duration::from_secs(5);
/// What a sample has at most, if the server does not care for the limit.
const MAX_SAMPLE: usize = 64;

/// What a feed has to say.
#[derive(Debug)]
pub(super) enum News {
    /// Changes, in order.
    Changes {
        feed: FeedId,
        changes: Vec<Change>,
        /// With these, the list is complete.
        is_whole: bool,
        /// If it is complete, it is younger than the order to catch up of this number.
        as_of: u64,
    },
    /// Something failed; the rest is in [`Progress`].
    Failed {
        feed: FeedId,
        /// The server refuses, and it is a matter of rights.
        is_forbidden: bool,
    },
}

/// What a feed can be told.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// List everything again.
    Reread,
    /// Likewise, and tell when that is done; with a number that grows.
    CatchUp(u64),
    /// Objects of the namespace are wanted as well.
    Join(Arc<str>),
    /// Objects of the namespace are no longer wanted.
    Leave(Arc<str>),
}

/// What all feeds have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) transport: Transport,
    pub(super) progress: Arc<Progress>,
    pub(super) outage: Arc<Outage>,
    /// How often it was found that the API server's history is another one.
    pub(super) histories: watch::Sender<u64>,
    pub(super) news: mpsc::UnboundedSender<super::Message>,
}

/// One list.
#[derive(Debug)]
pub(super) struct Feed {
    id: FeedId,
    common: Common,
    reflector: Reflector,
    intake: Intake,
    orders: mpsc::UnboundedReceiver<Order>,
    histories: watch::Receiver<u64>,
    /// The list is taken whole, although names and versions would do for its objects: so many are wanted at once.
    whole: Arc<AtomicBool>,
    /// What follows from the part of a watch that is being taken in.
    unsent: Vec<Change>,
    /// The last order to catch up, and the one that the list being read is younger than.
    catch_up: u64,
    as_of: u64,
    /// It was told that the list cannot be followed.
    has_warned: bool,
    /// Nobody is interested any more.
    is_over: bool,
}

impl Feed {
    pub(super) fn new(
        id: FeedId,
        common: Common,
        intake: Intake,
        orders: mpsc::UnboundedReceiver<Order>,
        whole: Arc<AtomicBool>,
    ) -> Self {
        let histories = common.histories.subscribe();
        let reflector = Reflector::new(fastrand::Rng::new());
        let unsent = Vec::new();
        Self {
            id,
            common,
            reflector,
            intake,
            orders,
            histories,
            whole,
            unsent,
            catch_up: 0,
            as_of: 0,
            has_warned: false,
            is_over: false,
        }
    }

    /// Follows the list until nobody listens, and anew after a mistake of ours.
    pub(super) async fn run(mut self) {
        while caught(self.follow()).await.is_err() {
            tracing::error!("following {} failed by a mistake of ours; it begins anew", self.target());
            self.begin_anew();
            tokio::time::sleep(RESTART_DELAY).await;
        }
    }

    /// What was noted before a mistake is passed on; the next list is compared with it, as to what there is.
    fn begin_anew(&mut self) {
        let mut changes = std::mem::take(&mut self.unsent);
        changes.extend(self.intake.take_early());
        self.send(changes, false);
        self.intake.distrust();
        self.reflector = Reflector::new(fastrand::Rng::new());
    }

    async fn follow(&mut self) {
        while !self.is_over {
            match self.reflector.step(Instant::now()) {
                Step::Wait(until) => self.wait(until).await,
                Step::Check => self.check().await,
                Step::List(token) => self.list(token.as_deref()).await,
                Step::Watch(from, time) => self.watch(&from, time).await,
            }
        }
    }

    fn target(&self) -> &Target {
        self.intake.target()
    }

    async fn wait(&mut self, until: Instant) {
        let common = self.common.clone();
        tokio::select! {
            () = common.outage.wait(self.id, until) => self.reflector.hurry_after(until),
            // A list must be of one mind on what is wanted.
            order = self.orders.recv(), if !self.reflector.is_listing() => self.obey(order).await,
        }
    }

    async fn obey(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Reread) => self.reflector.reread(),
            Some(Order::CatchUp(number)) => {
                self.catch_up = number;
                self.reflector.reread();
            }
            Some(Order::Join(namespace)) => self.join(namespace).await,
            Some(Order::Leave(namespace)) => {
                let changes = self.intake.leave(&namespace);
                self.send(changes, false);
            }
            None => self.is_over = true,
        }
    }

    /// Asks for a few objects and compares them with what is known.
    async fn check(&mut self) {
        let Some(position) = self.reflector.position().cloned() else { return self.reflector.reread() };
        let form = self.list_form();
        let mut sample = Sample::default();
        let path = self.target().sample();
        let meta = match self.page(&path, form, |_, part| sample.take(&part)).await {
            Ok(meta) => meta,
            Err(failure) => return self.failed(&failure),
        };
        let version = Version::parse(&meta.resource_version);
        let count = sample.count(&meta);
        let found = self.intake.compare(&sample.objects, version.as_ref(), count, &position);
        let is_known_other = self.histories.has_changed().unwrap_or(false);
        self.well(false);
        if found == Found::Same {
            self.histories.mark_unchanged();
        } else {
            tracing::debug!(target = %self.target(), ?found, "the API server's list is not what was known");
        }
        let is_other = self.reflector.checked(Instant::now(), found);
        if is_other && !is_known_other && self.intake.len() > 0 {
            tracing::warn!("the API server's history is another one than before: everything is listed again");
            self.common.histories.send_modify(|count| *count += 1);
        }
    }

    /// Asks for a page of the list and takes it in.
    async fn list(&mut self, token: Option<&str>) {
        if token.is_none() {
            self.intake.begin_list();
            self.as_of = self.catch_up;
            self.histories.mark_unchanged();
        }
        let path = self.target().list(token);
        let form = self.list_form();
        let page = self
            .page(&path, form, |feed, part| match part {
                Part::Object(json) => feed.intake.list_item(json),
                Part::TooLarge => feed.intake.skipped(),
            })
            .await;
        self.count_decode_failures();
        let meta = match page {
            Ok(meta) => meta,
            Err(failure) => return self.failed(&failure),
        };
        if token.is_none() {
            self.common.progress.count(self.id, Count::Lists);
        }
        let now = Instant::now();
        if !meta.next.is_empty() {
            return self.reflector.page(now, &meta.next);
        }
        let version = Version::parse(&meta.resource_version);
        if self.reflector.listed(now, version, self.intake.shrinks()) {
            if self.intake.is_in_part() {
                self.reflector.listed_in_part(now);
            }
            let changes = self.intake.end_list();
            self.well(true);
            self.send(changes, true);
        } else {
            tracing::debug!(target = %self.target(), "the list is older than what was seen, it is not used");
        }
    }

    /// Takes in the objects of a namespace that joined.
    async fn join(&mut self, namespace: Arc<str>) {
        self.intake.join(Arc::clone(&namespace));
        if self.reflector.position().is_none() {
            return;
        }
        let target = self.target().within(&namespace);
        let mut token: Option<String> = None;
        loop {
            let path = target.list(token.as_deref());
            let mut changes = Vec::new();
            let form = self.list_form();
            let page = self
                .page(&path, form, |feed, part| {
                    if let Part::Object(json) = part {
                        changes.extend(feed.intake.join_item(json));
                    }
                })
                .await;
            self.send(changes, false);
            match page {
                Ok(meta) if meta.next.is_empty() => return,
                Ok(meta) => token = Some(meta.next),
                Err(failure) => {
                    self.failed(&failure);
                    return self.reflector.list_soon();
                }
            }
        }
    }

    /// Reads one answer that is a list, and hands each of its objects to `each`.
    async fn page(
        &mut self,
        path: &str,
        form: Form,
        mut each: impl FnMut(&mut Self, Part<'_>),
    ) -> Result<ListMeta, Failure> {
        let patience = self.patience();
        let common = &self.common;
        let mut answer = tokio::select! {
            answer = common.transport.open_within(patience, path, form) => answer?,
            // What was asked of the server before it came back may never be answered.
            () = common.outage.ended() => common.transport.open(path, form).await?,
        };
        self.common.outage.end();
        let malformed = |error: super::split::SplitError| Failure::Malformed(error.to_string());
        let mut splitter = ListSplitter::default();
        while let Some(chunk) = answer.chunk(CHUNK_TIMEOUT).await? {
            self.common.progress.answered(Instant::now());
            splitter.push(&chunk, |part| each(self, part)).map_err(malformed)?;
            let early = self.intake.take_early();
            self.send(early, false);
        }
        let envelope = splitter.finish().map_err(malformed)?;
        item::list_meta(&envelope).ok_or_else(|| Failure::Malformed("it is no list".to_owned()))
    }

    /// How long the beginning of an answer is waited for.
    fn patience(&self) -> Duration {
        // Who asks for all asks often; others have more patience, for a server that is slow.
        if self.common.outage.is_asked_by(self.id) {
            PROBE_TIMEOUT
        } else if self.reflector.is_quick() {
            FIRST_TIMEOUT
        } else {
            HEAD_TIMEOUT
        }
    }

    fn list_form(&self) -> Form {
        let is_whole = self.target().resource.is_material() && self.whole.load(Relaxed);
        if self.target().resource.is_by_metadata() && !is_whole { Form::MetadataList } else { Form::Whole }
    }

    fn count_decode_failures(&mut self) {
        for _ in 0..self.intake.take_decode_failures() {
            self.common.progress.count(self.id, Count::DecodeFailures);
        }
    }

    /// The server does as it should.
    fn well(&mut self, is_synced: bool) {
        self.common.progress.is_well(self.id, self.intake.len(), is_synced, Instant::now());
        if std::mem::take(&mut self.has_warned) {
            tracing::info!("{} are followed again", self.target());
        }
    }

    fn failed(&mut self, failure: &Failure) {
        let now = Instant::now();
        let is_news = self.common.progress.fails(self.id, failure, now);
        let is_unreachable = matches!(failure, Failure::Unreachable(_));
        match failure {
            _ if is_unreachable || self.reflector.is_away(failure) => {
                self.common.outage.begin(self.id, failure, is_news, now);
            }
            Failure::Unreachable(_) | Failure::Lost(_) | Failure::Silent(_) | Failure::Gone(_) => {
                tracing::debug!(target = %self.target(), "{failure}");
            }
            Failure::Untrusted(_) | Failure::Status { .. } | Failure::Malformed(_) => {
                self.common.outage.end();
                if is_news && failure.is_missing() && self.target().resource.is_custom() {
                    tracing::info!(
                        "the cluster does not know {}, so it is taken to have none",
                        self.target()
                    );
                } else if is_news {
                    self.has_warned = true;
                    tracing::warn!("{} cannot be followed: {failure}", self.target());
                }
            }
        }
        self.reflector.failed(now, failure);
        if !is_unreachable && self.common.progress.is_another_well(self.id) {
            self.reflector.calm(now);
        }
        let is_forbidden = matches!(failure, Failure::Status { code: 401 | 403, .. });
        self.tell(News::Failed { feed: self.id, is_forbidden });
    }

    fn send(&mut self, changes: Vec<Change>, is_whole: bool) {
        if is_whole || !changes.is_empty() {
            self.tell(News::Changes { feed: self.id, changes, is_whole, as_of: self.as_of });
        }
    }

    fn tell(&mut self, news: News) {
        if self.common.news.send(super::Message::Feed(news)).is_err() {
            self.is_over = true;
        }
    }
}

/// The first objects of a list.
#[derive(Debug, Default)]
struct Sample {
    objects: Vec<Vec<u8>>,
    /// All that came, whether or not it is kept.
    came: usize,
}

impl Sample {
    fn take(&mut self, part: &Part<'_>) {
        self.came += 1;
        if self.objects.len() < MAX_SAMPLE
            && let Part::Object(json) = part
        {
            self.objects.push(json.to_vec());
        }
    }

    /// How many objects the list has, if the server says so.
    fn count(&self, meta: &ListMeta) -> Option<usize> {
        let rest = match (meta.remaining_item_count, meta.next.is_empty()) {
            (Some(rest), _) => usize::try_from(rest).ok(),
            (None, is_all) => is_all.then_some(0),
        };
        rest.map(|rest| rest.saturating_add(self.came))
    }
}

#[cfg(test)]
mod tests;
