//! Addresses of endpoints that are given by DNS name, asked for again when their TTL ends.
//!
//! It owns when a name is asked for. It never forgets addresses because a lookup failed: the last ones are
//! used until there is another answer. A name with IPv4 addresses is reached over IPv4, others over IPv6; where there is
//! no IPv4, it is the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::index::Event;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::task::JoinSet;

use crate::problems::ControlMetrics;

/// Names are not asked for more often than this, whatever their TTL.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// Names are asked for at least this often, whatever their TTL.
pub const MAX_TTL: Duration = Duration::from_secs(3_600);
/// Longest pause after failures; the first one is [`MIN_TTL`] and each further one twice as long.
pub const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// A name that is said not to exist is believed no longer than this.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(1);

/// Addresses that are used of one name.
pub const MAX_ADDRESSES: usize = 128;

/// What one lookup gave.
type Answer = Result<(Vec<IpAddr>, Instant), String>;

/// When each name is asked for, and what it gave. Pure: instants come from the caller.
#[derive(Debug, Default)]
struct Schedule {
    /// name → state
    names: BTreeMap<Arc<str>, NameState>,
}

#[derive(Debug)]
struct NameState {
    /// `None` while a lookup is under way.
    next: Option<Instant>,
    addresses: Vec<IpAddr>,
    failures: u32,
}

/// How an answer changed what is known of a name.
#[derive(Debug, Eq, PartialEq)]
enum Learned {
    Addresses {
        addresses: Vec<IpAddr>,
        is_recovery: bool,
    },
    Same {
        is_recovery: bool,
    },
    Failing {
        is_first: bool,
    },
    /// Nobody asks for the name any more.
    Unwanted,
}

impl Schedule {
    /// Asks for exactly `names` from now on; new ones at once.
    fn want(&mut self, names: &BTreeSet<Arc<str>>, now: Instant) {
        self.names.retain(|name, _| names.contains(name));
        for name in names {
            self.names.entry(Arc::clone(name)).or_insert(NameState {
                next: Some(now),
                addresses: Vec::new(),
                failures: 0,
            });
        }
    }

    /// Asks for every name now.
    fn refresh(&mut self, now: Instant) {
        for next in self.names.values_mut().filter_map(|state| state.next.as_mut()) {
            *next = now;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.names.values().filter_map(|state| state.next).min()
    }

    /// The names to ask for now; they count as being asked for.
    fn take_due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let due = self.names.iter_mut().filter(|(_, state)| state.next.is_some_and(|next| next <= now));
        due.map(|(name, state)| {
            state.next = None;
            Arc::clone(name)
        })
        .collect()
    }

    fn learn(&mut self, name: &str, answer: &Answer, now: Instant) -> Learned {
        let Some(state) = self.names.get_mut(name) else { return Learned::Unwanted };
        match answer {
            Ok((addresses, valid_until)) => {
                state.next = Some((*valid_until).clamp(now + MIN_TTL, now + MAX_TTL));
                let is_recovery = std::mem::take(&mut state.failures) > 0;
                if state.addresses == *addresses {
                    return Learned::Same { is_recovery };
                }
                state.addresses.clone_from(addresses);
                Learned::Addresses { addresses: addresses.clone(), is_recovery }
            }
            Err(_) => {
                let pause = MIN_TTL.saturating_mul(1 << state.failures.min(10)).min(MAX_BACKOFF);
                state.next = Some(now + pause);
                state.failures = state.failures.saturating_add(1);
                Learned::Failing { is_first: state.failures == 1 }
            }
        }
    }
}

/// Resolves the names that the index asks for.
#[derive(Debug)]
pub struct Dns {
    schedule: Schedule,
    resolver: Option<Arc<TokioResolver>>,
    lookups: JoinSet<(Arc<str>, Answer)>,
    metrics: Arc<ControlMetrics>,
    strategy: LookupIpStrategy,
}

impl Dns {
    /// A resolver that follows `/etc/resolv.conf` and `/etc/hosts`, read when the first name is asked for. Where
    /// there is no `ipv4`, IPv6 addresses go first.
    #[must_use]
    pub fn new(metrics: Arc<ControlMetrics>, ipv4: bool) -> Self {
        let strategy = if ipv4 { LookupIpStrategy::Ipv4thenIpv6 } else { LookupIpStrategy::Ipv6thenIpv4 };
        Self { schedule: Schedule::default(), resolver: None, lookups: JoinSet::new(), metrics, strategy }
    }

    /// Asks for exactly `names` from now on.
    pub fn want(&mut self, names: &BTreeSet<Arc<str>>) {
        self.schedule.want(names, Instant::now());
    }

    /// Reads the system's settings again and asks for every name now.
    pub fn reread(&mut self) {
        self.resolver = None;
        self.schedule.refresh(Instant::now());
    }

    /// Waits for addresses that changed. Safe to drop while waiting. Needs a tokio runtime.
    pub async fn next(&mut self) -> Event {
        loop {
            self.start_due();
            let deadline = self.schedule.deadline();
            let wait = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(done) = self.lookups.join_next() => {
                    // A lookup neither panics nor is cancelled while its set lives.
                    let Ok((name, answer)) = done else { continue };
                    if let Some(event) = self.learn(name, &answer) {
                        return event;
                    }
                }
                () = wait => {}
            }
        }
    }

    fn start_due(&mut self) {
        for name in self.schedule.take_due(Instant::now()) {
            let resolver = self.resolver();
            self.lookups.spawn(async move {
                let answer = match resolver {
                    Ok(resolver) => look_up(&resolver, &name).await,
                    Err(error) => Err(error.to_string()),
                };
                (name, answer)
            });
        }
    }

    fn resolver(&mut self) -> Result<Arc<TokioResolver>, NetError> {
        if let Some(resolver) = &self.resolver {
            return Ok(Arc::clone(resolver));
        }
        let resolver = Arc::new(system_resolver(self.strategy)?);
        self.resolver = Some(Arc::clone(&resolver));
        Ok(resolver)
    }

    fn learn(&mut self, name: Arc<str>, answer: &Answer) -> Option<Event> {
        self.metrics.looked_up(answer.is_ok());
        match self.schedule.learn(&name, answer, Instant::now()) {
            Learned::Addresses { addresses, is_recovery } => {
                if is_recovery {
                    tracing::info!(dns.name = %name, ?addresses, "name resolves again");
                } else {
                    tracing::debug!(dns.name = %name, ?addresses, "name resolved");
                }
                Some(Event::Resolved { name, addresses })
            }
            Learned::Same { is_recovery } => {
                if is_recovery {
                    tracing::info!(dns.name = %name, "name resolves again");
                }
                None
            }
            Learned::Failing { is_first } => {
                if let (true, Err(error)) = (is_first, answer) {
                    tracing::warn!(
                        dns.name = %name,
                        error,
                        "cannot resolve the name of an endpoint; its last addresses stay in use, trying again"
                    );
                }
                None
            }
            Learned::Unwanted => None,
        }
    }
}

async fn look_up(resolver: &TokioResolver, name: &str) -> Answer {
    let lookup = resolver.lookup_ip(name).await.map_err(|error| error.to_string())?;
    let addresses: BTreeSet<IpAddr> = lookup.iter().map(|address| address.to_canonical()).collect();
    if addresses.is_empty() {
        return Err("the answer holds no address".to_owned());
    }
    Ok((addresses.into_iter().take(MAX_ADDRESSES).collect(), lookup.valid_until()))
}

/// A resolver with the system's settings; without usable ones, libc's default of a name server on this host.
fn system_resolver(strategy: LookupIpStrategy) -> Result<TokioResolver, NetError> {
    let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot use /etc/resolv.conf, asking a name server on 127.0.0.1");
        let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        let settings = ResolverConfig::from_name_servers(vec![local]);
        TokioResolver::builder_with_config(settings, TokioRuntimeProvider::default())
    });
    let mut builder = builder;
    let options = builder.options_mut();
    options.ip_strategy = strategy;
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn answer(address: &str, valid_until: Instant) -> Answer {
        Ok((vec![address.parse().unwrap()], valid_until))
    }

    #[test]
    fn new_name_is_asked_for_at_once_and_again_when_its_ttl_ends() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&names(&["db.internal"]), now);
        assert_eq!(schedule.take_due(now), ["db.internal".into()]);
        assert_eq!(schedule.deadline(), None);
        schedule.learn("db.internal", &answer("10.0.0.1", now + 30 * SECOND), now);
        assert_eq!(schedule.deadline(), Some(now + 30 * SECOND));
    }

    #[test]
    fn ttl_is_held_between_one_second_and_one_hour() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&names(&["a"]), now);
        schedule.learn("a", &answer("10.0.0.1", now), now);
        assert_eq!(schedule.deadline(), Some(now + MIN_TTL));
        schedule.learn("a", &answer("10.0.0.1", now + 86_400 * SECOND), now);
        assert_eq!(schedule.deadline(), Some(now + MAX_TTL));
    }

    #[test]
    fn failure_keeps_the_last_addresses_and_is_told_once() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&names(&["a"]), now);
        schedule.learn("a", &answer("10.0.0.1", now + SECOND), now);
        let failure = Err("no answer".to_owned());
        assert_eq!(schedule.learn("a", &failure, now), Learned::Failing { is_first: true });
        assert_eq!(schedule.learn("a", &failure, now), Learned::Failing { is_first: false });
        let back = schedule.learn("a", &answer("10.0.0.1", now + SECOND), now);
        assert_eq!(back, Learned::Same { is_recovery: true });
    }

    #[test]
    fn pause_grows_with_each_failure_up_to_a_minute() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&names(&["a"]), now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            schedule.learn("a", &Err(String::new()), now);
            pauses.push(schedule.deadline().unwrap().duration_since(now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn name_that_nobody_wants_is_forgotten() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.want(&names(&["a"]), now);
        schedule.want(&names(&[]), now);
        assert_eq!(schedule.deadline(), None);
        assert_eq!(schedule.learn("a", &answer("10.0.0.1", now), now), Learned::Unwanted);
    }

    #[tokio::test]
    async fn localhost_resolves_without_a_name_server() {
        let mut dns = Dns::new(Arc::default(), true);
        dns.want(&names(&["localhost"]));
        let Event::Resolved { name, addresses } = dns.next().await else { panic!("not an address") };
        assert_eq!(&*name, "localhost");
        assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }
}
