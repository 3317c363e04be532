//! `f32` and `f64` with an exponential that the compiler turns into vectors.
//!
//! Additions, multiplications, comparisons and shifts in a fixed order, so the bits do not
//! depend on the width of the processor's vectors. May depend on nothing else.

use std::ops::{Add, Div, Mul, Sub};

/// `f32` or `f64`, with an exponential that vectorises.
pub trait Float:
    Copy
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Minus infinity.
    const LOWEST: Self;
    /// Below this the exponential is 0.
    const LEAST: Self;
    /// Rounded from `f64`.
    fn of(value: f64) -> Self;
    /// As `f64`.
    fn to_f64(self) -> f64;
    /// The absolute value.
    fn size(self) -> Self;
    /// `exp(x)` for `x` in `[LEAST, 80]`.
    fn exp_within(self) -> Self;

    /// `x`, at least [`Self::LEAST`]; NaN stays.
    #[inline(always)]
    fn floored(self) -> Self {
        if self < Self::LEAST { Self::LEAST } else { self }
    }

    /// `exp(x)` of a floored `x` below 80: 0 at the floor.
    #[inline(always)]
    fn exp(self) -> Self {
        let power = self.exp_within();
        if self <= Self::LEAST { Self::ZERO } else { power }
    }

    /// The hyperbolic tangent, `(1 - e) / (1 + e)` with `e = exp(-2 |x|)`.
    #[inline(always)]
    fn tanh(self) -> Self {
        let e = (Self::of(-2.0) * self.size()).floored().exp();
        let size = (Self::ONE - e) / (Self::ONE + e);
        if self < Self::ZERO { Self::ZERO - size } else { size }
    }
}

/// `exp(x) = 2^n exp(r)` with `n` the integer nearest to `x / ln 2`, and the series of
/// `exp(r)`, `|r| <= ln 2 / 2`, up to a term below half a unit in the last place. Adding
/// 1.5 times two to the number of mantissa bits rounds to an integer and leaves its bits
/// at the low end, from where a shift makes them the exponent of `2^n`.
macro_rules! float {
    ($float:ident, $mantissa:literal, $bias:literal, $least:literal, $ln2:expr, $rest:expr,
     [$first:literal $(, $term:literal)*]) => {
        impl Float for $float {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = Self::NEG_INFINITY;
            const LEAST: Self = $least;

            #[inline(always)]
            fn of(value: f64) -> Self {
                value as Self
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn size(self) -> Self {
                self.abs()
            }

            #[inline(always)]
            fn exp_within(self) -> Self {
                const ROUND: $float = 1.5 * (1u64 << $mantissa) as $float;
                let shifted = self * std::$float::consts::LOG2_E + ROUND;
                let n = shifted - ROUND;
                const LN_2: [$float; 2] = [$ln2, $rest];
                let r = self - n * LN_2[0] - n * LN_2[1];
                let mut series = 1.0 / $first;
                $( series = series * r + 1.0 / $term; )*
                let series = series * r + 1.0;
                let series = series * r + 1.0;
                let one = $bias << $mantissa;
                series * Self::from_bits((shifted.to_bits() << $mantissa).wrapping_add(one))
            }
        }
    };
}

// ln 2 as a number so short that its products with n are exact, and the rest of it; then
// factorials.
float!(
    f32,
    23,
    127,
    -87.0,
    355.0 / 512.0,
    (std::f64::consts::LN_2 - 355.0 / 512.0) as f32,
    [5040.0, 720.0, 120.0, 24.0, 6.0, 2.0]
);
float!(
    f64,
    52,
    1023,
    -708.0,
    f64::from_bits(0x3fe6_2e42_fee0_0000),
    1.908_214_929_270_587_7e-10,
    [
        6_227_020_800.0,
        479_001_600.0,
        39_916_800.0,
        3_628_800.0,
        362_880.0,
        40_320.0,
        5040.0,
        720.0,
        120.0,
        24.0,
        6.0,
        2.0
    ]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_close() {
        for step in 0..100_000 {
            let x = -87.0 * f64::from(step) / 100_000.0;
            let single = f64::from(Float::exp(x as f32)) / f64::from(x as f32).exp();
            assert!((single - 1.0).abs() < 2e-7, "{x} {single}");
            let x = 8.0 * x;
            let double = Float::exp(x) / x.exp();
            assert!((double - 1.0).abs() < 1e-15, "{x} {double}");
        }
    }
}
