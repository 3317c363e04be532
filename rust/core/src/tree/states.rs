//! Which nodes of a tree are the same state. Depends on nothing.

use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What is known of equal states.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    /// First node of each state.
    by_key: BTreeMap<u64, u32>,
    /// Homes of linked nodes.
    homes: BTreeMap<u32, u32>,
    /// Nodes linked to each home.
    linked: BTreeMap<u32, Vec<u32>>,
    /// Hashes of the tokens from the root, where states are known by them.
    hashes: Vec<u64>,
}

impl Merged {
    /// The node that a node is linked to, or itself.
    pub fn home(&self, node: u32) -> u32 {
        self.homes.get(&node).copied().unwrap_or(node)
    }

    /// Nodes linked to a home.
    pub fn linked(&self, home: u32) -> &[u32] {
        self.linked.get(&home).map_or(&[], Vec::as_slice)
    }

    /// Homes of linked nodes, by node.
    pub fn links(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.homes.iter().map(|(&node, &home)| (node, home))
    }

    /// Whether every node is one of the first `count`.
    pub(super) fn is_within(&self, count: usize) -> bool {
        let links = self.homes.iter().map(|(node, home)| node.max(home));
        let linked = self.linked.iter().flat_map(|(home, nodes)| nodes.iter().chain([home]));
        let nodes = self.by_key.values().chain(links).chain(linked);
        nodes.max().is_none_or(|&last| (last as usize) < count)
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        13 * self.by_key.len()
            + 9 * self.homes.len()
            + self.linked.values().map(|l| 33 + size_of_val(&**l)).sum::<usize>()
            + size_of_val(&*self.hashes)
    }

    /// The first node of the state of this key: `node`, if there is none yet.
    pub(super) fn first(&mut self, key: u64, node: u32) -> u32 {
        *self.by_key.entry(key).or_insert(node)
    }

    /// Links a node to the first of its state.
    pub(super) fn link(&mut self, node: u32, home: u32) {
        self.homes.insert(node, home);
        self.linked.entry(home).or_default().push(node);
    }

    /// Key of a node by the tokens of its path: the hash of its own, begun at its parent's.
    /// An edge without tokens has no key, for nothing is known of it.
    pub(super) fn hash(&mut self, node: u32, parent: u32, tokens: &[u32]) -> Option<u64> {
        let before = self.hashes.get(parent as usize).copied().unwrap_or(0);
        let hash = tokens.iter().fold(before, |h, t| xxh3_64_with_seed(&t.to_le_bytes(), h));
        self.hashes.resize(node as usize, 0);
        self.hashes.push(hash);
        (!tokens.is_empty()).then_some(hash)
    }
}

crate::state!(Merged { by_key, homes, linked, hashes });
