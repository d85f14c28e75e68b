//! The input of [`crate::linear`]: activations in the forms weights read, made in one pass by the operation before.
//!
//! Block-quantised weights read signed bytes: each group of 32 values along a row has a scale, `amax / 127`, and the
//! sums of its bytes, by which offsets and mins of weights are corrected. Normalisation and the gate of an MLP are fused
//! with the quantisation, so that the floats never leave the cache, or never exist.

use crate::elementwise::{activation_vector, gated_vector};
use crate::simd::Simd as _;
use crate::{
    ActivationFn, ActivationKind, Compute, CpuLevel,
    linear::{
        GROUP, Tokens,
        simd::{Isa, Operation, Simd},
    },
};
use std::{marker::PhantomData, ops::Range};

/// Which forms of activations a buffer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationKinds {
    /// Single precision, for F32, F16 and BF16 weights.
    pub float: bool,
    /// Signed bytes, for block-quantised weights.
    pub int8: bool,
}

/// The scale of a group of int8 activations and the sums of its bytes: all, first half, second half.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(16))]
pub(crate) struct GroupStats {
    pub(crate) scale: f32,
    pub(crate) sums: [i32; 3],
}

/// A reusable buffer of activations `[num_tokens, cols]`; it grows and never shrinks.
pub struct Activations {
    kinds: ActivationKinds,
    num_tokens: usize,
    cols: usize,
    /// `[num_tokens, cols]`
    float: Vec<f32>,
    /// `[num_tokens, cols rounded up to whole groups]`
    quants: Vec<i8>,
    /// `[num_tokens, groups]`
    stats: Vec<GroupStats>,
}

impl Activations {
    /// An empty buffer that will keep the given forms.
    pub fn new(kinds: ActivationKinds) -> Self {
        Self { kinds, num_tokens: 0, cols: 0, float: Vec::new(), quants: Vec::new(), stats: Vec::new() }
    }

    /// Tokens held.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Values of a token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether the buffer keeps a form.
    pub fn has(&self, kind: ActivationKind) -> bool {
        match kind {
            ActivationKind::Float => self.kinds.float,
            ActivationKind::Int8 => self.kinds.int8,
        }
    }

    /// The single-precision form, `[num_tokens, cols]`; empty if it is not kept.
    pub fn float(&self) -> &[f32] {
        if self.kinds.float { &self.float[..self.num_tokens * self.cols] } else { &[] }
    }

    /// The values the int8 form stands for, `[num_tokens, cols]`; empty if it is not kept.
    pub fn dequantized(&self) -> Vec<f32> {
        let groups = self.cols.div_ceil(GROUP);
        let tokens = if self.kinds.int8 { 0..self.num_tokens } else { 0..0 };
        let value = |token: usize, col: usize| {
            let quant = self.quants[token * groups * GROUP + col];
            f32::from(quant) * self.stats[token * groups + col / GROUP].scale
        };
        tokens.flat_map(|token| (0..self.cols).map(move |col| value(token, col))).collect()
    }

    pub(crate) fn int8_tokens(&self, tokens: Range<usize>) -> Tokens {
        let groups = self.cols.div_ceil(GROUP);
        let quants = &self.quants[tokens.start * groups * GROUP..tokens.end * groups * GROUP];
        let stats = &self.stats[tokens.start * groups..tokens.end * groups];
        Tokens { quants: quants.as_ptr(), stats: stats.as_ptr(), groups, count: tokens.len() }
    }

    /// Takes `x`, `[num_tokens, cols]`, as it is.
    ///
    /// # Panics
    /// If the length of `x` is not `num_tokens * cols`; likewise below.
    pub fn set(&mut self, cx: &Compute, x: &[f32], num_tokens: usize, cols: usize) {
        self.fill(
            Isa::of(cx.level()),
            cx,
            Rows::All(num_tokens),
            cols,
            &Source { x, other: Row::None, map: Map::Copy },
        );
    }

    /// Takes rows `rows` of the matrix `x`, `[_, cols]`, as they are.
    pub fn set_rows(&mut self, cx: &Compute, x: &[f32], rows: &[u32], cols: usize) {
        self.fill(Isa::of(cx.level()), cx, Rows::Some(rows), cols, &Source { x, other: Row::None, map: Map::Copy });
    }

    /// Takes `x / rms(x) * weight` of each token (Zhang and Sennrich, 2019): `rms(x) = sqrt(mean(x^2) + eps)`.
    pub fn set_rms_norm(&mut self, cx: &Compute, x: &[f32], weight: &[f32], eps: f32, num_tokens: usize, cols: usize) {
        let source = Source { x, other: Row::Shared(weight), map: Map::RmsNorm { eps } };
        self.fill(Isa::of(cx.level()), cx, Rows::All(num_tokens), cols, &source);
    }

    /// [`Activations::set_rms_norm`] of rows `rows` of the matrix `x`, `[_, cols]`.
    pub fn set_rms_norm_rows(&mut self, cx: &Compute, x: &[f32], rows: &[u32], weight: &[f32], eps: f32, cols: usize) {
        let source = Source { x, other: Row::Shared(weight), map: Map::RmsNorm { eps } };
        self.fill(Isa::of(cx.level()), cx, Rows::Some(rows), cols, &source);
    }

    /// Takes `(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias` of each token (Ba et al., 2016).
    #[expect(clippy::too_many_arguments, reason = "the operation's own parameters")]
    pub fn set_layer_norm(
        &mut self,
        cx: &Compute,
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        num_tokens: usize,
        cols: usize,
    ) {
        let source = Source { x, other: Row::Pair(weight, bias), map: Map::LayerNorm { eps } };
        self.fill(Isa::of(cx.level()), cx, Rows::All(num_tokens), cols, &source);
    }

    /// [`Activations::set_layer_norm`] of rows `rows` of the matrix `x`, `[_, cols]`.
    #[expect(clippy::too_many_arguments, reason = "the operation's own parameters")]
    pub fn set_layer_norm_rows(
        &mut self,
        cx: &Compute,
        x: &[f32],
        rows: &[u32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        cols: usize,
    ) {
        let source = Source { x, other: Row::Pair(weight, bias), map: Map::LayerNorm { eps } };
        self.fill(Isa::of(cx.level()), cx, Rows::Some(rows), cols, &source);
    }

    /// Takes `function(x)` of each value: the MLP without a gate.
    pub fn set_activated(&mut self, cx: &Compute, function: ActivationFn, x: &[f32], num_tokens: usize, cols: usize) {
        let source = Source { x, other: Row::None, map: Map::Activated(function) };
        self.fill(Isa::of(cx.level()), cx, Rows::All(num_tokens), cols, &source);
    }

    /// Takes `function(gate) * up` of each value, both `[num_tokens, cols]`: the bits that [`crate::linear_gated`] makes of
    /// the same products.
    pub fn set_gated(
        &mut self,
        cx: &Compute,
        function: ActivationFn,
        gate: &[f32],
        up: &[f32],
        num_tokens: usize,
        cols: usize,
    ) {
        let source = Source { x: gate, other: Row::Each(up), map: Map::Gated(function) };
        self.fill(Isa::of(cx.level()), cx, Rows::All(num_tokens), cols, &source);
    }

    fn reserve(&mut self, num_tokens: usize, cols: usize) {
        (self.num_tokens, self.cols) = (num_tokens, cols);
        let groups = cols.div_ceil(GROUP);
        if self.kinds.float && self.float.len() < num_tokens * cols {
            self.float.resize(num_tokens * cols, 0.0);
        }
        if self.kinds.int8 && self.stats.len() < num_tokens * groups {
            self.stats.resize(num_tokens * groups, GroupStats::default());
        }
        if self.kinds.int8 && self.quants.len() < num_tokens * groups * GROUP {
            self.quants.resize(num_tokens * groups * GROUP, 0);
        }
    }

    /// Makes room for `function(gate) * up`, `[num_tokens, cols]`, to be filled part by part.
    pub(crate) fn start_gated(
        &mut self,
        level: CpuLevel,
        num_tokens: usize,
        cols: usize,
        function: ActivationFn,
    ) -> GatedParts<'_> {
        self.reserve(num_tokens, cols);
        GatedParts { isa: Isa::of(level), function, out: self.out(), filled: PhantomData }
    }

    fn out(&mut self) -> Out {
        Out {
            float: self.kinds.float.then_some(self.float.as_mut_ptr()),
            int8: self.kinds.int8.then_some((self.quants.as_mut_ptr(), self.stats.as_mut_ptr())),
            cols: self.cols,
        }
    }

    fn fill(&mut self, isa: Isa, cx: &Compute, rows: Rows<'_>, cols: usize, source: &Source<'_>) {
        /// Values worth a task.
        const TASK_VALUES: usize = 4 << 10;
        source.check(rows, cols);
        let num_tokens = rows.len();
        self.reserve(num_tokens, cols);
        if num_tokens == 0 || cols == 0 {
            return;
        }
        let groups = cols.div_ceil(GROUP);
        let out = self.out();
        let num_tasks = (num_tokens * groups * GROUP / TASK_VALUES).clamp(1, num_tokens.min(cx.num_threads() * 4));
        cx.run(num_tasks, &|task| {
            let bound = |task: usize| task * num_tokens / num_tasks;
            isa.dispatch(Fill { source, rows, tokens: bound(task)..bound(task + 1), out: &out });
        });
    }
}

/// The rows of the source that become tokens.
#[derive(Clone, Copy)]
enum Rows<'a> {
    All(usize),
    Some(&'a [u32]),
}

impl Rows<'_> {
    fn len(self) -> usize {
        match self {
            Self::All(count) => count,
            Self::Some(rows) => rows.len(),
        }
    }

    #[inline(always)]
    fn of(self, token: usize) -> usize {
        match self {
            Self::All(_) => token,
            Self::Some(rows) => rows[token] as usize,
        }
    }
}

/// What else a token is made from.
enum Row<'a> {
    None,
    /// The same `[cols]` for each token.
    Shared(&'a [f32]),
    /// The same two `[cols]` for each token.
    Pair(&'a [f32], &'a [f32]),
    /// `[num_tokens, cols]`, a row for each token.
    Each(&'a [f32]),
}

enum Map {
    Copy,
    RmsNorm { eps: f32 },
    LayerNorm { eps: f32 },
    Activated(ActivationFn),
    Gated(ActivationFn),
}

struct Source<'a> {
    x: &'a [f32],
    other: Row<'a>,
    map: Map,
}

impl Source<'_> {
    fn check(&self, rows: Rows<'_>, cols: usize) {
        match rows {
            Rows::All(num_tokens) => assert_eq!(self.x.len(), num_tokens * cols, "values of activations"),
            Rows::Some(rows) => {
                let fits = |row: &u32| (*row as usize + 1) * cols <= self.x.len();
                assert!(rows.iter().all(fits), "a row past the end of the activations");
            }
        }
        match self.other {
            Row::None => {}
            Row::Shared(weight) => assert_eq!(weight.len(), cols, "values of a norm's weight"),
            Row::Pair(weight, bias) => {
                assert_eq!(weight.len(), cols, "values of a norm's weight");
                assert_eq!(bias.len(), cols, "values of a norm's bias");
            }
            Row::Each(other) => assert_eq!(other.len(), self.x.len(), "values of a gated MLP"),
        }
    }
}

/// Where tokens go; tasks write tokens, or groups of them, of their own.
struct Out {
    float: Option<*mut f32>,
    int8: Option<(*mut i8, *mut GroupStats)>,
    cols: usize,
}

// SAFETY: tasks write disjoint tokens, or disjoint groups of them.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Sync for Out {}

/// Gated activations being made by several threads.
pub(crate) struct GatedParts<'a> {
    isa: Isa,
    function: ActivationFn,
    out: Out,
    filled: PhantomData<&'a mut Activations>,
}

impl GatedParts<'_> {
    /// Fills groups `groups` of tokens `tokens` from products `[tokens, groups * GROUP]`. Values past the last column may be
    /// anything.
    ///
    /// # Safety
    /// Tokens and groups are of the activations; no other thread fills any of them.
    #[expect(unsafe_code, reason = "threads write disjoint parts of the activations")]
    pub(crate) unsafe fn fill(&self, tokens: Range<usize>, groups: Range<usize>, gate: &[f32], up: &[f32]) {
        assert_eq!(gate.len(), tokens.len() * groups.len() * GROUP, "values of a gate");
        assert_eq!(gate.len(), up.len(), "values of a gated MLP");
        self.isa.dispatch(FillGated { parts: self, tokens, groups, gate, up });
    }
}

struct FillGated<'a> {
    parts: &'a GatedParts<'a>,
    tokens: Range<usize>,
    groups: Range<usize>,
    gate: &'a [f32],
    up: &'a [f32],
}

impl Operation for FillGated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let GatedParts { function, out, .. } = self.parts;
        let mut values = self.gate.chunks_exact(GROUP).zip(self.up.chunks_exact(GROUP));
        for token in self.tokens {
            for (group, (gate, up)) in self.groups.clone().zip(&mut values) {
                let inputs = [gate.as_ptr(), up.as_ptr(), gate.as_ptr()];
                out.write_group(s, &Gated(*function), token, group, GROUP.min(out.cols - group * GROUP), inputs);
            }
        }
    }
}

struct Fill<'a> {
    source: &'a Source<'a>,
    rows: Rows<'a>,
    tokens: Range<usize>,
    out: &'a Out,
}

impl Operation for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.out.cols;
        for token in self.tokens.clone() {
            let start = self.rows.of(token) * cols;
            let x = &self.source.x[start..start + cols];
            let (second, third) = match self.source.other {
                Row::None => (x, x),
                Row::Shared(weight) => (weight, x),
                Row::Pair(weight, bias) => (weight, bias),
                Row::Each(other) => (&other[start..start + cols], x),
            };
            let inputs = [x, second, third];
            let token = Token { out: self.out, index: token, inputs };
            match self.source.map {
                Map::Copy => token.write(s, Unchanged),
                Map::RmsNorm { eps } => {
                    let mean_square = sum_of_squares(s, x) / cols as f32;
                    token.write(s, Scaled(s.float().splat(1.0 / (mean_square + eps).sqrt())));
                }
                Map::LayerNorm { eps } => {
                    let mean = sum(s, x) / cols as f32;
                    let variance = squared_deviation(s, x, mean) / cols as f32;
                    let factor = s.float().splat(1.0 / (variance + eps).sqrt());
                    token.write(s, Normal { mean: s.float().splat(mean), factor });
                }
                Map::Activated(function) => token.write(s, Activated(function)),
                Map::Gated(function) => token.write(s, Gated(function)),
            }
        }
    }
}

/// How a vector of activations is made from the inputs. A trait and not a closure: closures are not always inlined into
/// the function that has the instructions.
trait MapVector<S: Simd> {
    fn apply(&self, s: S, inputs: [S::Vector; 3]) -> S::Vector;
}

struct Unchanged;
/// Input times factor times weight.
struct Scaled<V>(V);
/// Normalised input times weight plus bias.
struct Normal<V> {
    mean: V,
    factor: V,
}
struct Gated(ActivationFn);
struct Activated(ActivationFn);

impl<S: Simd> MapVector<S> for Unchanged {
    #[inline(always)]
    fn apply(&self, _: S, [x, ..]: [S::Vector; 3]) -> S::Vector {
        x
    }
}

impl<S: Simd> MapVector<S> for Scaled<S::Vector> {
    #[inline(always)]
    fn apply(&self, s: S, [x, weight, _]: [S::Vector; 3]) -> S::Vector {
        s.float().mul(s.float().mul(x, self.0), weight)
    }
}

impl<S: Simd> MapVector<S> for Normal<S::Vector> {
    #[inline(always)]
    fn apply(&self, s: S, [x, weight, bias]: [S::Vector; 3]) -> S::Vector {
        s.float().fma(s.float().mul(s.float().sub(x, self.mean), self.factor), weight, bias)
    }
}

impl<S: Simd> MapVector<S> for Gated {
    #[inline(always)]
    fn apply(&self, s: S, [gate, up, _]: [S::Vector; 3]) -> S::Vector {
        gated_vector(s.float(), self.0, gate, up)
    }
}

impl<S: Simd> MapVector<S> for Activated {
    #[inline(always)]
    fn apply(&self, s: S, [x, ..]: [S::Vector; 3]) -> S::Vector {
        activation_vector(s.float(), self.0, x)
    }
}

/// Four partial sums over a row, `LANES` at a time; the last vector is padded with zeros.
macro_rules! fold_row {
    ($s:ident, $row:ident, |$x:ident, $sum:ident| $fold:expr) => {{
        let mut sums = [$s.float().splat(0.0); 4];
        let chunks = $row.chunks_exact(4 * S::LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (part, $sum) in sums.iter_mut().enumerate() {
                // SAFETY: a chunk has four vectors.
                #[expect(unsafe_code, reason = "loads from a slice of sufficient length")]
                let $x = unsafe { $s.float().load(chunk.as_ptr().add(part * S::LANES)) };
                *$sum = $fold;
            }
        }
        for (chunk, $sum) in rest.chunks(S::LANES).zip(&mut sums) {
            let $x = $s.float().load_partial(chunk, 0.0);
            *$sum = $fold;
        }
        let [a, b, c, d] = sums;
        $s.float().reduce_add($s.float().add($s.float().add(a, b), $s.float().add(c, d)))
    }};
}

#[inline(always)]
fn sum<S: Simd>(s: S, row: &[f32]) -> f32 {
    fold_row!(s, row, |x, sum| s.float().add(x, *sum))
}

#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, row: &[f32]) -> f32 {
    fold_row!(s, row, |x, sum| s.float().fma(x, x, *sum))
}

/// The sum of squared distances from the mean.
#[inline(always)]
fn squared_deviation<S: Simd>(s: S, row: &[f32], mean: f32) -> f32 {
    let whole = row.len() - row.len() % S::LANES;
    let mut sum = s.float().splat(0.0);
    for chunk in row[..whole].chunks_exact(S::LANES) {
        // SAFETY: a chunk has `LANES` values.
        #[expect(unsafe_code, reason = "loads from a slice of sufficient length")]
        let deviation = s.float().sub(unsafe { s.float().load(chunk.as_ptr()) }, s.float().splat(mean));
        sum = s.float().fma(deviation, deviation, sum);
    }
    row[whole..].iter().fold(s.float().reduce_add(sum), |sum, x| sum + (x - mean) * (x - mean))
}

/// One token being written.
struct Token<'a> {
    out: &'a Out,
    index: usize,
    /// Each `[cols]`.
    inputs: [&'a [f32]; 3],
}

impl Token<'_> {
    /// Writes `map` of the inputs in the forms that are kept.
    #[inline(always)]
    fn write<S: Simd, M: MapVector<S>>(&self, s: S, map: M) {
        let cols = self.out.cols;
        let whole = cols / GROUP;
        for group in 0..whole {
            let inputs = [0, 1, 2].map(|i| self.inputs[i][group * GROUP..].as_ptr());
            self.out.write_group(s, &map, self.index, group, GROUP, inputs);
        }
        let rest = cols - whole * GROUP;
        if rest > 0 {
            let mut padded = [[0.0; GROUP]; 3];
            for (padded, input) in padded.iter_mut().zip(self.inputs) {
                padded[..rest].copy_from_slice(&input[whole * GROUP..cols]);
            }
            let inputs = [padded[0].as_ptr(), padded[1].as_ptr(), padded[2].as_ptr()];
            self.out.write_group(s, &map, self.index, whole, rest, inputs);
        }
    }
}

impl Out {
    /// Writes the first `len` values of a group of a token; each of `inputs` points to a whole one.
    #[inline(always)]
    #[expect(unsafe_code, reason = "loads and stores within a group; tasks write disjoint groups of shared buffers")]
    fn write_group<S: Simd, M: MapVector<S>>(
        &self,
        s: S,
        map: &M,
        token: usize,
        group: usize,
        len: usize,
        inputs: [*const f32; 3],
    ) {
        let cols = self.cols;
        let groups = cols.div_ceil(GROUP);
        let mut values = [0.0; GROUP];
        for lane in (0..GROUP).step_by(S::LANES) {
            // SAFETY: each input has a group of values, `values` has room for one.
            unsafe {
                let inputs = [
                    s.float().load(inputs[0].add(lane)),
                    s.float().load(inputs[1].add(lane)),
                    s.float().load(inputs[2].add(lane)),
                ];
                s.float().store(values.as_mut_ptr().add(lane), map.apply(s, inputs));
            }
        }
        values[len..].fill(0.0);
        // SAFETY: the buffers were sized for the token and the group.
        unsafe {
            if let Some(float) = self.float {
                let to = float.add(token * cols + group * GROUP);
                std::ptr::copy_nonoverlapping(values.as_ptr(), to, len);
            }
            if let Some((quants, stats)) = self.int8 {
                let at = token * groups + group;
                *stats.add(at) = quantize(s, &values, quants.add(at * GROUP));
            }
        }
    }
}

/// Quantises a group to `round(127 x / amax)`, ties to even.
///
/// # Safety
/// A group is writable at `out`.
#[inline(always)]
#[expect(unsafe_code, reason = "loads and stores within a group")]
unsafe fn quantize<S: Simd>(s: S, values: &[f32; GROUP], out: *mut i8) -> GroupStats {
    let mut amax = s.float().splat(0.0);
    for lane in (0..GROUP).step_by(S::LANES) {
        // SAFETY: within the group.
        let value = unsafe { s.float().load(values.as_ptr().add(lane)) };
        amax = s.float().max(amax, s.float().max(value, s.float().sub(s.float().splat(0.0), value)));
    }
    let amax = s.float().reduce_max(amax);
    // Below this the inverse overflows; such values are nothing next to any weight's rounding.
    let inverse = s.float().splat(if amax > 1e-30 { 127.0 / amax } else { 0.0 });
    // Adding and taking away 1.5 * 2^23 rounds to a whole number, ties to even.
    let magic = s.float().splat(12_582_912.0);
    let mut halves = [s.float().splat(0.0); 2];
    for lane in (0..GROUP).step_by(S::LANES) {
        // SAFETY: within the group.
        unsafe {
            let value = s.float().load(values.as_ptr().add(lane));
            let rounded = s.float().sub(s.float().fma(value, inverse, magic), magic);
            let half = &mut halves[lane / (GROUP / 2)];
            *half = s.float().add(*half, rounded);
            s.store_as_i8(out.add(lane), rounded);
        }
    }
    let (first, second) = (s.float().reduce_add(halves[0]) as i32, s.float().reduce_add(halves[1]) as i32);
    GroupStats { scale: amax / 127.0, sums: [first + second, first, second] }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{CpuLevel, PackedLinear, test_support};

    const BOTH: ActivationKinds = ActivationKinds { float: true, int8: true };

    /// Fills one buffer at every level, checks both forms against `expected`, and that rows do not see each other.
    #[track_caller]
    fn check(num_tokens: usize, cols: usize, expected: &[f64], fill: &dyn Fn(&mut Activations, &Compute)) {
        for cx in test_support::computes() {
            let mut x = Activations::new(BOTH);
            // Something larger before: stale content must not show.
            x.set(&cx, &vec![9.0; (num_tokens + 1) * (cols + 40)], num_tokens + 1, cols + 40);
            fill(&mut x, &cx);
            assert_eq!((x.num_tokens(), x.cols()), (num_tokens, cols));
            let dequantized = x.dequantized();
            for (index, expected) in expected.iter().enumerate() {
                let given = f64::from(x.float()[index]);
                assert!((given - expected).abs() <= 2e-6 * expected.abs().max(1.0), "{index}: {given}, not {expected}");
                let (row, col) = (index / cols, index % cols);
                let group = row * cols + col / GROUP * GROUP..row * cols + (col / GROUP * GROUP + GROUP).min(cols);
                let amax = expected_max(&expected_group(&x, group));
                assert!((f64::from(dequantized[index]) - given).abs() <= amax / 254.0 * 1.001 + 1e-12);
            }
        }
    }

    fn expected_group(x: &Activations, range: Range<usize>) -> Vec<f32> {
        x.float()[range].to_vec()
    }

    fn expected_max(values: &[f32]) -> f64 {
        values.iter().fold(0.0, |max, value| f64::from(value.abs()).max(max))
    }

    fn doubles(values: &[f32]) -> Vec<f64> {
        values.iter().map(|value| f64::from(*value)).collect()
    }

    const SHAPES: [(usize, usize); 8] = [(1, 1), (3, 31), (2, 32), (5, 33), (1, 576), (7, 172), (40, 576), (0, 64)];

    #[test]
    fn copies_and_gathers() {
        for (num_tokens, cols) in SHAPES {
            let x = test_support::random(1, num_tokens * cols);
            check(num_tokens, cols, &doubles(&x), &|a, cx| a.set(cx, &x, num_tokens, cols));
            let rows: Vec<u32> = (0..num_tokens as u32).rev().step_by(2).collect();
            let gathered: Vec<f64> =
                rows.iter().flat_map(|row| doubles(&x[*row as usize * cols..(*row as usize + 1) * cols])).collect();
            check(rows.len(), cols, &gathered, &|a, cx| a.set_rows(cx, &x, &rows, cols));
        }
    }

    #[test]
    fn normalises() {
        for (num_tokens, cols) in SHAPES {
            let x = test_support::random(2, num_tokens * cols);
            let (weight, bias) = (test_support::random(3, cols), test_support::random(4, cols));
            let (mut rms, mut layer) = (Vec::new(), Vec::new());
            for row in x.chunks_exact(cols) {
                let row = doubles(row);
                let mean = row.iter().sum::<f64>() / cols as f64;
                let mean_square = row.iter().map(|v| v * v).sum::<f64>() / cols as f64;
                let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / cols as f64;
                for (col, v) in row.iter().enumerate() {
                    rms.push(v / (mean_square + f64::from(1e-5f32)).sqrt() * f64::from(weight[col]));
                    let normal = (v - mean) / (variance + f64::from(1e-3f32)).sqrt();
                    layer.push(normal * f64::from(weight[col]) + f64::from(bias[col]));
                }
            }
            check(num_tokens, cols, &rms, &|a, cx| a.set_rms_norm(cx, &x, &weight, 1e-5, num_tokens, cols));
            check(num_tokens, cols, &layer, &|a, cx| a.set_layer_norm(cx, &x, &weight, &bias, 1e-3, num_tokens, cols));
            if num_tokens > 0 {
                let last = [num_tokens as u32 - 1];
                let expected = &rms[(num_tokens - 1) * cols..];
                check(1, cols, expected, &|a, cx| a.set_rms_norm_rows(cx, &x, &last, &weight, 1e-5, cols));
            }
        }
    }

    #[test]
    fn activates() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        // erf by its series, or one where the series loses more than is left to one.
        let erf = |x: f64| {
            if x.abs() > 4.2 {
                return x.signum();
            }
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        let (num_tokens, cols) = (3, 100);
        let times = |factor: f32, seed| -> Vec<f32> {
            test_support::random(seed, num_tokens * cols).iter().map(|x| factor * x).collect()
        };
        // Some beyond what is clamped.
        let (gate, up) = (times(8.0, 5), times(8.0, 6));
        let functions = [
            ActivationFn::Silu,
            ActivationFn::GeluTanh,
            ActivationFn::Gelu,
            ActivationFn::Relu,
            ActivationFn::ReluSquared,
            ActivationFn::QuickGelu,
            ActivationFn::ClampedQuickGelu,
        ];
        for function in functions {
            let apply = |x: f64| match function {
                ActivationFn::Silu => x * sigmoid(x),
                ActivationFn::GeluTanh => {
                    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
                }
                ActivationFn::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
                ActivationFn::Relu => x.max(0.0),
                ActivationFn::ReluSquared => x.max(0.0).powi(2),
                ActivationFn::QuickGelu => x * sigmoid(1.702 * x),
                ActivationFn::ClampedQuickGelu => x.min(7.0) * sigmoid(1.702 * x.min(7.0)),
            };
            let factor = |up: f64| match function {
                ActivationFn::ClampedQuickGelu => up.clamp(-7.0, 7.0) + 1.0,
                _ => up,
            };
            let activated: Vec<f64> = gate.iter().map(|x| apply(f64::from(*x))).collect();
            let gated: Vec<f64> = activated.iter().zip(&up).map(|(a, up)| a * factor(f64::from(*up))).collect();
            check(num_tokens, cols, &gated, &|a, cx| {
                let groups = cols.div_ceil(GROUP);
                let padded = |rows: &[f32]| -> Vec<f32> {
                    let padded = |row: &[f32]| [row, &vec![f32::NAN; groups * GROUP - cols]].concat();
                    rows.chunks_exact(cols).flat_map(padded).collect()
                };
                let parts = a.start_gated(cx.level(), num_tokens, cols, function);
                // SAFETY: one call for all there is.
                #[expect(unsafe_code, reason = "no other thread fills")]
                unsafe {
                    parts.fill(0..num_tokens, 0..groups, &padded(&gate), &padded(&up));
                }
            });
            check(num_tokens, cols, &gated, &|a, cx| a.set_gated(cx, function, &gate, &up, num_tokens, cols));
            check(num_tokens, cols, &activated, &|a, cx| a.set_activated(cx, function, &gate, num_tokens, cols));
        }
    }

    #[test]
    fn sums_are_of_the_bytes() {
        let cx = Compute::with_level(1, CpuLevel::detect()).unwrap();
        let mut x = Activations::new(BOTH);
        x.set(&cx, &test_support::random(7, 3 * 96), 3, 96);
        for (group, stats) in x.quants.chunks_exact(GROUP).zip(&x.stats) {
            let sum = |bytes: &[i8]| bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>();
            assert_eq!(stats.sums, [sum(group), sum(&group[..16]), sum(&group[16..])]);
        }
    }

    #[test]
    fn extreme_values_stay_finite() {
        let cx = Compute::with_level(1, CpuLevel::detect()).unwrap();
        let mut x = Activations::new(BOTH);
        for value in [0.0, 1e-38, 1e-45, 3e38] {
            x.set(&cx, &[value; 32], 1, 32);
            assert!(x.dequantized().iter().all(|v| v.is_finite()), "{value}");
        }
    }

    #[test]
    fn a_weight_says_what_it_reads() {
        let cx = Compute::new(1);
        let weight = PackedLinear::pack(&cx, crate::WeightFormat::F32, 1, 1, &[0; 4]).unwrap();
        assert!(Activations::new(BOTH).has(weight.activation_kind()));
        assert!(!Activations::new(ActivationKinds { float: false, int8: true }).has(weight.activation_kind()));
    }
}
