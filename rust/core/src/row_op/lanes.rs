//! Arithmetic of blocks of logits, written so that the compiler turns it into vectors.
//!
//! Everything is additions, multiplications, comparisons and shifts in a fixed order, so
//! the bits do not depend on the width of the processor's vectors. May depend on `wide`.

use std::ops::{Add, Div, Mul, Sub};

use crate::wide::wide;

/// Logits that are read at a time: small enough for the first cache.
pub const BLOCK: usize = 1024;

/// Sums that run side by side.
const LANES: usize = 16;

/// A block of transformed logits.
pub type Block<F> = [F; BLOCK];

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
        if self > Self::LEAST || self.is_nan() { power } else { Self::ZERO }
    }

    /// Whether it is not a number.
    #[inline(always)]
    #[allow(clippy::eq_op)]
    fn is_nan(self) -> bool {
        self != self
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

/// A stored logit: `f32`, `f64`, or `u16`, the bits of a bfloat16.
pub trait Logit: Copy + Send + Sync {
    /// What it is computed in.
    type Float: Float;
    /// Widened, exactly.
    fn widen(self) -> Self::Float;
    /// Rounded to nearest, ties to even.
    fn narrow(value: Self::Float) -> Self;
}

impl Logit for f32 {
    type Float = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(value: f32) -> f32 {
        value
    }
}

impl Logit for f64 {
    type Float = f64;
    #[inline(always)]
    fn widen(self) -> f64 {
        self
    }
    #[inline(always)]
    fn narrow(value: f64) -> f64 {
        value
    }
}

impl Logit for u16 {
    type Float = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
    #[inline(always)]
    fn narrow(value: f32) -> u16 {
        let bits = value.to_bits();
        let even = (bits >> 16) & 1;
        let rounded = (bits.wrapping_add(0x7fff + even) >> 16) as u16;
        if value.is_nan() { 0x7fc0 } else { rounded }
    }
}

/// From a stored logit `x` to the one that is normalised:
/// `z = cap tanh(x / cap) / temperature`, without a cap `x / temperature`.
#[derive(Clone, Copy)]
pub struct Transform<F> {
    /// The cap, if there is one.
    pub softcap: Option<F>,
    /// One over the temperature.
    pub sharpness: F,
}

impl<F: Float> Transform<F> {
    /// `z` of one logit.
    #[inline(always)]
    pub fn of(&self, x: F) -> F {
        match self.softcap {
            None => x * self.sharpness,
            Some(cap) => (x / cap).tanh() * (cap * self.sharpness),
        }
    }

    /// `dz / dx`, from `z`.
    #[inline(always)]
    pub fn slope(&self, z: F) -> F {
        match self.softcap {
            None => self.sharpness,
            Some(cap) => {
                let t = z / (cap * self.sharpness);
                self.sharpness * (F::ONE - t * t)
            }
        }
    }
}

wide! {
    /// Transforms up to [`BLOCK`] logits; what they do not fill is minus infinity.
    pub fn load<L: Logit>(
        logits: &[L],
        transform: &Transform<L::Float>,
        block: &mut Block<L::Float>,
    ) {
        let transform = *transform;
        for (z, x) in block.iter_mut().zip(logits) {
            *z = transform.of(x.widen());
        }
        for z in block.iter_mut().skip(logits.len()) {
            *z = Float::LOWEST;
        }
    }
}

wide! {
    /// The largest number of a block; NaN does not count.
    pub fn highest<F: Float>(block: &Block<F>) -> F {
        let mut tops = [F::LOWEST; LANES];
        for part in block.as_chunks::<LANES>().0 {
            for (top, &z) in tops.iter_mut().zip(part) {
                *top = if z > *top { z } else { *top };
            }
        }
        tops.iter().fold(F::LOWEST, |top, &z| if z > top { z } else { top })
    }
}

wide! {
    /// `sum exp(z - top)` and `sum (z - top) exp(z - top)`.
    pub fn sums<F: Float>(block: &Block<F>, top: F) -> (f64, f64) {
        let (mut sums, mut tilts) = ([F::ZERO; LANES], [F::ZERO; LANES]);
        for part in block.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                let below = (part[lane] - top).floored();
                let e = below.exp();
                sums[lane] = sums[lane] + e;
                tilts[lane] = tilts[lane] + below * e;
            }
        }
        let total = |lanes: [F; LANES]| lanes.iter().map(|x| x.to_f64()).sum();
        (total(sums), total(tilts))
    }
}

/// What the gradient of a row's logits is made of.
#[derive(Clone, Copy)]
pub struct Pull<F> {
    /// The logarithm of the row's sum of exponentials, rounded, and what was lost by it.
    pub log_sum: (F, F),
    /// The row's entropy.
    pub entropy: F,
    /// Gradient of the loss by the log-sum less that by the log-probability.
    pub by_log_sum: F,
    /// Gradient of the loss by the entropy.
    pub by_entropy: F,
}

wide! {
    /// Replaces transformed logits by the gradient, but for the target's own term:
    /// `p (by_log_sum - by_entropy (log p + H)) dz/dx`.
    pub fn gradient<F: Float>(block: &mut Block<F>, transform: &Transform<F>, pull: &Pull<F>) {
        let (transform, pull) = (*transform, *pull);
        for z in block.iter_mut() {
            let log_p = ((*z - pull.log_sum.0) - pull.log_sum.1).floored();
            let weight = pull.by_log_sum - pull.by_entropy * (log_p + pull.entropy);
            *z = log_p.exp() * weight * transform.slope(*z);
        }
    }
}

wide! {
    /// Writes the first numbers of a block, rounded.
    pub fn store<L: Logit>(block: &Block<L::Float>, out: &mut [L]) {
        for (x, &z) in out.iter_mut().zip(block) {
            *x = L::narrow(z);
        }
    }
}
