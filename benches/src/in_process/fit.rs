//! The exponent of growth: the slope of a line through cost over size, both as logarithms, by least squares. Pure.

/// Such that cost grows about as size to the power of this: 0 is constant, 1 in proportion. `None` for fewer than two
/// different sizes, or a size or cost that is not positive.
#[must_use]
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let is_positive =
        |(size, cost): &(f64, f64)| *size > 0.0 && *cost > 0.0 && size.is_finite() && cost.is_finite();
    if points.is_empty() || !points.iter().all(is_positive) {
        return None;
    }
    let count = points.len() as f64;
    let logs: Vec<(f64, f64)> = points.iter().map(|(size, cost)| (size.ln(), cost.ln())).collect();
    let (x, y) = logs.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (top, bottom) = logs.iter().fold((0.0, 0.0), |(top, bottom), point| {
        (top + (point.0 - x) * (point.1 - y), bottom + (point.0 - x).powi(2))
    });
    (bottom > 0.0).then_some(top / bottom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cost: impl Fn(f64) -> f64) -> f64 {
        let sizes = [10.0, 100.0, 1e3, 1e4, 1e5];
        exponent(&sizes.map(|size| (size, cost(size)))).unwrap()
    }

    #[test]
    fn powers_are_found() {
        assert!(of(|_| 42.0).abs() < 1e-9);
        assert!((of(|size| 3.0 * size) - 1.0).abs() < 1e-9);
        assert!((of(|size| 0.1 * size * size) - 2.0).abs() < 1e-9);
        assert!((of(f64::sqrt) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_logarithm_is_nearly_constant() {
        let found = of(f64::ln);
        assert!((0.1..0.25).contains(&found), "{found}");
    }

    #[test]
    fn nothing_is_fitted_to_too_little() {
        assert_eq!(exponent(&[]), None);
        assert_eq!(exponent(&[(10.0, 1.0)]), None);
        assert_eq!(exponent(&[(10.0, 1.0), (10.0, 2.0)]), None);
        assert_eq!(exponent(&[(10.0, 0.0), (20.0, 2.0)]), None);
    }
}
