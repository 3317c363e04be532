//! `tree_ps_rag`: steps of retrieval whose equal siblings are pruned.

use crate::options::Count;
use crate::tree::answers::Answer;
use crate::tree::arena::Fact;
use crate::tree::request::{Ask, Next};
use crate::tree::rules::{Rule, segments};
use crate::tree::step::Step;

crate::rule! {
    /// Every node down to `depth` is given `width` steps (reasoning, action, observation) at
    /// most; of siblings with equal keys the first alone goes on.
    ///
    /// A step's key (`keys`) stands for what it retrieved; without keys nothing is pruned.
    /// Steps that end the answer are leaves and are told with their reward. TreePS-RAG
    /// prunes siblings by the similarity of what they retrieved; width, depth and the
    /// threshold are not known to us, and equality stands for similarity. Credit: the
    /// read-out `tree_ps_rag`.
    "tree_ps_rag" {
        title: "TreePS-RAG's tree",
        family: Branching,
        paper: "TreePS-RAG",
        certainty: Reconstructed,
        options: {
            /// Steps after a node.
            width: Count = 3,
            /// Steps of a path at most.
            depth: Count = 4,
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
        let keys = answer.keys.unwrap_or(&[]);
        let children: Vec<u32> = step.tree.block(ask.node).collect();
        for (i, &child) in children.iter().enumerate() {
            let open = step.tree.hot[child as usize].visits == 0;
            if open && keys.get(i).is_some_and(|key| keys[..i].contains(key)) {
                step.tree.close(child);
            }
        }
    }
}
