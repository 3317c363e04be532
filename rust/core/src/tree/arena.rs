//! One tree's nodes: a packed record that selection reads, cold columns beside it.
//!
//! Children of one expansion are contiguous, so that choosing among them is one
//! pass over memory. Statistics are kept for the edge into a node, as seen by
//! whoever chose that edge: `value_sum / visits` is the mean of
//! `reward + gamma * value`, what a parent compares. A root's edge has reward 0 and
//! discount 1. Depends on `error` alone.

use crate::error::{Error, Result};

/// No node: the parent of a root.
pub const NONE: u32 = u32::MAX;
/// The root of every tree.
pub const ROOT: u32 = 0;
/// Most answers that one node can wait for.
pub const MAX_IN_FLIGHT: u16 = (1 << 14) - 1;

const CLOSED: u16 = 1 << 15;
const PROVEN: u16 = 1 << 14;

/// What selection reads of a node, in 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hot {
    /// Sum of the returns backed up over the edge into the node.
    pub value_sum: f64,
    /// Returns backed up.
    pub visits: u32,
    /// Prior probability given by the parent's expansion.
    pub prior: f32,
    /// First child; meaningless without children.
    pub first_child: u32,
    flags: u16,
    /// Number of children.
    pub children: u16,
}

impl Hot {
    fn new(prior: f32) -> Self {
        Self { value_sum: 0.0, visits: 0, prior, first_child: NONE, flags: 0, children: 0 }
    }

    /// Descents through the node that wait for an answer.
    pub fn in_flight(&self) -> u16 {
        self.flags & MAX_IN_FLIGHT
    }

    /// Whether selection must not enter the node.
    pub fn is_closed(&self) -> bool {
        self.flags & CLOSED != 0
    }

    /// Whether the node is no choice at all, rather than one that was given up.
    pub fn is_masked(&self) -> bool {
        self.is_closed() && self.prior == 0.0 && self.visits == 0
    }

    /// Whether the node's value is known exactly.
    pub fn is_proven(&self) -> bool {
        self.flags & PROVEN != 0
    }

    /// Mean return of the edge; 0 without visits.
    pub fn q(&self) -> f64 {
        if self.visits == 0 { 0.0 } else { self.value_sum / f64::from(self.visits) }
    }
}

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

/// Nodes of one tree and what belongs to the tree as a whole.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Selection's records.
    pub hot: Vec<Hot>,
    /// Parent of each node, [`NONE`] for the root.
    pub parent: Vec<u32>,
    /// Edges between the node and the root.
    pub depth: Vec<u32>,
    /// Value given when the node was evaluated; the exact value of a proven node.
    pub raw_value: Vec<f64>,
    /// Reward of the edge into the node.
    pub reward: Vec<f64>,
    /// Whether a node can be expanded.
    pub end: Vec<End>,
    /// Times that the node's evaluation failed.
    pub failures: Vec<u8>,
    /// Smallest and largest mean return of any visited edge, a root's value discounted as
    /// a child's would be.
    pub bounds: (f64, f64),
    /// Simulations finished, the root's own evaluation not among them.
    pub simulations: u64,
    /// Answers waited for.
    pub waiting: u32,
    /// Leaves found by the selection that is going on, not yet handed out.
    pub asked: Vec<u32>,
    /// Whether an expansion was cut because the tree has no room.
    pub full: bool,
    gamma: f64,
}

impl Tree {
    /// A tree of one unevaluated root. `gamma` is not 0; -1 alternates two players.
    pub fn new(gamma: f64) -> Self {
        let mut tree = Self {
            hot: Vec::new(),
            parent: Vec::new(),
            depth: Vec::new(),
            raw_value: Vec::new(),
            reward: Vec::new(),
            end: Vec::new(),
            failures: Vec::new(),
            bounds: (f64::INFINITY, f64::NEG_INFINITY),
            simulations: 0,
            waiting: 0,
            asked: Vec::new(),
            full: false,
            gamma,
        };
        tree.push(NONE, 0, 1.0);
        tree
    }

    fn push(&mut self, parent: u32, depth: u32, prior: f32) {
        self.hot.push(Hot::new(prior));
        self.parent.push(parent);
        self.depth.push(depth);
        self.raw_value.push(0.0);
        self.reward.push(0.0);
        self.end.push(End::Open);
        self.failures.push(0);
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.hot.len()
    }

    /// Never: there is always a root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Children of a node.
    pub fn children(&self, node: u32) -> std::ops::Range<u32> {
        let hot = &self.hot[node as usize];
        if hot.children == 0 {
            0..0
        } else {
            hot.first_child..hot.first_child + u32::from(hot.children)
        }
    }

    /// Which child of its parent a node is; 0 for the root.
    pub fn action(&self, node: u32) -> u32 {
        match self.parent[node as usize] {
            NONE => 0,
            parent => node - self.hot[parent as usize].first_child,
        }
    }

    /// Mean value of a node, from its own side: the edge's mean without reward and discount.
    pub fn value(&self, node: u32) -> f64 {
        let hot = &self.hot[node as usize];
        if hot.visits == 0 {
            return 0.0;
        }
        if node == ROOT { hot.q() } else { (hot.q() - self.reward[node as usize]) / self.gamma }
    }

    /// What a parent sees of a node whose own value is `value`.
    pub fn edge_return(&self, node: u32, value: f64) -> f64 {
        if node == ROOT { value } else { self.reward[node as usize] + self.gamma * value }
    }

    /// Gives a node children with these priors.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] for more children than 65535 or more nodes than 2^32 - 2.
    pub fn expand(&mut self, node: u32, priors: impl ExactSizeIterator<Item = f32>) -> Result<()> {
        let (count, first) = (priors.len(), self.len());
        let Ok(children) = u16::try_from(count) else {
            return Err(Error::TooLarge {
                what: "children of a node",
                got: count as u128,
                limit: u128::from(u16::MAX),
            });
        };
        let limit = NONE as usize - 1;
        if first + count > limit {
            let got = (first + count) as u128;
            return Err(Error::TooLarge { what: "nodes of a tree", got, limit: limit as u128 });
        }
        let depth = self.depth[node as usize] + 1;
        for prior in priors {
            self.push(node, depth, prior);
        }
        let hot = &mut self.hot[node as usize];
        (hot.first_child, hot.children) = (first as u32, children);
        Ok(())
    }

    /// Adds a descent that waits for an answer, on every node up to the root.
    pub fn mark(&mut self, leaf: u32) {
        self.each_up(leaf, |hot| hot.flags += 1);
        self.waiting += 1;
    }

    /// Takes back [`mark`](Self::mark).
    pub fn unmark(&mut self, leaf: u32) {
        self.each_up(leaf, |hot| hot.flags -= 1);
        self.waiting -= 1;
    }

    fn each_up(&mut self, leaf: u32, mut change: impl FnMut(&mut Hot)) {
        let mut node = leaf;
        while node != NONE {
            change(&mut self.hot[node as usize]);
            node = self.parent[node as usize];
        }
    }

    /// Backs a leaf's own value up to the root, one visit on every edge.
    pub fn back_up(&mut self, leaf: u32, value: f64) {
        let (mut node, mut value) = (leaf, value);
        while node != NONE {
            let edge = self.edge_return(node, value);
            let hot = &mut self.hot[node as usize];
            hot.value_sum += edge;
            hot.visits += 1;
            let mean = if node == ROOT { self.gamma * hot.q() } else { hot.q() };
            self.bounds = (self.bounds.0.min(mean), self.bounds.1.max(mean));
            value = edge;
            node = self.parent[node as usize];
        }
    }

    /// Keeps selection out of a node, and out of parents of which no child is left.
    pub fn close(&mut self, node: u32) {
        let mut node = node;
        loop {
            self.hot[node as usize].flags |= CLOSED;
            let parent = self.parent[node as usize];
            if parent == NONE || self.children(parent).any(|c| !self.hot[c as usize].is_closed()) {
                return;
            }
            node = parent;
        }
    }

    /// Marks a node's value as exact.
    pub fn prove(&mut self, node: u32, value: f64) {
        self.hot[node as usize].flags |= PROVEN;
        self.raw_value[node as usize] = value;
    }

    /// Proves ancestors of a proven node: a parent is worth its best child once that
    /// child reaches `max_value` or all children are proven.
    pub fn solve_up(&mut self, node: u32, max_value: f64) {
        let mut node = self.parent[node as usize];
        while node != NONE {
            let (mut best, mut all) = (f64::NEG_INFINITY, true);
            for child in self.children(node) {
                let hot = &self.hot[child as usize];
                if hot.is_proven() {
                    best = best.max(self.edge_return(child, self.raw_value[child as usize]));
                } else {
                    all &= hot.is_masked();
                }
            }
            if !all && best < max_value {
                return;
            }
            self.prove(node, best);
            node = self.parent[node as usize];
        }
    }
}
