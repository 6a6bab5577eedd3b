//! What each Secret, ConfigMap and file of certificates amounts to now, and what it amounted to when it was last
//! good: a bad new version keeps the old one in use. Owns that memory and the question of validity in time;
//! never knows which host anything is for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::quality::FixedState;

use super::groups::Group;
use crate::index::Index;
use crate::report::{Kind, ObjectRef, Problem, Severity, SourceLocation};
use crate::resource::{Flaw, Part, pem};
use crate::table::{Certificate, TrustRoots};

/// A warning is given this long before a certificate expires, in seconds, or in the last third of its life if
/// that is shorter: who renews each week need not be warned all the time.
const WARN_BEFORE: i64 = 14 * 24 * 3_600;

/// Where a certificate or authorities come from.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Origin {
    /// `tls.crt` and `tls.key` of a Secret.
    Certificate(ObjectRef),
    /// `ca.crt` and `ca.crl` of a Secret or ConfigMap.
    Roots(ObjectRef),
    /// A file with a chain and one with its key.
    Pair(Arc<str>, Arc<str>),
    /// A file with authorities.
    RootsFile(Arc<str>),
}

impl Origin {
    /// The certificate of a Secret.
    pub(super) fn secret(namespace: &Arc<str>, name: &Arc<str>) -> Self {
        let (namespace, name) = (Arc::clone(namespace), Arc::clone(name));
        Self::Certificate(ObjectRef { kind: Kind::Secret, namespace, name })
    }

    /// As a message names it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Certificate(object) | Self::Roots(object) => {
                format!("{:?} `{}` in namespace `{}`", object.kind, object.name, object.namespace)
            }
            Self::Pair(certificate, _) => format!("file `{certificate}`"),
            Self::RootsFile(file) => format!("file `{file}`"),
        }
    }
}

/// What must be looked at again when an origin amounts to something else.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum User {
    /// A route's rules, because of how its backends are spoken to.
    Rules(u32),
    /// The hosts of a route.
    Hosts(u32),
    /// The listener of a group.
    Listener(Group),
    /// Everything, for it is the default certificate.
    Default,
}

/// Why there is nothing to use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lack {
    Missing,
    /// With the reason code of what is wrong.
    Bad(&'static str),
}

/// What is known of one origin.
#[derive(Debug)]
struct Held<T> {
    /// In use: the current version, or the last good one.
    good: Option<Arc<T>>,
    trouble: Option<Trouble>,
    /// When to look again although nothing changes, seconds since 1970.
    wake: Option<i64>,
    /// The object was deleted while it was in use.
    is_gone: bool,
}

/// What is wrong with the current version.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Trouble {
    part: Part,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Everything that certificates and authorities come from.
#[derive(Debug, Default)]
pub(super) struct Vault {
    certificates: HashMap<Origin, Held<Certificate>, FixedState>,
    roots: HashMap<Origin, Held<TrustRoots>, FixedState>,
    /// origin → who uses it
    users: HashMap<Origin, BTreeSet<User>, FixedState>,
    /// when to look again although nothing changes, in seconds since 1970 → what at
    schedule: BTreeMap<i64, BTreeSet<Origin>>,
    /// Seconds since 1970, as of the last compile.
    now: i64,
}

impl Vault {
    pub(super) fn set_now(&mut self, now: i64) {
        self.now = now;
    }

    /// When to look again although nothing changes.
    pub(super) fn wake(&self) -> Option<i64> {
        self.schedule.keys().next().copied()
    }

    /// The origins whose time has come.
    pub(super) fn due(&self) -> Vec<Origin> {
        self.schedule.range(..=self.now).flat_map(|(_, origins)| origins).cloned().collect()
    }

    /// Looks again at `origin` when `new` says so, and no more when `old` said so.
    fn reschedule(&mut self, origin: &Origin, old: Option<i64>, new: Option<i64>) {
        if old == new {
            return;
        }
        if let Some(old) = old
            && let Some(origins) = self.schedule.get_mut(&old)
        {
            origins.remove(origin);
            if origins.is_empty() {
                self.schedule.remove(&old);
            }
        }
        if let Some(new) = new {
            self.schedule.entry(new).or_default().insert(origin.clone());
        }
    }

    /// The origins that are made of `file`.
    pub(super) fn of_file(&self, file: &str) -> Vec<Origin> {
        let is_of = |origin: &&Origin| match origin {
            Origin::Pair(certificate, key) => **certificate == *file || **key == *file,
            Origin::RootsFile(roots) => **roots == *file,
            Origin::Certificate(_) | Origin::Roots(_) => false,
        };
        self.users.keys().filter(is_of).cloned().collect()
    }

    /// Notes that `user` uses `origin`, which is looked at if nobody used it before.
    pub(super) fn join(&mut self, index: &Index, origin: &Origin, user: User) {
        self.users.entry(origin.clone()).or_default().insert(user);
        self.ensure(index, origin);
    }

    /// Looks at `origin` if nobody did.
    pub(super) fn ensure(&mut self, index: &Index, origin: &Origin) {
        if !self.certificates.contains_key(origin) && !self.roots.contains_key(origin) {
            self.look(index, origin);
        }
    }

    pub(super) fn leave(&mut self, origin: &Origin, user: User) {
        let Some(users) = self.users.get_mut(origin) else { return };
        users.remove(&user);
        if users.is_empty() {
            self.users.remove(origin);
            // What is good of an object stays known for as long as the object is there.
            if matches!(origin, Origin::Pair(..) | Origin::RootsFile(_)) || self.is_gone(origin) {
                let old = self.certificates.remove(origin).and_then(|held| held.wake);
                // It is one of the two.
                let roots = self.roots.remove(origin).and_then(|held| held.wake);
                self.reschedule(origin, old.or(roots), None);
            }
        }
    }

    /// True if anything is remembered of the object, or anybody uses it.
    pub(super) fn knows(&self, reference: &ObjectRef) -> bool {
        let (certificate, roots) = (Origin::Certificate(reference.clone()), Origin::Roots(reference.clone()));
        self.certificates.contains_key(&certificate)
            || self.roots.contains_key(&roots)
            || self.is_used(&certificate)
            || self.is_used(&roots)
    }

    /// Who uses `origin`.
    pub(super) fn users(&self, origin: &Origin) -> impl Iterator<Item = User> {
        self.users.get(origin).into_iter().flatten().copied()
    }

    pub(super) fn is_used(&self, origin: &Origin) -> bool {
        self.users.contains_key(origin)
    }

    /// The certificate of `origin`, which must have been looked at.
    pub(super) fn certificate(&self, origin: &Origin) -> Result<&Arc<Certificate>, Lack> {
        lookup(&self.certificates, origin)
    }

    /// True if `origin` was deleted while it was in use, so that its last version is.
    pub(super) fn is_gone(&self, origin: &Origin) -> bool {
        self.certificates.get(origin).is_some_and(|held| held.is_gone)
    }

    /// The authorities of `origin`, which must have been looked at.
    pub(super) fn roots(&self, origin: &Origin) -> Result<&Arc<TrustRoots>, Lack> {
        lookup(&self.roots, origin)
    }

    /// Looks at `origin` again; true if it amounts to something else, or if other things are wrong with it.
    pub(super) fn look(&mut self, index: &Index, origin: &Origin) -> bool {
        match origin {
            Origin::Certificate(_) | Origin::Pair(..) => {
                let former = self.certificates.remove(origin);
                let now = self.now;
                let good = || former.as_ref().and_then(|held| held.good.clone());
                let held = match current_certificate(index, origin) {
                    Some(current) => Some(judge(current, good(), now)),
                    // Deleted by mistake more often than not; those who use it are told.
                    None => good().filter(|_| self.is_used(origin)).map(gone),
                };
                let is_new = !same(former.as_ref(), held.as_ref());
                let wake = |held: Option<&Held<_>>| held.and_then(|held| held.wake);
                self.reschedule(origin, wake(former.as_ref()), wake(held.as_ref()));
                if let Some(held) = held {
                    self.certificates.insert(origin.clone(), held);
                }
                is_new
            }
            Origin::Roots(_) | Origin::RootsFile(_) => {
                let former = self.roots.remove(origin);
                let held = current_roots(index, origin).map(|current| {
                    let good = former.as_ref().and_then(|held| held.good.clone());
                    match current {
                        Ok(current) => judge_roots(current, self.now),
                        Err(flaw) => flawed(flaw, good),
                    }
                });
                let is_new = !same(former.as_ref(), held.as_ref());
                let wake = |held: Option<&Held<_>>| held.and_then(|held| held.wake);
                self.reschedule(origin, wake(former.as_ref()), wake(held.as_ref()));
                if let Some(held) = held {
                    self.roots.insert(origin.clone(), held);
                }
                is_new
            }
        }
    }

    /// What there is to say about `origin`.
    pub(super) fn problem(&self, index: &Index, origin: &Origin) -> Option<Problem> {
        if let Origin::Certificate(object) = origin
            && self.is_gone(origin)
        {
            let (object, field, severity) = (object.clone(), String::new(), Severity::Error);
            let message = format!("{GONE}; it is lost when the gateway restarts");
            return Some(Problem {
                object,
                location: None,
                field,
                severity,
                reason: "SecretNotFound",
                message,
            });
        }
        let trouble = self.certificates.get(origin).and_then(|held| held.trouble.as_ref());
        let trouble = trouble.or_else(|| self.roots.get(origin).and_then(|held| held.trouble.as_ref()))?;
        let (object, location, field) = match origin {
            Origin::Certificate(reference) | Origin::Roots(reference) => {
                let (object, secret) = index.secret(reference)?;
                let line = secret.line(trouble.part);
                let location = object.location.as_ref().map(|location| SourceLocation {
                    file: Arc::clone(&location.file),
                    line: if line == 0 { location.line } else { line },
                });
                (reference.clone(), location, format!("data[{:?}]", trouble.part.key()))
            }
            Origin::Pair(certificate, key) => {
                let file = if trouble.part == Part::Key { key } else { certificate };
                (file_ref(file), Some(SourceLocation { file: Arc::clone(file), line: 0 }), String::new())
            }
            Origin::RootsFile(file) => {
                (file_ref(file), Some(SourceLocation { file: Arc::clone(file), line: 0 }), String::new())
            }
        };
        let Trouble { severity, reason, message, .. } = trouble.clone();
        Some(Problem { object, location, field, severity, reason, message })
    }
}

fn file_ref(file: &Arc<str>) -> ObjectRef {
    ObjectRef { kind: Kind::File, namespace: "".into(), name: Arc::clone(file) }
}

fn lookup<'v, T>(all: &'v HashMap<Origin, Held<T>, FixedState>, origin: &Origin) -> Result<&'v Arc<T>, Lack> {
    let held = all.get(origin).ok_or(Lack::Missing)?;
    held.good
        .as_ref()
        .ok_or_else(|| Lack::Bad(held.trouble.as_ref().map_or("Unknown", |trouble| trouble.reason)))
}

fn same<T: Eq>(a: Option<&Held<T>>, b: Option<&Held<T>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.good == b.good && a.trouble == b.trouble && a.is_gone == b.is_gone,
        _ => false,
    }
}

type Current<T> = Option<Result<Arc<T>, Flaw>>;

/// `None` if there is no such object.
fn current_certificate(index: &Index, origin: &Origin) -> Current<Certificate> {
    match origin {
        Origin::Certificate(reference) => {
            index.secret(reference).map(|(_, secret)| secret.certificate.clone())
        }
        Origin::Pair(certificate, key) => Some((|| {
            let chain = content(index, certificate, Part::Certificate)?;
            pem::certificate(certificate, chain, content(index, key, Part::Key)?)
        })()),
        Origin::Roots(_) | Origin::RootsFile(_) => None,
    }
}

fn current_roots(index: &Index, origin: &Origin) -> Current<TrustRoots> {
    match origin {
        Origin::Roots(reference) => index.secret(reference).map(|(_, secret)| secret.roots.clone()),
        Origin::RootsFile(file) => Some((|| {
            let text = content(index, file, Part::Roots)?;
            // One file may hold authorities and their lists, as bundles do.
            let lists = text.windows(CRL.len()).any(|window| window == CRL).then_some(text);
            pem::trust_roots(file, text, lists)
        })()),
        Origin::Certificate(_) | Origin::Pair(..) => None,
    }
}

const CRL: &[u8] = b"-----BEGIN X509 CRL-----";

fn content<'i>(index: &'i Index, file: &str, part: Part) -> Result<&'i [u8], Flaw> {
    let unreadable = |why: &str| Flaw::new(part, "FileUnreadable", format!("cannot read the file: {why}"));
    let content = index.file(file).ok_or_else(|| unreadable("it was not looked at yet"))?;
    content.0.as_deref().map_err(|why| unreadable(why))
}

const KEPT: &str = "the previous version stays in use";
/// What is said of an object that was deleted while it was in use.
pub(super) const GONE: &str = "there is no such Secret any more, and its last version stays in use";

fn flawed<T>(flaw: Flaw, good: Option<Arc<T>>) -> Held<T> {
    let message = match good {
        Some(_) => format!("{}; {KEPT}", flaw.message),
        None => format!("{}; there is no earlier version to go on with", flaw.message),
    };
    let Flaw { part, reason, .. } = flaw;
    let trouble = Some(Trouble { part, severity: Severity::Error, reason, message });
    Held { good, trouble, wake: None, is_gone: false }
}

fn gone<T>(good: Arc<T>) -> Held<T> {
    Held { good: Some(good), trouble: None, wake: None, is_gone: true }
}

/// What `current` amounts to at `now`, given what was in use before.
fn judge(
    current: Result<Arc<Certificate>, Flaw>,
    former: Option<Arc<Certificate>>,
    now: i64,
) -> Held<Certificate> {
    let current = match current {
        Ok(current) => current,
        Err(flaw) => return flawed(flaw, former),
    };
    let is_valid =
        |certificate: &Certificate| (certificate.not_before..=certificate.not_after).contains(&now);
    let trouble =
        |severity, reason, message| Some(Trouble { part: Part::Certificate, severity, reason, message });
    let error = |reason, message: String| trouble(Severity::Error, reason, message);
    let fallback = former.filter(|former| *former != current && is_valid(former));
    let consequence =
        if fallback.is_some() { KEPT } else { "it is in use nevertheless, and clients will refuse it" };
    if now < current.not_before {
        let message = format!("it is not valid before {}; {consequence}", time(current.not_before));
        let (wake, good) = (Some(current.not_before), Some(fallback.unwrap_or(current)));
        return Held { good, trouble: error("CertificateNotYetValid", message), wake, is_gone: false };
    }
    if now > current.not_after {
        let message = format!("it expired on {}; {consequence}", time(current.not_after));
        let good = Some(fallback.unwrap_or(current));
        return Held { good, trouble: error("CertificateExpired", message), wake: None, is_gone: false };
    }
    let lifetime = current.not_after.saturating_sub(current.not_before);
    let warn_at = current.not_after.saturating_sub(WARN_BEFORE.min(lifetime / 3));
    if now < warn_at {
        return Held { wake: Some(warn_at), good: Some(current), trouble: None, is_gone: false };
    }
    let message = format!("it expires on {}; renew it", time(current.not_after));
    let wake = Some(current.not_after.saturating_add(1));
    let trouble = trouble(Severity::Warning, "CertificateExpiresSoon", message);
    Held { good: Some(current), trouble, wake, is_gone: false }
}

/// What authorities amount to at `now`. They verify whom they verified before, whatever their age: trust that was given
/// is not taken back by a clock. But their certificates, and what is known to be revoked, are not what they should be.
fn judge_roots(current: Arc<TrustRoots>, now: i64) -> Held<TrustRoots> {
    let TrustRoots { not_after, last_not_after, next_update, .. } = *current;
    let warn_at = not_after.saturating_sub(WARN_BEFORE);
    let is_overdue = next_update.filter(|due| now > *due);
    let trouble = |part, severity, reason, message| Some(Trouble { part, severity, reason, message });
    let trouble = if now > last_not_after {
        let message = format!("the authority expired on {}; replace it", time(last_not_after));
        trouble(Part::Roots, Severity::Error, "CertificateExpired", message)
    } else if let Some(due) = is_overdue {
        let message = format!(
            "a revocation list was to be replaced on {}: what was revoked since is not known",
            time(due)
        );
        trouble(Part::RevocationList, Severity::Error, "RevocationListExpired", message)
    } else if now > not_after {
        let message = format!("one of the authorities expired on {}; remove or replace it", time(not_after));
        trouble(Part::Roots, Severity::Warning, "CertificateExpired", message)
    } else if now >= warn_at {
        let message = format!("an authority expires on {}; replace it", time(not_after));
        trouble(Part::Roots, Severity::Warning, "CertificateExpiresSoon", message)
    } else {
        None
    };
    let ends = [not_after, last_not_after].into_iter().chain(next_update).map(|end| end.saturating_add(1));
    let wake = ends.chain([warn_at]).filter(|at| *at > now).min();
    Held { good: Some(current), trouble, wake, is_gone: false }
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}
