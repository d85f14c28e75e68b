//! How the tokens of texts enter the residual stream.

use super::{EncoderText, names::Names, norm::Norm};
use crate::{EncoderSpec, ModelError, PositionSpec, weights::WeightSource};
use yantra_kernels::Compute;

pub(super) struct Embeddings {
    /// `[vocab_size, hidden_size]`
    words: Vec<f32>,
    /// For each type of token: vectors of positions with the type's added, `[at least context_length, hidden_size]`.
    positions: Vec<Vec<f32>>,
    norm: Norm,
    width: usize,
}

impl Embeddings {
    pub(super) fn load(source: &WeightSource<'_>, spec: &EncoderSpec, names: &Names) -> Result<Self, ModelError> {
        let width = spec.hidden_size;
        Ok(Self {
            words: source.table(&format!("{}.weight", names.global(|it| it.words)), spec.vocab_size, width)?,
            positions: positions(source, spec, names)?,
            norm: Norm::load(source, &names.global(|it| it.embedding_norm), width, spec.norm_eps)?,
            width,
        })
    }

    /// Values of all tables, as [`Embeddings::load`] will make them.
    pub(super) fn num_values(source: &WeightSource<'_>, spec: &EncoderSpec, names: &Names) -> usize {
        let rows = match spec.positions {
            PositionSpec::Rotary => 0,
            PositionSpec::Learned { first } => source.tensor_rows(&position_name(names)).saturating_sub(first),
        };
        (spec.vocab_size + spec.position_tables() * rows) * spec.hidden_size
    }

    pub(super) fn bytes(&self) -> usize {
        (self.words.len() + self.positions.iter().map(Vec::len).sum::<usize>()) * size_of::<f32>()
    }

    /// Writes the sums to `sums` and what is left of them when they are normalised to `hidden`, both
    /// `[num_tokens, hidden_size]`.
    pub(super) fn apply(&self, cx: &Compute, texts: &[EncoderText<'_>], sums: &mut [f32], hidden: &mut [f32]) {
        let tokens = texts.iter().flat_map(|text| {
            text.tokens.iter().enumerate().map(|(position, token)| (*token, position, position >= text.second))
        });
        for (row, (token, position, is_second)) in sums.chunks_exact_mut(self.width).zip(tokens) {
            let word = &self.words[token as usize * self.width..][..self.width];
            let of_type = if is_second { self.positions.last() } else { self.positions.first() };
            let Some(table) = of_type else {
                row.copy_from_slice(word);
                continue;
            };
            let place = &table[position * self.width..][..self.width];
            for ((value, word), place) in row.iter_mut().zip(word).zip(place) {
                *value = word + place;
            }
        }
        self.norm.apply(cx, sums, hidden);
    }
}

fn position_name(names: &Names) -> String {
    format!("{}.weight", names.global(|it| it.positions))
}

fn positions(source: &WeightSource<'_>, spec: &EncoderSpec, names: &Names) -> Result<Vec<Vec<f32>>, ModelError> {
    let PositionSpec::Learned { first } = spec.positions else { return Ok(Vec::new()) };
    let (name, width) = (position_name(names), spec.hidden_size);
    let mut rows = source.rows_of(&name, width)?;
    let needed = first + spec.context_length;
    if rows.len() < needed * width {
        let given = vec![rows.len() / width, width];
        return Err(ModelError::TensorShape { name, given, expected: vec![needed, width] });
    }
    rows.drain(..first * width);
    let types = source.rows_of(&format!("{}.weight", names.global(|it| it.token_types)), width)?;
    let with_type = |of_type: &[f32]| {
        let sum = |row: &[f32]| row.iter().zip(of_type).map(|(value, of_type)| value + of_type).collect::<Vec<_>>();
        rows.chunks_exact(width).flat_map(sum).collect()
    };
    Ok(types.chunks_exact(width).take(spec.position_tables()).map(with_type).collect())
}
