//! What is asked of whoever evaluates. Depends on `options` and `persist`.

use crate::choice;
use crate::tree::persist::Result;
use crate::tree::persist::state::{Source, State};

choice! {
    /// What a request asks for.
    Kind {
        /// The node's value and its children.
        Expand = "expand",
        /// The node's value alone.
        Value = "value",
        /// Finished continuations from the node, and what each earned.
        Rollout = "rollout",
        /// Whether the node, or the answer that it ends with, is right.
        Verify = "verify",
        /// Rollouts from a prefix that a bisection tries.
        Probe = "probe",
        /// Children cut after so many tokens, to be judged before they are finished.
        Partial = "partial",
    }
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Expand, Self::Value, Self::Rollout, Self::Verify, Self::Probe, Self::Partial];
}

/// What a tree asks next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The node.
    pub node: u32,
    /// What is asked for.
    pub kind: Kind,
    /// Children or rollouts wanted; 0 leaves it to the evaluator.
    pub want: u16,
    /// Most tokens of each; 0 for no limit.
    pub length: u32,
    /// Whether the descent to the node is marked on its way.
    pub marked: bool,
}

impl Ask {
    /// The node's value and its children, as many as the evaluator likes.
    pub fn expand(node: u32) -> Self {
        Self { node, kind: Kind::Expand, want: 0, length: 0, marked: false }
    }
}

/// How a rule's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// With something to ask.
    Ask(Ask),
    /// With a descent that is still to be made, each child chosen by the rule.
    Descend,
    /// With a descent to a node that has no children and never will.
    Ended(u32),
    /// With a visit that needed no answer.
    Visited,
    /// With nothing to ask before answers are in.
    Wait,
    /// With nothing to ask any more.
    Done,
}

/// A request that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// By which the answer is known.
    pub ticket: u64,
    /// Its tree.
    pub tree: u32,
    /// The node's parent; [`NONE`](crate::tree::arena::NONE) at the root.
    pub parent: u32,
    /// Which child of its parent the node is.
    pub action: u32,
    /// The node's depth.
    pub depth: u32,
    /// What is asked.
    pub ask: Ask,
}

crate::state!(Ask { node, kind, want, length, marked });

impl State for Kind {
    fn save(&self, out: &mut Vec<u8>) {
        (*self as u8).save(out);
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        match Self::ALL.get(usize::from(u8::load(source)?)) {
            Some(&kind) => Ok(kind),
            None => source.refuse("a kind of request that there is not"),
        }
    }
}
