//! One tree's nodes: a packed record that selection reads, cold records beside it.
//!
//! Children of one expansion are contiguous, so that choosing among them is one pass over
//! memory; a node that is widened gets further blocks. A root's edge has reward 0 and
//! discount 1. Columns that not every search fills take no memory until they are.
//! Depends on `hot`, `spans` and `states`.

mod check;
mod cold;
mod outcomes;
mod shape;

use std::collections::BTreeMap;

pub use crate::tree::hot::{Hot, MAX_IN_FLIGHT};
pub use cold::{End, Fact, MAX_DEPTH};
pub use outcomes::Outcomes;

use crate::tree::room::{Column, Room};
use crate::tree::spans::{Rollout, Spans};
use crate::tree::states::Merged;
use cold::Cold;

/// No node: the parent of a root.
pub const NONE: u32 = u32::MAX;
/// The root of every tree.
pub const ROOT: u32 = 0;
/// Most nodes of a tree.
pub const MAX_NODES: usize = NONE as usize - 1;

/// Nodes of one tree and what belongs to the tree as a whole.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Selection's records.
    pub hot: Column<Hot>,
    pub(super) cold: Column<Cold>,
    /// Reward of the edge into each node; empty while none is other than 0.
    rewards: Vec<f64>,
    /// Sum of squared distances of each edge's returns from their mean; empty where not kept.
    squares: Vec<f64>,
    /// Further children of widened nodes: first child and number.
    blocks: BTreeMap<u32, Vec<(u32, u16)>>,
    failures: BTreeMap<u32, u8>,
    /// Equal states, where they are merged.
    pub merged: Option<Box<Merged>>,
    /// Tokens of the edge into each node.
    pub tokens: Spans,
    /// Log-prob of each of those tokens, where they were told.
    pub token_log_probs: Spans<f32>,
    /// Scores that a child's value was made of when its parent was evaluated.
    pub child_scores: Spans<f64>,
    /// Rollouts, in the order in which they were told.
    pub rollouts: Vec<Rollout>,
    /// Tokens of each rollout.
    pub rollout_tokens: Spans,
    /// Log-prob of each of those tokens, where they were told.
    pub rollout_log_probs: Spans<f32>,
    /// A rule's own numbers about the tree; a snapshot keeps them.
    pub notes: Vec<u64>,
    /// Smallest and largest mean return of any visited edge, a root's value discounted as
    /// a child's would be; kept where the rule reads it.
    pub bounds: (f64, f64),
    /// Simulations finished, the root's own evaluation not among them.
    pub simulations: u64,
    /// Requests handed out.
    pub requests: u64,
    /// How terminal nodes and rollouts ended.
    pub outcomes: Outcomes,
    /// Whether an expansion was cut because the tree has no room.
    pub full: bool,
    gamma: f64,
    keeps: Keeps,
}

/// What only some searches have: further children, and statistics beyond the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Each edge's variance.
    pub variance: bool,
    /// [`Tree::bounds`].
    pub bounds: bool,
    /// Nodes may get further children until they are [`Fact::Exhausted`].
    pub widening: bool,
}

impl Tree {
    /// A tree of one unevaluated root. `gamma` is not 0; -1 alternates two players.
    pub fn new(gamma: f64, keeps: Keeps) -> Self {
        let mut tree = Self {
            hot: Column::new_in(Room::default()),
            cold: Column::new_in(Room::default()),
            rewards: Vec::new(),
            squares: Vec::new(),
            blocks: BTreeMap::new(),
            failures: BTreeMap::new(),
            merged: None,
            tokens: Spans::default(),
            token_log_probs: Spans::default(),
            child_scores: Spans::default(),
            rollouts: Vec::new(),
            rollout_tokens: Spans::default(),
            rollout_log_probs: Spans::default(),
            notes: Vec::new(),
            bounds: (f64::INFINITY, f64::NEG_INFINITY),
            simulations: 0,
            requests: 0,
            outcomes: Outcomes::default(),
            full: false,
            gamma,
            keeps,
        };
        tree.push(NONE, 0, [1.0].into_iter());
        tree
    }

    fn push(&mut self, parent: u32, depth: u32, priors: impl ExactSizeIterator<Item = f32>) {
        let first = self.hot.len();
        self.hot.resize(first + priors.len(), Hot::new(0.0));
        for (hot, prior) in self.hot[first..].iter_mut().zip(priors) {
            hot.prior = prior;
        }
        self.cold.resize(self.hot.len(), Cold::new(parent, depth));
        if self.keeps.variance {
            self.squares.resize(self.hot.len(), 0.0);
        }
    }

    /// Bytes of the columns of so many nodes.
    pub fn sizes(nodes: usize) -> [usize; 2] {
        [nodes * size_of::<Hot>(), nodes * size_of::<Cold>()]
    }

    /// Nodes that there is room for.
    pub fn capacity(&self) -> usize {
        self.hot.capacity()
    }

    /// Moves to where there is room for so many nodes in all, so that growing copies none.
    pub fn reserve(&mut self, nodes: usize, room: &Room) {
        fn moved<T: Copy>(column: &[T], nodes: usize, room: &Room) -> Column<T> {
            let mut moved = Column::with_capacity_in(nodes.max(column.len()), room.clone());
            moved.extend_from_slice(column);
            moved
        }
        self.hot = moved(&self.hot, nodes, room);
        self.cold = moved(&self.cold, nodes, room);
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.hot.len()
    }

    /// Never: there is always a root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Discount of a child's value.
    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// Statistics that are kept.
    pub fn keeps(&self) -> Keeps {
        self.keeps
    }

    /// Parent of a node, [`NONE`] for the root.
    pub fn parent(&self, node: u32) -> u32 {
        self.cold[node as usize].parent
    }

    /// Edges between a node and the root.
    pub fn depth(&self, node: u32) -> u32 {
        self.cold[node as usize].depth()
    }

    /// Value given when the node was evaluated; the exact value of a proven node.
    pub fn raw_value(&self, node: u32) -> f64 {
        self.cold[node as usize].raw_value
    }

    /// Reward of the edge into a node.
    pub fn reward(&self, node: u32) -> f64 {
        self.rewards.get(node as usize).copied().unwrap_or(0.0)
    }

    /// Whether something is true of a node.
    pub fn is(&self, node: u32, fact: Fact) -> bool {
        self.cold[node as usize].is(fact)
    }

    /// Makes something true of a node, or no longer.
    pub fn set(&mut self, node: u32, fact: Fact, truth: bool) {
        self.cold[node as usize].set(fact, truth);
    }

    /// Whether a node can be expanded.
    pub fn end(&self, node: u32) -> End {
        self.cold[node as usize].end()
    }

    /// Sets a node's own value.
    pub fn set_value(&mut self, node: u32, value: f64) {
        self.cold[node as usize].raw_value = value;
        self.set(node, Fact::Valued, true);
    }

    /// Sets the reward of the edge into a node.
    pub fn set_reward(&mut self, node: u32, reward: f64) {
        if reward != 0.0 || !self.rewards.is_empty() {
            if self.rewards.len() <= node as usize {
                self.rewards.resize(self.len(), 0.0);
            }
            self.rewards[node as usize] = reward;
        }
    }

    /// Times that a node's evaluation failed.
    pub fn failures(&self, node: u32) -> u8 {
        self.failures.get(&node).copied().unwrap_or(0)
    }

    /// Nodes whose evaluation failed, and how often.
    pub fn failed(&self) -> impl Iterator<Item = (u32, u8)> {
        self.failures.iter().map(|(&node, &failures)| (node, failures))
    }

    /// One more failure of a node.
    pub fn add_failure(&mut self, node: u32) {
        let failures = self.failures.entry(node).or_insert(0);
        *failures = failures.saturating_add(1);
    }

    /// Sum of squared distances of an edge's returns from their mean; infinite if not kept.
    pub fn squares(&self, node: u32) -> f64 {
        self.squares.get(node as usize).copied().unwrap_or(f64::INFINITY)
    }

    pub(super) fn add_square(&mut self, node: u32, square: f64) {
        self.squares[node as usize] += square;
    }

    /// Tokens of edges and of rollouts.
    pub fn tokens_held(&self) -> u64 {
        (self.tokens.total() + self.rollout_tokens.total()) as u64
    }

    /// Bytes that nodes take, and those of tokens and rollouts: memory in use, without what
    /// growing vectors hold in reserve.
    pub fn bytes(&self) -> (usize, usize) {
        let of_edges =
            [self.tokens.bytes(), self.token_log_probs.bytes(), self.child_scores.bytes()];
        let of_rollouts = [self.rollout_tokens.bytes(), self.rollout_log_probs.bytes()];
        let blocks: usize = self.blocks.values().map(|b| 16 + size_of_val(&**b)).sum();
        let nodes = size_of::<Self>()
            + size_of_val(&*self.hot)
            + size_of_val(&*self.cold)
            + size_of_val(&*self.rewards)
            + size_of_val(&*self.squares)
            + self.merged.as_ref().map_or(0, |m| m.bytes())
            + blocks
            + of_edges.iter().map(|(ends, _)| ends).sum::<usize>();
        let rollouts: usize = of_rollouts.iter().map(|(ends, values)| ends + values).sum();
        let values: usize = of_edges.iter().map(|(_, values)| values).sum();
        (nodes, values + rollouts + size_of_val(&*self.rollouts))
    }
}

crate::state!(Keeps { variance, bounds, widening });
crate::state!(Tree {
    hot,
    cold,
    rewards,
    squares,
    blocks,
    failures,
    merged,
    tokens,
    token_log_probs,
    child_scores,
    rollouts,
    rollout_tokens,
    rollout_log_probs,
    notes,
    bounds,
    simulations,
    requests,
    outcomes,
    full,
    gamma,
    keeps,
});
