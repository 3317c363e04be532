//! Nodes that need no more visits: closed ones and proven ones. Depends on `arena`.

use crate::tree::arena::{Fact, NONE, Tree};

impl Tree {
    /// Keeps selection out of one child of its parent, which is no choice there.
    pub(super) fn mask(&mut self, child: u32) {
        self.hot[child as usize].close();
    }

    /// Keeps selection out of a node, and out of parents of which no child is left.
    pub fn close(&mut self, node: u32) {
        let home = self.home(node);
        self.close_edges(home);
        self.spread(home, |tree, parent| {
            let closes = !tree.hot[parent as usize].is_closed() && tree.is_spent(parent);
            if closes {
                tree.close_edges(parent);
            }
            closes
        });
    }

    /// Whether no child of a node can be entered and it gets no further ones.
    pub(super) fn is_spent(&self, node: u32) -> bool {
        let mut children = self.children(node);
        !self.may_grow(node) && children.all(|c| self.hot[c as usize].is_closed())
    }

    /// Whether widening may bring a node more children.
    pub fn may_grow(&self, node: u32) -> bool {
        self.keeps().widening && !self.is(node, Fact::Exhausted)
    }

    fn close_edges(&mut self, node: u32) {
        if self.merged.is_none() {
            return self.hot[node as usize].close();
        }
        for edge in self.edges(node) {
            self.hot[edge as usize].close();
        }
    }

    /// Marks a node's value as exact.
    pub fn prove(&mut self, node: u32, value: f64) {
        self.set_value(node, value);
        if self.merged.is_none() {
            return self.hot[node as usize].prove();
        }
        for edge in self.edges(node) {
            self.hot[edge as usize].prove();
        }
    }

    /// Proves ancestors of a proven node: a parent is worth its best child once that
    /// child reaches `max_value` or all children are proven.
    pub fn solve_up(&mut self, node: u32, max_value: f64) {
        self.spread(self.home(node), |tree, node| {
            if tree.hot[node as usize].is_proven() {
                return false;
            }
            let (mut best, mut all) = (f64::NEG_INFINITY, !tree.may_grow(node));
            for child in tree.children(node) {
                let hot = &tree.hot[child as usize];
                if hot.is_proven() {
                    best = best.max(tree.proven_return(child));
                } else {
                    // One that failed too often looks so too, where its prior is 0.
                    all &= hot.is_masked() && tree.failures(child) == 0;
                }
            }
            let solved = all || best >= max_value;
            if solved {
                tree.prove(node, best);
            }
            solved
        });
    }

    /// What a parent sees of a proven child.
    pub fn proven_return(&self, child: u32) -> f64 {
        self.edge_return(child, self.raw_value(self.home(child)))
    }

    /// Lets `change` look at the parents of a node, and at those of each that it changed.
    fn spread(&mut self, node: u32, mut change: impl FnMut(&mut Self, u32) -> bool) {
        let mut todo = vec![node];
        while let Some(node) = todo.pop() {
            if self.merged.is_some() {
                for parent in self.parents(node) {
                    if change(self, parent) {
                        todo.push(parent);
                    }
                }
            } else if self.parent(node) != NONE && change(self, self.parent(node)) {
                todo.push(self.parent(node));
            }
        }
    }
}
