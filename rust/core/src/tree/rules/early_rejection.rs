//! `early_rejection`: steps are judged after their first tokens, the best finished.

use crate::error::Result;
use crate::options::{Count, Unit, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::{End, ROOT, Tree};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::Rule;
use crate::tree::rules::level::{self, Level};
use crate::tree::step::Step;

crate::rule! {
    /// Each beam begins `width` steps of `partial_tokens`; the `n / width` of the highest
    /// score are finished, with up to `completion_tokens` more, and are the next beams.
    ///
    /// Requests are `partial`, with the scores of the begun steps as values of the children,
    /// and then `expand` for one child of each that is kept; a beam keeps the score of its
    /// beginning. A beginning that ends the answer is not continued and stays among the
    /// beams. The search ends after `rounds` with its beams, the best first. With scores of
    /// standard deviation `s` about the final ones and a lead `d` of the best, it is lost
    /// with a probability of at most `(n - 1) exp(-d^2 / 4 s^2)`. Ties go to the first.
    /// accelerated-reasoning-ER-PRM `algorithms/partial_beam_search.py`.
    "early_rejection" {
        title: "Beam search with early rejection",
        family: Beam,
        paper: "github.com/scheshmi/accelerated-reasoning-ER-PRM",
        certainty: Code,
        options: {
            /// Begun steps, over all beams.
            n: Width = 4,
            /// Begun steps of each beam.
            width: Width = 2,
            /// Tokens after which a step is judged.
            partial_tokens: Count = 64,
            /// Tokens that a step is finished with at most.
            completion_tokens: Count = 256,
            /// Score of a begun step that was told without one.
            unscored: Unit = 0.5,
            /// Steps at most.
            rounds: Count = 40,
        },
    }
}

const BEGIN: u64 = 0;
const FINISH: u64 = 1;

fn is_end(tree: &Tree, node: u32) -> bool {
    tree.end(node) == End::Terminal
}

impl Options {
    /// Keeps the best of what was begun.
    fn choose(&self, tree: &mut Tree, mut level: Level) {
        let found = level.beams.iter().flat_map(|&node| tree.children(node));
        let found: Vec<u32> = level.ended.iter().copied().chain(found).collect();
        let mut best = level::ranked(&found, |node| tree.raw_value(node));
        best.truncate(*self.n / *self.width);
        (level.ended, level.beams) = best.into_iter().partition(|&node| is_end(tree, node));
        level.phase = FINISH;
        level.keep(tree);
    }

    /// Goes on from the finished steps.
    fn advance(&self, tree: &mut Tree, mut level: Level) {
        let mut beams = Vec::new();
        for &node in &level.beams {
            let score = tree.raw_value(node);
            let finished = tree.children(node).next();
            if let Some(child) = finished {
                tree.set_value(child, score);
            }
            beams.extend(finished);
        }
        let (ended, beams): (Vec<u32>, _) = beams.into_iter().partition(|&node| is_end(tree, node));
        level.ended.extend(ended);
        (level.beams, level.phase, level.round) = (beams, BEGIN, level.round + 1);
        level.keep(tree);
        tree.simulations += 1;
    }
}

impl Rule for Options {
    fn check(&self) -> Result<()> {
        level::check("early_rejection", *self.n, *self.width)
    }

    fn next(&self, step: &mut Step<'_>) -> Next {
        let level = Level::of(step.tree, 1);
        if level.round >= *self.rounds as u64 || level.beams.is_empty() && level.phase == BEGIN {
            return Next::Done;
        }
        let (kind, want, length) = match level.phase {
            BEGIN => (Kind::Partial, *self.width, *self.partial_tokens),
            _ => (Kind::Expand, 1, *self.completion_tokens),
        };
        if let Some(next) = level::ask(step, &level, kind, |_| want, length) {
            return next;
        }
        match level.phase {
            BEGIN => self.choose(step.tree, level),
            _ => self.advance(step.tree, level),
        }
        Next::Visited
    }

    fn judges_children(&self) -> bool {
        true
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        level::take(step, ask, answer);
        if answer.child_values.is_none() && ask.kind == Kind::Partial {
            for child in step.tree.block(ask.node) {
                step.tree.set_value(child, *self.unscored);
            }
        }
    }

    fn finals(&self, tree: &Tree) -> Vec<u32> {
        let level = Level::of(tree, 0);
        let nodes: Vec<u32> = level.ended.into_iter().chain(level.beams).collect();
        level::ranked(&nodes, |node| if node == ROOT { 0.0 } else { tree.raw_value(node) })
    }
}
