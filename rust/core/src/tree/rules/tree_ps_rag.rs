//! `tree_ps_rag`: steps of retrieval of which siblings that are too alike are pruned.

use std::collections::BTreeSet;

use crate::options::{Count, Unit, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::Fact;
use crate::tree::request::{Ask, Next};
use crate::tree::rules::{Rule, segments};
use crate::tree::step::Step;

crate::rule! {
    /// Every node down to `depth` is given `width` steps (reasoning, action, observation) at
    /// most; of siblings that are too alike the first alone goes on.
    ///
    /// Two steps are too alike if their keys (`keys`, which stand for what was retrieved) are
    /// equal; where no keys are given, if the Jaccard index of the sets of their tokens,
    /// `|A and B| / |A or B|`, is above `similarity`. A step is compared with those before it
    /// that were kept; steps without tokens are all different. Steps that end the answer are
    /// leaves, are told with their reward and are never pruned. TreePS-RAG prunes siblings by
    /// the similarity of what they retrieved; width and depth are not known to us, and the
    /// threshold is a reconstruction of one over document ids. Credit: the read-out
    /// `tree_ps_rag`.
    "tree_ps_rag" {
        title: "TreePS-RAG's tree",
        family: Branching,
        paper: "TreePS-RAG",
        certainty: Reconstructed,
        options: {
            /// Steps after a node.
            width: Width = 3,
            /// Steps of a path at most.
            depth: Count = 4,
            /// Jaccard index above which siblings without keys are too alike; 1 prunes none.
            similarity: Unit = 0.8,
        },
    }
}

impl Rule for Options {
    fn next(&self, step: &mut Step<'_>) -> Next {
        let fits = |&node: &u32| {
            !step.tree.is(node, Fact::Asked) && (step.tree.depth(node) as usize) < *self.depth
        };
        let found = segments::open(step.tree).find(fits);
        match found {
            Some(node) => segments::ask(step, node, *self.width, 0),
            None => segments::rest(step),
        }
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        segments::take(step, ask, answer);
        let children: Vec<u32> = step.tree.block(ask.node).collect();
        let sets: Vec<BTreeSet<u32>> = match answer.keys {
            Some(_) => Vec::new(),
            None => children.iter().map(|&c| set(step.tree.tokens.get(c as usize))).collect(),
        };
        let alike = |a: usize, b: usize| match answer.keys {
            Some(keys) => keys.get(a) == keys.get(b),
            None => jaccard(&sets[a], &sets[b]) > *self.similarity,
        };
        let mut kept: Vec<usize> = Vec::with_capacity(children.len());
        for (i, &child) in children.iter().enumerate() {
            let open = step.tree.hot[child as usize].visits == 0;
            if open && kept.iter().any(|&earlier| alike(earlier, i)) {
                step.tree.close(child);
            } else {
                kept.push(i);
            }
        }
    }
}

fn set(tokens: &[u32]) -> BTreeSet<u32> {
    tokens.iter().copied().collect()
}

/// Share of the elements of two sets that are in both; 0 where there are none.
fn jaccard(a: &BTreeSet<u32>, b: &BTreeSet<u32>) -> f64 {
    let both = a.intersection(b).count();
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}
