//! Eight children at a time, in two vectors of four doubles: the operations of `score` in
//! their order, so that the numbers are the same bits. Depends on `hot`.

use std::arch::x86_64::*;

use super::Weights;
use crate::tree::hot::{Hot, MAX_IN_FLIGHT};

/// The bits of 2^52, a double whose lowest bits count ones: an integer below 2^32 put there
/// is converted by taking 2^52 away.
const COUNTER: i64 = 0x4330_0000_0000_0000;

/// `super::best`, of processors that have AVX2.
#[target_feature(enable = "avx2")]
pub(super) fn best(children: &[Hot], weights: Weights) -> Option<usize> {
    let terms = Terms::new(weights);
    let (mut best, mut highest) = (usize::MAX, f64::NEG_INFINITY);
    let (eights, rest) = children.as_chunks::<8>();
    for (start, [a, b, c, d, e, f, g, h]) in (0..).step_by(8).zip(eights) {
        let (place, top) = terms.top([a, b, c, d], [e, f, g, h]);
        (best, highest) = if top > highest { (start + place, top) } else { (best, highest) };
    }
    if let Some(last) = rest.last() {
        // The last child stands for those that are missing, and wins no sooner for that.
        let at = |i: usize| rest.get(i).unwrap_or(last);
        let (place, top) = terms.top([at(0), at(1), at(2), at(3)], [at(4), at(5), at(6), at(7)]);
        best = if top > highest { children.len() - rest.len() + place } else { best };
    }
    // Were a score no number, `place` could be that of no child.
    (best < children.len()).then_some(best)
}

/// [`Weights`], each in all places of a vector.
struct Terms {
    scale: __m256d,
    unvisited: __m256d,
    loss: __m256d,
    counted: __m256d,
}

impl Terms {
    #[target_feature(enable = "avx2")]
    fn new(weights: Weights) -> Self {
        Self {
            scale: _mm256_set1_pd(weights.scale),
            unvisited: _mm256_set1_pd(weights.unvisited),
            loss: _mm256_set1_pd(weights.loss.unwrap_or(0.0)),
            counted: _mm256_set1_pd(if weights.loss.is_some() { 1.0 } else { 0.0 }),
        }
    }

    /// The first highest of eight scores, and how high it is.
    #[target_feature(enable = "avx2")]
    fn top(&self, low: [&Hot; 4], high: [&Hot; 4]) -> (usize, f64) {
        let (low, high) = (self.scores(low), self.scores(high));
        let top = _mm256_max_pd(low, high);
        let top = _mm256_max_pd(top, _mm256_permute2f128_pd::<1>(top, top));
        let top = _mm256_max_pd(top, _mm256_permute_pd::<0b0101>(top));
        let equal = |scores| _mm256_movemask_pd(_mm256_cmp_pd::<_CMP_EQ_OQ>(scores, top));
        let places = equal(low) | equal(high) << 4;
        (places.trailing_zeros() as usize, _mm256_cvtsd_f64(top))
    }

    #[target_feature(enable = "avx2")]
    fn scores(&self, children: [&Hot; 4]) -> __m256d {
        let [a, b, c, d] = children;
        let sums = _mm256_set_pd(d.value_sum, c.value_sum, b.value_sum, a.value_sum);
        let middles = _mm256_set_epi64x(middle(d), middle(c), middle(b), middle(a));
        let lasts = _mm256_set_epi64x(last(d), last(c), last(b), last(a));

        let counter = _mm256_set1_epi64x(COUNTER);
        let number =
            |counts| _mm256_sub_pd(_mm256_castsi256_pd(counts), _mm256_castsi256_pd(counter));
        let visits = number(_mm256_blend_epi32::<0b1010_1010>(middles, counter));
        let in_flight = _mm256_set1_epi64x(i64::from(MAX_IN_FLIGHT));
        let waiting = _mm256_and_si256(_mm256_srli_epi64::<32>(lasts), in_flight);
        let waiting = number(_mm256_or_si256(waiting, counter));
        let middles = _mm256_castsi256_ps(middles);
        let (low, high) = (_mm256_castps256_ps128(middles), _mm256_extractf128_ps::<1>(middles));
        let priors = _mm256_cvtps_pd(_mm_shuffle_ps::<0b11_01_11_01>(low, high));

        let one = _mm256_set1_pd(1.0);
        let count = _mm256_add_pd(visits, _mm256_mul_pd(self.counted, waiting));
        let sums = _mm256_sub_pd(sums, _mm256_mul_pd(self.loss, waiting));
        let mean = _mm256_div_pd(sums, _mm256_max_pd(count, one));
        let visited = _mm256_cmp_pd::<_CMP_GT_OQ>(count, _mm256_setzero_pd());
        let q = _mm256_blendv_pd(self.unvisited, mean, visited);
        let prior = _mm256_mul_pd(self.scale, priors);
        let prior = _mm256_div_pd(prior, _mm256_add_pd(one, _mm256_add_pd(visits, waiting)));
        // The blend looks at the highest bit alone: the flag of closed nodes, moved there.
        let closed = _mm256_castsi256_pd(_mm256_slli_epi64::<16>(lasts));
        let lowest = _mm256_set1_pd(f64::NEG_INFINITY);
        _mm256_blendv_pd(_mm256_add_pd(q, prior), lowest, closed)
    }
}

/// Visits and, above them, the prior: read as one, since they lie side by side.
#[inline(always)]
fn middle(hot: &Hot) -> i64 {
    (u64::from(hot.visits) | u64::from(hot.prior.to_bits()) << 32) as i64
}

/// The rest of the record, likewise: flags begin at bit 32.
#[inline(always)]
fn last(hot: &Hot) -> i64 {
    let (flags, children) = (u64::from(hot.flags), u64::from(hot.children));
    (u64::from(hot.first_child) | flags << 32 | children << 48) as i64
}
