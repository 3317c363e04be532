//! Equal states merged: one evaluation and one set of children, a count for every edge.
//!
//! Each edge keeps its own record; the records of one state but the first are linked to
//! it, its home. A state's value is recomputed from its children by *edge* counts,
//! `(v + sum N(edge) Q(child)) / (1 + sum N(edge))`, so that a visit through one parent
//! is not counted at the others; they see the new value when they are next passed (the
//! sound rule of KataGo, Wu, "Monte-Carlo graph search"). Depth grows along every edge,
//! so there is no cycle: a node is linked only to one at least as deep.
//! Depends on `arena`.

use crate::tree::arena::{NONE, ROOT, Tree};

impl Tree {
    /// Links new children to equal states seen before. `keys` tell which are equal; without
    /// them, equal tokens from the root do.
    pub(super) fn merge(&mut self, parent: u32, block: std::ops::Range<u32>, keys: Option<&[u64]>) {
        for (i, child) in block.enumerate() {
            let Some(merged) = &mut self.merged else { return };
            let key = match keys {
                Some(keys) => Some(keys[i]),
                None => merged.hash(child, parent, self.tokens.get(child as usize)),
            };
            let Some(key) = key else { continue };
            let first = merged.first(key, child);
            if first != child && self.depth(first) >= self.depth(child) {
                self.link(child, first);
            }
        }
    }

    fn link(&mut self, node: u32, home: u32) {
        let Some(merged) = &mut self.merged else { return };
        merged.link(node, home);
        let state = self.hot[home as usize];
        let hot = &mut self.hot[node as usize];
        hot.link();
        if state.is_proven() {
            hot.prove();
        }
        if state.is_closed() {
            hot.close();
        }
    }

    /// All edges into the state of a node.
    pub fn edges(&self, node: u32) -> Vec<u32> {
        let home = self.home(node);
        let linked = self.merged.as_ref().map_or(&[][..], |merged| merged.linked(home));
        std::iter::once(home).chain(linked.iter().copied()).collect()
    }

    /// A state's value: its own evaluation and its children's, by edge counts.
    fn state_value(&self, home: u32) -> f64 {
        let (mut sum, mut count) = (self.raw_value(home), 1.0);
        for child in self.children(home) {
            let hot = &self.hot[child as usize];
            sum += hot.value_sum;
            count += f64::from(hot.visits);
        }
        sum / count
    }

    /// Backs a value up along the edges of a descent, the last of which leads to the leaf.
    pub(super) fn back_up_states(&mut self, path: &[u32], value: f64) {
        let (mut sample, mut value) = (value, value);
        for (i, &edge) in path.iter().enumerate().rev() {
            if i + 1 < path.len() {
                value = self.state_value(self.home(edge));
            }
            let seen = self.edge_return(edge, value);
            sample = self.edge_return(edge, sample);
            let hot = &mut self.hot[edge as usize];
            let before = if hot.visits == 0 { seen } else { hot.q() };
            hot.visits += 1;
            hot.value_sum = seen * f64::from(hot.visits);
            if self.keeps().variance {
                self.add_square(edge, ((sample - before) * (sample - seen)).max(0.0));
            }
        }
    }

    /// Parents of all edges into the state of a node.
    pub(super) fn parents(&self, node: u32) -> Vec<u32> {
        let mut parents: Vec<u32> = self.edges(node).iter().map(|&e| self.parent(e)).collect();
        parents.retain(|&parent| parent != NONE);
        parents.sort_unstable();
        parents.dedup();
        debug_assert!(node == ROOT || !parents.is_empty());
        parents
    }
}
