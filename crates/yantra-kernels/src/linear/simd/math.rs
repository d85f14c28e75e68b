//! Activation functions on registers.

use super::Simd;

/// `e^x`, relative error below 2e-7; arguments are clamped to the range of normal results.
/// Cody–Waite reduction by ln 2 and a polynomial of degree six.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let x = s.min(s.max(x, s.splat(-87.3)), s.splat(88.0));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts: the first has few enough bits that its product with n is exact.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 720.0);
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(coefficient));
    }
    s.scale_by_power_of_two(p, n)
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(x, s.add(s.splat(1.0), e))
}

/// GELU by the tanh approximation (Hendrycks and Gimpel, 2016), written as `x * sigmoid(2u)`.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let cubic = s.fma(s.mul(s.mul(x, x), x), s.splat(0.044_715), x);
    let e = exp(s, s.mul(cubic, s.splat(-2.0 * 0.797_884_6)));
    s.div(x, s.add(s.splat(1.0), e))
}

/// GELU by the error function: `max(x, 0) - |x| erfc(|x| / sqrt 2) / 2`, with Abramowitz and Stegun 7.1.26
/// (absolute error of erf below 1.5e-7).
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::Vector) -> S::Vector {
    let magnitude = s.abs(x);
    let z = s.mul(magnitude, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(s.splat(1.0), s.fma(z, s.splat(0.327_591_1), s.splat(1.0)));
    let mut p = s.splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = s.fma(p, t, s.splat(coefficient));
    }
    let e = exp(s, s.sub(s.splat(0.0), s.mul(z, z)));
    let erfc = s.mul(s.mul(p, t), e);
    let half = s.mul(s.mul(magnitude, s.splat(-0.5)), erfc);
    s.add(s.max(x, s.splat(0.0)), half)
}
