//! The hot loop of prior-weighted rules, without branches. Depends on `hot`.
//!
//! Which child is visited, waits or wins is hard to foretell, so nothing here asks: every
//! term is computed for every child, a few children at a time.

use crate::tree::hot::Hot;
use crate::wide::wide;

/// Children whose scores are computed before they are compared.
const CHUNK: usize = 32;

/// The weights of a score `q + scale * P / (1 + N)`, `N` with descents in flight.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// Weight of the prior.
    pub scale: f64,
    /// `q` of children without visits.
    pub unvisited: f64,
    /// Loss that a descent in flight counts as in `q`; `None` if it counts as no visit there.
    pub loss: Option<f64>,
}

/// Which open child has the highest score, the first of equals. Scores must be numbers and
/// not minus infinity.
pub fn best(children: &[Hot], weights: Weights) -> Option<usize> {
    let (mut best, mut highest) = (None, f64::NEG_INFINITY);
    let mut scores = [0.0; CHUNK];
    for (start, chunk) in (0..).step_by(CHUNK).zip(children.chunks(CHUNK)) {
        let scores = &mut scores[..chunk.len()];
        score(chunk, weights, scores);
        let top = scores.iter().fold(f64::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        if top > highest {
            highest = top;
            best = scores.iter().position(|&s| s == top).map(|i| start + i);
        }
    }
    best
}

wide! {
    /// Scores; those of closed children are minus infinity. Four at a time are what the
    /// compiler turns into vectors, strange as their distance in memory is.
    fn score(children: &[Hot], weights: Weights, scores: &mut [f64]) {
        let (fours, rest) = children.as_chunks::<4>();
        let (score_fours, score_rest) = scores.as_chunks_mut::<4>();
        for (scores, four) in score_fours.iter_mut().zip(fours) {
            *scores = each(four, weights);
        }
        for (score, one) in score_rest.iter_mut().zip(rest) {
            [*score] = each(&[*one], weights);
        }
    }
}

#[inline(always)]
fn each<const N: usize>(children: &[Hot; N], weights: Weights) -> [f64; N] {
    let (loss, counted) = weights.loss.map_or((0.0, 0.0), |loss| (loss, 1.0));
    let of = |read: fn(&Hot) -> f64| -> [f64; N] { std::array::from_fn(|i| read(&children[i])) };
    let sums = of(|hot| hot.value_sum);
    let visits = of(|hot| f64::from(hot.visits));
    let waiting = of(|hot| f64::from(hot.in_flight()));
    let priors = of(|hot| f64::from(hot.prior));
    let open = of(|hot| if hot.is_closed() { f64::NEG_INFINITY } else { f64::INFINITY });
    std::array::from_fn(|i| {
        let count = visits[i] + counted * waiting[i];
        let mean = (sums[i] - loss * waiting[i]) / count.max(1.0);
        let q = if count > 0.0 { mean } else { weights.unvisited };
        let sum = q + weights.scale * priors[i] / (1.0 + (visits[i] + waiting[i]));
        sum.min(open[i])
    })
}
