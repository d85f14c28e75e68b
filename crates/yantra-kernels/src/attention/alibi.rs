//! Attention with linear biases (Press et al. 2022, arXiv:2108.12409): scores fall with the distance of key and query, at
//! a pace of each head's own, and models need no other notion of position.

/// The slopes of `num_heads` heads: powers of one number down to `2^-bias_max`. The paper, BLOOM and Falcon have a
/// `bias_max` of 8, MPT one of its own (`alibi_bias_max`).
///
/// Heads that are no power of two have the slopes of the power below, and then every other one of the power above, as in
/// the paper's own code.
pub fn alibi_slopes(num_heads: usize, bias_max: f32) -> Vec<f32> {
    let below = if num_heads == 0 { 1 } else { 1_usize << num_heads.ilog2() };
    let slope = |nth: usize, of: usize| (-f64::from(bias_max) * nth as f64 / of as f64).exp2() as f32;
    let rest = (below..num_heads).map(|head| slope(2 * (head - below) + 1, 2 * below));
    (1..=below.min(num_heads)).map(|nth| slope(nth, below)).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_the_published_ones() {
        let eight = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015_625, 0.007_812_5, 0.003_906_25];
        assert_eq!(alibi_slopes(8, 8.0), eight, "section 3 of the paper");
        // `get_slopes(12)` of the paper's code.
        let rest = [0.707_106_77, 0.353_553_38, 0.176_776_69, 0.088_388_346];
        assert_eq!(alibi_slopes(12, 8.0), [&eight[..], &rest].concat());
        // `gen_slopes(n_heads=6, alibi_bias_max=16)` of MPT.
        assert_eq!(alibi_slopes(6, 16.0), [4, 8, 12, 16, 2, 6].map(|m| (-m as f32).exp2()));
        assert_eq!(alibi_slopes(1, 8.0), [0.003_906_25]);
        assert!(alibi_slopes(0, 8.0).is_empty());
    }
}
