//! `treepo`: segments that split in two until there are enough trajectories.

use crate::options::{Count, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::{End, ROOT, Tree};
use crate::tree::random::Draw;
use crate::tree::request::{Ask, Next};
use crate::tree::rules::{Rule, follow, segments};
use crate::tree::step::Step;

crate::rule! {
    /// Level by level, every open segment is followed by `divergence` segments of
    /// `segment_tokens`, as long as no more than `trajectories` paths come of it; then by one.
    ///
    /// The root is followed by a number drawn from `first_low..=first_high`. Of paths that
    /// the budget leaves over, the first segments of a level get one each. At depth `depth`
    /// a path ends, told or not. Segments that end the answer are leaves and are told with
    /// their reward (`child_values`, `child_terminal`). TreePO, from notes on its code.
    /// Credit: the read-out `treepo`.
    "treepo" {
        title: "TreePO's segment tree",
        family: Branching,
        paper: "Li et al. 2025, arXiv:2508.17445",
        certainty: Paper,
        options: {
            /// Segments after an open one.
            divergence: Width = 2,
            /// Fewest segments after the root.
            first_low: Width = 2,
            /// Most segments after the root.
            first_high: Width = 8,
            /// Tokens of a segment.
            segment_tokens: Count = 512,
            /// Segments of a path at most.
            depth: Count = 14,
            /// Paths at most.
            trajectories: Count = 16,
        },
    }
}

impl Options {
    fn first(&self, step: &Step<'_>) -> usize {
        let low = (*self.first_low).min(*self.first_high);
        let draw = Draw::new(step.limits.seed, step.index, ROOT, "treepo").bits(0);
        let drawn = low + (draw % (*self.first_high - low + 1) as u64) as usize;
        drawn.min(*self.trajectories)
    }

    /// Segments that each open node of a level gets.
    fn widths(&self, ended: usize, open: usize) -> Vec<usize> {
        let room = (*self.trajectories).saturating_sub(ended).max(open);
        let all = room.min(open * *self.divergence);
        (0..open).map(|i| all / open + usize::from(i < all % open)).collect()
    }
}

fn ended(tree: &Tree) -> usize {
    (0..tree.len() as u32).filter(|&node| tree.end(node) == End::Terminal).count()
}

/// A level's nodes without an answer, and their widths, are the tree's notes, in pairs.
impl Rule for Options {
    fn next(&self, step: &mut Step<'_>) -> Next {
        if let Some(i) = follow::first(step, 0, 2) {
            let (node, width) = (step.tree.notes[i] as u32, step.tree.notes[i + 1] as usize);
            return segments::ask(step, node, width, *self.segment_tokens);
        }
        if step.tree.hot[ROOT as usize].in_flight() > 0 {
            return Next::Wait;
        }
        let within = |&node: &u32| (step.tree.depth(node) as usize) < *self.depth;
        let open: Vec<u32> = segments::open(step.tree).filter(within).collect();
        let widths = match open.first() {
            None => return Next::Done,
            Some(&ROOT) => vec![self.first(step)],
            Some(_) => self.widths(ended(step.tree), open.len()),
        };
        let pairs = open.iter().zip(widths);
        step.tree.notes = pairs.flat_map(|(&n, w)| [u64::from(n), w as u64]).collect();
        Next::Visited
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        follow::leave_line(step, ask.node, 0, 2);
        segments::take(step, ask, answer);
    }
}
