//! Element by element: sums, activation functions, embedding rows.

use crate::{
    Compute, KernelError, WeightFormat, dequantize_row,
    norm::scale_row,
    parallel::for_each_row_group,
    simd::{self, Simd, simd_dispatch},
};
use std::sync::Mutex;

/// Values per task when a flat buffer is split over threads.
const CHUNK: usize = 4096;

/// The non-linearity of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationFn {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU by its tanh approximation (Hendrycks & Gimpel 2016, arXiv:1606.08415).
    GeluTanh,
    /// GELU by the error function.
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2` (So et al. 2021, arXiv:2109.08668).
    ReluSquared,
    /// GELU by a sigmoid: `x / (1 + e^-1.702x)` (Hendrycks & Gimpel 2016, arXiv:1606.08415).
    QuickGelu,
    /// [`Self::QuickGelu`] of what is at most 7; what it gates is clamped to `-7..=7`, and one added to it (gpt-oss).
    ClampedQuickGelu,
}

/// The bound of [`ActivationFn::ClampedQuickGelu`].
const CLAMP: f32 = 7.0;

/// `out = a + b`.
///
/// # Panics
/// If the lengths differ.
pub fn add(cx: &Compute, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len(), "as many values on both sides");
    chunked(cx, out, &|start, out| {
        let (a, b) = (&a[start..][..out.len()], &b[start..][..out.len()]);
        add_chunk(cx.level(), a, b, out);
    });
}

/// `x += y`.
///
/// # Panics
/// If the lengths differ.
pub fn add_assign(cx: &Compute, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "as many values on both sides");
    chunked(cx, x, &|start, x| add_assign_chunk(cx.level(), x, &y[start..]));
}

/// `x *= factor`.
pub fn scale(cx: &Compute, x: &mut [f32], factor: f32) {
    chunked(cx, x, &|_, x| scale_row(cx.level(), x, factor));
}

/// `x = activation(x)`.
pub fn activate(cx: &Compute, activation: ActivationFn, x: &mut [f32]) {
    chunked(cx, x, &|_, x| activate_chunk(cx.level(), activation, x));
}

/// `gate = activation(gate) * up`: the gated feed-forward network (Shazeer 2020, arXiv:2002.05202); of
/// [`ActivationFn::ClampedQuickGelu`] as it says.
///
/// # Panics
/// If the lengths differ.
pub fn activate_gated(cx: &Compute, activation: ActivationFn, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "as many gate as up values");
    chunked(cx, gate, &|start, gate| activate_gated_chunk(cx.level(), activation, gate, &up[start..]));
}

/// `x = cap * tanh(x / cap)`: Gemma 2's bound on logits (arXiv:2408.00118).
pub fn softcap(cx: &Compute, x: &mut [f32], cap: f32) {
    chunked(cx, x, &|_, x| softcap_chunk(cx.level(), x, cap));
}

/// `x = min(max(x, -bound), bound)`.
pub fn clamp(cx: &Compute, x: &mut [f32], bound: f32) {
    chunked(cx, x, &|_, x| x.iter_mut().for_each(|x| *x = x.clamp(-bound, bound)));
}

/// `x = 1 / (1 + e^-x)`, for few values.
pub fn sigmoid(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()));
}

/// Multiplies each row of `x`, `[factors.len(), cols]`, by its factor.
///
/// # Panics
/// If `x` is not of that shape.
pub fn scale_rows(cx: &Compute, x: &mut [f32], factors: &[f32]) {
    let cols = x.len() / factors.len().max(1);
    assert_eq!(x.len(), factors.len() * cols, "a factor for every row");
    for_each_row_group(cx, x, cols.max(1), cols, &|first, rows| {
        for (row, factor) in rows.chunks_exact_mut(cols).zip(&factors[first..]) {
            scale_row(cx.level(), row, *factor);
        }
    });
}

/// Reads rows of an embedding table: `out[i] = scale * table[ids[i]]`.
///
/// `table` holds rows of `cols` values in `format`; `out` is `[ids.len(), cols]`.
///
/// # Errors
/// If `cols` is not a whole number of blocks, `out` is not of that shape, or an id is past the table.
pub fn embed_rows(
    cx: &Compute,
    format: WeightFormat,
    table: &[u8],
    cols: usize,
    ids: &[u32],
    scale: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let row_bytes = format.row_bytes(cols).ok_or(KernelError::Block { cols, format, block: format.block_len() })?;
    if out.len() != ids.len() * cols {
        return Err(KernelError::Shape { what: "embedding output", given: out.len(), expected: ids.len() * cols });
    }
    let num_rows = table.len() / row_bytes.max(1);
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= num_rows) {
        return Err(KernelError::Shape {
            what: "token id past the embedding table",
            given: id as usize,
            expected: num_rows,
        });
    }
    let failure = Mutex::new(None);
    for_each_row_group(cx, out, cols, cols, &|first, rows| {
        for (row, &id) in rows.chunks_exact_mut(cols).zip(&ids[first..]) {
            if let Err(error) = dequantize_row(format, &table[id as usize * row_bytes..][..row_bytes], row)
                && let Ok(mut failure) = failure.lock()
            {
                *failure = Some(error);
            }
            if scale != 1.0 {
                scale_row(cx.level(), row, scale);
            }
        }
    });
    failure.into_inner().ok().flatten().map_or(Ok(()), Err)
}

/// Runs `task(start, chunk)` over fixed chunks of a flat buffer.
fn chunked(cx: &Compute, x: &mut [f32], task: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    let whole = x.len() / CHUNK * CHUNK;
    let (chunks, rest) = x.split_at_mut(whole);
    for_each_row_group(cx, chunks, CHUNK, CHUNK, &|first, chunk| task(first * CHUNK, chunk));
    if !rest.is_empty() {
        task(whole, rest);
    }
}

simd_dispatch! {
    fn add_chunk(a: &[f32], b: &[f32], out: &mut [f32]) = add_body;
    fn add_assign_chunk(x: &mut [f32], y: &[f32]) = add_assign_body;
    fn softcap_chunk(x: &mut [f32], cap: f32) = softcap_body;
    fn activate_chunk(activation: ActivationFn, x: &mut [f32]) = activate_body;
    /// `gate = activation(gate) * up` on one thread; `up` is at least as long as `gate`.
    pub(crate) fn activate_gated_chunk(activation: ActivationFn, gate: &mut [f32], up: &[f32]) = activate_gated_body;
}

/// The activation of one vector.
#[inline(always)]
pub(crate) fn activation_vector<S: Simd>(simd: S, activation: ActivationFn, x: S::Vector) -> S::Vector {
    match activation {
        ActivationFn::Silu => simd::silu(simd, x),
        ActivationFn::GeluTanh => simd::gelu_tanh(simd, x),
        ActivationFn::Gelu => simd::gelu_erf(simd, x),
        ActivationFn::Relu => simd.max(x, simd.splat(0.0)),
        ActivationFn::ReluSquared => {
            let positive = simd.max(x, simd.splat(0.0));
            simd.mul(positive, positive)
        }
        ActivationFn::QuickGelu => simd::gelu_sigmoid(simd, x),
        ActivationFn::ClampedQuickGelu => simd::gelu_sigmoid(simd, simd.min(x, simd.splat(CLAMP))),
    }
}

/// The activation of a gate times what is gated.
#[inline(always)]
pub(crate) fn gated_vector<S: Simd>(simd: S, activation: ActivationFn, gate: S::Vector, up: S::Vector) -> S::Vector {
    let active = activation_vector(simd, activation, gate);
    if activation == ActivationFn::ClampedQuickGelu {
        let clamped = simd.max(simd.min(up, simd.splat(CLAMP)), simd.splat(-CLAMP));
        return simd.mul(active, simd.add(clamped, simd.splat(1.0)));
    }
    simd.mul(active, up)
}

#[inline(always)]
fn add_body<S: Simd>(_simd: S, a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = a + b;
    }
}

#[inline(always)]
fn add_assign_body<S: Simd>(_simd: S, x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[inline(always)]
fn softcap_body<S: Simd>(simd: S, x: &mut [f32], cap: f32) {
    let (scale, inverse) = (simd.splat(cap), simd.splat(1.0 / cap));
    for values in x.chunks_mut(S::LANES) {
        let value = simd.mul(simd.load_partial(values, 0.0), inverse);
        simd.store_partial(values, simd.mul(scale, simd::tanh(simd, value)));
    }
}

#[inline(always)]
fn activate_body<S: Simd>(simd: S, activation: ActivationFn, x: &mut [f32]) {
    let mut vectors = x.chunks_exact_mut(S::LANES);
    for values in &mut vectors {
        simd.store_slice(values, activation_vector(simd, activation, simd.load_slice(values)));
    }
    let rest = vectors.into_remainder();
    let last = activation_vector(simd, activation, simd.load_partial(rest, 0.0));
    simd.store_partial(rest, last);
}

#[inline(always)]
fn activate_gated_body<S: Simd>(simd: S, activation: ActivationFn, gate: &mut [f32], up: &[f32]) {
    let up = &up[..gate.len()];
    let mut gates = gate.chunks_exact_mut(S::LANES);
    let mut ups = up.chunks_exact(S::LANES);
    for (gate, up) in (&mut gates).zip(&mut ups) {
        let value = gated_vector(simd, activation, simd.load_slice(gate), simd.load_slice(up));
        simd.store_slice(gate, value);
    }
    let rest = gates.into_remainder();
    let last = gated_vector(simd, activation, simd.load_partial(rest, 0.0), simd.load_partial(ups.remainder(), 0.0));
    simd.store_partial(rest, last);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{
        quantize_row,
        simd::Portable,
        test_support::{assert_close, computes, random},
    };

    const ALL: [ActivationFn; 7] = [
        ActivationFn::Silu,
        ActivationFn::GeluTanh,
        ActivationFn::Gelu,
        ActivationFn::Relu,
        ActivationFn::ReluSquared,
        ActivationFn::QuickGelu,
        ActivationFn::ClampedQuickGelu,
    ];

    /// The definitions in f64; erf by its Maclaurin series, or by its continued fraction where that converges slowly.
    fn reference(activation: ActivationFn, x: f32) -> f32 {
        let x = f64::from(x);
        let value = match activation {
            ActivationFn::Silu => x / (1.0 + (-x).exp()),
            ActivationFn::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
            ActivationFn::Gelu => 0.5 * x * (1.0 + erf(x / 2_f64.sqrt())),
            ActivationFn::Relu => x.max(0.0),
            ActivationFn::ReluSquared => x.max(0.0).powi(2),
            ActivationFn::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            ActivationFn::ClampedQuickGelu => x.min(7.0) / (1.0 + (-1.702 * x.min(7.0)).exp()),
        };
        value as f32
    }

    fn erf(x: f64) -> f64 {
        if x.abs() > 5.0 {
            return x.signum();
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn arguments() -> Vec<f32> {
        let dense = (-2000..=2000).map(|i| i as f32 * 0.005);
        dense.chain([-1e30, -100.0, -90.0, -88.0, 88.0, 100.0, 1e30, 0.0, -0.0, 1e-30]).collect()
    }

    #[test]
    fn activations_agree_with_f64() {
        for cx in computes() {
            for activation in ALL {
                // Squares are to be finite.
                let most = if activation == ActivationFn::ReluSquared { 1e15 } else { f32::MAX };
                let arguments = || arguments().iter().map(|x: &f32| x.min(most)).collect::<Vec<f32>>();
                let (mut x, mut up) = (arguments(), random(1, arguments().len()));
                up.iter_mut().for_each(|up| *up *= 10.0);
                let expected: Vec<f32> = x.iter().map(|&x| reference(activation, x)).collect();
                activate(&cx, activation, &mut x);
                assert_close(&x, &expected, 2e-6);
                let mut gate = arguments();
                activate_gated(&cx, activation, &mut gate, &up);
                let gated = |(x, up): (&f32, &f32)| match activation {
                    ActivationFn::ClampedQuickGelu => x * (up.clamp(-7.0, 7.0) + 1.0),
                    _ => x * up,
                };
                assert_close(&gate, &x.iter().zip(&up).map(gated).collect::<Vec<f32>>(), 2e-6);
            }
        }
    }

    #[test]
    fn sixteen_lanes_agree_with_one() {
        for activation in ALL {
            let (mut wide, mut narrow) = (arguments(), arguments());
            activate_body(Portable::<16>, activation, &mut wide);
            activate_body(Portable::<1>, activation, &mut narrow);
            assert_eq!(wide, narrow);
        }
    }

    #[test]
    fn exponential_is_accurate_to_rounding() {
        for x in (-8700..=8800).map(|i| i as f32 * 0.01) {
            let given = f64::from(simd::exp(Portable::<1>, [x])[0]);
            let expected = f64::from(x).exp();
            assert!((given / expected - 1.0).abs() < 3e-7, "exp({x}) = {given}, {expected} expected");
        }
        assert_eq!(simd::exp(Portable::<1>, [0.0]), [1.0]);
        assert_eq!(simd::exp(Portable::<1>, [f32::NEG_INFINITY]), [0.0]);
    }

    #[test]
    fn sums_and_scales_at_every_length() {
        for cx in computes() {
            for len in [0, 1, 7, 8, 17, 4095, 4096, 4097, 50_000] {
                let (a, b) = (random(1, len), random(2, len));
                let mut out = vec![0.0; len];
                add(&cx, &a, &b, &mut out);
                let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
                assert_eq!(out, sum);
                let mut x = a.clone();
                add_assign(&cx, &mut x, &b);
                assert_eq!(x, sum);
                scale(&cx, &mut x, 0.5);
                assert!(x.iter().zip(&sum).all(|(x, sum)| *x == sum * 0.5));
                softcap(&cx, &mut x, 0.25);
                let capped: Vec<f32> = sum.iter().map(|x| 0.25 * (x * 2.0).tanh()).collect();
                assert_close(&x, &capped, 1e-6);
            }
        }
    }

    #[test]
    fn embeds_rows_and_refuses_ids_past_the_table() {
        let (cols, rows) = (64, 10);
        let values = random(3, rows * cols);
        let mut table = vec![0; rows * 68];
        for (row, bytes) in values.chunks(cols).zip(table.chunks_mut(68)) {
            quantize_row(WeightFormat::Q8_0, row, bytes).unwrap();
        }
        let ids: Vec<u32> = (0..600).map(|i| i * 7 % 10).collect();
        let mut row = vec![0.0; cols];
        for cx in computes() {
            let mut out = vec![0.0; ids.len() * cols];
            embed_rows(&cx, WeightFormat::Q8_0, &table, cols, &ids, 3.0, &mut out).unwrap();
            for (out, &id) in out.chunks(cols).zip(&ids) {
                dequantize_row(WeightFormat::Q8_0, &table[id as usize * 68..][..68], &mut row).unwrap();
                assert!(out.iter().zip(&row).all(|(out, row)| *out == row * 3.0));
            }
            let refused = embed_rows(&cx, WeightFormat::Q8_0, &table, cols, &[10], 1.0, &mut out[..cols]);
            assert!(matches!(refused, Err(KernelError::Shape { given: 10, expected: 10, .. })));
        }
    }
}
