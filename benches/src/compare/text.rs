//! Numbers and names as a report shows them. Pure.

use super::bootstrap::Estimate;
use super::record::Unit;

/// What a figure of this unit is of, and its symbol.
#[must_use]
pub fn unit(unit: Unit) -> (&'static str, &'static str) {
    match unit {
        Unit::CpuMicrosPerRequest => ("CPU time of the proxy per request", "µs"),
        Unit::CpuMillisPerGigabyte => ("CPU time of the proxy per gigabyte", "ms"),
        Unit::BytesEach => ("memory of the proxy for each", "B"),
        Unit::Millis => ("time", "ms"),
        Unit::LatencyMicros => ("99th percentile of what a client waited", "µs"),
    }
}

/// Three digits that count, or all before the point.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size == 0.0 => "0".to_owned(),
        _ if size < 0.1 => format!("{value:.3}"),
        _ if size < 9.995 => format!("{value:.2}"),
        _ if size < 99.95 => format!("{value:.1}"),
        _ => thousands(value),
    }
}

/// Without decimals, digits in groups of three.
#[must_use]
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A median and its interval.
#[must_use]
pub fn interval(estimate: &Estimate) -> String {
    format!("{} ({}–{})", number(estimate.median), number(estimate.low), number(estimate.high))
}

/// A share from 0 to 1.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// What stands in a table where there is nothing.
pub const NOTHING: &str = "–";

/// What `of` makes of a value, or [`NOTHING`].
#[must_use]
pub fn cell<T>(value: Option<T>, of: impl Fn(T) -> String) -> String {
    value.map_or_else(|| NOTHING.to_owned(), of)
}

/// In a line or a table of Markdown: text from elsewhere can neither end a cell nor be markup.
#[must_use]
pub fn markdown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => safe.extend(['\\', letter]),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            _ if letter.is_control() => safe.push(' '),
            _ => safe.push(letter),
        }
    }
    safe
}

/// As code in Markdown.
#[must_use]
pub fn code(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() || c == '`' { ' ' } else { c }).collect();
    format!("`{}`", text.replace('|', "\\|"))
}

/// In the text of an XML element, or a quoted attribute.
#[must_use]
pub fn xml(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            _ if letter.is_control() => safe.push(' '),
            _ => safe.push(letter),
        }
    }
    safe
}

/// The anchor that a renderer of Markdown makes of a heading, which is also safe as a part of a file's name.
#[must_use]
pub fn slug(heading: &str) -> String {
    let kept = heading.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        _ if letter.is_alphanumeric() || matches!(letter, '-' | '_') => Some(letter.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

/// Cells of a table row in Markdown.
#[must_use]
pub fn row<'c>(cells: impl IntoIterator<Item = &'c str>) -> String {
    let mut line = String::from("|");
    for cell in cells {
        line.push(' ');
        line.push_str(cell);
        line.push_str(" |");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        for (value, text) in [
            (0.0, "0"),
            (0.0312, "0.031"),
            (0.754, "0.75"),
            (1.0, "1.00"),
            (9.999, "10.0"),
            (12.94, "12.9"),
            (99.97, "100"),
            (1_385.2, "1,385"),
            (47_898.0, "47,898"),
            (1_234_567.0, "1,234,567"),
            (-1_500.0, "-1,500"),
        ] {
            assert_eq!(number(value), text, "{value}");
        }
    }

    #[test]
    fn text_from_elsewhere_is_no_markup() {
        assert_eq!(markdown("a|b\nc <d> `e` _f_"), "a\\|b c &lt;d> \\`e\\` \\_f\\_");
        assert_eq!(code("a`b|c"), "`a b\\|c`");
        assert_eq!(xml("a<b>&\"c\"\n"), "a&lt;b&gt;&amp;&quot;c&quot; ");
    }

    #[test]
    fn slugs_are_anchors_and_safe_names() {
        assert_eq!(slug("small-get, 2 workers"), "small-get-2-workers");
        assert_eq!(slug("../Up `there`"), "up-there");
    }
}
