//! `alphamath`: PUCT that skips ends, which are visited once, as they are created.

use crate::options::NonNegative;
use crate::tree::answers::Answer;
use crate::tree::arena::Hot;
use crate::tree::request::Ask;
use crate::tree::rules::{At, Rule, follow};
use crate::tree::step::Step;

crate::rule! {
    /// `Q + c_puct * P * sqrt(N_parent) / (1 + N)`, `P = exp(mean log-prob)` of the step.
    ///
    /// Children that are ends are backed up as they are created, with the value that comes
    /// with them (+1 right, -1 wrong), and never chosen; a node with nothing but ends below
    /// closes. The expanded node is backed up with its own value. Super_MARIO
    /// `mcts_node.py:MCTSNode.puct`, `agents/mcts.py`. An unvisited child is worth 0; ties go
    /// to the first child.
    "alphamath" {
        title: "AlphaMath's PUCT",
        family: Descent,
        paper: "Chen et al. 2024, arXiv:2405.03553",
        certainty: Code,
        options: {
            /// Weight of the prior term.
            c_puct: NonNegative = 1.5,
        },
    }
}

impl Options {
    fn score<'a>(&'a self, at: &'a At<'a>) -> impl Fn(usize, &Hot) -> f64 + 'a {
        let scale = *self.c_puct * at.visits(at.hot()).sqrt();
        move |_, child| {
            let prior = scale * f64::from(child.prior) / (1.0 + at.visits(child));
            at.q(child).unwrap_or(0.0) + prior
        }
    }
}

impl Rule for Options {
    by_score!();

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        follow::take_with_ends(step, ask, answer);
    }
}
