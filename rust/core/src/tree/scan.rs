//! The hot loop of prior-weighted rules, without branches. Depends on `hot`.
//!
//! Which child is visited, waits or wins is hard to foretell, so nothing here asks: every
//! term is computed for every child. Where the processor has vectors of four doubles, they
//! are used by name: the compiler finds them too, but then shuffles more than it computes.

#[cfg(target_arch = "x86_64")]
mod avx2;

use crate::tree::hot::Hot;

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

/// Which open child has the highest score, the first of equals. Scores must be numbers; one of
/// minus infinity is none.
pub fn best(children: &[Hot], weights: Weights) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has just been asked.
        return unsafe { avx2::best(children, weights) };
    }
    plain(children, weights)
}

fn plain(children: &[Hot], weights: Weights) -> Option<usize> {
    let (mut best, mut highest) = (None, f64::NEG_INFINITY);
    for (i, child) in children.iter().enumerate() {
        let score = score(child, weights);
        (best, highest) = if score > highest { (Some(i), score) } else { (best, highest) };
    }
    best
}

/// A child's score; minus infinity if it is closed.
fn score(child: &Hot, weights: Weights) -> f64 {
    let (loss, counted) = weights.loss.map_or((0.0, 0.0), |loss| (loss, 1.0));
    let (visits, waiting) = (f64::from(child.visits), f64::from(child.in_flight()));
    let count = visits + counted * waiting;
    let mean = (child.value_sum - loss * waiting) / count.max(1.0);
    let q = if count > 0.0 { mean } else { weights.unvisited };
    let sum = q + weights.scale * f64::from(child.prior) / (1.0 + (visits + waiting));
    if child.is_closed() { f64::NEG_INFINITY } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn child() -> impl Strategy<Value = Hot> {
        let sum = prop_oneof![Just(0.0), -9.0..9.0, Just(f64::INFINITY)];
        let prior = prop_oneof![Just(0.25_f32), 0.0..1.0_f32];
        (sum, 0..4_u32, prior, 0..3_u16, 0..4).prop_map(|(sum, visits, prior, waiting, closed)| {
            let mut hot = Hot { value_sum: sum, visits, flags: waiting, ..Hot::new(prior) };
            if closed == 0 {
                hot.close();
            }
            hot
        })
    }

    #[test]
    fn scores_that_are_no_numbers_name_no_child_that_is_not_there() {
        let weights = Weights { scale: 1.0, unvisited: 0.0, loss: None };
        for count in 0..40 {
            for odd in 0..=count {
                let sum = |i: usize| if i.is_multiple_of(odd + 1) { f64::NAN } else { i as f64 };
                let child = |i| Hot { value_sum: sum(i), visits: 1, ..Hot::new(0.5) };
                let children: Vec<Hot> = (0..count).map(child).collect();
                assert!(best(&children, weights).is_none_or(|i| i < count));
            }
        }
    }

    proptest! {
        #[test]
        fn vectors_choose_what_single_numbers_do(
            children in proptest::collection::vec(child(), 0..40),
            scale in 0.0..3.0,
            unvisited in prop_oneof![Just(f64::INFINITY), -1.0..1.0],
            loss in proptest::option::of(-1.0..1.0),
        ) {
            let weights = Weights { scale, unvisited, loss };
            prop_assert_eq!(best(&children, weights), plain(&children, weights));
        }
    }
}
