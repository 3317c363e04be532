//! Loops over blocks of logits, written so that the compiler turns them into vectors.
//! May depend on `logit`, `float` and `wide`.

use super::float::Float;
use super::logit::{Logit, Transform};
use crate::wide::wide;

/// Logits that are read at a time: small enough for the first cache.
pub const BLOCK: usize = 1024;

/// Sums that run side by side.
const LANES: usize = 16;

/// A block of transformed logits.
pub type Block<F> = [F; BLOCK];

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
