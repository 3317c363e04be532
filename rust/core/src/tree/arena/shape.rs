//! How the nodes of a tree hang together: children in blocks, parents, paths.

use super::{NONE, Tree};

impl Tree {
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
    pub(super) fn blocks_of(&self, node: u32) -> &[(u32, u16)] {
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
    /// The caller has seen that [`MAX_NODES`](super::MAX_NODES), [`MAX_DEPTH`](super::MAX_DEPTH) and 65535 children suffice.
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
}
