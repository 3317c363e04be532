//! `gumbel`: sequential halving at the root, completed values below it.

use crate::options::NonNegative;
use crate::tree::arena::{Hot, ROOT};
use crate::tree::random::Draw;
use crate::tree::rules::{At, Rule};

crate::rule! {
    /// Gumbel MuZero. Root: the child of the highest `g + logit + sigma(q)` among those
    /// with the visits that sequential halving considers next. Below: the highest
    /// `softmax(logit + sigma(q)) - N / (1 + sum N)`.
    ///
    /// `sigma(q) = (max_visit_init + max N) * value_scale * q`, `q` completed for unvisited
    /// children by the mixed value `(v + sum N * q_bar) / (1 + sum N)`, `q_bar` weighted by
    /// the visited children's priors, and rescaled to 0..1. Danihelka et al. 2022; mctx
    /// `gumbel_muzero_policy`, `seq_halving.py`, `qtransform_completed_by_mix_value`.
    /// Recommended is the highest of the root's sum among the most visited children and those
    /// that were closed after a visit. `gumbels` gives the root's noise, children of tree after tree; otherwise it is
    /// drawn from the seed.
    "gumbel" {
        title: "Gumbel MuZero",
        family: Descent,
        paper: "Danihelka et al. 2022, github.com/google-deepmind/mctx",
        certainty: Code,
        options: {
            /// Root children that are considered at most.
            max_considered: usize = 16,
            /// Scale of the root's noise.
            gumbel_scale: NonNegative = 1.0,
            /// Scale of values against logits.
            value_scale: NonNegative = 0.1,
            /// Added to the largest number of visits.
            max_visit_init: NonNegative = 50.0,
            /// Map completed values to 0..1.
            rescale_values: bool = true,
            /// Complete by the mixed value rather than the node's own.
            use_mixed_value: bool = true,
            /// The root's noise, before its scale.
            gumbels: Vec<f64> = Vec::new(),
        },
    }
}

/// Visits that the root's child chosen at simulation `index` must have had. Each of the
/// `considered` children gets as many as the others of its round; a round halves them.
pub fn considered_visits(considered: usize, simulations: usize, index: usize) -> usize {
    if considered <= 1 {
        return index;
    }
    let rounds = considered.next_power_of_two().ilog2() as usize;
    let (mut visits, mut start, mut left) = (0, 0, considered);
    loop {
        let extra = (simulations / (rounds * left)).max(1);
        if left <= 2 || index < start + extra * left {
            return visits + (index - start) / left;
        }
        (visits, start, left) = (visits + extra, start + extra * left, (left / 2).max(2));
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

fn logit(child: &Hot) -> f64 {
    f64::from(child.prior.max(f32::MIN_POSITIVE)).ln()
}

impl Options {
    /// `sigma(q)` of every child.
    pub fn completed(&self, at: &At<'_>) -> Vec<f64> {
        let children = at.children();
        let raw = at.tree.raw_value(at.node);
        let mut value = raw;
        if self.use_mixed_value {
            let (mut total, mut weight, mut sum) = (0.0, 0.0, 0.0);
            for child in children {
                if let Some(q) = at.q(child) {
                    let prior = f64::from(child.prior.max(f32::MIN_POSITIVE));
                    total += at.visits(child);
                    weight += prior;
                    sum += prior * q;
                }
            }
            let mean = if weight > 0.0 { sum / weight } else { 0.0 };
            value = (raw + total * mean) / (total + 1.0);
        }
        let mut q: Vec<f64> = children.iter().map(|c| at.q(c).unwrap_or(value)).collect();
        if self.rescale_values {
            let low = q.iter().copied().fold(f64::INFINITY, f64::min);
            let high = q.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let range = (high - low).max(1e-8);
            q.iter_mut().for_each(|q| *q = (*q - low) / range);
        }
        let most = children.iter().map(|c| at.visits(c)).fold(0.0, f64::max);
        let scale = (*self.max_visit_init + most) * *self.value_scale;
        q.iter().map(|q| scale * q).collect()
    }

    fn noise(&self, at: &At<'_>, child: usize) -> f64 {
        let width = at.children().len();
        let given = self.gumbels.get(at.index * width + child).copied();
        let draw = || Draw::new(at.limits.seed, at.index, ROOT, "gumbel").gumbel(child as u64);
        *self.gumbel_scale * given.unwrap_or_else(draw)
    }

    /// Noise, logit and value of each of a root's children that are considered.
    fn scores(&self, at: &At<'_>, considered: impl Fn(&Hot) -> bool) -> Vec<f64> {
        let top = at.children().iter().map(logit).fold(f64::NEG_INFINITY, f64::max);
        let values = self.completed(at);
        let score = |(i, child): (usize, &Hot)| {
            if !considered(child) {
                return f64::NEG_INFINITY;
            }
            (self.noise(at, i) + logit(child) - top + values[i]).max(-1e9)
        };
        at.children().iter().enumerate().map(score).collect()
    }

    fn root(&self, at: &At<'_>) -> Option<u32> {
        let done: f64 = at.children().iter().map(|c| at.visits(c)).sum();
        let open = at.children().iter().filter(|c| !c.is_closed()).count();
        let total = usize::try_from(at.limits.simulations).unwrap_or(usize::MAX);
        let visits = considered_visits(self.max_considered.min(open), total, done as usize);
        let scores = self.scores(at, |child| at.visits(child) == visits as f64);
        at.best(|i, _| scores[i])
    }
}

impl Rule for Options {
    fn merges(&self) -> bool {
        true
    }

    fn choose(&self, at: &At<'_>) -> Option<u32> {
        if at.node == ROOT {
            return self.root(at);
        }
        let values = self.completed(at);
        let logits: Vec<f64> =
            at.children().iter().zip(&values).map(|(c, v)| logit(c) + v).collect();
        let shares = softmax(&logits);
        let total: f64 = at.children().iter().map(|c| at.visits(c)).sum();
        at.best(|i, child| shares[i] - at.visits(child) / (1.0 + total))
    }

    fn policy(&self, at: &At<'_>) -> Vec<f64> {
        let values = self.completed(at);
        let logits: Vec<f64> =
            at.children().iter().zip(&values).map(|(c, v)| logit(c) + v).collect();
        softmax(&logits)
    }

    fn action(&self, at: &At<'_>) -> u32 {
        let most = at.children().iter().map(|c| at.visits(c)).fold(0.0, f64::max);
        // A closed child had all the visits that it gets, fewer than the others or not.
        let closed = |child: &Hot| child.is_closed() && child.visits > 0;
        let open = |child: &Hot| !child.is_closed() && at.visits(child) == most;
        let scores = self.scores(at, |child| closed(child) || open(child));
        let best = scores.iter().zip(0..).reduce(|a, b| if b.0 > a.0 { b } else { a });
        best.map_or(0, |(_, child)| child)
    }
}
