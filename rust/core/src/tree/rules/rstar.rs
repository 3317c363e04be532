//! `rstar`: unexplored children first, in random order, and a bound that decays.

use crate::choice;
use crate::options::NonNegative;
use crate::tree::arena::Hot;
use crate::tree::random::Draw;
use crate::tree::rules::{At, Rule};

choice! {
    /// How the weight of the bound falls, to a tenth, over a tree's simulations.
    Decay {
        /// It does not.
        Constant = "constant",
        /// `c * (1 - 0.9 t)`, `t` the share of simulations done.
        Linear = "linear",
        /// `c * 0.1^t`.
        Exponential = "exponential",
    }
}

crate::rule! {
    /// An unvisited child drawn at random; with all visited, the highest
    /// `Q + c * sqrt(ln N_parent / N)`.
    ///
    /// rStar `MCTS_backbone.py`. Draws depend on the seed, the tree, the node and the number
    /// of its visited children, so they are the same in any run.
    "rstar" {
        title: "rStar's UCT",
        family: Descent,
        paper: "Qi et al. 2024, arXiv:2408.06195",
        certainty: Paper,
        options: {
            /// Weight of the bound.
            c: NonNegative = 2.0,
            /// How the weight falls.
            decay: Decay = Decay::Exponential,
        },
    }
}

impl Options {
    fn weight(&self, at: &At<'_>) -> f64 {
        let done = at.tree.simulations as f64 / at.limits.simulations.max(1) as f64;
        *self.c
            * match self.decay {
                Decay::Constant => 1.0,
                Decay::Linear => 1.0 - 0.9 * done,
                Decay::Exponential => 0.1_f64.powf(done),
            }
    }

    fn score<'a>(&'a self, at: &'a At<'a>) -> impl Fn(usize, &Hot) -> f64 + 'a {
        let (weight, log) = (self.weight(at), at.visits(at.hot()).max(1.0).ln());
        move |_, child| match at.visits(child) {
            0.0 => f64::INFINITY,
            visits => at.q(child).unwrap_or(0.0) + weight * (log / visits).sqrt(),
        }
    }
}

impl Rule for Options {
    fn merges(&self) -> bool {
        true
    }

    fn choose(&self, at: &At<'_>) -> Option<u32> {
        let fresh = |c: &Hot| !c.is_closed() && at.visits(c) == 0.0;
        let count = at.children().iter().filter(|c| fresh(c)).count() as u64;
        if count == 0 {
            return at.best(self.score(at));
        }
        let draw = Draw::new(at.limits.seed, at.index, at.node, "rstar").bits(count) % count;
        let mut unvisited = (0..at.children().len()).filter(|&i| fresh(&at.children()[i]));
        unvisited.nth(draw as usize).map(|i| at.child(i))
    }

    fn child_scores(&self, at: &At<'_>) -> Vec<f64> {
        at.each(self.score(at))
    }
}
