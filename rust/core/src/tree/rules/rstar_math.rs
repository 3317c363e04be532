//! `rstar_math`: UCT in which an unvisited child scores 0.

use crate::options::NonNegative;
use crate::tree::answers::Answer;
use crate::tree::arena::Hot;
use crate::tree::request::Ask;
use crate::tree::rules::{At, Rule, follow};
use crate::tree::step::Step;

crate::rule! {
    /// `Q + c * sqrt(ln N_parent / N)`; an unvisited child scores 0, without a bonus.
    ///
    /// So a child of negative value is left for its unvisited siblings, and one of positive
    /// value is kept. Children that are ends are backed up as they are created, with the
    /// value that comes with them, and never chosen. rStar (branch rStar-math)
    /// `nodes/mcts_node.py:MCTSNode.puct`. Ties go to the first child.
    "rstar_math" {
        title: "rStar-Math's UCT",
        family: Descent,
        paper: "Guan et al. 2025, arXiv:2501.04519",
        certainty: Code,
        options: {
            /// Weight of the bound.
            c: NonNegative = 2.0,
        },
    }
}

impl Options {
    fn score<'a>(&'a self, at: &'a At<'a>) -> impl Fn(usize, &Hot) -> f64 + 'a {
        let log = at.visits(at.hot()).max(1.0).ln();
        move |_, child| match at.visits(child) {
            0.0 => 0.0,
            visits => at.q(child).unwrap_or(0.0) + *self.c * (log / visits).sqrt(),
        }
    }
}

impl Rule for Options {
    by_score!();

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        follow::take_with_ends(step, ask, answer);
    }
}
