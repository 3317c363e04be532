//! `tree_grpo`: chains of turns that branch after turns drawn at random.

use crate::options::Width;
use crate::tree::answers::Answer;
use crate::tree::arena::{ROOT, Tree};
use crate::tree::random::Draw;
use crate::tree::request::{Ask, Next};
use crate::tree::rules::{Rule, branch, follow, pool};
use crate::tree::step::Step;

crate::rule! {
    /// One rollout from the root; then, `rounds` times, `expansions` inner nodes are drawn,
    /// uniformly and with replacement, and one rollout is asked from each.
    ///
    /// Inner nodes are the root, nodes that were branched at, and the ends of turns within
    /// rollouts: places after a `step_token`, or after any token without it, the end of the
    /// rollout left out. The release grows 2 trees a prompt (roots) and keeps 3 leaves of
    /// each. Tree-GRPO. Answers tell `rollouts` and `rollout_tokens`.
    /// Credit: the read-out `tree_grpo`.
    "tree_grpo" {
        title: "Tree-GRPO's random tree",
        family: Branching,
        paper: "Ji et al. 2025, arXiv:2509.21240",
        certainty: Paper,
        options: {
            /// Nodes drawn in a round (N).
            expansions: Width = 2,
            /// Rounds after the first (L).
            rounds: usize = 1,
            /// The token that ends a turn; `None`: any.
            step_token: Option<usize> = None,
        },
    }
}

/// Somewhere to branch: a node, or a place within a rollout.
#[derive(Clone, Copy)]
enum Inner {
    Node(u32),
    Place(u32, usize),
}

impl Options {
    fn inner(&self, tree: &Tree) -> Vec<Inner> {
        let mut found: Vec<Inner> = (0..tree.len() as u32).map(Inner::Node).collect();
        for rollout in branch::leaves(tree) {
            let cuts = pool::cuts(tree, rollout, self.step_token);
            let within = cuts.iter().skip(1).take(cuts.len().saturating_sub(2));
            found.extend(within.map(|&at| Inner::Place(rollout, at)));
        }
        found
    }

    fn draw(&self, step: &mut Step<'_>, round: u64) -> Vec<u32> {
        let inner = self.inner(step.tree);
        let draws = Draw::new(step.limits.seed, step.index, ROOT, "tree_grpo");
        let number = |i: usize| round * *self.expansions as u64 + i as u64;
        let drawn: Vec<Inner> = (0..*self.expansions)
            .map(|i| inner[(draws.bits(number(i)) % inner.len() as u64) as usize])
            .collect();
        let place = |inner: &Inner| match *inner {
            Inner::Place(rollout, at) => Some((rollout, at)),
            Inner::Node(_) => None,
        };
        let places: Vec<_> = drawn.iter().filter_map(place).collect();
        let mut cut = branch::cut_all(step, &places).into_iter();
        let node = |inner: &Inner| match *inner {
            Inner::Node(node) => Some(node),
            Inner::Place(..) => cut.next(),
        };
        drawn.iter().filter_map(node).collect()
    }
}

impl Rule for Options {
    fn next(&self, step: &mut Step<'_>) -> Next {
        if let Some(next) = branch::ask(step, 1) {
            return next;
        }
        let nodes = match branch::rounds(step.tree) {
            0 => vec![ROOT],
            round if round > self.rounds as u64 => return Next::Done,
            round => self.draw(step, round),
        };
        branch::begin(step.tree, &nodes);
        Next::Visited
    }

    fn missing(&self, _: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        follow::without_rollouts(answer)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        branch::take(step, ask, answer);
    }
}
