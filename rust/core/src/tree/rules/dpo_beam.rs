//! `dpo_beam`: beam search on a policy's likelihood, which DPO has made a value.

use crate::options::{Count, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::Tree;
use crate::tree::request::{Ask, Next};
use crate::tree::rules::Rule;
use crate::tree::rules::level;
use crate::tree::step::Step;

crate::rule! {
    /// Each beam is given `width` continuations; of all, the `beams` paths of the highest
    /// `sum log pi` go on.
    ///
    /// A continuation's probability under the policy is told as its prior. A policy trained
    /// by DPO is an optimal soft value: `sum beta log(pi / pi_ref) = sum r + V(s_T) - V(s_0)`,
    /// so its most likely answers are those of the highest value. Paths that end stay among
    /// the best as long as they are. Ties go to the first; a prior of 0 comes last.
    "dpo_beam" {
        title: "Beam search on a DPO policy's likelihood",
        family: Beam,
        paper: "Rafailov et al. 2024, arXiv:2404.12358",
        certainty: Paper,
        options: {
            /// Paths that go on.
            beams: Count = 5,
            /// Continuations of each.
            width: Width = 5,
            /// Steps at most.
            rounds: Count = 40,
        },
    }
}

fn likelihood(tree: &Tree, node: u32) -> f64 {
    let path = tree.path(node);
    path[1..].iter().map(|&n| f64::from(tree.hot[n as usize].prior).ln()).sum()
}

impl Rule for Options {
    fn next(&self, step: &mut Step<'_>) -> Next {
        level::widen_and_keep(step, *self.beams, *self.width, *self.rounds, likelihood)
    }

    fn missing(&self, _: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        let bare = answer.children > 0 && answer.priors.is_none();
        bare.then_some("priors")
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        level::take(step, ask, answer);
    }

    fn finals(&self, tree: &Tree) -> Vec<u32> {
        level::kept(tree, likelihood)
    }
}
