//! Chains that branch from one another, cut into a tree of segments.
//!
//! Depends on `error` alone.

use crate::error::{Error, Result};

/// A tree of segments under one root of no tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segments {
    /// Parent of each segment, -1 for the root.
    pub parents: Vec<i64>,
    /// Tokens of each segment.
    pub lengths: Vec<i64>,
    /// The chain that a segment is of, -1 for the root.
    pub chains: Vec<i64>,
    /// The segment in which each chain ends: a leaf.
    pub leaves: Vec<i64>,
}

/// Cuts chains where others branch from them. Chain `i` follows token `splits[i]` of chain
/// `parents[i]`, an earlier one, or starts at the root where that is -1.
///
/// # Errors
///
/// Lengths that differ, a parent that does not come before, a split beyond its parent.
pub fn cut(parents: &[i64], splits: &[i64], lengths: &[i64]) -> Result<Segments> {
    let chains = parents.len();
    for (argument, got) in [("splits", splits.len()), ("lengths", lengths.len())] {
        if got != chains {
            let argument = argument.to_owned();
            return Err(Error::Length { argument, got, expected: chains, of: "chains" });
        }
    }
    let bad = |argument: &str, index: usize, got: i64, expected: String| {
        Err(Error::Value { argument: argument.to_owned(), index, got: got.to_string(), expected })
    };
    if let Some(i) = lengths.iter().position(|&n| n < 0) {
        return bad("lengths", i, lengths[i], "at least 0".to_owned());
    }
    let mut cuts: Vec<Vec<i64>> = vec![Vec::new(); chains];
    for (i, (&parent, &split)) in parents.iter().zip(splits).enumerate() {
        if parent < -1 || parent >= i as i64 {
            return bad("parents", i, parent, format!("-1 or a chain before {i}"));
        }
        let Ok(parent) = usize::try_from(parent) else { continue };
        if !(0..=lengths[parent]).contains(&split) {
            return bad("splits", i, split, format!("0 to {}", lengths[parent]));
        }
        cuts[parent].push(split);
    }
    let mut out =
        Segments { parents: vec![-1], lengths: vec![0], chains: vec![-1], leaves: vec![] };
    let mut ends: Vec<Vec<(i64, usize)>> = Vec::with_capacity(chains);
    for chain in 0..chains {
        cuts[chain].sort_unstable();
        cuts[chain].dedup();
        let above = usize::try_from(parents[chain]).ok().map(|p| {
            let found = ends[p].binary_search_by_key(&splits[chain], |&(at, _)| at);
            ends[p][found.unwrap_or(0)].1
        });
        let (mut parent, mut start, mut own) = (above.unwrap_or(0), 0, Vec::new());
        for &end in cuts[chain].iter().chain([&lengths[chain]]) {
            out.parents.push(parent as i64);
            out.lengths.push(end - start);
            out.chains.push(chain as i64);
            (parent, start) = (out.parents.len() - 1, end);
            own.push((end, parent));
        }
        own.pop();
        out.leaves.push(parent as i64);
        ends.push(own);
    }
    Ok(out)
}
