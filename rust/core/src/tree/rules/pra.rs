//! `pra`: stepwise search by the sum of process rewards.

use crate::options::{Count, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::Tree;
use crate::tree::request::{Ask, Next};
use crate::tree::rules::level::{self, Aggregate};
use crate::tree::rules::{Rule, follow};
use crate::tree::step::Step;

crate::rule! {
    /// Each beam is given `width` next steps; of all, the `beams` paths of the highest sum of
    /// step rewards go on.
    ///
    /// A step's reward is told as its child's value. Paths that end stay among the best as
    /// long as they are. The search ends after `rounds`, or with ended paths alone, and
    /// orders them by their sums. Ties go to the first. Process-reward agents' stage-wise
    /// queue, from notes on the paper: no code could be run.
    "pra" {
        title: "Stepwise search by process rewards",
        family: Beam,
        paper: "Process reward agents (PRA)",
        certainty: Reconstructed,
        options: {
            /// Paths that go on.
            beams: Count = 4,
            /// Next steps of each.
            width: Width = 16,
            /// Steps at most.
            rounds: Count = 40,
        },
    }
}

fn worth(tree: &Tree, node: u32) -> f64 {
    level::worth(tree, node, Aggregate::Sum)
}

impl Rule for Options {
    fn next(&self, step: &mut Step<'_>) -> Next {
        level::widen_and_keep(step, *self.beams, *self.width, *self.rounds, worth)
    }

    fn missing(&self, _: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        follow::without_values(answer)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        level::take(step, ask, answer);
    }

    fn finals(&self, tree: &Tree) -> Vec<u32> {
        level::kept(tree, worth)
    }
}
