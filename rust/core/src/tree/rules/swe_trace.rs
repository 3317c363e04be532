//! `swe_trace`: at every step the best of several actions, by a rubric.

use crate::options::{Count, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::Tree;
use crate::tree::request::{Ask, Next};
use crate::tree::rules::level::{self, Aggregate};
use crate::tree::rules::{Rule, follow};
use crate::tree::step::Step;

crate::rule! {
    /// Of `width` sampled actions the one of the highest rubric score is taken, the others
    /// are pruned; so on until an end.
    ///
    /// A rubric's score is told as its child's value. Ties go to the first action. Completed
    /// by us from SWE-TRACE's abstract: the number of actions and of steps are not known.
    "swe_trace" {
        title: "SWE-TRACE's rubric pruning",
        family: Beam,
        paper: "SWE-TRACE",
        certainty: Reconstructed,
        options: {
            /// Actions sampled at a step.
            width: Width = 4,
            /// Steps at most.
            rounds: Count = 40,
        },
    }
}

fn worth(tree: &Tree, node: u32) -> f64 {
    level::worth(tree, node, Aggregate::Last)
}

impl Rule for Options {
    fn next(&self, step: &mut Step<'_>) -> Next {
        level::widen_and_keep(step, 1, *self.width, *self.rounds, worth)
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
