//! `propa`: UCT with rollouts from the first new child, or from all of them.

use crate::options::NonNegative;
use crate::tree::answers::Answer;
use crate::tree::arena::{End, Hot};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::{At, Rule, follow};
use crate::tree::step::Step;

crate::rule! {
    /// `Q + c * sqrt(2 ln N_parent / N)`, unvisited children first.
    ///
    /// A leaf is expanded (4 children in the release) without a visit. If one of the children
    /// is an end, all of them are backed up: ends with the value that comes with them, the
    /// others with a greedy rollout each; otherwise the first child alone. All that follows
    /// from one expansion is one simulation. Siblings then form one group, rewarded by
    /// `apportion.search.rules.sibling_rewards`.
    /// PROPA `run_MCTS_train_*`: the scores agree with its code, run on reference cases.
    "propa" {
        title: "PROPA's UCT",
        family: Descent,
        paper: "PROPA, github.com/YanbeiJiang/PROPA",
        certainty: Code,
        options: {
            /// Weight of the bound.
            c: NonNegative = 1.0,
        },
    }
}

impl Options {
    fn score<'a>(&'a self, at: &'a At<'a>) -> impl Fn(usize, &Hot) -> f64 + 'a {
        let log = 2.0 * at.visits(at.hot()).max(1.0).ln();
        move |_, child| match at.visits(child) {
            0.0 => f64::INFINITY,
            visits => at.q(child).unwrap_or(0.0) + *self.c * (log / visits).sqrt(),
        }
    }
}

/// One more simulation once no child of a node is in line.
fn count(step: &mut Step<'_>, node: u32) {
    let tree = &mut *step.tree;
    let done = tree.notes.iter().all(|&child| tree.parent(child as u32) != node);
    tree.simulations += u64::from(done);
}

impl Rule for Options {
    by_score!();

    fn next(&self, step: &mut Step<'_>) -> Next {
        follow::next(step, Kind::Rollout, 1).unwrap_or(Next::Descend)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        follow::leave(step, ask.node);
        if ask.kind == Kind::Rollout {
            follow::keep(step, ask, answer);
            step.tree.back_up(ask.node, answer.value);
            return count(step, step.tree.parent(ask.node));
        }
        let Some(mut children) = follow::expand(step, ask, answer) else { return };
        if !children.clone().any(|child| step.tree.end(child) == End::Terminal) {
            children.end = children.start + 1;
        }
        for child in children {
            if step.tree.end(child) == End::Terminal {
                follow::end(step, child);
            } else {
                follow::later(step, child);
            }
        }
        count(step, ask.node);
    }
}
