//! The report as Markdown: wins and losses first, then each scenario, then the machine. Pure: from runs to text.

use std::fmt::Write as _;

use super::agreement::{self, Agreement};
use super::chart::{self, Bar, Shade};
use super::record::Run;
use super::summary::{OURS, Role, Row, Summary, Verdict, title};
use super::text::{NOTHING, cell, code, interval, markdown, number, percent, row, slug, unit};

/// The files of a report: name → content.
pub type Files = Vec<(String, String)>;

/// The page and its charts. `raw` names the file of each run, `in_process` is a section of its own.
#[must_use]
pub fn files(runs: &[Run], raw: &[String], in_process: &str) -> Files {
    let scenarios = scenarios(runs);
    let mut page = String::new();
    overview(&mut page, &scenarios);
    let mut files = vec![("wins-and-losses.svg".to_owned(), ratios(&scenarios))];
    let agreements = agreements(runs);
    for scenario in &scenarios {
        section(&mut page, scenario, &agreements);
        if has_figures(scenario) {
            files.push((chart_name(scenario), figures(scenario)));
        }
    }
    page.push_str(in_process);
    page.push_str("\n# How it was measured\n\n");
    page.push_str(METHOD);
    for (run, raw) in runs.iter().zip(raw) {
        machine(&mut page, run, raw);
    }
    files.insert(0, ("README.md".to_owned(), page));
    files
}

const METHOD: &str = "\
Each proxy is alone on its CPUs; load and backends, which check every byte, are on the others, and half of the rounds swap \
them. A round runs every proxy once, and the order alternates. A figure is a median of rounds; a ratio is taken within a \
round, and its median is told with a 95 % interval (percentile bootstrap, 2,000 resamples of rounds). A round in which the \
host, other processes or a busy load got in the way is thrown away and told. With fewer than five rounds nobody has won. \
The relay passes bytes on without a look at them; it and what is made of libraries (`hyper`, `pingora`) are controls, and \
`-lean` peers set fewer headers: none of them is the best peer. [All of it](../benchmarks.md), and \
[every configuration](../../benches/peers).

";

/// One of each name and number of workers, in order; that of the last run that has it.
fn scenarios(runs: &[Run]) -> Vec<Summary> {
    let mut list: Vec<Summary> = Vec::new();
    for measured in runs.iter().flat_map(|run| &run.scenarios) {
        let summary = Summary::of(measured);
        match list.iter_mut().find(|known| known.title() == summary.title()) {
            Some(known) => *known = summary,
            None => list.push(summary),
        }
    }
    list
}

/// Of the last two runs.
fn agreements(runs: &[Run]) -> Vec<Agreement> {
    match runs {
        [.., a, b] => agreement::compare(a, b),
        [_] | [] => Vec::new(),
    }
}

fn overview(page: &mut String, scenarios: &[Summary]) {
    let verdicts: Vec<Verdict> = scenarios.iter().filter_map(verdict).collect();
    let count = |of| verdicts.iter().filter(|verdict| **verdict == of).count();
    let _ = write!(
        page,
        "# Benchmarks\n\nsluicegate beside the best other proxy. Wins: {}, losses: {}, ties: {}, without a verdict: {}. Less is \
         better; the ratio is ours to theirs in the same round, with its 95 % interval.\n\n",
        count(Verdict::Win),
        count(Verdict::Loss),
        count(Verdict::Tie),
        scenarios.len() - verdicts.len() + count(Verdict::TooFew)
    );
    page.push_str("| scenario | ours | best other | ratio | |\n|---|---|---|---|---|\n");
    for scenario in scenarios {
        page.push_str(&row(overview_cells(scenario).iter().map(String::as_str)));
    }
    page.push_str("\n![Ratio to the best other proxy, by scenario](wins-and-losses.svg)\n");
}

fn overview_cells(scenario: &Summary) -> [String; 5] {
    let symbol = unit(scenario.unit).1;
    let ours = scenario.row(OURS).and_then(|row| row.figure);
    // Where there is no other proxy, it is about what a variant of our own costs.
    let (other, ratio) = match (&scenario.best, &scenario.against) {
        (Some(best), _) => {
            (format!("{} {} {symbol}", markdown(&best.name), number(best.figure)), best.ratio.as_ref())
        }
        (None, Some((name, ratio))) => (format!("none; {}", markdown(name)), Some(ratio)),
        (None, None) => (NOTHING.to_owned(), None),
    };
    [
        format!("[{}](#{})", markdown(&scenario.title()), slug(&scenario.title())),
        ours.map_or_else(|| no_figure(scenario), |figure| format!("{} {symbol}", number(figure.median))),
        other,
        cell(ratio, interval),
        verdict(scenario).map_or_else(|| NOTHING.to_owned(), |verdict| format!("**{}**", verdict.text())),
    ]
}

fn verdict(scenario: &Summary) -> Option<Verdict> {
    scenario.best.as_ref()?.ratio.as_ref().map(Verdict::of)
}

fn no_figure(scenario: &Summary) -> String {
    let has_failed = scenario.row(OURS).is_some_and(|row| !row.failed.is_empty());
    if has_failed { "**failed**".to_owned() } else { NOTHING.to_owned() }
}

fn has_figures(scenario: &Summary) -> bool {
    scenario.rows.iter().any(|row| row.figure.is_some())
}

fn chart_name(scenario: &Summary) -> String {
    format!("scenario-{}.svg", slug(&scenario.title()))
}

fn section(page: &mut String, scenario: &Summary, agreements: &[Agreement]) {
    let (what, symbol) = unit(scenario.unit);
    let title = scenario.title();
    let _ = write!(page, "\n## {}\n\n{}\n\n", markdown(&title), markdown(&scenario.about));
    if has_figures(scenario) {
        let _ = write!(page, "![{}: {what}]({})\n\n", markdown(&title), chart_name(scenario));
    }
    let _ = writeln!(page, "| proxy | {what}, {symbol} | × relay | ours to it |\n|---|---|---|---|");
    for line in &scenario.rows {
        let cells = [
            name(line),
            cell(line.figure.as_ref(), interval),
            cell(line.to_relay.as_ref(), interval),
            cell(line.ours_to_it.as_ref(), interval),
        ];
        page.push_str(&row(cells.iter().map(String::as_str)));
    }
    waits(page, scenario);
    if has_figures(scenario) {
        let noise = scenario.noise;
        let (steal, others, idle) = (percent(noise.steal), percent(noise.others), percent(noise.load_idle));
        let _ = writeln!(
            page,
            "\nThe worst round that counts: steal {steal}, others {others}, load idle {idle}."
        );
    }
    if let Some((name, ratio)) = &scenario.against {
        let _ = writeln!(page, "\nAgainst {}: **{}**.", code(name), interval(ratio));
    }
    for agreement in agreements.iter().filter(|agreement| agreement.title() == title) {
        let _ = writeln!(page, "\nRun twice: {}.", markdown(&agreement.text()));
    }
    not_counted(page, scenario);
}

/// Latencies and rounds.
fn waits(page: &mut String, scenario: &Summary) {
    page.push_str(
        "\n| proxy | p50, µs | p99, µs | max, µs | per second | rounds: good, thrown away, failed |\n",
    );
    page.push_str("|---|---|---|---|---|---|\n");
    for line in &scenario.rows {
        let cells = [
            name(line),
            cell(line.p50, number),
            cell(line.p99, number),
            cell(line.max, number),
            cell(line.per_second, number),
            format!("{}, {}, {}", line.good, line.thrown_away.len(), line.failed.len()),
        ];
        page.push_str(&row(cells.iter().map(String::as_str)));
    }
}

fn name(line: &Row) -> String {
    match line.role {
        Role::Ours => format!("**{}**", markdown(&line.name)),
        Role::Variant | Role::Floor | Role::Control | Role::Lean | Role::Peer => markdown(&line.name),
    }
}

/// Each round that does not count, and why.
fn not_counted(page: &mut String, scenario: &Summary) {
    let mut lines = Vec::new();
    for line in &scenario.rows {
        for (what, list) in [("thrown away", &line.thrown_away), ("failed", &line.failed)] {
            let told = list.iter().map(|(number, why)| (number, &line.name, what, why));
            lines.extend(told);
        }
    }
    lines.sort_unstable();
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(page, "\n<details><summary>Not counted: {}</summary>\n", lines.len());
    for (number, name, what, why) in lines {
        let _ = writeln!(page, "- round {number}, {}, {what}: {}", markdown(name), markdown(why));
    }
    page.push_str("\n</details>\n");
}

fn machine(page: &mut String, run: &Run, raw: &str) {
    let machine = &run.machine;
    // Where the binary was is of no use to anybody else.
    let arguments: Vec<&str> = run.command.iter().skip(1).map(String::as_str).collect();
    let command = format!("cargo run --release -p benches -- {}", arguments.join(" "));
    let gigabytes = machine.memory as f64 / f64::from(1_u32 << 30);
    let _ = write!(
        page,
        "## Run of {}\n\n- again: {}, which took {:.0} minutes\n- commit: {}\n- machine: {}, {} CPUs, {gigabytes:.1} GiB, \
         Linux {}\n- every round: [{raw}]({raw})\n",
        markdown(&run.began),
        code(&command),
        run.seconds / 60.0,
        code(&machine.commit),
        markdown(&machine.cpu),
        machine.cpus,
        markdown(&machine.kernel)
    );
    for (name, command) in &run.absent {
        let _ = writeln!(page, "- not there: {}; {} installs it", markdown(name), code(command));
    }
    page.push_str("\n| setting or version | |\n|---|---|\n");
    for (name, value) in machine.sysctls.iter().chain(&machine.versions) {
        page.push_str(&row([code(name).as_str(), &markdown(value)]));
    }
    page.push('\n');
}

/// Wins and losses at one look.
fn ratios(scenarios: &[Summary]) -> String {
    let bar = |scenario: &Summary| {
        let ratio = scenario.best.as_ref()?.ratio?;
        let verdict = Verdict::of(&ratio);
        let shade = match verdict {
            Verdict::Win => Shade::Ours,
            Verdict::Loss => Shade::Loss,
            Verdict::Tie | Verdict::TooFew => Shade::Faint,
        };
        let text = format!("{}, {}", interval(&ratio), verdict.text());
        Some(Bar {
            label: scenario.title(),
            text,
            value: ratio.median,
            low: ratio.low,
            high: ratio.high,
            shade,
        })
    };
    let bars: Vec<Bar> = scenarios.iter().filter_map(bar).collect();
    let description = bars.iter().map(|bar| format!("{}: {}. ", bar.label, bar.text)).collect::<String>();
    chart::ratios("Ours to the best other (left is better)", description.trim_end(), &bars)
}

fn figures(scenario: &Summary) -> String {
    let (what, symbol) = unit(scenario.unit);
    let bar = |line: &Row| {
        let figure = line.figure?;
        let shade = match line.role {
            Role::Ours => Shade::Ours,
            Role::Peer => Shade::Other,
            Role::Variant | Role::Floor | Role::Control | Role::Lean => Shade::Faint,
        };
        let text = format!("{} {symbol}", interval(&figure));
        Some(Bar {
            label: line.name.clone(),
            text,
            value: figure.median,
            low: figure.low,
            high: figure.high,
            shade,
        })
    };
    let bars: Vec<Bar> = scenario.rows.iter().filter_map(bar).collect();
    let description = bars.iter().map(|bar| format!("{}: {}. ", bar.label, bar.text)).collect::<String>();
    let description = format!("{what}; less is better. {description}");
    chart::bars(&title(&scenario.name, scenario.workers), description.trim_end(), &bars)
}
