//! Trees as parents of nodes: the one form in which every read-out takes them.
//!
//! A parent comes before its children, so that one pass backwards meets children before
//! parents and one forwards the other way; several trees lie in one array. The arena's
//! trees have that order too. Depends on `error` alone.

use crate::error::{Error, Result};

/// Nodes of a batch of trees by their parents; -1 starts a tree.
#[derive(Clone, Copy, Debug)]
pub struct Parents<'a>(&'a [i64]);

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
            return Ok(Self(parents));
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
        Self(parents)
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A node's parent.
    pub fn of(&self, node: usize) -> Option<usize> {
        usize::try_from(self.0[node]).ok()
    }

    /// Root of each node's tree.
    pub fn roots(&self) -> Vec<u32> {
        let mut roots: Vec<u32> = Vec::with_capacity(self.len());
        for node in 0..self.len() {
            roots.push(self.of(node).map_or(node as u32, |parent| roots[parent]));
        }
        roots
    }

    /// Number of each node's tree, in the order of their roots.
    pub fn tree_numbers(&self) -> Vec<u32> {
        let (mut numbers, mut trees): (Vec<u32>, u32) = (Vec::with_capacity(self.len()), 0);
        for node in 0..self.len() {
            let own = self.of(node).map_or(trees, |parent| numbers[parent]);
            trees = trees.max(own + 1);
            numbers.push(own);
        }
        numbers
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
        }
        assert!(Parents::new(&[]).is_ok_and(|parents| parents.is_empty()));
    }

    #[test]
    fn roots_and_paths() {
        let given = [-1, 0, 1, -1, 3, 0];
        let Ok(parents) = Parents::new(&given) else { unreachable!("a forest") };
        assert_eq!(parents.roots(), [0, 0, 0, 3, 3, 0]);
        assert_eq!(parents.tree_numbers(), [0, 0, 0, 1, 1, 0]);
        assert_eq!(parents.path_sums(&[1.0; 6]), [1.0, 2.0, 3.0, 1.0, 2.0, 2.0]);
    }
}
