//! `dvts`: independent subtrees, in each of which the best step is taken.

use crate::error::Result;
use crate::options::{Count, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::{End, ROOT, Tree};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::level::{self, Aggregate, Level};
use crate::tree::rules::{Rule, follow};
use crate::tree::step::Step;

crate::rule! {
    /// `n / width` subtrees grow side by side; each takes, of `width` steps, the one of the
    /// highest score.
    ///
    /// Diverse verifier tree search. A step's score is told as its child's value, a path's is
    /// their `aggregate`. A subtree stops where the best step ends, or where fewer than
    /// `width` steps were told. It ends with all `width` steps of its last round: `n` paths,
    /// subtree after subtree. The root is asked once, for the steps of all subtrees. Ties go
    /// to the first step. search-and-learn `search/diverse_verifier_tree_search.py`.
    "dvts" {
        title: "Diverse verifier tree search",
        family: Beam,
        paper: "Beeching et al. 2024, github.com/huggingface/search-and-learn",
        certainty: Code,
        options: {
            /// Paths that the search ends with.
            n: Width = 16,
            /// Steps that each subtree chooses from.
            width: Width = 4,
            /// What a path is worth.
            aggregate: Aggregate = Aggregate::Last,
            /// Steps at most.
            rounds: Count = 40,
        },
    }
}

impl Options {
    fn subtrees(&self) -> usize {
        *self.n / *self.width
    }

    /// Steps among which subtree number `i` chooses at its node.
    fn steps(&self, tree: &Tree, i: usize, node: u32) -> Vec<u32> {
        let skip = if node == ROOT { i * *self.width } else { 0 };
        tree.children(node).skip(skip).take(*self.width).collect()
    }

    /// The node that subtree number `i` goes on from; `None` where it stops.
    fn best(&self, tree: &Tree, i: usize, node: u32) -> Option<u32> {
        let steps = self.steps(tree, i, node);
        if steps.len() < *self.width {
            return None;
        }
        let scored = steps.into_iter().map(|s| (level::worth(tree, s, self.aggregate), s));
        let best = scored.reduce(|a, b| if b.0 > a.0 { b } else { a })?.1;
        (tree.end(best) != End::Terminal).then_some(best)
    }
}

/// In a level, `ended[i]` is 1 where subtree number `i` has stopped at `beams[i]`.
impl Rule for Options {
    fn check(&self) -> Result<()> {
        level::check("dvts", *self.n, *self.width)
    }

    fn next(&self, step: &mut Step<'_>) -> Next {
        let mut level = Level::of(step.tree, self.subtrees());
        level.ended.resize(level.beams.len(), 0);
        if level.round >= *self.rounds as u64 || level.ended.iter().all(|&stopped| stopped == 1) {
            return Next::Done;
        }
        let going = (0..level.beams.len()).filter(|&i| level.ended[i] == 0);
        let beams = going.map(|i| level.beams[i]).collect();
        let asked = Level { beams, ..level.clone() };
        let want = |node| if node == ROOT { self.subtrees() * *self.width } else { *self.width };
        if let Some(next) = level::ask(step, &asked, Kind::Expand, want, 0) {
            return next;
        }
        level.round += 1;
        for i in 0..level.beams.len() {
            match self.best(step.tree, i, level.beams[i]) {
                _ if level.ended[i] == 1 => {}
                Some(node) if level.round < *self.rounds as u64 => level.beams[i] = node,
                _ => level.ended[i] = 1,
            }
        }
        level.keep(step.tree);
        step.tree.simulations += 1;
        Next::Visited
    }

    fn missing(&self, _: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        follow::without_values(answer)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        level::take(step, ask, answer);
    }

    fn finals(&self, tree: &Tree) -> Vec<u32> {
        let level = Level::of(tree, 0);
        let beams = level.beams.iter().enumerate();
        beams.flat_map(|(i, &node)| self.steps(tree, i, node)).collect()
    }
}
