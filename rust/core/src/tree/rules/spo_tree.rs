//! `spo_tree`: a tree of segments with a fixed width at each depth.

use crate::error::{Error, Result};
use crate::options::Count;
use crate::tree::answers::Answer;
use crate::tree::arena::Fact;
use crate::tree::request::{Ask, Next};
use crate::tree::rules::{Rule, segments};
use crate::tree::step::Step;

crate::rule! {
    /// Every node at depth `d` is given `widths[d]` segments of `segment_tokens`; those of
    /// the last depth go to the end.
    ///
    /// Requests are `partial`, and `expand` at the last depth. Segments that end the answer
    /// are leaves and are told with their reward (`child_values`, `child_terminal`). A width
    /// of 0 ends the tree there. SPO-tree `extract_edges_from_tree` with 6-6-6. Credit: the
    /// read-out `spo`.
    "spo_tree" {
        title: "SPO's fixed tree",
        family: Branching,
        paper: "Guo et al. 2025, arXiv:2505.23564",
        certainty: Paper,
        options: {
            /// Segments after a node, by its depth.
            widths: Vec<i64> = vec![6, 6, 6],
            /// Tokens of a segment that is not the last.
            segment_tokens: Count = 600,
        },
    }
}

impl Rule for Options {
    fn check(&self) -> Result<()> {
        if self.widths.iter().all(|width| (0..=65535).contains(width)) {
            return Ok(());
        }
        let (method, option, got) = ("spo_tree", "widths", format!("{:?}", self.widths));
        let expected = "integers from 0 to 65535".to_owned();
        Err(Error::BadOption { method, option, got, expected })
    }

    fn next(&self, step: &mut Step<'_>) -> Next {
        let width = |node: u32| self.widths.get(step.tree.depth(node) as usize).copied();
        let found = segments::open(step.tree)
            .filter(|&node| !step.tree.is(node, Fact::Asked))
            .find_map(|node| Some((node, width(node).filter(|&w| w > 0)?)));
        let Some((node, width)) = found else { return segments::rest(step) };
        let last = step.tree.depth(node) as usize + 1 == self.widths.len();
        let length = if last { 0 } else { *self.segment_tokens };
        segments::ask(step, node, width as usize, length)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        segments::take(step, ask, answer);
    }
}
