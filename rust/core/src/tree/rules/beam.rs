//! `beam`: beams that each go one step, of which the best are copied.

use crate::error::Result;
use crate::options::{Count, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::{End, Tree};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::level::{self, Aggregate, Level};
use crate::tree::rules::{Rule, follow, pool};
use crate::tree::step::Step;

crate::rule! {
    /// `n` beams take one step each; the `n / width` best are copied until there are `n`.
    ///
    /// A step's score is told as its child's value, a path's is their `aggregate`. Beams that
    /// end leave with their score. The search ends after `rounds` (the search's simulations),
    /// or when all have ended, with `n` ended beams, repeated where there are fewer; with the
    /// beams left where none has ended. One request asks as many children of a node as beams
    /// stand on it. Of equal scores the later beam goes on; beams keep their order.
    /// search-and-learn `search/beam_search.py`.
    "beam" {
        title: "Beam search under a process reward",
        family: Beam,
        paper: "Snell et al. 2024, arXiv:2408.03314; github.com/huggingface/search-and-learn",
        certainty: Code,
        options: {
            /// Number of beams.
            n: Width = 4,
            /// Beams that each of the best becomes.
            width: Width = 4,
            /// What a path is worth.
            aggregate: Aggregate = Aggregate::Last,
            /// Keep one of the beams whose tokens are equal.
            filter_duplicates: bool = false,
            /// Order ended beams by score rather than by when they ended.
            sort_completed: bool = false,
            /// Steps at most.
            rounds: Count = 40,
        },
    }
}

/// The first of the nodes with the same tokens; nodes without tokens are all different.
fn distinct(tree: &Tree, nodes: &[u32]) -> Vec<u32> {
    let tokens: Vec<Vec<u32>> = nodes.iter().map(|&node| pool::prefix(tree, node)).collect();
    let first = |&i: &usize| tokens[i].is_empty() || !tokens[..i].contains(&tokens[i]);
    (0..nodes.len()).filter(first).map(|i| nodes[i]).collect()
}

fn repeated(nodes: &[u32], count: usize) -> Vec<u32> {
    nodes.iter().copied().cycle().take(if nodes.is_empty() { 0 } else { count }).collect()
}

impl Options {
    fn advance(&self, tree: &mut Tree, mut level: Level) {
        let found = level::one_each(tree, &level);
        let ends = |node: &u32| tree.end(*node) == End::Terminal;
        let (ended, mut active): (Vec<u32>, Vec<u32>) = found.into_iter().partition(ends);
        level.ended.extend(ended);
        if self.filter_duplicates {
            active = distinct(tree, &active);
        }
        let keep = *self.n / *self.width;
        let mut order: Vec<usize> = (0..active.len()).collect();
        let worth = |&i: &usize| level::worth(tree, active[i], self.aggregate);
        order.sort_by(|a, b| worth(a).total_cmp(&worth(b)));
        let mut best = order.split_off(order.len().saturating_sub(keep));
        best.sort_unstable();
        let best: Vec<u32> = best.into_iter().map(|i| active[i]).collect();
        level.beams = repeated(&best, *self.n);
        level.round += 1;
        level.keep(tree);
        tree.simulations += 1;
    }
}

impl Rule for Options {
    fn check(&self) -> Result<()> {
        level::check("beam", *self.n, *self.width)
    }

    fn next(&self, step: &mut Step<'_>) -> Next {
        let level = Level::of(step.tree, *self.n);
        if level.round >= *self.rounds as u64 || level.beams.is_empty() {
            return Next::Done;
        }
        if let Some(next) = level::ask(step, &level, Kind::Expand, |n| level.copies(n), 0) {
            return next;
        }
        self.advance(step.tree, level);
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
        let mut ended = if level.ended.is_empty() { level.beams } else { level.ended };
        if self.sort_completed {
            ended = level::ranked(&ended, |node| level::worth(tree, node, self.aggregate));
        }
        repeated(&ended, *self.n)
    }
}
