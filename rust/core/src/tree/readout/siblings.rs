//! How the values of a node's children, or of a tree's nodes, spread: mean and deviation.
//!
//! Depends on `parents`.

use crate::stats::Moments;
use crate::tree::parents::{Parents, Trees};

/// Moments of the values of each node's children, absent (NaN) ones left out. Children of
/// equal values have exactly no squares.
pub fn child_moments(parents: &Parents<'_>, values: &[f64]) -> Vec<Moments> {
    let mut moments = vec![Moments::default(); parents.len()];
    for (n, &value) in values.iter().enumerate() {
        if let Some(p) = parents.of(n).filter(|_| !value.is_nan()) {
            moments[p] = moments[p].merge(Moments::repeated(value, 1.0));
        }
    }
    moments
}

/// Moments of the values of each tree's nodes, each counted so often as `weight` says; one
/// that counts 0 times may be NaN. Equal values have exactly no squares.
///
/// Sums are taken about the root's value, which where values are means is the mean.
pub fn tree_moments(trees: &Trees, values: &[f64], weight: impl Fn(usize) -> f64) -> Vec<Moments> {
    let mut sums = vec![(0.0, 0.0, 0.0); trees.roots.len()];
    let mut start = 0;
    // Nodes of a tree mostly lie together; their sums then stay in registers.
    for run in trees.of.chunk_by(|a, b| a == b) {
        let (of_tree, shift) = (&mut sums[run[0] as usize], values[trees.root(start)]);
        let (mut count, mut sum, mut squares) = *of_tree;
        for (value, n) in values[start..][..run.len()].iter().zip(start..) {
            let weight = weight(n);
            let away = if weight > 0.0 { value - shift } else { 0.0 };
            count += weight;
            sum += away * weight;
            squares += away * away * weight;
        }
        *of_tree = (count, sum, squares);
        start += run.len();
    }
    let moments = |((count, sum, squares), &root): (_, &u32)| {
        Moments::from_sums(count, sum, squares, values[root as usize])
    };
    sums.into_iter().zip(&trees.roots).map(moments).collect()
}
