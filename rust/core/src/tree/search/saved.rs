//! A forest as bytes and back, for snapshots; and what waits in it, for whoever resumes.

use std::collections::VecDeque;

use super::desk::Desk;
use super::select::leaf;
use super::{Forest, Leaf, Waiting};
use crate::tree::arena::{NONE, Tree};
use crate::tree::persist::Result;
use crate::tree::persist::state::{Source, State};

/// What was read, before it is believed.
struct Parts {
    trees: Vec<Tree>,
    desks: Vec<Desk>,
    waiting: VecDeque<Waiting>,
    first_ticket: u64,
    edges: VecDeque<u32>,
    first_edge: u64,
    next_tree: usize,
}

crate::state!(Waiting { tree, ask, descent });
crate::state!(Parts { trees, desks, waiting, first_ticket, edges, first_edge, next_tree });

impl Forest {
    /// Everything that calls have changed; the rule and the limits are not among it.
    pub fn save(&self) -> Vec<u8> {
        // All fields by name, so that none can be forgotten; in the order of `Parts`.
        let Self {
            trees,
            desks,
            rule: _,
            limits: _,
            waiting,
            first_ticket,
            edges,
            first_edge,
            next_tree,
        } = self;
        let mut out = Vec::new();
        trees.save(&mut out);
        desks.save(&mut out);
        waiting.save(&mut out);
        first_ticket.save(&mut out);
        edges.save(&mut out);
        first_edge.save(&mut out);
        next_tree.save(&mut out);
        out
    }

    /// Puts this forest into the state that one of the same rule, limits and number of trees
    /// was saved in. Nothing is changed where that is refused.
    ///
    /// # Errors
    ///
    /// Bytes that [`save`](Self::save) did not give, or gave of another search.
    pub fn load(&mut self, bytes: &[u8]) -> Result<()> {
        let mut source = Source::new(bytes);
        let parts = Parts::load(&mut source)?;
        source.end()?;
        if let Err(what) = parts.check(&self.trees) {
            return source.refuse(what);
        }
        let Parts { trees, desks, waiting, first_ticket, edges, first_edge, next_tree } = parts;
        (self.trees, self.desks, self.waiting) = (trees, desks, waiting);
        (self.edges, self.next_tree) = (edges, next_tree);
        (self.first_ticket, self.first_edge) = (first_ticket, first_edge);
        Ok(())
    }

    /// Requests that wait for an answer, in the order of their tickets.
    pub fn unanswered(&self) -> Vec<Leaf> {
        let waiting = (self.first_ticket..).zip(&self.waiting);
        waiting
            .filter(|(_, waiting)| waiting.tree != NONE)
            .map(|(ticket, w)| leaf(&self.trees[w.tree as usize], ticket, w.tree, w.ask))
            .collect()
    }
}

impl Parts {
    /// Whether every number that leads somewhere leads to something that is there.
    fn check(&self, fresh: &[Tree]) -> std::result::Result<(), String> {
        let count = self.trees.len();
        if count != fresh.len() || self.desks.len() != count || self.next_tree >= count {
            return Err(format!("a search of {count} trees, expected {}", fresh.len()));
        }
        for (index, (tree, first)) in self.trees.iter().zip(fresh).enumerate() {
            if tree.gamma() != first.gamma() || tree.keeps() != first.keeps() {
                return Err(format!("tree {index} is of another search"));
            }
            tree.check().map_err(|what| format!("tree {index}: {what}"))?;
        }
        let sound = |(desk, tree): (&Desk, &Tree)| desk.is_sound(tree.len());
        if !self.desks.iter().zip(&self.trees).all(sound) {
            return Err("a tree with more answers than requests".to_owned());
        }
        if self.waiting_is_sound() { Ok(()) } else { Err("a request of no node".to_owned()) }
    }

    /// Whether requests are of nodes that are there, and their descents lie in a row.
    fn waiting_is_sound(&self) -> bool {
        let mut start = 0_usize;
        for waiting in &self.waiting {
            let (first, edges) = (waiting.descent.0, waiting.descent.1 as usize);
            let here = first.checked_sub(self.first_edge) == Some(start as u64);
            if !here || start + edges > self.edges.len() {
                return false;
            }
            let mut nodes = self.edges.range(start..start + edges).chain([&waiting.ask.node]);
            let tree = self.trees.get(waiting.tree as usize);
            let there = |&node: &u32| tree.is_some_and(|tree| (node as usize) < tree.len());
            if waiting.tree != NONE && !nodes.all(there) {
                return false;
            }
            start += edges;
        }
        start == self.edges.len()
    }
}
