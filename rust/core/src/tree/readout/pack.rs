//! A forest as one sequence in which each shared prefix stands once.
//!
//! Nodes are laid out depth first, so that the tokens below a token are those that follow
//! it up to one position, and a token sees an earlier one if it stands before that.
//! Depends on `parents`.

use crate::ragged::Offsets;
use crate::tree::parents::Parents;

/// One entry a token of the sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packed {
    /// Where the token stands in the flat tokens that were given.
    pub source: Vec<i64>,
    /// Its node.
    pub node: Vec<i64>,
    /// Tokens before it on its path.
    pub position: Vec<i64>,
    /// The token before it on its path, whose output predicts it; -1 at a tree's first.
    pub parent: Vec<i64>,
    /// First later token that does not see it.
    pub end: Vec<i64>,
}

/// Packs the tokens of nodes, a row each; trees in their order, children in theirs.
pub fn pack(parents: &Parents<'_>, rows: &Offsets<'_>) -> Packed {
    let nodes = parents.len();
    let mut below: Vec<usize> = (0..nodes).map(|n| rows.range(n).len()).collect();
    for n in (0..nodes).rev() {
        if let Some(p) = parents.of(n) {
            below[p] += below[n];
        }
    }
    let total = rows.total();
    let fill = || vec![0; total];
    let mut out =
        Packed { source: fill(), node: fill(), position: fill(), parent: fill(), end: fill() };
    // By node: where its next child goes, its last token and the tokens up to its end.
    let mut free = vec![0; nodes];
    let mut last = vec![-1; nodes];
    let mut depth = vec![0; nodes];
    let mut next_tree = 0;
    for n in 0..nodes {
        let place = match parents.of(n) {
            Some(p) => {
                (last[n], depth[n]) = (last[p], depth[p]);
                &mut free[p]
            }
            None => &mut next_tree,
        };
        let at = *place;
        *place += below[n];
        let range = rows.range(n);
        for (slot, source) in (at..).zip(range.clone()) {
            out.source[slot] = source as i64;
            out.node[slot] = n as i64;
            out.position[slot] = depth[n];
            out.parent[slot] = last[n];
            out.end[slot] = (at + below[n]) as i64;
            (last[n], depth[n]) = (slot as i64, depth[n] + 1);
        }
        free[n] = at + range.len();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;

    #[test]
    fn depth_first_whatever_the_order_of_nodes() -> Result<()> {
        // Root of two tokens; children of 1 and 2; a grandchild of the first; a second tree.
        let given = [-1, 0, 0, 1, -1];
        let rows = Offsets::listed("offsets", vec![0, 2, 3, 5, 6, 7], 7)?;
        let packed = pack(&Parents::new(&given)?, &rows);
        assert_eq!(packed.source, [0, 1, 2, 5, 3, 4, 6]);
        assert_eq!(packed.node, [0, 0, 1, 3, 2, 2, 4]);
        assert_eq!(packed.position, [0, 1, 2, 3, 2, 3, 0]);
        assert_eq!(packed.parent, [-1, 0, 1, 2, 1, 4, -1]);
        assert_eq!(packed.end, [6, 6, 4, 4, 6, 6, 7]);
        Ok(())
    }
}
