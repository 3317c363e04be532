//! `rest_mcts`: ReST-MCTS*, where values are given and averaged rather than summed.

use crate::options::{NonNegative, Unit};
use crate::tree::answers::Answer;
use crate::tree::arena::{End, Hot, NONE, Tree};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::{At, Rule, follow};
use crate::tree::step::Step;

crate::rule! {
    /// `V + c * sqrt(2 ln N_parent / N)`; an unvisited child `V + first_play`.
    ///
    /// A leaf is expanded with a value for every child. From the best of them a short greedy
    /// rollout is asked, of which the best value `v` is told (or one reward for each of its
    /// steps): `V = (1 - alpha) V + alpha v`. On the way up each node gets a visit and the
    /// mean of its visited children's `V`, weighted by their visits. A best child
    /// told as an end keeps the value that came with it. Nodes without children are visited
    /// once and closed. The search's `gamma` has no part in it: leave it at 1. ReST-MCTS*
    /// `MCTS/mcts.py`; ties go to the first child, there to a random one. Labels:
    /// `apportion.search.rules.reward_labels`.
    "rest_mcts" {
        title: "ReST-MCTS*",
        family: Descent,
        paper: "Zhang et al. 2024, arXiv:2406.03816",
        certainty: Code,
        options: {
            /// Weight of the bound.
            c: NonNegative = 0.7,
            /// Share of the rollout's best value in a child's value.
            alpha: Unit = 0.5,
            /// What is added to the value of an unvisited child.
            first_play: NonNegative = 1.0,
        },
    }
}

impl Options {
    fn score<'a>(&'a self, at: &'a At<'a>) -> impl Fn(usize, &Hot) -> f64 + 'a {
        let log = 2.0 * at.visits(at.hot()).max(1.0).ln();
        move |i, child| match at.visits(child) {
            0.0 => at.tree.raw_value(at.child(i)) + *self.first_play,
            visits => at.q(child).unwrap_or(0.0) + *self.c * (log / visits).sqrt(),
        }
    }
}

/// One more visit of a node, now worth `value`, and of those above it, each worth the mean of
/// its visited children.
fn back_up(tree: &mut Tree, node: u32, value: f64) {
    let (mut node, mut value) = (node, value);
    loop {
        let hot = &mut tree.hot[node as usize];
        hot.visits += 1;
        hot.value_sum = value * f64::from(hot.visits);
        node = tree.parent(node);
        if node == NONE {
            return;
        }
        let (mut sum, mut visits) = (0.0, 0.0);
        for child in tree.children(node) {
            sum += tree.hot[child as usize].value_sum;
            visits += f64::from(tree.hot[child as usize].visits);
        }
        value = sum / visits;
    }
}

/// The one visit of a node without children.
fn end(step: &mut Step<'_>, node: u32, value: f64) {
    back_up(step.tree, node, value);
    follow::close(step, node, value);
}

impl Rule for Options {
    by_score!();

    fn next(&self, step: &mut Step<'_>) -> Next {
        follow::next(step, Kind::Rollout, 1).unwrap_or(Next::Descend)
    }

    fn missing(&self, ask: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        if ask.kind == Kind::Expand { follow::without_values(answer) } else { None }
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        follow::leave(step, ask.node);
        if ask.kind == Kind::Rollout {
            follow::keep(step, ask, answer);
            let best = answer.rollouts.iter().copied().reduce(f64::max).unwrap_or(answer.value);
            let value = (1.0 - *self.alpha) * step.tree.raw_value(ask.node) + *self.alpha * best;
            back_up(step.tree, ask.node, value);
            step.tree.simulations += 1;
            return;
        }
        match follow::grow(step, ask, answer) {
            Some(children) => {
                let values = children.map(|child| (step.tree.raw_value(child), child));
                match values.reduce(|a, b| if b.0 > a.0 { b } else { a }) {
                    Some((value, child)) if step.tree.end(child) == End::Terminal => {
                        end(step, child, value);
                    }
                    best => best.into_iter().for_each(|(_, child)| follow::later(step, child)),
                }
            }
            None if step.tree.hot[ask.node as usize].children == 0 => {
                end(step, ask.node, answer.value);
            }
            None => {}
        }
    }

    fn visit_end(&self, step: &mut Step<'_>, node: u32) {
        let value = step.tree.raw_value(node);
        end(step, node, value);
    }
}
