//! What must hold of a tree that was read from a file. Depends on `arena`.

use super::{MAX_NODES, NONE, ROOT, Tree};

impl Tree {
    /// Whether every number that leads to a node, a child or a token leads to one that is
    /// there: what must hold of a tree that was read from a file.
    pub(in crate::tree) fn check(&self) -> Result<(), String> {
        let count = self.len();
        let columns = self.cold.len() == count
            && self.rewards.len() <= count
            && (self.squares.is_empty() || self.squares.len() == count)
            && (!self.keeps.variance || self.squares.len() == count);
        if !columns || count == 0 || count > MAX_NODES || self.parent(ROOT) != NONE {
            return Err(format!("columns that do not fit to {count} nodes"));
        }
        let there = |node: u32| (node as usize) < count;
        for node in 0..count as u32 {
            let more: u32 = self.blocks_of(node).iter().map(|&(_, n)| u32::from(n)).sum();
            let hot = &self.hot[node as usize];
            let end = hot.first_child.checked_add(u32::from(hot.children));
            let fits = more <= u32::from(hot.children)
                && (hot.children == 0 || end.is_some_and(|end| end - more <= count as u32));
            let blocks = self.blocks_of(node).iter();
            let scattered = blocks
                .map(|&(first, n)| first.checked_add(u32::from(n)))
                .all(|end| end.is_some_and(|end| end <= count as u32));
            if !fits || !scattered || self.children(node).any(|c| self.parent(c) != node) {
                return Err(format!("children of node {node}"));
            }
            if node != ROOT && self.parent(node) >= node {
                return Err(format!("parent of node {node}"));
            }
        }
        let rollouts = self.rollouts.iter().all(|rollout| there(rollout.node));
        let merged = self.merged.as_ref().is_none_or(|merged| merged.is_within(count));
        if rollouts
            && merged
            && self.tokens.is_sound()
            && self.rollout_tokens.is_sound()
            && self.token_log_probs.fits(&self.tokens)
            && self.child_scores.is_sound()
            && self.rollout_log_probs.fits(&self.rollout_tokens)
        {
            Ok(())
        } else {
            Err("a rollout, a merged state, a token or its number that is not there".to_owned())
        }
    }
}
