//! Searching scales of least weighted squared error for a group of values.
//!
//! Given integer codes, the best scale (and minimum) is a small linear least-squares problem; given the scale, the best
//! codes are the rounded quotients. The search tries a number of starting scales around the one that just covers the
//! range and keeps the pair of least error, as the reference implementation of the K formats does.

/// Scales tried on either side of the one that covers the range.
const STEPS: i32 = 9;

/// Rounded to the nearest whole number and clamped.
pub(super) fn code(x: f32, lowest: i32, highest: i32) -> i32 {
    (x.round_ties_even() as i32).clamp(lowest, highest)
}

/// The scale `s` that makes `s * code` nearest to `x`, codes in `-levels..levels`; weights as given.
pub(super) fn best_scale(x: &[f32], weights: &[f32], levels: i32) -> f32 {
    let extreme = x.iter().fold(0.0_f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme });
    if extreme.abs() < 1e-15 {
        return 0.0;
    }
    // (scale, how much of the weighted square it explains)
    let mut best = (0.0, 0.0);
    for step in -STEPS..=STEPS {
        let inverse = -(levels as f32 + 0.1 * step as f32) / extreme;
        let (mut product, mut square) = (0.0_f32, 0.0_f32);
        for (&x, &weight) in x.iter().zip(weights) {
            let code = code(inverse * x, -levels, levels - 1) as f32;
            product += weight * x * code;
            square += weight * code * code;
        }
        if square > 0.0 && product * product > best.1 * square {
            best = (product / square, product * product / square);
        }
    }
    best.0
}

/// The scale and the minimum (given as its negative, not below zero) for `x ≈ scale * code - min`, codes in `0..=highest`.
pub(super) fn best_scale_min(x: &[f32], weights: &[f32], highest: i32) -> (f32, f32) {
    let min = x.iter().fold(0.0_f32, |min, &x| min.min(x));
    let max = x.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    if max - min < 1e-15 {
        return (0.0, -min);
    }
    let covering = (max - min) / highest as f32;
    let mut best = (covering, -min);
    let mut least = squared_error(x, weights, best, highest);
    for step in -STEPS..=2 * STEPS {
        let inverse = (highest as f32 + 0.1 * step as f32) / (max - min);
        let Some(candidate) = fit(x, weights, |x| code(inverse * (x - min), 0, highest) as f32) else { continue };
        let error = squared_error(x, weights, candidate, highest);
        if error < least {
            (least, best) = (error, candidate);
        }
    }
    best
}

/// Least-squares scale and minimum for given codes; the minimum kept non-negative, the scale positive.
fn fit(x: &[f32], weights: &[f32], code: impl Fn(f32) -> f32) -> Option<(f32, f32)> {
    let (mut w, mut l, mut ll, mut xs, mut xl) = (0.0_f32, 0.0_f32, 0.0_f32, 0.0_f32, 0.0_f32);
    for (&x, &weight) in x.iter().zip(weights) {
        let code = code(x);
        w += weight;
        l += weight * code;
        ll += weight * code * code;
        xs += weight * x;
        xl += weight * x * code;
    }
    let determinant = w * ll - l * l;
    if determinant <= 0.0 {
        return None;
    }
    let (scale, offset) = ((w * xl - xs * l) / determinant, (ll * xs - l * xl) / determinant);
    let (scale, offset) = if offset > 0.0 { (xl / ll, 0.0) } else { (scale, offset) };
    (scale > 0.0).then_some((scale, -offset))
}

/// Weighted squared error with the best codes for a scale and minimum.
fn squared_error(x: &[f32], weights: &[f32], (scale, min): (f32, f32), highest: i32) -> f32 {
    let inverse = 1.0 / scale;
    let error = |x: f32| x - (scale * code((x + min) * inverse, 0, highest) as f32 - min);
    x.iter().zip(weights).map(|(&x, &weight)| weight * error(x) * error(x)).sum()
}

/// Weights that favour large values, which matter more to a product: root mean square plus magnitude.
pub(super) fn magnitude_weights<const N: usize>(x: &[f32]) -> [f32; N] {
    let root_mean_square = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    std::array::from_fn(|i| root_mean_square + x[i].abs())
}
