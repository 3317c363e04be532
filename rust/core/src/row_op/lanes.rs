//! Loops over blocks of logits, written so that the compiler turns them into vectors.
//! May depend on `logit`, `float` and `wide`.

use super::float::Float;
use super::logit::{Logit, Transform};
use crate::wide::widest;

/// Logits that are read at a time: small enough for the first cache.
pub const BLOCK: usize = 1024;

/// Sums that run side by side.
const LANES: usize = 16;

/// A block of transformed logits.
pub type Block<F> = [F; BLOCK];

widest! {
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

widest! {
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

widest! {
    /// `sum exp(z - top)` and `sum (z - top) exp(z - top)`.
    pub fn sums<F: Float>(block: &Block<F>, top: F, ahead: Ahead) -> (f64, f64) {
        let (mut sums, mut tilts) = ([F::ZERO; LANES], [F::ZERO; LANES]);
        for (index, part) in block.as_chunks::<LANES>().0.iter().enumerate() {
            ahead.fetch(index);
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

impl<F: Float> Pull<F> {
    /// The gradient by one logit, but for the target's own term, from the transformed one:
    /// `p (by_log_sum - by_entropy (log p + H)) dz/dx`.
    #[inline(always)]
    pub fn of(&self, z: F, transform: &Transform<F>) -> F {
        let log_p = ((z - self.log_sum.0) - self.log_sum.1).floored();
        let weight = self.by_log_sum - self.by_entropy * (log_p + self.entropy);
        log_p.exp() * weight * transform.slope(z)
    }
}

widest! {
    /// Writes the gradient by up to [`BLOCK`] logits that are transformed, but for the
    /// target's own term.
    pub fn gradient<L: Logit>(
        block: &Block<L::Float>,
        transform: &Transform<L::Float>,
        pull: &Pull<L::Float>,
        out: &mut [L],
        ahead: Ahead,
    ) {
        let (transform, pull) = (*transform, *pull);
        let (parts, rest) = out.as_chunks_mut::<LANES>();
        let (blocks, _) = block.as_chunks::<LANES>();
        for (index, (part, own)) in parts.iter_mut().zip(blocks).enumerate() {
            ahead.fetch(index);
            for (x, &z) in part.iter_mut().zip(own) {
                *x = L::narrow(pull.of(z, &transform));
            }
        }
        for (x, &z) in rest.iter_mut().zip(blocks.get(parts.len()).into_iter().flatten()) {
            *x = L::narrow(pull.of(z, &transform));
        }
    }
}

/// The memory of the block that follows one. Asked for while that one is computed, or the
/// processor would read nothing in the meantime, and compute nothing while it reads.
#[derive(Clone, Copy)]
pub struct Ahead {
    start: *const u8,
    /// Bytes of [`LANES`] logits.
    step: usize,
}

impl Ahead {
    /// Of what follows these logits, whether or not it is theirs.
    pub fn of<L>(logits: &[L]) -> Self {
        let start = logits.as_ptr().wrapping_add(BLOCK).cast();
        Self { start, step: LANES * size_of::<L>() }
    }

    /// Asks for the logits from `LANES * index` on, [`LANES`] of them.
    #[inline(always)]
    fn fetch(self, index: usize) {
        for line in (0..self.step).step_by(64) {
            prefetch(self.start.wrapping_add(index * self.step + line));
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch(place: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint; what cannot be read is not.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
}

/// Other processors are not asked: what stable Rust has for it is of x86 alone.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn prefetch(_place: *const u8) {}
