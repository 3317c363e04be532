//! Trees as parents of nodes: the one form in which every read-out takes them.
//!
//! A parent comes before its children, so that one pass backwards meets children before
//! parents and one forwards the other way; several trees lie in one array. The arena's
//! trees have that order too. Depends on `error` alone.

use std::ops::Range;

use crate::error::{Error, Result};

/// Nodes of a batch of trees by their parents; -1 starts a tree.
#[derive(Clone, Copy, Debug)]
pub struct Parents<'a> {
    nodes: &'a [i64],
    /// What the first node is called in `nodes`.
    first: i64,
}

/// The trees of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trees {
    /// Number of each node's tree, in the order of their roots.
    pub of: Vec<u32>,
    /// Root of each tree.
    pub roots: Vec<u32>,
}

impl Trees {
    /// Adds the next node, of the tree that another is of or of a new one.
    pub fn add(&mut self, of: Option<usize>) {
        let number = of.map_or(self.roots.len() as u32, |node| self.of[node]);
        if of.is_none() {
            self.roots.push(self.of.len() as u32);
        }
        self.of.push(number);
    }

    /// Root of a node's tree.
    pub fn root(&self, node: usize) -> usize {
        self.roots[self.of[node] as usize] as usize
    }
}

impl<'a> Parents<'a> {
    /// Checks that every parent comes before its child, so that there is no cycle.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] naming the first node of which that is not so.
    pub fn new(parents: &'a [i64]) -> Result<Self> {
        let wrong = |(i, &p): (usize, &i64)| p < -1 || p >= i as i64;
        // A fold instead of `any`: without an early exit it is vector instructions.
        if !parents.iter().enumerate().fold(false, |any, node| any | wrong(node)) {
            return Ok(Self::trusted(parents));
        }
        let index = parents.iter().enumerate().position(wrong).unwrap_or(0);
        Err(Error::Value {
            argument: "parents".to_owned(),
            index,
            got: parents[index].to_string(),
            expected: format!("-1 for a root or a node before {index}"),
        })
    }

    /// Takes parents of which it is known that each comes before its children.
    pub fn trusted(parents: &'a [i64]) -> Self {
        Self { nodes: parents, first: 0 }
    }

    /// Checks as [`new`](Self::new) does, and finds consecutive ranges of nodes that no edge
    /// crosses: whole trees, as many as it takes for `least` nodes. A tree among whose nodes
    /// others lie is in one range with those.
    pub fn parts(parents: &'a [i64], least: usize) -> Result<Vec<Range<usize>>> {
        // Where parts start; one goes once an edge reaches back over it.
        let (mut starts, mut last) = (vec![0], 0);
        for (n, &parent) in parents.iter().enumerate() {
            // As an unsigned number -1 is above all nodes, and less than -1 too.
            if (parent as u64) < n as u64 {
                while (parent as usize) < last {
                    starts.pop();
                    last = starts.last().copied().unwrap_or(0);
                }
            } else if parent == -1 {
                if n - last >= least {
                    starts.push(n);
                    last = n;
                }
            } else {
                return Self::new(parents).map(|_| Vec::new()); // which names the node
            }
        }
        starts.push(parents.len());
        Ok(starts.windows(2).map(|ends| ends[0]..ends[1]).collect())
    }

    /// One of the [`parts`](Self::parts), its nodes numbered from 0.
    pub fn part(&self, range: Range<usize>) -> Self {
        Self { first: self.first + range.start as i64, nodes: &self.nodes[range] }
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node's parent.
    pub fn of(&self, node: usize) -> Option<usize> {
        let parent = self.nodes[node];
        (parent >= 0).then(|| (parent - self.first) as usize)
    }

    /// Which tree each node is of.
    pub fn trees(&self) -> Trees {
        let mut trees = Trees { of: Vec::with_capacity(self.len()), roots: Vec::new() };
        (0..self.len()).for_each(|node| trees.add(self.of(node)));
        trees
    }

    /// Sums of `values` from the root to each node, both included.
    pub fn path_sums(&self, values: &[f64]) -> Vec<f64> {
        let mut sums = values.to_vec();
        for node in 0..self.len() {
            if let Some(parent) = self.of(node) {
                sums[node] += sums[parent];
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first() {
        for (parents, at) in [(&[0][..], 0), (&[-1, 2, 0], 1), (&[-1, 0, -2], 2), (&[-1, 1], 1)] {
            let error = Parents::new(parents).err();
            assert!(matches!(error, Some(Error::Value { index, .. }) if index == at));
            assert_eq!(error, Parents::parts(parents, 1).err());
        }
        assert!(Parents::new(&[]).is_ok_and(|parents| parents.is_empty()));
    }

    #[test]
    fn roots_and_paths() {
        let given = [-1, 0, 1, -1, 3, 0];
        let Ok(parents) = Parents::new(&given) else { unreachable!("a forest") };
        assert_eq!(parents.trees(), Trees { of: vec![0, 0, 0, 1, 1, 0], roots: vec![0, 3] });
        assert_eq!(parents.path_sums(&[1.0; 6]), [1.0, 2.0, 3.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn parts_hold_whole_trees() {
        let parts = |given: &[i64], least| Parents::parts(given, least).unwrap();
        let apart = [-1, 0, -1, -1, 3, 3];
        assert_eq!(parts(&apart, 1), [0..2, 2..3, 3..6]);
        assert_eq!(parts(&apart, 3), [0..3, 3..6]);
        assert_eq!(parts(&apart, 4), vec![0..6; 1]);
        // The last node reaches over the second tree, and the one before over the third.
        assert_eq!(parts(&[-1, -1, -1, -1, 2, 1], 1), [0..1, 1..6]);
        assert_eq!(parts(&[], 1), vec![0..0; 1]);
        let given = Parents::trusted(&apart);
        let part = given.part(3..6);
        assert_eq!([part.of(0), part.of(1), part.of(2)], [None, Some(0), Some(0)]);
    }
}
