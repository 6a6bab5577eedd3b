//! Prometheus text exposition format 0.0.4.
//!
//! Writes what it is given: which families exist is decided in `families`, which series in `registry` and
//! `table`.

use std::fmt::{Display, Write};

use super::cells::LATENCY_BOUNDS_US;
use super::families::{Family, FamilyKind};
use super::sums::HistogramSums;

/// Media type of the format, for the response's `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text under construction.
#[derive(Debug)]
pub(super) struct Text<'a> {
    out: &'a mut String,
}

impl<'a> Text<'a> {
    pub(super) const fn new(out: &'a mut String) -> Self {
        Self { out }
    }

    /// Begins a family. All its samples must follow before the next one begins.
    pub(super) fn family(&mut self, family: &Family) {
        let kind = match family.kind {
            FamilyKind::Counter => "counter",
            FamilyKind::Gauge => "gauge",
            FamilyKind::Histogram => "histogram",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# HELP {0} {1}\n# TYPE {0} {kind}", family.name, family.help);
    }

    /// One sample; `labels` is what [`label`] made, joined by commas, or empty.
    pub(super) fn sample(&mut self, family: &Family, labels: &str, value: impl Display) {
        self.line(family.name, "", labels, value);
    }

    /// A family with a single series and no labels.
    pub(super) fn single(&mut self, family: &Family, value: impl Display) {
        self.family(family);
        self.sample(family, "", value);
    }

    /// All lines of one histogram.
    pub(super) fn histogram(&mut self, family: &Family, labels: &str, sums: &HistogramSums) {
        let separator = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (bucket, bound) in sums.buckets.iter().zip(LATENCY_BOUNDS_US) {
            count += bucket;
            let _ = writeln!(
                self.out,
                "{}_bucket{{{labels}{separator}le=\"{}\"}} {count}",
                family.name,
                seconds(bound)
            );
        }
        count += sums.buckets.last().copied().unwrap_or_default();
        let _ = writeln!(self.out, "{}_bucket{{{labels}{separator}le=\"+Inf\"}} {count}", family.name);
        self.line(family.name, "_sum", labels, seconds(sums.sum_us));
        self.line(family.name, "_count", labels, count);
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &str, value: impl Display) {
        let _ = if labels.is_empty() {
            writeln!(self.out, "{name}{suffix} {value}")
        } else {
            writeln!(self.out, "{name}{suffix}{{{labels}}} {value}")
        };
    }
}

/// `name="value"`, with the value escaped.
pub(super) fn label(name: &str, value: &str) -> String {
    let mut out = String::with_capacity(name.len() + value.len() + 3);
    out.push_str(name);
    out.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

/// Microseconds as seconds, exactly and without an exponent.
fn seconds(micros: u64) -> impl Display {
    struct Seconds(u64);
    impl Display for Seconds {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let (whole, mut fraction) = (self.0 / 1_000_000, self.0 % 1_000_000);
            write!(f, "{whole}")?;
            if fraction > 0 {
                let mut digits = 6;
                while fraction.is_multiple_of(10) {
                    fraction /= 10;
                    digits -= 1;
                }
                write!(f, ".{fraction:0digits$}")?;
            }
            Ok(())
        }
    }
    Seconds(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact_decimals() {
        for (micros, text) in
            [(0, "0"), (250, "0.00025"), (1_000_000, "1"), (30_000_001, "30.000001"), (100_000, "0.1")]
        {
            assert_eq!(seconds(micros).to_string(), text);
        }
        assert_eq!(seconds(u64::MAX).to_string(), "18446744073709.551615");
    }

    #[test]
    fn a_label_value_is_escaped() {
        assert_eq!(label("route", "a\"b\\c\nd"), r#"route="a\"b\\c\nd""#);
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_its_count() {
        let family =
            Family { name: "x_seconds", kind: FamilyKind::Histogram, labels: &["route"], help: "Test." };
        let mut sums = HistogramSums::default();
        sums.buckets[0] = 2;
        sums.buckets[14] = 1;
        sums.sum_us = 40_000_500;
        let mut out = String::new();
        Text::new(&mut out).histogram(&family, "route=\"r\"", &sums);
        assert!(out.starts_with("x_seconds_bucket{route=\"r\",le=\"0.00025\"} 2\n"), "{out}");
        assert!(out.contains("x_seconds_bucket{route=\"r\",le=\"30\"} 2\n"), "{out}");
        assert!(
            out.ends_with(concat!(
                "x_seconds_bucket{route=\"r\",le=\"+Inf\"} 3\n",
                "x_seconds_sum{route=\"r\"} 40.0005\n",
                "x_seconds_count{route=\"r\"} 3\n"
            )),
            "{out}"
        );
    }
}
