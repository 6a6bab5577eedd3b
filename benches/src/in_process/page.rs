//! Growth as Markdown and as a chart with two logarithmic axes. Pure.

use std::fmt::Write as _;

use super::growth::{Curve, Growth, Point};
use crate::compare::chart::{self, Series};
use crate::compare::text::{NOTHING, cell, code, markdown, number, row};

/// Nanoseconds, in the unit that fits.
#[must_use]
pub fn time(nanos: f64) -> String {
    let (scale, symbol) = match nanos {
        _ if nanos < 1e3 => (1.0, "ns"),
        _ if nanos < 1e6 => (1e3, "µs"),
        _ if nanos < 1e9 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    format!("{} {symbol}", number(nanos / scale))
}

/// The section of the report of everything.
#[must_use]
pub fn section(growth: &Growth) -> String {
    let mut section = String::from("\n## In process: how cost grows\n\n");
    section.push_str(&overview(growth));
    section.push_str("\n![Cost by size, both logarithmic](growth.svg)\n\n[Every size](growth.md)\n");
    section
}

/// `growth.md`.
#[must_use]
pub fn page(growth: &Growth) -> String {
    let mut page = String::from(
        "# How cost grows\n\nParts of the gateway, timed in process on one thread, medians of batches. Each \
         checked its answers first. The exponent is the slope of a line through cost over size, both as logarithms, by \
         least squares: 0 is constant, 1 in proportion.\n\n",
    );
    page.push_str(&overview(growth));
    page.push_str("\n![Cost by size, both logarithmic](growth.svg)\n");
    for curve in &growth.curves {
        let _ = write!(page, "\n## {}\n\n{}\n\n", markdown(&curve.name), markdown(&curve.about));
        let _ =
            writeln!(page, "| {} | median | 99th percentile | batches |\n|---|---|---|---|", curve.counts);
        for point in &curve.points {
            let cells = [
                number_of(point.size),
                time(point.median),
                time(point.p99),
                format!("{} of {}", point.batches, point.per_batch),
            ];
            page.push_str(&row(cells.iter().map(String::as_str)));
        }
    }
    let machine = &growth.machine;
    let command = format!("cargo run --release -p benches -- {}", growth.arguments.join(" "));
    let _ = write!(
        page,
        "\n## Measured\n\n- again: {}\n- at {}\n- commit: {}\n- machine: {}, {} CPUs, Linux {}\n- [raw data](growth.json)\n",
        code(&command),
        markdown(&growth.began),
        code(&machine.commit),
        markdown(&machine.cpu),
        machine.cpus,
        markdown(&machine.kernel)
    );
    page
}

fn number_of(size: usize) -> String {
    if size < 100 { size.to_string() } else { number(size as f64) }
}

fn overview(growth: &Growth) -> String {
    let mut table =
        String::from("| | smallest | largest | exponent | at most | |\n|---|---|---|---|---|---|\n");
    for curve in &growth.curves {
        let end = |point: Option<&Point>| {
            cell(point, |point| format!("{} at {}", time(point.median), number_of(point.size)))
        };
        let verdict = match curve.exponent() {
            None => NOTHING,
            Some(_) if curve.holds() => "holds",
            Some(_) => "**grows more**",
        };
        let cells = [
            format!("{}, by {}", markdown(&curve.name), markdown(&curve.counts)),
            end(curve.points.first()),
            end(curve.points.last()),
            cell(curve.exponent(), |exponent| format!("{exponent:.2}")),
            curve.at_most.to_string(),
            verdict.to_owned(),
        ];
        table.push_str(&row(cells.iter().map(String::as_str)));
    }
    table
}

/// `growth.svg`.
#[must_use]
pub fn chart(growth: &Growth) -> String {
    let series = |curve: &Curve| {
        let exponent = cell(curve.exponent(), |exponent| format!("{exponent:.2}"));
        Series {
            label: format!("{}: exponent {exponent}", curve.name),
            points: curve.points.iter().map(|point| (point.size as f64, point.median)).collect(),
        }
    };
    let list: Vec<Series> = growth.curves.iter().map(series).collect();
    let described = |curve: &Curve| {
        let points = curve.points.iter().map(|point| format!("{} at {}", time(point.median), point.size));
        format!("{}: {}. ", curve.name, points.collect::<Vec<_>>().join(", "))
    };
    let description: String = growth.curves.iter().map(described).collect();
    chart::logarithmic("Cost by size", description.trim_end(), &list, time)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compare::chart::tests::assert_well_formed;
    use crate::compare::record::Machine;
    use crate::in_process::growth;

    fn curve(name: &str, at_most: f64, cost: impl Fn(f64) -> f64) -> Curve {
        let point = |size: usize| {
            let median = cost(size as f64);
            Point { size, median, p99: 2.0 * median, batches: 11, per_batch: 1 }
        };
        Curve {
            name: name.to_owned(),
            about: "What <it> does.".to_owned(),
            counts: "hosts".to_owned(),
            at_most,
            points: [10, 100, 1_000, 10_000].map(point).into(),
        }
    }

    fn growth() -> Growth {
        let machine = Machine {
            commit: "0123456789abcdef".to_owned(),
            kernel: "6.18.0".to_owned(),
            cpu: "A CPU".to_owned(),
            cpus: 2,
            memory: 1 << 30,
            sysctls: BTreeMap::new(),
            versions: BTreeMap::new(),
        };
        let curves = vec![curve("flat", 0.5, |_| 32.0), curve("line", 0.5, |size| 64.0 * size)];
        let arguments = vec!["growth".to_owned()];
        Growth { arguments, began: "2026-01-02T03:04:05Z".to_owned(), machine, curves }
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        assert_eq!([12.0, 1_500.0, 2e7, 3e9].map(time), ["12.0 ns", "1.50 µs", "20.0 ms", "3.00 s"]);
    }

    #[test]
    fn what_grows_more_than_it_may_is_told() {
        let page = page(&growth());
        assert!(
            page.contains("| flat, by hosts | 32.0 ns at 10 | 32.0 ns at 10,000 | 0.00 | 0.5 | holds |\n"),
            "{page}"
        );
        assert!(
            page.contains(
                "| line, by hosts | 640 ns at 10 | 640 µs at 10,000 | 1.00 | 0.5 | **grows more** |\n"
            ),
            "{page}"
        );
        assert!(page.contains("\n| 1,000 | 64.0 µs | 128 µs | 11 of 1 |\n"), "{page}");
    }

    #[test]
    fn the_chart_is_xml_with_a_line_for_each() {
        let svg = chart(&growth());
        assert_well_formed(&svg);
        assert_eq!(svg.matches("<polyline ").count(), 2, "{svg}");
        assert!(svg.contains("line: 640 ns at 10, "), "{svg}");
        assert_well_formed(&chart(&Growth { curves: Vec::new(), ..growth() }));
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(growth::read(folder.path()).unwrap(), None);
        growth::write(&growth(), folder.path()).unwrap();
        assert_eq!(growth::read(folder.path()).unwrap(), Some(growth()));
        std::fs::write(folder.path().join("growth.json"), "{}").unwrap();
        assert!(growth::read(folder.path()).is_err());
    }
}
