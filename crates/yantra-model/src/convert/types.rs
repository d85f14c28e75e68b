//! Which type a tensor is written in.

use crate::{ModelError, weights::fitting};
use yantra_kernels::WeightFormat;

/// Types that were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypeRules {
    /// That of matrices; as stored when `None`.
    pub matrices: Option<WeightFormat>,
    /// Those of tensors whose name in the destination matches a pattern (`*` and `?`); the last that matches counts.
    pub patterns: Vec<(String, WeightFormat)>,
}

/// Names in GGUF of what is in single precision there although it is a matrix.
const ALWAYS_SINGLE: [&str; 4] =
    ["_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight"];

/// Whether a tensor of GGUF is in single precision whatever was asked for, as llama.cpp's converter has it.
pub(super) fn is_single(name: &str, shape: &[usize]) -> bool {
    shape.len() < 2 || ALWAYS_SINGLE.iter().any(|end| name.ends_with(end)) || !name.ends_with(".weight")
}

impl TypeRules {
    /// What a pattern says of a tensor.
    fn of_pattern(&self, name: &str) -> Option<WeightFormat> {
        self.patterns.iter().rev().find(|(pattern, _)| matches(pattern, name)).map(|(_, format)| *format)
    }

    /// The type of a matrix in GGUF. Where rows are not whole blocks of what all matrices are asked to be in, it is the nearest
    /// that fits.
    pub(super) fn in_gguf(&self, name: &str, cols: usize, stored: WeightFormat) -> Result<WeightFormat, ModelError> {
        let (wanted, own) = match self.of_pattern(name) {
            Some(format) => (format, true),
            None => (self.matrices.unwrap_or(stored), false),
        };
        match fitting(wanted, cols) {
            Some(format) if format == wanted || !own => Ok(format),
            None if !own => Ok(WeightFormat::F16),
            _ => {
                let message = format!(
                    "tensor '{name}' can not be {wanted}: rows of {cols} are not whole blocks of {}",
                    wanted.block_len()
                );
                Err(ModelError::Convert { message })
            }
        }
    }

    /// The type of a tensor in safetensors.
    pub(super) fn in_safetensors(
        &self,
        name: &str,
        source: &str,
        stored: WeightFormat,
    ) -> Result<WeightFormat, ModelError> {
        let wanted = self.of_pattern(name).or(self.matrices).unwrap_or(stored);
        if wanted.is_float() {
            return Ok(wanted);
        }
        let message = if wanted == stored {
            format!("tensor '{source}' is {stored}, which safetensors can not hold: ask for --type f32, f16 or bf16")
        } else {
            format!("tensor '{name}' can not be {wanted}: safetensors holds f32, f16 and bf16")
        };
        Err(ModelError::Convert { message })
    }
}

/// Whether a name matches a pattern in which `*` stands for any text and `?` for any character.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(&character) if character == '?' || character == name[seen] => (at, seen) = (at + 1, seen + 1),
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    (at, seen) = (star_at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|character| *character == '*')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("*", "blk.0.attn_q.weight", true),
            ("blk.?.attn_q.weight", "blk.0.attn_q.weight", true),
            ("blk.?.attn_q.weight", "blk.10.attn_q.weight", false),
            ("*attn_[qk]*", "blk.0.attn_q.weight", false),
            ("*.ffn_*.weight", "blk.3.ffn_down.weight", true),
            ("*.ffn_*.weights", "blk.3.ffn_down.weight", false),
            ("token_embd.weight", "token_embd.weight", true),
            ("", "x", false),
            ("*a*b", "aabab", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_last_pattern_counts_and_types_must_fit() {
        let rules = TypeRules {
            matrices: Some(WeightFormat::Q4_K),
            patterns: vec![("*.attn_*".to_owned(), WeightFormat::Q8_0), ("*attn_v*".to_owned(), WeightFormat::Q6_K)],
        };
        let check = |name, cols, expected| {
            assert_eq!(rules.in_gguf(name, cols, WeightFormat::F32).unwrap(), expected, "{name}")
        };
        check("blk.0.ffn_up.weight", 256, WeightFormat::Q4_K);
        check("blk.0.ffn_up.weight", 64, WeightFormat::Q5_0);
        check("blk.0.ffn_up.weight", 30, WeightFormat::F16);
        check("blk.0.attn_q.weight", 64, WeightFormat::Q8_0);
        check("blk.0.attn_v.weight", 256, WeightFormat::Q6_K);
        let error = rules.in_gguf("blk.0.attn_v.weight", 64, WeightFormat::F32).unwrap_err().to_string();
        assert_eq!(error, "tensor 'blk.0.attn_v.weight' can not be q6_k: rows of 64 are not whole blocks of 256");
        let error = TypeRules::default().in_safetensors("x", "blk.0.attn_v.weight", WeightFormat::Q6_K).unwrap_err();
        assert!(error.to_string().starts_with("tensor 'blk.0.attn_v.weight' is q6_k, which safetensors can not hold"));
    }
}
