//! Medians and spreads, as `yantra bench` defines them.

/// The value below which the fraction `q` of `values` lies, linearly interpolated; `None` without values.
fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = q * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64))
}

/// The middle of `values`.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// Half the distance between the quartiles.
pub(crate) fn spread(values: &[f64]) -> Option<f64> {
    Some((quantile(values, 0.75)? - quantile(values, 0.25)?) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_numpy_computes_them() {
        // numpy.percentile([1, 2, 3, 4], [25, 50, 75]) -> 1.75, 2.5, 3.25
        assert_eq!((median(&[4.0, 1.0, 3.0, 2.0]), spread(&[4.0, 1.0, 3.0, 2.0])), (Some(2.5), Some(0.75)));
        assert_eq!((median(&[7.0]), spread(&[7.0]), median(&[])), (Some(7.0), Some(0.0), None));
    }
}
