//! What is wrong with the configuration, as an operator hears of it: one log line when a problem appears,
//! one when it is gone, and gauges in between.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::report::{ObjectRef, Problem, Report, Severity};

use crate::ipam::{Family, Usage};

/// Lines logged for one compile; `check` lists everything.
const MAX_LINES: usize = 100;

/// A problem without its line number: a line inserted above it does not make it a new one.
type Identity = (ObjectRef, String, &'static str, String);

/// Logs each problem once when it appears and once when it is gone.
#[derive(Debug, Default)]
pub struct ProblemLog {
    /// problem → as it was logged
    known: HashMap<Identity, Problem>,
    last: Arc<Report>,
}

impl ProblemLog {
    /// Logs what changed since the former report; returns how many problems appeared and how many went.
    pub fn update(&mut self, report: &Arc<Report>) -> (usize, usize) {
        let last = std::mem::replace(&mut self.last, Arc::clone(report));
        if Arc::ptr_eq(&last, report) || last.problems == report.problems {
            return (0, 0);
        }
        let now: HashMap<Identity, Problem> =
            report.problems.iter().map(|problem| (identity(problem), problem.clone())).collect();
        let appeared: Vec<&Problem> =
            report.problems.iter().filter(|problem| !self.known.contains_key(&identity(problem))).collect();
        let mut gone: Vec<&Problem> = self
            .known
            .iter()
            .filter(|(identity, _)| !now.contains_key(*identity))
            .map(|(_, problem)| problem)
            .collect();
        gone.sort_by(|a, b| (&a.object, &a.field).cmp(&(&b.object, &b.field)));
        for problem in appeared.iter().take(MAX_LINES) {
            log_appeared(problem);
        }
        for problem in gone.iter().take(MAX_LINES) {
            tracing::info!(object = %problem.object, field = problem.field, reason = problem.reason, "problem is gone");
        }
        let counts = (appeared.len(), gone.len());
        if counts.0.max(counts.1) > MAX_LINES {
            tracing::warn!(
                appeared = counts.0,
                gone = counts.1,
                "only the first {MAX_LINES} problems were logged; `sluicegate check` lists all"
            );
        }
        self.known = now;
        counts
    }
}

fn identity(problem: &Problem) -> Identity {
    (problem.object.clone(), problem.field.clone(), problem.reason, problem.message.clone())
}

fn log_appeared(problem: &Problem) {
    let location = problem.location.as_ref().map(ToString::to_string).unwrap_or_default();
    let Problem { object, field, reason, message, .. } = problem;
    match problem.severity {
        Severity::Error => tracing::error!(location, %object, field, reason, "{message}"),
        Severity::Warning => tracing::warn!(location, %object, field, reason, "{message}"),
    }
}

/// Figures of the control plane for the metrics endpoint. Written by the driver, read by any thread.
#[derive(Debug, Default)]
pub struct ControlMetrics {
    figures: Mutex<Figures>,
}

#[derive(Clone, Debug, Default)]
struct Figures {
    /// (severity, reason) → how many
    problems: BTreeMap<(&'static str, &'static str), u64>,
    compiles: u64,
    compile_time: Duration,
    last_compile: Option<SystemTime>,
    last_clean: Option<SystemTime>,
    version: u64,
    dns_lookups: u64,
    dns_failures: u64,
    /// (pool, family, state) → how many addresses
    pools: BTreeMap<(String, Family, &'static str), u128>,
    /// Nobody looks for changes.
    is_down: bool,
    restarts: u64,
}

impl ControlMetrics {
    /// Notes a compile that ended at `now`, took `took` and gave table `version`.
    pub fn compiled(&self, report: &Report, version: u64, took: Duration, now: SystemTime) {
        let mut problems = BTreeMap::new();
        for problem in &report.problems {
            *problems.entry((severity_label(problem.severity), problem.reason)).or_default() += 1;
        }
        self.change(|figures| {
            figures.problems = problems;
            figures.compiles += 1;
            figures.compile_time += took;
            figures.last_compile = Some(now);
            figures.version = version;
            if !report.has_errors() {
                figures.last_clean = Some(now);
            }
        });
    }

    /// Notes that nobody looks for changes any more: what did has ended by a fault of its own.
    pub fn went_down(&self) {
        self.change(|figures| figures.is_down = true);
    }

    /// Notes that somebody looks for changes again.
    pub fn restarted(&self) {
        self.change(|figures| {
            figures.is_down = false;
            figures.restarts += 1;
        });
    }

    /// Whether nobody looks for changes.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).is_down
    }

    /// Notes how much of each pool of addresses is in use.
    pub fn pools<'a>(&self, usage: impl Iterator<Item = (&'a ObjectRef, Usage)>) {
        let mut pools = BTreeMap::new();
        for (pool, usage) in usage {
            for (family, assigned, available) in [
                (Family::V4, usage.assigned_v4, usage.available_v4),
                (Family::V6, usage.assigned_v6, usage.available_v6),
            ] {
                // A pool without any of the family says nothing of it.
                if assigned + available > 0 {
                    pools.insert((pool.to_string(), family, "assigned"), assigned);
                    pools.insert((pool.to_string(), family, "available"), available);
                }
            }
        }
        self.change(|figures| figures.pools = pools);
    }

    /// Notes the end of a DNS lookup.
    pub fn looked_up(&self, success: bool) {
        self.change(|figures| {
            figures.dns_lookups += 1;
            figures.dns_failures += u64::from(!success);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Appends all figures in the Prometheus text format.
    pub fn render_metrics(&self, out: &mut String) {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        figures.render_life(out);
        figures.render_config(out);
        single(
            out,
            "sluicegate_dns_lookups_total",
            "counter",
            "Lookups of endpoints' DNS names.",
            &figures.dns_lookups,
        );
        single(
            out,
            "sluicegate_dns_failures_total",
            "counter",
            "Lookups that gave no address.",
            &figures.dns_failures,
        );
        head(
            out,
            "sluicegate_address_pool_addresses",
            "gauge",
            "Addresses of pools for Services, by pool, family and state.",
        );
        for ((pool, family, state), count) in &figures.pools {
            let labels = format!("pool=\"{pool}\",family=\"{family}\",state=\"{state}\"");
            line(out, &format!("sluicegate_address_pool_addresses{{{labels}}}"), count);
        }
    }
}

impl Figures {
    fn render_life(&self, out: &mut String) {
        single(
            out,
            "sluicegate_config_up",
            "gauge",
            "1 while changes are looked for; 0 after a fault, until that is begun anew.",
            &u8::from(!self.is_down),
        );
        single(
            out,
            "sluicegate_config_restarts_total",
            "counter",
            "Times that looking for changes was begun anew after a fault.",
            &self.restarts,
        );
    }

    fn render_config(&self, out: &mut String) {
        head(
            out,
            "sluicegate_config_problems",
            "gauge",
            "Problems of the configuration in use, by severity and reason.",
        );
        for ((severity, reason), count) in &self.problems {
            line(
                out,
                &format!("sluicegate_config_problems{{severity=\"{severity}\",reason=\"{reason}\"}}"),
                count,
            );
        }
        single(
            out,
            "sluicegate_config_compiles_total",
            "counter",
            "Tables compiled and published.",
            &self.compiles,
        );
        single(
            out,
            "sluicegate_config_compile_seconds_total",
            "counter",
            "Time spent compiling and publishing.",
            &self.compile_time.as_secs_f64(),
        );
        single(
            out,
            "sluicegate_config_last_compile_timestamp_seconds",
            "gauge",
            "When the table in use was compiled; 0 before the first.",
            &seconds(self.last_compile),
        );
        single(
            out,
            "sluicegate_config_last_success_timestamp_seconds",
            "gauge",
            "When a table was last compiled from a configuration without errors; 0 if never.",
            &seconds(self.last_clean),
        );
        single(
            out,
            "sluicegate_config_table_version",
            "gauge",
            "Version of the table in use.",
            &self.version,
        );
    }
}

fn severity_label(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn seconds(time: Option<SystemTime>) -> f64 {
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0.0, |time| time.as_secs_f64())
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: &dyn std::fmt::Display) {
    head(out, name, kind, help);
    line(out, name, value);
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, series: &str, value: &dyn std::fmt::Display) {
    let _ = writeln!(out, "{series} {value}");
}

#[cfg(test)]
mod tests {
    use config::report::{Kind, SourceLocation};

    use super::*;

    fn problem(name: &str, line: u32, severity: Severity) -> Problem {
        Problem {
            object: ObjectRef { kind: Kind::Ingress, namespace: "shop".into(), name: name.into() },
            location: Some(SourceLocation { file: "a.yaml".into(), line }),
            field: "spec".to_owned(),
            severity,
            reason: "BadPort",
            message: "port is not a number".to_owned(),
        }
    }

    fn report(problems: &[Problem]) -> Arc<Report> {
        Arc::new(Report { problems: problems.to_vec() })
    }

    #[test]
    fn problem_is_told_once_when_it_appears_and_once_when_it_is_gone() {
        let mut log = ProblemLog::default();
        assert_eq!(log.update(&report(&[problem("web", 3, Severity::Error)])), (1, 0));
        assert_eq!(log.update(&report(&[problem("web", 3, Severity::Error)])), (0, 0));
        assert_eq!(log.update(&report(&[])), (0, 1));
    }

    #[test]
    fn problem_that_moved_to_another_line_is_the_same() {
        let mut log = ProblemLog::default();
        log.update(&report(&[problem("web", 3, Severity::Error)]));
        assert_eq!(log.update(&report(&[problem("web", 4, Severity::Error)])), (0, 0));
    }

    #[test]
    fn gauges_count_by_severity_and_reason() {
        let metrics = Arc::new(ControlMetrics::default());
        let problems = [
            problem("a", 1, Severity::Error),
            problem("b", 1, Severity::Error),
            problem("c", 1, Severity::Warning),
        ];
        metrics.compiled(
            &report(&problems),
            7,
            Duration::from_millis(2),
            UNIX_EPOCH + Duration::from_secs(9),
        );
        let mut text = String::new();
        metrics.render_metrics(&mut text);
        assert!(
            text.contains("sluicegate_config_problems{severity=\"error\",reason=\"BadPort\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains("sluicegate_config_problems{severity=\"warning\",reason=\"BadPort\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("sluicegate_config_table_version 7\n"), "{text}");
        assert!(text.contains("sluicegate_config_last_compile_timestamp_seconds 9\n"), "{text}");
        assert!(text.contains("sluicegate_config_last_success_timestamp_seconds 0\n"), "{text}");
    }
}
