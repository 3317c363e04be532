//! One tree's nodes: a packed record that selection reads, cold records beside it.
//!
//! Children of one expansion are contiguous, so that choosing among them is one pass over
//! memory; a node that is widened gets further blocks. A root's edge has reward 0 and
//! discount 1. Columns that not every search fills take no memory until they are.
//! Depends on `hot`, `spans` and `merge`.

mod check;

use std::collections::BTreeMap;

pub use crate::tree::hot::{Hot, MAX_IN_FLIGHT};
use crate::tree::merge::Merged;
use crate::tree::spans::{Rollout, Spans};

/// No node: the parent of a root.
pub const NONE: u32 = u32::MAX;
/// The root of every tree.
pub const ROOT: u32 = 0;
/// Most nodes of a tree.
pub const MAX_NODES: usize = NONE as usize - 1;
/// Greatest depth of a node.
pub const MAX_DEPTH: u32 = (1 << DEPTH_BITS) - 1;
const DEPTH_BITS: u32 = 27;

/// Why a node has no children and never will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It may be expanded.
    Open,
    /// An end of the problem: its value is exact.
    Terminal,
    /// It was answered without children, at the depth limit or with the tree full.
    Barren,
}

/// Things that are true of a node, kept above its depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fact {
    /// An end of the problem.
    Terminal = 1 << DEPTH_BITS,
    /// Without children for good, though no end.
    Barren = 1 << (DEPTH_BITS + 1),
    /// Its expansion has been asked for and not been answered.
    Asked = 1 << (DEPTH_BITS + 2),
    /// `raw_value` is known.
    Valued = 1 << (DEPTH_BITS + 3),
    /// Widening brought nothing more.
    Exhausted = 1 << (DEPTH_BITS + 4),
}

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Cold {
    raw_value: f64,
    parent: u32,
    depth_and_facts: u32,
}

/// Nodes of one tree and what belongs to the tree as a whole.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Selection's records.
    pub hot: Vec<Hot>,
    cold: Vec<Cold>,
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

/// How terminal nodes and rollouts ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcomes {
    /// How many had a positive value.
    pub positive: u32,
    /// How many had a negative value.
    pub negative: u32,
    /// The highest value.
    pub best: f64,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self { positive: 0, negative: 0, best: f64::NEG_INFINITY }
    }
}

impl Outcomes {
    /// One more.
    pub fn add(&mut self, value: f64) {
        self.positive += u32::from(value > 0.0);
        self.negative += u32::from(value < 0.0);
        self.best = self.best.max(value);
    }
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
            hot: Vec::new(),
            cold: Vec::new(),
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

    fn push(&mut self, parent: u32, depth: u32, priors: impl Iterator<Item = f32>) {
        self.hot.extend(priors.map(Hot::new));
        let cold = Cold { raw_value: 0.0, parent, depth_and_facts: depth };
        self.cold.resize(self.hot.len(), cold);
        if self.keeps.variance {
            self.squares.resize(self.hot.len(), 0.0);
        }
    }

    /// Makes room for so many nodes in all, so that growing does not copy them.
    pub fn reserve(&mut self, nodes: usize) {
        self.hot.reserve_exact(nodes.saturating_sub(self.hot.len()));
        self.cold.reserve_exact(nodes.saturating_sub(self.cold.len()));
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
        self.cold[node as usize].depth_and_facts & MAX_DEPTH
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
        self.cold[node as usize].depth_and_facts & fact as u32 != 0
    }

    /// Makes something true of a node, or no longer.
    pub fn set(&mut self, node: u32, fact: Fact, truth: bool) {
        let facts = &mut self.cold[node as usize].depth_and_facts;
        *facts = if truth { *facts | fact as u32 } else { *facts & !(fact as u32) };
    }

    /// Whether a node can be expanded.
    pub fn end(&self, node: u32) -> End {
        let facts = self.cold[node as usize].depth_and_facts;
        if facts & Fact::Terminal as u32 != 0 {
            End::Terminal
        } else if facts & Fact::Barren as u32 != 0 {
            End::Barren
        } else {
            End::Open
        }
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

    /// One more failure of a node; how many there are.
    pub fn add_failure(&mut self, node: u32) -> u8 {
        let failures = self.failures.entry(node).or_insert(0);
        *failures = failures.saturating_add(1);
        *failures
    }

    /// The node that has the children and the evaluation of a node's state: itself, or the
    /// earlier one that it is linked to.
    pub fn home(&self, node: u32) -> u32 {
        if self.hot[node as usize].is_linked() {
            self.merged.as_ref().map_or(node, |merged| merged.home(node))
        } else {
            node
        }
    }

    /// Children of a node that came with its first expansion.
    pub fn block(&self, node: u32) -> std::ops::Range<u32> {
        let hot = &self.hot[node as usize];
        if hot.children == 0 {
            return 0..0;
        }
        let more: u32 = self.blocks_of(node).iter().map(|&(_, count)| u32::from(count)).sum();
        hot.first_child..hot.first_child + u32::from(hot.children) - more
    }

    /// Further blocks of a node's children.
    fn blocks_of(&self, node: u32) -> &[(u32, u16)] {
        if self.hot[node as usize].is_scattered() {
            self.blocks.get(&node).map_or(&[], Vec::as_slice)
        } else {
            &[]
        }
    }

    /// Children of a node, in the order in which they came.
    pub fn children(&self, node: u32) -> impl Iterator<Item = u32> + Clone + '_ {
        let more = self.blocks_of(node).iter();
        self.block(node).chain(more.flat_map(|&(first, count)| first..first + u32::from(count)))
    }

    /// Which child of its parent a node is; 0 for the root.
    pub fn action(&self, node: u32) -> u32 {
        match self.parent(node) {
            NONE => 0,
            parent if !self.hot[parent as usize].is_scattered() => {
                node - self.hot[parent as usize].first_child
            }
            parent => self.children(parent).position(|child| child == node).unwrap_or(0) as u32,
        }
    }

    /// Nodes from the root to a node.
    pub fn path(&self, node: u32) -> Vec<u32> {
        let mut path = Vec::with_capacity(self.depth(node) as usize + 1);
        let mut at = node;
        while at != NONE {
            path.push(at);
            at = self.parent(at);
        }
        path.reverse();
        path
    }

    /// Gives a node children with these priors, in a further block if it has some already.
    /// The caller has seen that [`MAX_NODES`], [`MAX_DEPTH`] and 65535 children suffice.
    pub fn expand(&mut self, node: u32, priors: impl ExactSizeIterator<Item = f32>) {
        let (count, first) = (priors.len() as u16, self.len() as u32);
        self.push(node, self.depth(node) + 1, priors);
        let hot = &mut self.hot[node as usize];
        if hot.children == 0 {
            hot.first_child = first;
        } else {
            hot.scatter();
            self.blocks.entry(node).or_default().push((first, count));
        }
        hot.children += count;
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

crate::state!(Cold { raw_value, parent, depth_and_facts });
crate::state!(Outcomes { positive, negative, best });
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
