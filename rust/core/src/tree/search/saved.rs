//! A forest as bytes and back, for snapshots; and what waits in it, for whoever resumes.

use super::select::leaf;
use super::{Forest, Leaf, Waiting};
use crate::tree::arena::{NONE, Tree};
use crate::tree::persist::Result;
use crate::tree::persist::state::{Source, State};

crate::state!(Waiting { tree, ask });

impl Forest {
    /// Everything that calls have changed; the rule and the limits are not among it.
    pub fn save(&self) -> Vec<u8> {
        let Self { trees, desks, rule: _, limits: _, waiting, first_ticket, next_tree } = self;
        let mut out = Vec::new();
        trees.save(&mut out);
        desks.save(&mut out);
        waiting.save(&mut out);
        first_ticket.save(&mut out);
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
        let trees = Vec::<Tree>::load(&mut source)?;
        let desks = State::load(&mut source)?;
        let waiting = State::load(&mut source)?;
        let first_ticket = State::load(&mut source)?;
        let next_tree = State::load(&mut source)?;
        source.end()?;
        let loaded = Parts { trees, desks, waiting, next_tree };
        if let Err(what) = loaded.check(&self.trees) {
            return source.refuse(what);
        }
        (self.trees, self.desks, self.waiting) = (loaded.trees, loaded.desks, loaded.waiting);
        (self.first_ticket, self.next_tree) = (first_ticket, next_tree);
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

/// What was read, before it is believed.
struct Parts {
    trees: Vec<Tree>,
    desks: Vec<super::Desk>,
    waiting: std::collections::VecDeque<Waiting>,
    next_tree: usize,
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
        let asks = self.waiting.iter().map(|w| (w.tree as usize, w.ask.node));
        let asks = asks.filter(|&(tree, _)| tree != NONE as usize);
        for (tree, node) in asks {
            if self.trees.get(tree).is_none_or(|tree| node as usize >= tree.len()) {
                return Err(format!("a request of node {node} of tree {tree}"));
            }
        }
        let sound = |(desk, tree): (&super::Desk, &Tree)| desk.is_sound(tree.len());
        if self.desks.iter().zip(&self.trees).all(sound) {
            Ok(())
        } else {
            Err("a tree with more answers than requests".to_owned())
        }
    }
}
