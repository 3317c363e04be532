//! `groundedprm`: rollouts whose every step was verified, fading on the way up.

use crate::choice;
use crate::options::{NonNegative, Unit};
use crate::tree::answers::Answer;
use crate::tree::arena::{End, Hot, NONE, Tree};
use crate::tree::random::Draw;
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::{At, Rule, follow};
use crate::tree::step::Step;

choice! {
    /// How children are chosen.
    Compat {
        /// By the bound, as the paper says.
        Paper = "paper",
        /// At random, as the released code does, which never calls its bound.
        Code = "code",
    }
}

crate::rule! {
    /// `Q + c * sqrt(ln N_parent / N)`, unvisited children first; with `compat="code"` a
    /// random open child.
    ///
    /// A leaf is expanded (3 children in the release) without a visit and a rollout is asked
    /// from one of the children, drawn at random. Its value `V`
    /// (`apportion.search.rules.rollout_value`) is added to the child, and
    /// `decay^d * V` and one visit to the ancestor at distance `d`; the child itself gets no
    /// visit until a rollout starts below it. The search's `gamma` has no part in it: leave it
    /// at 1. A child told as an end is worth `V` as it is. A
    /// node without children is chosen once. The release stops at three right and three
    /// wrong ends or rollouts: the search's `stop_positives=3, stop_negatives=3`.
    /// GroundedPRM `pipeline/MCTS/mcts.py`: what is backed up agrees with the code; the code
    /// draws a child of the root, and how it goes on below is our reading.
    "groundedprm" {
        title: "GroundedPRM's search",
        family: Descent,
        paper: "GroundedPRM, github.com/JerryPlain/GroundedPRMCode",
        certainty: Code,
        options: {
            /// Weight of the bound.
            c: NonNegative = std::f64::consts::SQRT_2,
            /// What is left of a value a level higher.
            decay: Unit = 0.9,
            /// How children are chosen.
            compat: Compat = Compat::Paper,
        },
    }
}

impl Options {
    fn score<'a>(&'a self, at: &'a At<'a>) -> impl Fn(usize, &Hot) -> f64 + 'a {
        let log = at.visits(at.hot()).max(1.0).ln();
        move |_, child| match at.visits(child) {
            0.0 => f64::INFINITY,
            visits => at.q(child).unwrap_or(0.0) + *self.c * (log / visits).sqrt(),
        }
    }

    fn back_up(&self, tree: &mut Tree, node: u32, value: f64) {
        tree.hot[node as usize].value_sum += value;
        let (mut node, mut value) = (tree.parent(node), value);
        while node != NONE {
            value *= *self.decay;
            let hot = &mut tree.hot[node as usize];
            hot.value_sum += value;
            hot.visits += 1;
            node = tree.parent(node);
        }
    }

    /// The one visit of a node without children.
    fn end(&self, step: &mut Step<'_>, node: u32, value: f64) {
        self.back_up(step.tree, node, value);
        follow::close(step, node, value);
    }
}

impl Rule for Options {
    fn choose(&self, at: &At<'_>) -> Option<u32> {
        if self.compat == Compat::Paper {
            return at.best(self.score(at));
        }
        let open: Vec<usize> =
            (0..at.children().len()).filter(|&i| !at.children()[i].is_closed()).collect();
        let draws = Draw::new(at.limits.seed, at.index, at.node, "groundedprm");
        let draw = draws.bits(at.tree.requests) % open.len().max(1) as u64;
        open.get(draw as usize).map(|&i| at.child(i))
    }

    fn child_scores(&self, at: &At<'_>) -> Vec<f64> {
        at.each(self.score(at))
    }

    fn next(&self, step: &mut Step<'_>) -> Next {
        follow::next(step, Kind::Rollout, 1).unwrap_or(Next::Descend)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        follow::leave(step, ask.node);
        if ask.kind == Kind::Rollout {
            follow::keep(step, ask, answer);
            self.back_up(step.tree, ask.node, answer.value);
            step.tree.simulations += 1;
        } else if let Some(children) = follow::grow(step, ask, answer) {
            let draws = Draw::new(step.limits.seed, step.index, ask.node, "rollout");
            let draw = draws.bits(0) % children.len() as u64;
            let child = children.start + draw as u32;
            if step.tree.end(child) == End::Terminal {
                self.visit_end(step, child);
            } else {
                follow::later(step, child);
            }
        } else if step.tree.hot[ask.node as usize].children == 0 {
            self.end(step, ask.node, answer.value);
        }
    }

    fn visit_end(&self, step: &mut Step<'_>, node: u32) {
        let value = step.tree.raw_value(node);
        self.end(step, node, value);
    }
}
