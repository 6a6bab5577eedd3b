//! Name → certificate and what is asked of clients, for the hosts of one group of binds. Owns who wins where
//! several routes want different things for one host; never parses anything.
//!
//! - The oldest route with a usable certificate for a host decides which one is served.
//! - What guards access is never lost to age: a host asks of clients what any of its routes asks, and if two of
//!   them disagree it is closed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::hosts::HostState;
use super::members::Members;
use super::route::{Order, Route};
use super::sources::{Demand, Sources, Terms};
use super::vault::{GONE, Lack, Origin, Vault};
use crate::index::Index;
use crate::report::{ObjectRef, Problem};
use crate::resource::tls::{ClientSetting, RootsRef, TlsSettings};
use crate::resource::{Finding, pem};
use crate::shared::Shared;
use crate::table::{
    Certificate, ClientPolicy, Hostname, Passthrough, TlsHost, TlsMap, TlsPolicy, TlsVersion,
};

/// What a route wants of encrypted connections to one host.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) host: Hostname,
    /// The entry of [`Route::tls`] that names the host; without one, certificates are chosen by their names.
    pub(super) named: Option<usize>,
    /// What the author asks for besides.
    pub(super) settings: Arc<TlsSettings>,
    pub(super) passthrough: Option<Arc<Passthrough>>,
    /// No rule of the route has this host, but one covers it.
    pub(super) is_loose: bool,
}

/// Where a route's certificate comes from.
#[derive(Debug)]
pub(super) struct TlsEntry {
    /// `None` for the default certificate.
    pub(super) origin: Option<Origin>,
    /// Dotted path in the object.
    pub(super) field: String,
    pub(super) line: u32,
    /// It names the hosts that it is for.
    pub(super) has_hosts: bool,
}

/// What the user's listener says.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    /// host → certificates, for names that were given or that certificates have
    pub(super) hosts: BTreeMap<Hostname, Vec<Arc<Certificate>>>,
    /// For all other names.
    pub(super) default: Vec<Arc<Certificate>>,
    pub(super) client: ClientPolicy,
    pub(super) min_version: TlsVersion,
    pub(super) cipher_suites: Box<[Arc<str>]>,
    pub(super) http2: bool,
}

impl Fixed {
    /// Whether only certificates of some names differ.
    fn is_alike(&self, other: &Self) -> bool {
        self.default == other.default
            && self.client == other.client
            && self.min_version == other.min_version
            && self.cipher_suites == other.cipher_suites
            && self.http2 == other.http2
    }
}

/// What may be used while hosts are built.
pub(super) struct Tools<'a> {
    pub(super) index: &'a Index,
    pub(super) vault: &'a Vault,
    /// The certificate for names that no other one is for.
    pub(super) default: Option<&'a Arc<Certificate>>,
    pub(super) policies: &'a mut Shared<TlsPolicy>,
}

/// A map under construction.
#[derive(Debug)]
pub(super) struct TlsState {
    map: Option<TlsMap>,
    /// The routes with a claim on a host.
    pub(super) members: Members,
    /// Hosts that others get something from.
    sources: Sources,
    /// Wildcards, and [`Hostname::Any`], whose terms must not reach hosts of others that have rules of their own.
    strict: BTreeSet<Hostname>,
    fixed: Option<Arc<Fixed>>,
    published: Option<Arc<TlsMap>>,
}

impl TlsState {
    pub(super) fn new() -> Self {
        let mut members = Members::default();
        members.dirty.insert(Hostname::Any);
        Self {
            map: None,
            members,
            sources: Sources::default(),
            strict: BTreeSet::new(),
            fixed: None,
            published: None,
        }
    }

    /// Replaces what the listener says. A certificate for some names touches these only.
    pub(super) fn set_fixed(&mut self, fixed: Option<Arc<Fixed>>) {
        let former = std::mem::replace(&mut self.fixed, fixed);
        let of = |fixed: &Option<Arc<Fixed>>, host: &Hostname| {
            fixed.as_ref().and_then(|fixed| fixed.hosts.get(host)).cloned()
        };
        let is_alike =
            former.as_ref().zip(self.fixed.as_ref()).is_some_and(|(former, fixed)| former.is_alike(fixed));
        let all = [&former, &self.fixed].into_iter().flatten().flat_map(|fixed| fixed.hosts.keys());
        let changed = all.filter(|host| !is_alike || of(&former, host) != of(&self.fixed, host));
        self.members.dirty.extend(changed.cloned());
        if !is_alike {
            self.touch_all();
        }
    }

    /// Everything must be built again.
    pub(super) fn touch_all(&mut self) {
        let mut all: Vec<Hostname> = self.members.hosts().cloned().collect();
        // Hosts without a claim of their own are there to be kept from the terms of others: they have the listener's.
        let named = self.map.iter().flat_map(TlsMap::hosts).map(|(name, _)| match name.starts_with('.') {
            true => Hostname::Wildcard(Arc::clone(name)),
            false => Hostname::Exact(Arc::clone(name)),
        });
        all.extend(named);
        self.members.dirty.extend(all);
        self.members.dirty.insert(Hostname::Any);
    }

    /// `host` must be built again.
    pub(super) fn touch(&mut self, host: &Hostname) {
        self.members.dirty.insert(host.clone());
    }

    /// Builds what was touched; returns each host with what there is to say. `served` are the hosts of rules, of
    /// which `rebuilt` came, went or changed.
    pub(super) fn rebuild<'r>(
        &mut self,
        tools: &mut Tools<'_>,
        route: &impl Fn(u32) -> Option<&'r Route>,
        served: &HostState,
        rebuilt: &[Hostname],
    ) -> Vec<(Hostname, Vec<Problem>)> {
        self.touch_dependents(tools, route, served, rebuilt);
        if !self.strict.is_empty() {
            self.members.dirty.extend(rebuilt.iter().cloned());
        }
        // The default first, for there is no map without it; then wildcards, which hosts below them depend on.
        let mut queue: BTreeSet<Hostname> = self.members.dirty.drain().collect();
        let mut told = Vec::with_capacity(queue.len());
        while let Some(host) = queue.pop_last() {
            let claims = self.claims(&host, route);
            let mut build =
                Build { state: self, tools, route, served, problems: Vec::new(), sources: BTreeSet::new() };
            let outcome = build.host(&host, &claims);
            let Build { sources, problems, .. } = build;
            let new: Vec<_> = sources.iter().filter(|source| !self.sources.has(source)).collect();
            let terms: Vec<Terms> =
                new.iter().map(|source| self.terms(source, tools, route, served)).collect();
            let new = new.into_iter().cloned().zip(terms).collect();
            self.sources.depend(&host, sources, new);
            if !matches!(host, Hostname::Exact(_)) {
                let was_named = self.map.as_ref().is_some_and(|map| map.exactly(&host).is_some());
                // It stands between the hosts below it and the default, whose terms may be strict.
                let shields = !self.strict.is_empty() && was_named != outcome.is_some();
                let is_strict = outcome.as_ref().is_some_and(is_strict);
                let was_strict =
                    if is_strict { !self.strict.insert(host.clone()) } else { self.strict.remove(&host) };
                let is_wildcard = host != Hostname::Any;
                if is_strict != was_strict || (is_wildcard && shields) {
                    queue.extend(served.members.hosts().filter(|other| is_below(other, &host)).cloned());
                }
            }
            self.set(&host, outcome);
            told.push((host, problems));
        }
        told
    }

    /// Adds the hosts whose outcome depends on hosts that were touched, as far as these mean something else now.
    fn touch_dependents<'r>(
        &mut self,
        tools: &Tools<'_>,
        route: &impl Fn(u32) -> Option<&'r Route>,
        served: &HostState,
        rebuilt: &[Hostname],
    ) {
        let mut more: Vec<Hostname> =
            rebuilt.iter().filter(|host| self.sources.is_dependent(host)).cloned().collect();
        let touched: BTreeSet<Hostname> =
            self.members.dirty.iter().chain(rebuilt).filter(|host| self.sources.has(host)).cloned().collect();
        for host in touched {
            let terms = self.terms(&host, tools, route, served);
            more.extend(self.sources.update(&host, terms));
        }
        self.members.dirty.extend(more);
    }

    /// What hosts below `host` get from it now.
    fn terms<'r>(
        &self,
        host: &Hostname,
        tools: &Tools<'_>,
        route: &impl Fn(u32) -> Option<&'r Route>,
        served: &HostState,
    ) -> Terms {
        let claims = self.claims(host, route);
        let demand = |(route, claim): &(&Route, &Claim)| {
            let object = &route.order.object;
            let roots = match &claim.settings.client {
                Some(ClientSetting::Require(roots) | ClientSetting::Optional(roots)) => {
                    Some(tools.vault.roots(&roots_origin(&object.namespace, roots)).cloned())
                }
                Some(ClientSetting::OptionalNoCa | ClientSetting::Closed) | None => None,
            };
            let location = tools.index.object(object).and_then(|object| object.location.clone());
            Demand { object: object.clone(), location, settings: Arc::clone(&claim.settings), roots }
        };
        Terms {
            is_served: served.members.has(host),
            demands: claims.iter().map(demand).collect(),
            certificate: self.passed_on(host, tools.vault, route),
        }
    }

    /// The certificate of `host` for names below it that have none of their own.
    fn passed_on<'r>(
        &self,
        host: &Hostname,
        vault: &Vault,
        route: &impl Fn(u32) -> Option<&'r Route>,
    ) -> Option<Vec<Arc<Certificate>>> {
        if let Some(listed) = self.fixed.as_ref().and_then(|fixed| fixed.hosts.get(host)) {
            return Some(listed.clone());
        }
        for (route, claim) in self.claims(host, route) {
            let named = claim.named.and_then(|index| route.tls.get(index));
            let origin = named.and_then(|entry| entry.origin.as_ref());
            if let Some(Ok(certificate)) = origin.map(|origin| vault.certificate(origin)) {
                return Some(vec![Arc::clone(certificate)]);
            }
        }
        None
    }

    fn set(&mut self, host: &Hostname, outcome: Option<TlsHost>) {
        let Some(map) = &mut self.map else {
            if let (Hostname::Any, Some(TlsHost::Terminate(policy))) = (host, outcome) {
                self.map = Some(TlsMap::new(policy));
            }
            return;
        };
        let is_same = match (host, &outcome) {
            (Hostname::Any, Some(TlsHost::Terminate(policy))) => Arc::ptr_eq(map.default_policy(), policy),
            (Hostname::Any, _) => true,
            (_, outcome) => map.exactly(host) == outcome.as_ref(),
        };
        if is_same {
            return;
        }
        self.published = None;
        match outcome {
            Some(outcome) => map.set(host, outcome),
            None => map.remove(host),
        }
    }

    /// The claims on exactly `host`, the oldest first.
    fn claims<'r>(
        &self,
        host: &Hostname,
        route: &impl Fn(u32) -> Option<&'r Route>,
    ) -> Vec<(&'r Route, &'r Claim)> {
        let members = self.members.of(host);
        let claim = |id: &u32| {
            let route = route(*id)?;
            let claim = route.claims.iter().find(|claim| claim.host == *host)?;
            Some((route, claim))
        };
        let mut claims: Vec<_> = members.iter().filter_map(claim).collect();
        claims.sort_by(|(a, _), (b, _)| Order::cmp(&a.order, &b.order));
        claims
    }

    /// The map as it is now.
    pub(super) fn publish(&mut self) -> Option<Arc<TlsMap>> {
        if self.published.is_none() {
            self.published = self.map.clone().map(Arc::new);
        }
        self.published.clone()
    }
}

/// One host being built.
struct Build<'a, 't, R> {
    state: &'a TlsState,
    tools: &'a mut Tools<'t>,
    route: &'a R,
    served: &'a HostState,
    problems: Vec<Problem>,
    /// Hosts that the outcome depends on besides.
    sources: BTreeSet<Hostname>,
}

/// The certificate that one claim leads to.
struct Choice<'r> {
    entry: &'r TlsEntry,
    /// `None` for the default one.
    certificate: Option<Arc<Certificate>>,
}

impl<'r, R: Fn(u32) -> Option<&'r Route>> Build<'_, '_, R> {
    fn host(&mut self, host: &Hostname, claims: &[(&'r Route, &'r Claim)]) -> Option<TlsHost> {
        let fixed = self.state.fixed.clone();
        let listed = fixed.as_ref().and_then(|fixed| fixed.hosts.get(host));
        let (chosen, winner) = self.certificate(host, claims);
        let demands = self.demands(host, claims);
        if let Some(passthrough) = self.passthrough(claims, winner, &demands, listed.is_some()) {
            return Some(TlsHost::Passthrough(passthrough));
        }
        let is_any = *host == Hostname::Any;
        if claims.is_empty() && listed.is_none() && !is_any && !self.is_below_strict(host) {
            return None;
        }
        let client = self.client(&demands, fixed.as_deref());
        let certificates = match (listed, chosen) {
            (Some(listed), _) => listed.clone(),
            (None, Some(Some(certificate))) => vec![certificate],
            (None, Some(None)) => self.default(fixed.as_deref()),
            (None, None) if is_any => self.default(fixed.as_deref()),
            (None, None) => self.inherited(host).unwrap_or_else(|| self.default(fixed.as_deref())),
        };
        let settings = || demands.iter().map(|(_, settings)| settings);
        let least = fixed.as_ref().map(|fixed| fixed.min_version).unwrap_or_default();
        let suites = settings()
            .find_map(|settings| settings.cipher_suites.as_ref())
            .map(|suites| suites.iter().cloned().collect());
        let policy = TlsPolicy {
            certificates: certificates.into(),
            client,
            min_version: settings().filter_map(|settings| settings.min_version).fold(least, TlsVersion::max),
            cipher_suites: fixed
                .as_ref()
                .filter(|fixed| !fixed.cipher_suites.is_empty())
                .map_or_else(|| suites.unwrap_or_default(), |fixed| fixed.cipher_suites.clone()),
            http2: fixed.as_ref().is_none_or(|fixed| fixed.http2),
        };
        Some(TlsHost::Terminate(self.tools.policies.intern(policy)))
    }

    /// Whether `host` has rules, and would else get the terms of others.
    fn is_below_strict(&self, host: &Hostname) -> bool {
        if self.state.strict.is_empty() || !self.served.members.has(host) {
            return false;
        }
        let parent = parent(host);
        let is_named =
            |parent: &Hostname| self.state.map.as_ref().is_some_and(|map| map.exactly(parent).is_some());
        match parent.filter(is_named) {
            Some(parent) => self.state.strict.contains(&parent),
            None => self.state.strict.contains(&Hostname::Any),
        }
    }

    fn default(&self, fixed: Option<&Fixed>) -> Vec<Arc<Certificate>> {
        match fixed {
            Some(fixed) if !fixed.default.is_empty() => fixed.default.clone(),
            _ => self.tools.default.into_iter().cloned().collect(),
        }
    }

    /// The certificate of the oldest claim that has a usable one (`None` within stands for the default one), and
    /// that claim's position.
    fn certificate(
        &mut self,
        host: &Hostname,
        claims: &[(&'r Route, &'r Claim)],
    ) -> (Option<Option<Arc<Certificate>>>, Option<usize>) {
        let mut winner: Option<(usize, Choice<'r>)> = None;
        let mut wanted = false;
        for (position, (route, claim)) in claims.iter().enumerate() {
            let Some(choice) = self.choose(host, route, claim, &mut wanted) else { continue };
            match &winner {
                None => winner = Some((position, choice)),
                Some((_, first)) if first.certificate == choice.certificate => {}
                Some((at, _)) => {
                    let other = claims.get(*at).map(|(route, _)| route.order.object.to_string());
                    let message = format!(
                        "for {}, {} goes first (by age, then name), so its certificate is served",
                        describe(host),
                        other.unwrap_or_default()
                    );
                    let field = choice.entry.field.clone();
                    self.tell(route, Finding::warning(field, choice.entry.line, "Conflict", message));
                }
            }
        }
        match winner {
            Some((position, choice)) => {
                self.judge_names(host, claims.get(position).map(|(route, _)| *route), &choice);
                (Some(choice.certificate), Some(position))
            }
            // Asked for and not to be had: the default one, and not that of a wildcard.
            None => (wanted.then_some(None), None),
        }
    }

    /// The certificate that `claim` leads to, if it asks for one and there is one.
    fn choose(
        &mut self,
        host: &Hostname,
        route: &'r Route,
        claim: &'r Claim,
        wanted: &mut bool,
    ) -> Option<Choice<'r>> {
        if let Some(entry) = claim.named.and_then(|index| route.tls.get(index)) {
            *wanted = true;
            return self.certificate_of(route, entry);
        }
        let by_name = route.tls.iter().filter(|_| *host != Hostname::Any).find_map(|entry| {
            let certificate = self.tools.vault.certificate(entry.origin.as_ref()?).ok()?;
            is_for(certificate, host).then(|| Choice { entry, certificate: Some(Arc::clone(certificate)) })
        });
        if let Some(choice) = by_name {
            *wanted = true;
            self.tell_if_gone(route, choice.entry);
            return Some(choice);
        }
        // An entry without hosts is for all of them, also where its certificate is not.
        let general = route.tls.iter().find(|entry| !entry.has_hosts)?;
        *wanted = true;
        self.certificate_of(route, general)
    }

    fn certificate_of(&mut self, route: &'r Route, entry: &'r TlsEntry) -> Option<Choice<'r>> {
        let Some(origin) = &entry.origin else { return Some(Choice { entry, certificate: None }) };
        self.tell_if_gone(route, entry);
        match self.tools.vault.certificate(origin) {
            Ok(certificate) => Some(Choice { entry, certificate: Some(Arc::clone(certificate)) }),
            Err(lack) => {
                let (reason, message) = lack_message(origin, lack);
                let message = format!("{message}, so the default certificate is served");
                let field = format!("{}.secretName", entry.field);
                self.tell(route, Finding::error(field, entry.line, reason, message));
                None
            }
        }
    }

    fn tell_if_gone(&mut self, route: &'r Route, entry: &'r TlsEntry) {
        if entry.origin.as_ref().is_some_and(|origin| self.tools.vault.is_gone(origin)) {
            let field = format!("{}.secretName", entry.field);
            self.tell(route, Finding::error(field, entry.line, "SecretNotFound", GONE.to_owned()));
        }
    }

    /// A certificate that is not for the host is served, for it is what was asked for.
    fn judge_names(&mut self, host: &Hostname, route: Option<&'r Route>, choice: &Choice<'r>) {
        let (Some(route), Some(certificate)) = (route, &choice.certificate) else { return };
        if is_for(certificate, host) {
            return;
        }
        let names: Vec<&str> = certificate.names.iter().take(5).map(|name| &**name).collect();
        let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
        let message = format!(
            "the certificate is not valid for {}, only for {names}; clients will refuse it",
            describe(host)
        );
        let entry = choice.entry;
        self.tell(
            route,
            Finding::warning(entry.field.clone(), entry.line, "CertificateNameMismatch", message),
        );
    }

    /// What is asked for of connections to `host`: by its own claims, and by those of the host whose rules serve
    /// it if it has none itself.
    fn demands(
        &mut self,
        host: &Hostname,
        claims: &[(&'r Route, &'r Claim)],
    ) -> Vec<(&'r Route, &'r TlsSettings)> {
        let own = claims.iter().filter(|(_, claim)| !claim.is_loose);
        let mut demands: Vec<_> = own.map(|(route, claim)| (*route, &*claim.settings)).collect();
        let is_listed = self.state.fixed.as_ref().is_some_and(|fixed| fixed.hosts.contains_key(host));
        if (claims.iter().any(|(_, claim)| claim.is_loose) || is_listed) && *host != Hostname::Any {
            let above = parent(host);
            // Whatever it is: once the host has rules of its own, or the wildcard has, others decide.
            self.sources.insert(above.clone().unwrap_or(Hostname::Any));
            if !self.served.members.has(host) {
                let parent = above.filter(|above| self.served.members.has(above)).unwrap_or(Hostname::Any);
                self.sources.insert(parent.clone());
                let claims = self.state.claims(&parent, self.route);
                demands.extend(claims.iter().map(|(route, claim)| (*route, &*claim.settings)));
            }
        }
        demands
    }

    /// What all who ask something of clients agree on.
    fn client(&mut self, demands: &[(&'r Route, &'r TlsSettings)], fixed: Option<&Fixed>) -> ClientPolicy {
        let mut agreed =
            fixed.map(|fixed| fixed.client.clone()).filter(|client| *client != ClientPolicy::None);
        let mut first: Option<&ObjectRef> = None;
        for (route, settings) in demands {
            let Some(setting) = &settings.client else { continue };
            let policy = self.resolve(route, setting);
            match &agreed {
                None => {
                    agreed = Some(policy);
                    first = Some(&route.order.object);
                }
                Some(other) if other.asks_the_same(&policy) => {}
                Some(_) => {
                    let with = first.map_or_else(|| "the listener".to_owned(), ToString::to_string);
                    let message = format!(
                        "it asks something else of clients than {with} does for the same host, so requests are \
                         answered 503; write the same at both"
                    );
                    self.tell(route, Finding::error(CLIENT_FIELD, 0, "Conflict", message));
                    agreed = Some(ClientPolicy::Closed);
                }
            }
        }
        agreed.unwrap_or_default()
    }

    fn resolve(&mut self, route: &'r Route, setting: &ClientSetting) -> ClientPolicy {
        let roots = match setting {
            ClientSetting::OptionalNoCa => return ClientPolicy::OptionalNoCa,
            ClientSetting::Closed => return ClientPolicy::Closed,
            ClientSetting::Require(roots) | ClientSetting::Optional(roots) => roots,
        };
        let origin = roots_origin(&route.order.object.namespace, roots);
        match self.tools.vault.roots(&origin) {
            Ok(roots) if matches!(setting, ClientSetting::Require(_)) => {
                ClientPolicy::Require(Arc::clone(roots))
            }
            Ok(roots) => ClientPolicy::Optional(Arc::clone(roots)),
            Err(lack) => {
                let (reason, message) = lack_message(&origin, lack);
                let message = format!("{message}, so requests are answered 503: nobody could be verified");
                self.tell(route, Finding::error(CLIENT_FIELD, 0, reason, message));
                ClientPolicy::Closed
            }
        }
    }

    /// Whether connections are relayed as they are.
    fn passthrough(
        &mut self,
        claims: &[(&'r Route, &'r Claim)],
        winner: Option<usize>,
        demands: &[(&'r Route, &'r TlsSettings)],
        is_listed: bool,
    ) -> Option<Arc<Passthrough>> {
        let mut all = claims
            .iter()
            .enumerate()
            .filter_map(|(at, (route, claim))| Some((at, route, claim.passthrough.as_ref()?)));
        let (position, route, passthrough) = all.next()?;
        let guard = demands.iter().find(|(_, settings)| settings.client.is_some());
        let message = if is_listed {
            "the listener has a certificate for this host, so connections end here".to_owned()
        } else if self.state.fixed.as_ref().is_some_and(|fixed| fixed.client != ClientPolicy::None) {
            "the listener asks something of clients, so connections end here".to_owned()
        } else if let Some((guard, _)) = guard {
            format!("{} asks something of clients, so connections end here", guard.order.object)
        } else if let Some((winner, _)) = winner.filter(|at| *at < position).and_then(|at| claims.get(at)) {
            format!(
                "{} goes first and has a certificate for this host, so connections end here",
                winner.order.object
            )
        } else {
            return Some(Arc::clone(passthrough));
        };
        self.tell(route, Finding::error(&*route.passthrough_field, 0, "Conflict", message));
        None
    }

    /// The certificate of the wildcard above, which serves names that have none of their own.
    fn inherited(&mut self, host: &Hostname) -> Option<Vec<Arc<Certificate>>> {
        let parent = parent(host)?;
        self.sources.insert(parent.clone());
        self.state.passed_on(&parent, self.tools.vault, self.route)
    }

    fn tell(&mut self, route: &Route, finding: Finding) {
        let location =
            self.tools.index.object(&route.order.object).and_then(|object| object.location.as_ref());
        self.problems.push(finding.into_problem(&route.order.object, location));
    }
}

const CLIENT_FIELD: &str = "metadata.annotations[\"sluicegate.dev/client-ca\"]";

/// The authorities that an object of `namespace` names.
pub(super) fn roots_origin(namespace: &Arc<str>, roots: &RootsRef) -> Origin {
    let (namespace, name) = (Arc::clone(namespace), Arc::clone(&roots.name));
    Origin::Roots(ObjectRef { kind: roots.kind, namespace, name })
}

/// Reason code and what there is to say.
pub(super) fn lack_message(origin: &Origin, lack: Lack) -> (&'static str, String) {
    let what = origin.describe();
    match (lack, origin) {
        (Lack::Bad(reason), _) => (reason, format!("{what} cannot be used ({reason})")),
        (Lack::Missing, Origin::Roots(reference)) if reference.kind == crate::report::Kind::ConfigMap => {
            ("ConfigMapNotFound", format!("there is no {what}"))
        }
        (Lack::Missing, _) => ("SecretNotFound", format!("there is no {what}")),
    }
}

/// The names that routes of an origin use, for the vault.
pub(super) fn origins_of(route: &Route) -> BTreeSet<&Origin> {
    let roots = route.roots.iter();
    route.tls.iter().filter_map(|entry| entry.origin.as_ref()).chain(roots).collect()
}

fn is_for(certificate: &Certificate, host: &Hostname) -> bool {
    match host {
        Hostname::Exact(host) | Hostname::Wildcard(host) => pem::covers(&certificate.names, host),
        Hostname::Any => true,
    }
}

/// Whether others must not get this by being below it.
fn is_strict(host: &TlsHost) -> bool {
    match host {
        TlsHost::Terminate(policy) => policy.client != ClientPolicy::None,
        TlsHost::Passthrough(_) => true,
    }
}

/// Whether `host` gets what `above` has if it has nothing itself.
fn is_below(host: &Hostname, above: &Hostname) -> bool {
    match above {
        Hostname::Any => *host != Hostname::Any,
        Hostname::Wildcard(_) => parent(host).as_ref() == Some(above),
        Hostname::Exact(_) => false,
    }
}

/// The wildcard that covers an exact host.
fn parent(host: &Hostname) -> Option<Hostname> {
    let Hostname::Exact(host) = host else { return None };
    let suffix = host.get(host.find('.')?..)?;
    Some(Hostname::Wildcard(suffix.into()))
}

fn describe(host: &Hostname) -> String {
    match host {
        Hostname::Exact(host) => format!("host `{host}`"),
        Hostname::Wildcard(suffix) => format!("host `*{suffix}`"),
        Hostname::Any => "requests without a more specific host".to_owned(),
    }
}
