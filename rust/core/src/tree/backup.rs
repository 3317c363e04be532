//! What a value changes on its way up: visits, sums, variances, marks. Depends on `arena`.

use crate::tree::arena::{Hot, NONE, ROOT, Tree};

impl Tree {
    /// Mean value of a node, from its own side: the edge's mean without reward and discount.
    pub fn value(&self, node: u32) -> f64 {
        let hot = &self.hot[node as usize];
        if hot.visits == 0 {
            return 0.0;
        }
        if node == ROOT { hot.q() } else { (hot.q() - self.reward(node)) / self.gamma() }
    }

    /// What a parent sees of a node whose own value is `value`.
    pub fn edge_return(&self, node: u32, value: f64) -> f64 {
        if node == ROOT { value } else { self.reward(node) + self.gamma() * value }
    }

    /// Adds a descent that waits for an answer, on every node up to the root.
    pub fn mark(&mut self, leaf: u32) {
        self.each_up(leaf, |hot| hot.flags += 1);
    }

    /// Takes back [`mark`](Self::mark).
    pub fn unmark(&mut self, leaf: u32) {
        self.each_up(leaf, |hot| hot.flags -= 1);
    }

    /// Adds a descent along these edges that waits for an answer.
    pub(super) fn mark_path(&mut self, path: &[u32]) {
        for &edge in path {
            self.hot[edge as usize].flags += 1;
        }
    }

    /// Takes back [`mark_path`](Self::mark_path).
    pub(super) fn unmark_path(&mut self, path: &[u32]) {
        for &edge in path {
            self.hot[edge as usize].flags -= 1;
        }
    }

    fn each_up(&mut self, leaf: u32, mut change: impl FnMut(&mut Hot)) {
        let mut node = leaf;
        while node != NONE {
            change(&mut self.hot[node as usize]);
            node = self.parent(node);
        }
    }

    /// Backs a leaf's own value up to the root, one visit on every edge.
    pub fn back_up(&mut self, leaf: u32, value: f64) {
        let (mut node, mut value) = (leaf, value);
        while node != NONE {
            value = self.visit(node, value);
            node = self.parent(node);
        }
    }

    /// The same along the edges of a descent.
    pub(super) fn back_up_path(&mut self, path: &[u32], value: f64) {
        path.iter().rev().fold(value, |value, &edge| self.visit(edge, value));
    }

    /// One visit of an edge that leads to a node of this value; what its parent sees.
    pub(super) fn visit(&mut self, node: u32, value: f64) -> f64 {
        let edge = self.edge_return(node, value);
        self.add_return(node, edge);
        edge
    }

    /// One more return of an edge.
    pub(super) fn add_return(&mut self, node: u32, edge: f64) {
        let keeps = self.keeps();
        let hot = &mut self.hot[node as usize];
        if !(keeps.variance || keeps.bounds) {
            hot.value_sum += edge;
            hot.visits += 1;
            return;
        }
        let before = hot.q();
        hot.value_sum += edge;
        hot.visits += 1;
        self.note(node, edge, before);
    }

    /// Keeps variance and bounds of an edge that just got a return (Welford 1962).
    fn note(&mut self, node: u32, edge: f64, before: f64) {
        let mean = self.hot[node as usize].q();
        if self.keeps().variance {
            let first = self.hot[node as usize].visits == 1;
            self.add_square(node, if first { 0.0 } else { (edge - before) * (edge - mean) });
        }
        if self.keeps().bounds {
            let seen = if node == ROOT { self.gamma() * mean } else { mean };
            self.bounds = (self.bounds.0.min(seen), self.bounds.1.max(seen));
        }
    }

    /// Unbiased variance of an edge's returns; infinite with fewer than two, or not kept.
    pub fn variance(&self, node: u32) -> f64 {
        let visits = self.hot[node as usize].visits;
        if visits < 2 { f64::INFINITY } else { self.squares(node) / f64::from(visits - 1) }
    }

    /// Half the width of the interval `mean +- z * sqrt(variance / visits)` of an edge.
    pub fn half_width(&self, node: u32, z: f64) -> f64 {
        z * (self.variance(node) / f64::from(self.hot[node as usize].visits.max(1))).sqrt()
    }
}
