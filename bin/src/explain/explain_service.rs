//! `sluicegate explain service/NAMESPACE/NAME`: which addresses a Service of type LoadBalancer has, and why it has no others.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use config::report::{Kind, ObjectRef, Problem};
use serde::Serialize;

use super::line;
use crate::check::compile_once;
use crate::cli::ExplainArgs;
use crate::settings::compile_settings;
use crate::terminal::Paint;

/// What there is to say of a Service.
#[derive(Debug, Serialize)]
struct Explanation<'c> {
    service: &'c ObjectRef,
    addresses: Vec<Address>,
    /// Where its ports are served.
    served: Vec<String>,
    problems: Vec<&'c Problem>,
}

#[derive(Debug, Serialize)]
struct Address {
    address: IpAddr,
    /// Absent if it is one that anybody may ask for.
    pool: Option<ObjectRef>,
}

/// Prints the addresses; success if there is one.
pub(super) fn explain(args: &ExplainArgs, service: &str) -> anyhow::Result<ExitCode> {
    let (namespace, name) =
        service.split_once('/').with_context(|| format!("{service:?}: give service/NAMESPACE/NAME"))?;
    if !args.headers.is_empty() || args.from.is_some() {
        bail!("-H and --from have no meaning for a Service");
    }
    let service = ObjectRef { kind: Kind::Service, namespace: namespace.into(), name: name.into() };
    let compiled = compile_once(args.config.clone(), compile_settings(&args.ingress)?)?;
    if !compiled.has(&service) {
        bail!("there is no {service}");
    }
    let all = compiled.addresses_of(&service).into_iter();
    let addresses: Vec<Address> = all.map(|one| Address { address: one.address, pool: one.pool }).collect();
    let is_its = |object: &ObjectRef| *object == service;
    let binds = compiled.table.l4.iter().filter(|(_, bind)| {
        compiled.table.routes.at(bind.route.0).is_some_and(|route| is_its(&route.object))
    });
    let explanation = Explanation {
        service: &service,
        addresses,
        served: binds.map(|(_, bind)| bind.key.to_string()).collect(),
        problems: compiled.report.problems.iter().filter(|problem| is_its(&problem.object)).collect(),
    };
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &explanation)?;
        writeln!(out)?;
    } else {
        out.write_all(text(&explanation, Paint::stdout()).as_bytes())?;
    }
    Ok(if explanation.addresses.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(explanation: &Explanation<'_>, paint: Paint) -> String {
    let mut out = String::new();
    line(&mut out, "service", &explanation.service.to_string());
    for Address { address, pool } in &explanation.addresses {
        let from = match pool {
            Some(pool) => format!("of {pool}"),
            None => "as it asks for".to_owned(),
        };
        line(&mut out, "address", &paint.good(&format!("{address}, {from}")));
    }
    if explanation.addresses.is_empty() {
        line(&mut out, "address", &paint.error("none"));
    }
    explanation.served.iter().for_each(|served| line(&mut out, "served", served));
    explanation.problems.iter().for_each(|problem| line(&mut out, "problem", &problem.to_string()));
    out
}
