//! Logit bias: a number added to chosen tokens' logits (OpenAI's `logit_bias`).

/// Adds each bias to its token's logit; ids beyond the row are ignored.
pub fn apply(row: &mut [f32], biases: &[(u32, f32)]) {
    for &(id, bias) in biases {
        if let Some(logit) = row.get_mut(id as usize) {
            *logit += bias;
        }
    }
}
