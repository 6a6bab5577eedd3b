//! `sluicegate check`: what is wrong with the user's files, without serving them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::report::{ObjectRef, Problem, Report, Severity};
use config::table::explain::LeftOut;
use config::table::{L4Key, RouteTable};
use controller::ipam::{Assigner, Role, VirtualAddress};
use controller::source::file::{FileSource, load};
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::settings::compile_settings;
use crate::terminal::Paint;

/// Files, compiled once.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) table: Arc<RouteTable>,
    pub(crate) report: Arc<Report>,
    pub(crate) files: usize,
    pub(crate) objects: usize,
    index: Index,
    compiler: Compiler,
    assigner: Assigner,
}

impl Compiled {
    /// The endpoints that a backend has and does not use.
    pub(crate) fn left_out(&self, backend: &str) -> Vec<LeftOut> {
        self.compiler.left_out(&self.index, backend)
    }

    /// What those are told who want this socket and do not have it.
    pub(crate) fn losers(&self, key: L4Key) -> Vec<Problem> {
        self.compiler.losers(key)
    }

    /// The addresses that `service` has.
    pub(crate) fn addresses_of(&self, service: &ObjectRef) -> Box<[VirtualAddress]> {
        let has_local = || self.compiler.endpoints_here(&self.index, service) > 0;
        self.assigner.addresses_of(service, has_local)
    }

    /// True if the object was read.
    pub(crate) fn has(&self, object: &ObjectRef) -> bool {
        self.index.object(object).is_some()
    }
}

/// Reads and compiles `paths` once, as `run` would.
pub(crate) fn compile_once(paths: Vec<PathBuf>, settings: Settings) -> anyhow::Result<Compiled> {
    let read = FileSource::read_once(paths)?;
    let objects = read.events.iter().filter(|event| matches!(event, Event::Apply(_))).count();
    let mut index = Index::new();
    let mut change = Change::default();
    for event in read.events {
        change.merge(index.apply(event));
    }
    for event in load(&index.files()) {
        change.merge(index.apply(event));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let mut assigner = Assigner::new(settings.services.clone(), Role::Alone);
    assigner.give(&mut index, &mut change);
    let mut compiler = Compiler::new(settings);
    let (table, report) = compiler.compile(&index, &change, now);
    Ok(Compiled { table, report, files: read.files, objects, index, compiler, assigner })
}

#[derive(Serialize)]
struct Findings<'a> {
    files: usize,
    objects: usize,
    errors: usize,
    warnings: usize,
    problems: &'a [&'a Problem],
}

/// Prints every problem; success if there is no error.
pub(crate) fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let compiled = compile_once(args.paths, compile_settings(&args.ingress)?)?;
    let mut problems: Vec<&Problem> = compiled.report.problems.iter().collect();
    problems.sort_by(|a, b| place(a).cmp(&place(b)));
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = problems.len() - errors;
    let mut out = io::stdout().lock();
    if args.json {
        let Compiled { files, objects, .. } = compiled;
        serde_json::to_writer_pretty(
            &mut out,
            &Findings { files, objects, errors, warnings, problems: &problems },
        )?;
        writeln!(out)?;
    } else {
        let paint = Paint::stdout();
        for problem in &problems {
            writeln!(out, "{}", line(problem, paint))?;
        }
        writeln!(out, "{}", summary(&compiled, errors, warnings, paint))?;
    }
    let is_good = errors == 0 && !(args.strict && warnings > 0);
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn place(problem: &Problem) -> Option<(&str, u32)> {
    problem.location.as_ref().map(|location| (&*location.file, location.line))
}

fn line(problem: &Problem, paint: Paint) -> String {
    let severity = match problem.severity {
        Severity::Error => paint.error("error"),
        Severity::Warning => paint.warning("warning"),
    };
    let location =
        problem.location.as_ref().map(|location| format!("{}: ", paint.strong(&location.to_string())));
    let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
    format!(
        "{}{severity}: {}: {field}{} {}",
        location.unwrap_or_default(),
        problem.object,
        problem.message,
        paint.faint(&format!("({})", problem.reason))
    )
}

fn summary(compiled: &Compiled, errors: usize, warnings: usize, paint: Paint) -> String {
    let looked = format!("{} in {}", count(compiled.objects, "object"), count(compiled.files, "file"));
    match (errors, warnings) {
        (0, 0) => format!("{}: {looked}, no problems", paint.good("good")),
        (0, _) => format!("{}: {looked}, {}", paint.good("good"), count(warnings, "warning")),
        _ => format!(
            "{}: {looked}, {}, {}",
            paint.error("bad"),
            count(errors, "error"),
            count(warnings, "warning")
        ),
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
