//! Certificates of the user's own listeners: which names they are for, and what is asked of clients there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::groups::Group;
use super::native::{ListenerTlsOf, Listeners};
use super::report::Owner;
use super::tls::{Fixed, lack_message};
use super::vault::{Origin, User, Vault};
use super::{Compiler, Work};
use crate::index::Index;
use crate::report::Problem;
use crate::resource::native_tls::{ClientFiles, ListenerTls};
use crate::resource::{Finding, pem, syntax};
use crate::table::{Certificate, ClientPolicy, Hostname};

impl Compiler {
    /// Notes which files the listeners use now, and that their groups must be looked at.
    pub(super) fn sync_fixed(&mut self, index: &Index, former: &Listeners, regrouped: bool, work: &mut Work) {
        let mut joined: BTreeSet<(SocketAddr, Origin)> = BTreeSet::new();
        for (address, tls) in &self.listeners.tls {
            joined.extend(origins(&tls.tls).into_iter().map(|origin| (*address, origin)));
            let is_known =
                former.tls.get(address).is_some_and(|old| old.tls == tls.tls && old.object == tls.object);
            if regrouped || !is_known {
                work.listeners.insert(Group::Address(*address));
            }
        }
        // Before anything is left: what nobody uses is forgotten, and with it what was good of it.
        for (address, origin) in &joined {
            self.vault.join(index, origin, User::Listener(Group::Address(*address)));
            work.origins.insert(origin.clone());
        }
        for (address, tls) in &former.tls {
            if self.listeners.tls.get(address).is_some_and(|new| new.tls == tls.tls) {
                continue;
            }
            work.listeners.insert(Group::Address(*address));
            for origin in origins(&tls.tls) {
                if !joined.contains(&(*address, origin.clone())) {
                    self.vault.leave(&origin, User::Listener(Group::Address(*address)));
                    work.origins.insert(origin);
                }
            }
        }
    }

    /// Works out anew what listeners say whose certificates changed.
    pub(super) fn refresh_fixed(&mut self, index: &Index, work: &mut Work) {
        for group in std::mem::take(&mut work.listeners) {
            let Group::Address(address) = group else { continue };
            let (fixed, problems) = match self.listeners.tls.get(&address) {
                Some(listener) => {
                    let mut problems = Vec::new();
                    let fixed = fixed(index, &self.vault, listener, &mut problems);
                    (Some(Arc::new(fixed)), problems)
                }
                None => (None, Vec::new()),
            };
            if let Some(state) = self.groups.states.get_mut(&group) {
                state.tls.set_fixed(fixed);
            }
            self.tell(Owner::Listener(group), problems, work);
        }
    }
}

fn origins(tls: &ListenerTls) -> Vec<Origin> {
    let pairs =
        tls.certificates.iter().map(|files| Origin::Pair(Arc::clone(&files.cert), Arc::clone(&files.key)));
    let roots = tls.client.roots().map(|file| Origin::RootsFile(Arc::clone(file)));
    pairs.chain(roots).collect()
}

fn fixed(index: &Index, vault: &Vault, listener: &ListenerTlsOf, problems: &mut Vec<Problem>) -> Fixed {
    let ListenerTlsOf { object, tls } = listener;
    let mut tell = |finding: Finding| {
        let location = index.object(object).and_then(|object| object.location.as_ref());
        problems.push(finding.into_problem(object, location));
    };
    let mut hosts: BTreeMap<Hostname, Vec<Arc<Certificate>>> = BTreeMap::new();
    let mut default: Option<Vec<Arc<Certificate>>> = None;
    for files in &tls.certificates {
        let origin = Origin::Pair(Arc::clone(&files.cert), Arc::clone(&files.key));
        let certificate = match vault.certificate(&origin) {
            Ok(certificate) => certificate,
            Err(lack) => {
                let (reason, message) = lack_message(&origin, lack);
                let message = format!("{message}, so its hosts get another certificate");
                tell(Finding::error(files.field.clone(), 0, reason, message));
                continue;
            }
        };
        for host in files.hosts.iter().filter(|host| !is_for(certificate, host)) {
            let message = format!("the certificate is not valid for {host:?}; clients will refuse it");
            tell(Finding::warning(files.field.clone(), 0, "CertificateNameMismatch", message));
        }
        let names = if files.hosts.is_empty() { hosts_of(certificate) } else { files.hosts.to_vec() };
        for host in names {
            let of_host = hosts.entry(host).or_default();
            if !of_host.contains(certificate) {
                of_host.push(Arc::clone(certificate));
            }
        }
        default.get_or_insert_with(|| vec![Arc::clone(certificate)]);
    }
    // A second key for the names of the first certificate serves unknown names as well.
    let first = default.unwrap_or_default();
    let same_names = first.first().and_then(|first| hosts.values().find(|all| all.first() == Some(first)));
    let default = same_names.cloned().unwrap_or(first);
    let client = match &tls.client {
        ClientFiles::None => ClientPolicy::None,
        ClientFiles::OptionalNoCa => ClientPolicy::OptionalNoCa,
        ClientFiles::Closed => ClientPolicy::Closed,
        ClientFiles::Require(file) | ClientFiles::Optional(file) => {
            let origin = Origin::RootsFile(Arc::clone(file));
            match vault.roots(&origin) {
                Ok(roots) if matches!(tls.client, ClientFiles::Require(_)) => {
                    ClientPolicy::Require(Arc::clone(roots))
                }
                Ok(roots) => ClientPolicy::Optional(Arc::clone(roots)),
                Err(lack) => {
                    let (reason, message) = lack_message(&origin, lack);
                    let message =
                        format!("{message}, so requests are answered 503: nobody could be verified");
                    tell(Finding::error(format!("{}.clientCa", tls.field), 0, reason, message));
                    ClientPolicy::Closed
                }
            }
        }
    };
    Fixed {
        hosts,
        default,
        client,
        min_version: tls.min_version,
        cipher_suites: tls.cipher_suites.clone(),
        http2: tls.http2,
    }
}

fn is_for(certificate: &Certificate, host: &Hostname) -> bool {
    match host {
        Hostname::Exact(host) | Hostname::Wildcard(host) => pem::covers(&certificate.names, host),
        Hostname::Any => true,
    }
}

/// The hosts that a certificate is for by its own names.
fn hosts_of(certificate: &Certificate) -> Vec<Hostname> {
    let host = |name: &Arc<str>| syntax::hostname(name).ok().filter(|host| *host != Hostname::Any);
    certificate.names.iter().filter_map(host).collect()
}
