//! Exponential and the functions made from it, vectorised.
//!
//! `exp` reduces its argument by multiples of ln 2 and evaluates the degree-6 Taylor-like minimax polynomial on
//! [-ln2/2, ln2/2] (coefficients of Cephes `expf`); relative error below 2e-7. `exp(0)` is exactly 1.

use super::Simd;
use std::f32::consts::LN_2;

/// Below this the exponential is given as zero (it would not be a normal number).
const LOWEST: f32 = -87.3;

/// Of `2^x`, the highest power first.
const EXP2_PRECISE: [f32; 6] = [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 0.240_222_42, LN_2, 1.0];
const EXP2_HALF: [f32; 4] = [5.500_893e-2, 0.242_210_97, 0.693_282_9, 1.0];

/// `e^x`; zero below -87.3, `e^88.3` above 88.3.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    exp_of_negative(simd, simd.min(x, simd.splat(88.3)))
}

/// `e^x` for `x` not above 88.3; zero below -87.3, negative infinity included.
#[inline(always)]
pub(crate) fn exp_of_negative<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
    let magic = simd.splat(12_582_912.0);
    let shifted = simd.fma(x, simd.splat(std::f32::consts::LOG2_E), magic);
    let n = simd.sub(shifted, magic);
    // ln 2 in two parts, so that n * ln 2 is taken away exactly enough.
    let r = simd.fma(n, simd.splat(-0.693_359_4), x);
    let r = simd.fma(n, simd.splat(2.121_944_4e-4), r);
    let mut p = simd.splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = simd.fma(p, r, simd.splat(coefficient));
    }
    let p = simd.add(simd.fma(p, simd.mul(r, r), r), simd.splat(1.0));
    // Where x is too low, whatever came of it is not used.
    simd.select_less(x, simd.splat(LOWEST), simd.splat(0.0), simd.scale_by_low_bits(p, shifted))
}

/// `2^x` for `x` not above 127; zero below -126, negative infinity included. `2^0` is exactly 1. The polynomial is the
/// minimax one of its degree on [-1/2, 1/2]: relative error below 2e-7, or below 1.1e-4 where half precision will do.
#[inline(always)]
pub(crate) fn exp2_of_negative<S: Simd>(simd: S, x: S::Vector, precise: bool) -> S::Vector {
    // As in `exp_of_negative`, but what is left over is exact.
    let magic = simd.splat(12_582_912.0);
    let shifted = simd.add(x, magic);
    let r = simd.sub(x, simd.sub(shifted, magic));
    let coefficients: &[f32] = if precise { &EXP2_PRECISE } else { &EXP2_HALF };
    let mut p = simd.splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        p = simd.fma(p, r, simd.splat(coefficient));
    }
    simd.select_less(x, simd.splat(-126.0), simd.splat(0.0), simd.scale_by_low_bits(p, shifted))
}

/// `tanh(x) = 1 - 2 / (e^2x + 1)`; absolute error below 3e-7.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let e = exp(simd, simd.add(x, x));
    simd.sub(simd.splat(1.0), simd.div(simd.splat(2.0), simd.add(e, simd.splat(1.0))))
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let e = exp(simd, simd.sub(simd.splat(0.0), x));
    simd.div(x, simd.add(e, simd.splat(1.0)))
}

/// `x / (1 + e^-1.702x)`.
#[inline(always)]
pub(crate) fn gelu_sigmoid<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let e = exp(simd, simd.mul(x, simd.splat(-1.702)));
    simd.div(x, simd.add(e, simd.splat(1.0)))
}

/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, written as `x * sigmoid(2u)` to keep the negative tail.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let cubic = simd.fma(simd.mul(x, x), simd.splat(0.044_715), simd.splat(1.0));
    let twice_u = simd.mul(simd.mul(x, simd.splat(TWICE_SQRT_2_OVER_PI)), cubic);
    let e = exp(simd, simd.sub(simd.splat(0.0), twice_u));
    simd.div(x, simd.add(e, simd.splat(1.0)))
}

/// `x/2 (1 + erf(x / sqrt 2))`; erf by Abramowitz & Stegun 7.1.26, absolute error of the result below 2e-7 |x| + 2e-7.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let z = simd.mul(x, simd.splat(std::f32::consts::FRAC_1_SQRT_2));
    let negated = simd.sub(simd.splat(0.0), z);
    let magnitude = simd.max(z, negated);
    let t = simd.div(simd.splat(1.0), simd.fma(magnitude, simd.splat(0.327_591_1), simd.splat(1.0)));
    let mut p = simd.splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = simd.fma(p, t, simd.splat(coefficient));
    }
    let e = exp(simd, simd.mul(z, negated));
    // erfc(|z|) / 2; the two tails of the normal distribution function follow from it.
    let tail = simd.mul(simd.mul(simd.mul(p, t), e), simd.splat(0.5));
    let probability = simd.select_less(z, simd.splat(0.0), tail, simd.sub(simd.splat(1.0), tail));
    simd.mul(x, probability)
}
