//! Where results go: bias, accumulation and the rows that do not fill a tile.
#![expect(unsafe_code, reason = "threads write disjoint rows of one output")]

use super::{scratch::UNIT_TILES, simd::Simd};
use crate::simd::Simd as _;

/// The output of a job for a range of tokens.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// `[num_tokens, stride]`: where row 0 of the first token of the range is or, if it is no row of the task, would be.
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) accumulate: bool,
}

impl Epilogue<'_> {
    /// Without the first `tokens` tokens.
    #[inline(always)]
    pub(super) fn skip(self, tokens: usize) -> Self {
        Self { out: self.out.wrapping_add(tokens * self.stride), ..self }
    }

    /// Stores `LANES` results of a token, less those past the last row: `value + bias + out`.
    #[inline(always)]
    pub(super) fn store<S: Simd>(&self, s: S, tile: usize, token: usize, value: S::Vector) {
        let row = tile * S::LANES;
        let out = self.out.wrapping_add(token * self.stride + row);
        if row + S::LANES <= self.rows {
            // SAFETY: rows `row..row + LANES` of the token's output exist and are this task's own.
            unsafe {
                let mut value = value;
                if let Some(bias) = self.bias {
                    value = s.float().add(value, s.float().load(bias.as_ptr().add(row)));
                }
                if self.accumulate {
                    value = s.float().add(value, s.float().load(out));
                }
                s.float().store(out, value);
            }
            return;
        }
        let mut values = [0.0; 16];
        // SAFETY: no instruction set has more than 16 lanes; rows below `rows` exist and are this task's own.
        unsafe {
            s.float().store(values.as_mut_ptr(), value);
            for lane in 0..self.rows - row {
                let mut value = values[lane];
                if let Some(bias) = self.bias {
                    value += bias[row + lane];
                }
                if self.accumulate {
                    value += *out.add(lane);
                }
                *out.add(lane) = value;
            }
        }
    }

    /// Stores the accumulators `[num_tokens, UNIT_TILES * LANES]` of one unit, without its second tile unless `both`.
    ///
    /// # Safety
    /// There are accumulators for that many tokens.
    #[inline(always)]
    pub(super) unsafe fn store_unit<S: Simd>(
        &self,
        s: S,
        first_tile: usize,
        both: bool,
        acc: *const f32,
        num_tokens: usize,
    ) {
        for token in 0..num_tokens {
            let acc = acc.wrapping_add(token * UNIT_TILES * S::LANES);
            // SAFETY: vouched for by the caller.
            let values = unsafe { [s.float().load(acc), s.float().load(acc.add(S::LANES))] };
            self.store(s, first_tile, token, values[0]);
            if both {
                self.store(s, first_tile + 1, token, values[1]);
            }
        }
    }
}
