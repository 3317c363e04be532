//! `llm_reasoners`: UCT on quick rewards, every simulation carried down to the depth limit.

use crate::options::NonNegative;
use crate::tree::answers::Answer;
use crate::tree::arena::{Fact, Hot, ROOT, Tree};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::{At, Rule, follow};
use crate::tree::step::Step;

crate::rule! {
    /// `Q + w_exp * sqrt(ln N_parent / max(1, N))`, `Q` the mean sum of rewards from the edge
    /// into the child downwards; of an unvisited child the quick reward told as its value.
    ///
    /// After an expansion the simulation goes on to the child of the highest quick reward,
    /// until an end or the search's `max_depth` is reached; all nodes on the way stay in the
    /// tree. A node at `max_depth` that a descent chooses is not evaluated: its quick reward
    /// is its reward. Answers tell rewards of edges (`rewards`), the quick rewards of children
    /// (`child_values`), and 0 as value. Ties go to the first child. The search ends with the
    /// evaluated path of the highest sum of rewards. LLM-reasoners `algorithm/mcts.py:MCTS`
    /// with `cum_reward=sum`, `calc_q=mean`, `simulate_strategy="max"`.
    "llm_reasoners" {
        title: "LLM-reasoners' MCTS",
        family: Descent,
        paper: "Hao et al. 2023, arXiv:2305.14992; github.com/maitrix-org/llm-reasoners",
        certainty: Code,
        options: {
            /// Weight of the bound.
            w_exp: NonNegative = 1.0,
        },
    }
}

impl Options {
    fn score<'a>(&'a self, at: &'a At<'a>) -> impl Fn(usize, &Hot) -> f64 + 'a {
        let log = at.visits(at.hot()).max(1.0).ln();
        move |i, child| {
            let q = at.q(child).unwrap_or_else(|| at.tree.raw_value(at.child(i)));
            q + *self.w_exp * (log / at.visits(child).max(1.0)).sqrt()
        }
    }
}

/// Visits a node at the depth limit without an evaluation.
fn visit_unseen(step: &mut Step<'_>, ask: &Ask) {
    let quick = step.tree.raw_value(ask.node);
    step.release(ask);
    step.tree.set_reward(ask.node, quick);
    step.tree.set_value(ask.node, 0.0);
    step.tree.set(ask.node, Fact::Valued, false);
    step.tree.set(ask.node, Fact::Barren, true);
    step.tree.back_up(ask.node, 0.0);
    step.tree.simulations += 1;
}

/// Sum of rewards from the root to a node.
fn gathered(tree: &Tree, node: u32) -> f64 {
    tree.path(node).iter().map(|&n| tree.reward(n)).sum()
}

impl Rule for Options {
    by_score!();

    fn next(&self, step: &mut Step<'_>) -> Next {
        if let Some(next) = follow::next(step, Kind::Expand, 0) {
            return next;
        }
        match step.descend(|at| self.choose(at)) {
            Next::Ask(ask)
                if ask.node != ROOT && step.tree.depth(ask.node) >= step.limits.max_depth =>
            {
                visit_unseen(step, &ask);
                Next::Visited
            }
            next => next,
        }
    }

    fn missing(&self, _: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        follow::without_values(answer)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        follow::leave(step, ask.node);
        let Some(children) = follow::expand(step, ask, answer) else { return };
        let quick = children.map(|child| (step.tree.raw_value(child), child));
        let best = quick.reduce(|a, b| if b.0 > a.0 { b } else { a });
        best.into_iter().for_each(|(_, child)| follow::later(step, child));
    }

    fn finals(&self, tree: &Tree) -> Vec<u32> {
        let seen = |&n: &u32| {
            tree.hot[n as usize].children == 0
                && tree.hot[n as usize].visits > 0
                && tree.is(n, Fact::Valued)
        };
        let ends = (1..tree.len() as u32).filter(seen).map(|n| (gathered(tree, n), n));
        ends.reduce(|a, b| if b.0 > a.0 { b } else { a }).into_iter().map(|(_, n)| n).collect()
    }
}
