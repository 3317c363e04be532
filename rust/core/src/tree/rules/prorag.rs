//! `prorag`: PUCT with equal priors, one rollout from a random new child.

use crate::options::NonNegative;
use crate::tree::answers::Answer;
use crate::tree::arena::{End, Hot};
use crate::tree::random::Draw;
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::{At, Rule, follow};
use crate::tree::step::Step;

crate::rule! {
    /// `W / (N + 1e-8) + c_puct * P * sqrt(N_parent) / (1 + N)`, `P` one over the number of
    /// children.
    ///
    /// A leaf is expanded without a visit; one rollout from a child drawn at random is backed
    /// up from that child, discounted by the search's `gamma` (0.99 in the release) a level.
    /// Requests are `expand` and, for the child, `rollout`. A node without children, at the
    /// depth limit or at an end, is visited with its own value and again with that value
    /// whenever it is chosen. A request that failed is asked again; in the release it spends a
    /// simulation. ProRAG `prorag/prm/mcts.py`; children are to be told without repeated
    /// texts.
    "prorag" {
        title: "ProRAG's PUCT",
        family: Descent,
        paper: "ProRAG, github.com/lilinwz/ProRAG",
        certainty: Code,
        options: {
            /// Weight of the prior term.
            c_puct: NonNegative = 2.5,
            /// Which child a rollout starts from, by the number of the tree's expansion, to
            /// replay a search; without an entry it is drawn from the seed.
            picks: Vec<i64> = Vec::new(),
        },
    }
}

impl Options {
    /// Values are a child's own, not discounted once more for the edge.
    fn score<'a>(&'a self, at: &'a At<'a>) -> impl Fn(usize, &Hot) -> f64 + 'a {
        let even = 1.0 / at.children().len() as f64;
        let scale = *self.c_puct * even * at.visits(at.hot()).sqrt();
        move |i, child| {
            let visits = f64::from(child.visits);
            let own = at.tree.value(at.child(i)) * visits / (visits + 1e-8);
            own + scale / (1.0 + at.visits(child))
        }
    }

    /// Which of the children of a node that was just expanded gets the rollout.
    fn pick(&self, step: &Step<'_>, node: u32, count: usize) -> usize {
        if !self.picks.is_empty() {
            let expanded = step.tree.hot.iter().filter(|hot| hot.children > 0).count();
            let given = self.picks.get(expanded - 1).and_then(|&pick| usize::try_from(pick).ok());
            if let Some(pick) = given.filter(|&pick| pick < count) {
                return pick;
            }
        }
        let draw = Draw::new(step.limits.seed, step.index, node, "prorag").bits(0);
        (draw % count as u64) as usize
    }
}

impl Rule for Options {
    by_score!();

    fn next(&self, step: &mut Step<'_>) -> Next {
        follow::next(step, Kind::Rollout, 1).unwrap_or(Next::Descend)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        follow::leave(step, ask.node);
        if ask.kind == Kind::Rollout {
            return follow::visit(step, ask, answer);
        }
        if let Some(children) = follow::expand(step, ask, answer) {
            let pick = self.pick(step, ask.node, children.len());
            let child = children.start + pick as u32;
            if step.tree.end(child) == End::Terminal {
                follow::end(step, child);
                step.tree.simulations += 1;
            } else {
                follow::later(step, child);
            }
        }
    }
}
