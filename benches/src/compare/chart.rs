//! Charts as SVG text: narrow enough for a phone, letters of 12 px and more, on a background of their own so that they can
//! be read in a dark page, and with a description for those who do not see them. Pure.

use std::fmt::Write as _;

use super::text::{number, thousands, xml};

/// Width of each chart, in its own pixels.
pub const WIDTH: f64 = 380.0;

const MARGIN: f64 = 14.0;
const HEAD: f64 = 48.0;
const ROW: f64 = 38.0;
const BAR: f64 = 12.0;

/// What a bar stands for, which gives its colour; the text beside it says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shade {
    /// Ours, or a win.
    Ours,
    /// A peer.
    Other,
    /// What is there for orientation, or a tie.
    Faint,
    /// A loss.
    Loss,
}

impl Shade {
    fn colour(self) -> &'static str {
        match self {
            Self::Ours => "#1f6feb",
            Self::Other => "#6e7781",
            Self::Faint => "#b6bec7",
            Self::Loss => "#cf222e",
        }
    }
}

/// One bar with its interval.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Whose it is.
    pub label: String,
    /// What is said at its right.
    pub text: String,
    /// Its length.
    pub value: f64,
    /// Where its interval begins.
    pub low: f64,
    /// Where its interval ends.
    pub high: f64,
    /// Its colour.
    pub shade: Shade,
}

/// Bars from 0, the first one at the top.
#[must_use]
pub fn bars(title: &str, description: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value.max(bar.high)).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let scale = if most > 0.0 { (WIDTH - 2.0 * MARGIN) / most } else { 0.0 };
    let at = |value: f64| MARGIN + (value * scale).clamp(0.0, WIDTH - 2.0 * MARGIN);
    let mut drawing = String::new();
    for (top, bar) in tops().zip(bars) {
        draw(&mut drawing, top, bar, MARGIN, at);
    }
    frame(title, description, HEAD + ROW * bars.len() as f64, &drawing)
}

/// Ratios, as bars from 1: to the left what is less, to the right what is more, on a logarithmic axis.
#[must_use]
pub fn ratios(title: &str, description: &str, bars: &[Bar]) -> String {
    let ends = bars.iter().flat_map(|bar| [bar.value, bar.low, bar.high]);
    let far = ends.filter(|end| *end > 0.0 && end.is_finite()).map(|end| end.log2().abs());
    // As many doublings as needed to each side, and at least one.
    let doublings = far.fold(1.0, f64::max).ceil();
    let middle = WIDTH / 2.0;
    let step = (middle - MARGIN) / doublings;
    // What is not positive is as far to the left as can be.
    let at = |value: f64| match value {
        _ if value > 0.0 => middle + (value.log2() * step).clamp(MARGIN - middle, middle - MARGIN),
        _ => MARGIN,
    };
    let bottom = HEAD + ROW * bars.len() as f64;
    let mut drawing = String::new();
    for doubling in ticks(doublings) {
        let (x, value) = (middle + doubling * step, doubling.exp2());
        let colour = if doubling == 0.0 { "#24292f" } else { "#d0d7de" };
        line(&mut drawing, (x, HEAD - 8.0), (x, bottom), colour);
        let anchor = if x < 30.0 {
            "start"
        } else if x > WIDTH - 30.0 {
            "end"
        } else {
            "middle"
        };
        words(&mut drawing, (x, bottom + 14.0), anchor, &format!("{} ×", number(value)));
    }
    for (top, bar) in tops().zip(bars) {
        draw(&mut drawing, top, bar, middle, at);
    }
    frame(title, description, bottom + 14.0, &drawing)
}

/// A line of a chart with two logarithmic axes.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is.
    pub label: String,
    /// Size and cost; what is not positive is left out.
    pub points: Vec<(f64, f64)>,
}

const COLOURS: [&str; 7] = ["#1f6feb", "#cf222e", "#1a7f37", "#8250df", "#9a6700", "#0e8a8a", "#57606a"];
const PLOT: f64 = 300.0;

/// Lines over sizes, each with a number at its end that the legend explains. `value` names a cost.
#[must_use]
pub fn logarithmic(title: &str, description: &str, list: &[Series], value: impl Fn(f64) -> String) -> String {
    let all = || list.iter().flat_map(|series| &series.points).filter(|(x, y)| *x > 0.0 && *y > 0.0);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let logs = || all().map(of).map(f64::log10);
        let (low, high) = (logs().fold(f64::INFINITY, f64::min), logs().fold(f64::NEG_INFINITY, f64::max));
        // Whole powers of ten, and one at least.
        if low <= high { (low.floor(), high.ceil().max(low.floor() + 1.0)) } else { (0.0, 1.0) }
    };
    let ((x0, x1), (y0, y1)) = (range(|point| point.0), range(|point| point.1));
    let (left, right, bottom) = (MARGIN + 46.0, WIDTH - MARGIN - 16.0, HEAD + PLOT);
    let x = |size: f64| left + (size.log10() - x0) / (x1 - x0) * (right - left);
    let y = |cost: f64| bottom - (cost.log10() - y0) / (y1 - y0) * PLOT;
    let mut drawing = String::new();
    for power in powers(x0, x1) {
        line(&mut drawing, (x(power), HEAD), (x(power), bottom), "#d0d7de");
        words(&mut drawing, (x(power), bottom + 16.0), "middle", &thousands(power));
    }
    for power in powers(y0, y1) {
        line(&mut drawing, (left, y(power)), (right, y(power)), "#d0d7de");
        words(
            &mut drawing,
            (left - 4.0, y(power) + 4.0),
            "end",
            &value(power).replace(".00", "").replace(".0", ""),
        );
    }
    let mut ends = Vec::new();
    for (number, series) in (1..).zip(list) {
        let points = series.points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0);
        let points: Vec<(f64, f64)> = points.map(|(size, cost)| (x(*size), y(*cost))).collect();
        polyline(&mut drawing, &points, colour(number));
        ends.extend(points.last().map(|(x, y)| (x + 4.0, *y + 4.0, number)));
    }
    apart(&mut ends, bottom);
    for (x, y, number) in ends {
        words(&mut drawing, (x, y), "start", &number.to_string());
    }
    let legend = bottom + 40.0;
    for (number, series) in (1..).zip(list) {
        let top = legend + 18.0 * f64::from(number - 1);
        line(&mut drawing, (MARGIN, top - 4.0), (MARGIN + 20.0, top - 4.0), colour(number));
        words(&mut drawing, (MARGIN + 28.0, top), "start", &format!("{number}  {}", series.label));
    }
    frame(title, description, legend + 18.0 * list.len() as f64 - 8.0, &drawing)
}

/// The powers of ten from one exponent to another.
fn powers(from: f64, to: f64) -> impl Iterator<Item = f64> {
    (0..=(to - from) as i32).map(move |step| 10_f64.powf(from + f64::from(step)))
}

fn colour(number: u16) -> &'static str {
    COLOURS.get(usize::from(number - 1) % COLOURS.len()).copied().unwrap_or("#24292f")
}

/// Moves numbers that would cover each other: down from the top, and up again from `bottom`.
fn apart(ends: &mut [(f64, f64, u16)], bottom: f64) {
    ends.sort_unstable_by(|a, b| a.1.total_cmp(&b.1));
    let mut least = f64::NEG_INFINITY;
    for end in ends.iter_mut() {
        end.1 = end.1.max(least);
        least = end.1 + 12.0;
    }
    let mut most = bottom;
    for end in ends.iter_mut().rev() {
        end.1 = end.1.min(most);
        most = end.1 - 12.0;
    }
}

fn polyline(drawing: &mut String, points: &[(f64, f64)], colour: &str) {
    let text: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let text = text.join(" ");
    let _ =
        writeln!(drawing, r#"<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="2"/>"#);
}

/// Where rows begin.
fn tops() -> impl Iterator<Item = f64> {
    (0..).map(|row| HEAD + ROW * f64::from(row))
}

/// At most two ticks on each side of 1.
fn ticks(doublings: f64) -> Vec<f64> {
    let half = (doublings / 2.0).ceil();
    let mut ticks = vec![-doublings, -half, 0.0, half, doublings];
    ticks.dedup();
    ticks
}

/// A row: words above, the bar and its interval below.
fn draw(drawing: &mut String, top: f64, bar: &Bar, from: f64, at: impl Fn(f64) -> f64) {
    words(drawing, (MARGIN, top + 12.0), "start", &bar.label);
    words(drawing, (WIDTH - MARGIN, top + 12.0), "end", &bar.text);
    let (end, low, high) = (at(bar.value), at(bar.low), at(bar.high));
    let (left, width) = (from.min(end), (end - from).abs().max(1.0));
    let (y, middle) = (top + 17.0, top + 17.0 + BAR / 2.0);
    let colour = bar.shade.colour();
    let _ = writeln!(
        drawing,
        r#"<rect x="{left:.1}" y="{y:.1}" width="{width:.1}" height="{BAR:.1}" fill="{colour}"/>"#
    );
    line(drawing, (low, middle), (high, middle), "#24292f");
    for end in [low, high] {
        line(drawing, (end, middle - 4.0), (end, middle + 4.0), "#24292f");
    }
}

/// A line between two points.
pub(super) fn line(drawing: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        drawing,
        r#"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" stroke="{colour}" stroke-width="1.5"/>"#
    );
}

/// Text at a point, which is its `start`, `middle` or `end`; what is below it is cleared.
pub(super) fn words(drawing: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    let ((x, y), text) = (at, xml(text));
    let _ = writeln!(
        drawing,
        r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" stroke="#ffffff" stroke-width="4" paint-order="stroke">{text}</text>"##
    );
}

/// The whole of a chart: its size, its description, its background and its title.
pub(super) fn frame(title: &str, description: &str, height: f64, drawing: &str) -> String {
    let (title, description, height) = (xml(title), xml(description), height + MARGIN);
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="12" fill="#24292f">
<title id="title">{title}</title>
<desc id="desc">{description}</desc>
<rect width="{WIDTH}" height="{height}" rx="6" fill="#ffffff"/>
<text x="{MARGIN}" y="24" font-size="14" font-weight="bold">{title}</text>
{drawing}</svg>
"##
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn bar(label: &str, value: f64, low: f64, high: f64) -> Bar {
        Bar { label: label.to_owned(), text: number(value), value, low, high, shade: Shade::Other }
    }

    /// Every element is closed in order, every attribute quoted, every `&` one of an entity, and there is one root.
    pub(crate) fn assert_well_formed(svg: &str) {
        let mut open: Vec<&str> = Vec::new();
        let (mut rest, mut roots) = (svg.trim(), 0);
        while !rest.is_empty() {
            let (text, tail) = rest.split_once('<').unwrap_or((rest, ""));
            assert!(!text.contains('>'), "a stray > in {text:?}");
            assert!(text.trim().is_empty() || !open.is_empty(), "text outside of the root: {text:?}");
            assert_entities(text);
            if tail.is_empty() {
                break;
            }
            let (tag, after) = tail.split_once('>').unwrap();
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "closed out of order");
                continue;
            }
            roots += usize::from(open.is_empty());
            let body = tag.strip_suffix('/').unwrap_or(tag);
            let (name, attributes) = body.split_once(' ').unwrap_or((body, ""));
            assert!(!name.is_empty() && name.chars().all(char::is_alphanumeric), "{name:?} is no name");
            let parts: Vec<&str> = attributes.split('"').collect();
            assert!(parts.len() % 2 == 1, "an open quote in {tag:?}");
            for pair in parts.chunks(2) {
                let [key, value] = pair else { continue };
                assert!(key.trim().ends_with('='), "an attribute without a value in {tag:?}");
                assert_entities(value);
            }
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
        assert_eq!(roots, 1, "there must be one root");
    }

    fn assert_entities(text: &str) {
        for after in text.split('&').skip(1) {
            let entity = after.split(';').next().unwrap();
            assert!(["lt", "gt", "amp", "quot"].contains(&entity), "a stray & before {after:?}");
        }
    }

    /// The numbers of an attribute, wherever it is.
    fn numbers(svg: &str, attribute: &str) -> Vec<f64> {
        let mark = format!(" {attribute}=\"");
        svg.split(&mark).skip(1).filter_map(|rest| rest.split('"').next()?.parse().ok()).collect()
    }

    #[test]
    fn charts_are_well_formed_and_described() {
        let list = [bar("a <b> & \"c\"", 3.0, 2.5, 3.5), bar("d", 0.0, 0.0, 0.0), bar("e", -1.0, -2.0, 1.0)];
        for svg in [bars("A & B", "What <it> says", &list), ratios("A & B", "What <it> says", &list)] {
            assert_well_formed(&svg);
            assert!(svg.contains("<title id=\"title\">A &amp; B</title>"), "{svg}");
            assert!(svg.contains("<desc id=\"desc\">What &lt;it&gt; says</desc>"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert_well_formed(&bars("None", "Nothing", &[]));
        assert_well_formed(&ratios("None", "Nothing", &[]));
    }

    #[test]
    fn charts_can_be_read_on_a_phone_and_in_the_dark() {
        let svg = ratios("Ratios", "-", &[bar("a", 0.13, 0.1, 0.2), bar("b", 40.0, 30.0, 50.0)]);
        assert!(svg.contains("viewBox=\"0 0 380 "), "{svg}");
        assert!(numbers(&svg, "font-size").iter().all(|size| *size >= 12.0), "{svg}");
        assert!(svg.contains("fill=\"#ffffff\"/>"), "a background of its own: {svg}");
        assert!(numbers(&svg, "x").iter().all(|x| (0.0..=WIDTH).contains(x)), "{svg}");
    }

    #[test]
    fn lengths_are_in_proportion() {
        let svg = bars("Lengths", "-", &[bar("a", 10.0, 9.0, 20.0), bar("b", 5.0, 5.0, 5.0)]);
        let widths = numbers(&svg, "width");
        let [_, _, a, b] = widths[..] else { panic!("{widths:?}") };
        assert!((a - (WIDTH - 28.0) / 2.0).abs() < 0.1 && (a / b - 2.0).abs() < 0.01, "{widths:?}");
    }

    #[test]
    fn less_than_one_is_to_the_left() {
        let svg = ratios("Ratios", "-", &[bar("a", 0.5, 0.4, 0.6), bar("b", 2.0, 1.9, 2.1)]);
        let lefts: Vec<f64> = svg
            .lines()
            .filter(|line| line.starts_with("<rect x"))
            .flat_map(|line| numbers(line, "x"))
            .collect();
        assert!(lefts[0] < WIDTH / 2.0 && (lefts[1] - WIDTH / 2.0).abs() < 0.1, "{lefts:?}");
    }
}
