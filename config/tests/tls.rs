//! Certificates: from Secrets and files to what each name gets.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::Arc;

use common::cert::{Pair, pair, tls_secret};
use common::{NOW, tls_host, tls_policy};
use config::compile::{Compiler, Settings};
use config::index::{Change, Index};
use config::report::Report;
use config::table::{RouteTable, TlsMap};

/// A compiler with a default certificate, and what it has read.
struct World {
    index: Index,
    compiler: Compiler,
    pending: Change,
    now: i64,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            https: Some("127.0.0.1:8443".parse().unwrap()),
            default_certificate: Some(default_certificate()),
            ..Settings::default()
        };
        change(&mut settings);
        let compiler = Compiler::new(settings);
        Self { index: Index::new(), compiler, pending: Change::default(), now: NOW }
    }

    fn apply(&mut self, text: &str) -> &mut Self {
        // Each text is a file of its own, so that none takes back the problems of another.
        let file = format!("{}.yaml", text.lines().nth(2).unwrap_or_default().len());
        self.pending.merge(common::apply(&mut self.index, &file, text));
        self
    }

    fn compile(&mut self) -> (Arc<RouteTable>, Arc<Report>) {
        self.compiler.compile(&self.index, &std::mem::take(&mut self.pending), self.now)
    }

    /// What `name` gets, and what is wrong besides with Secrets and TLS.
    fn outcome(&mut self, name: &str) -> (String, Vec<String>) {
        let (table, report) = self.compile();
        (gets(&table, name), reasons(&report))
    }
}

fn default_certificate() -> Arc<config::table::Certificate> {
    let Pair { chain, key } = pair(&["sluicegate.invalid"]);
    config::resource::certificate("(self-signed)", chain.as_bytes(), key.as_bytes()).unwrap()
}

fn tls(table: &RouteTable) -> &Arc<TlsMap> {
    table.binds.iter().find(|bind| bind.config.https).unwrap().tls.as_ref().unwrap()
}

fn gets(table: &RouteTable, name: &str) -> String {
    let tls = tls(table);
    tls.find(name).map_or_else(|| tls_policy(tls.default_policy()), |host| tls_host(table, host))
}

/// `object reason` of every problem but those of backends.
fn reasons(report: &Report) -> Vec<String> {
    let of_tls = report.problems.iter().filter(|problem| problem.reason != "NoEndpointSlice");
    of_tls.map(|problem| format!("{} {}", problem.object.name, problem.reason)).collect()
}

const SERVICE: &str =
    "---\n{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}\n";

/// An Ingress with a rule for each host and this `spec.tls`.
fn ingress(name: &str, annotations: &str, hosts: &[&str], tls: &str) -> String {
    let rule = |host: &&str| {
        format!(
            "{{host: \"{host}\", http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}"
        )
    };
    let rules: Vec<_> = hosts.iter().map(rule).collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec: {{tls: [{tls}], rules: [{}]}}\n{SERVICE}",
        rules.join(", ")
    )
}

#[test]
fn a_host_gets_the_certificate_of_its_secret_and_any_other_name_the_default() {
    let mut world = World::new();
    world.apply(&tls_secret("cert", &pair(&["a.test"])));
    world.apply(&ingress("web", "", &["a.test"], "{hosts: [A.test], secretName: cert}"));
    assert_eq!(world.outcome("a.test"), ("default/cert".to_owned(), vec![]));
    assert_eq!(world.outcome("b.test").0, "(self-signed)");
}
