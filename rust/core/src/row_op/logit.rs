//! Logits as they are stored, and as they are normalised. May depend on `float`.

use super::float::Float;

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
