//! Clusters: union-find, single linkage down to a number of clusters, and the edit
//! distance of token lists that it is fed with.
//!
//! May depend on nothing else in the crate.

/// Disjoint sets of `0..len`, each standing under its smallest member.
#[derive(Clone, Debug)]
pub struct Sets {
    parent: Vec<usize>,
}

impl Sets {
    /// Every item alone.
    pub fn new(len: usize) -> Self {
        Self { parent: (0..len).collect() }
    }

    /// The smallest member of an item's set.
    pub fn find(&mut self, mut item: usize) -> usize {
        while self.parent[item] != item {
            self.parent[item] = self.parent[self.parent[item]];
            item = self.parent[item];
        }
        item
    }

    /// Makes one set of two.
    pub fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.parent[a.max(b)] = a.min(b);
    }

    /// Dense labels, numbered by first appearance, and how many there are.
    pub fn labels(&mut self) -> (Vec<u32>, usize) {
        let mut labels: Vec<u32> = Vec::with_capacity(self.parent.len());
        let mut count = 0;
        for item in 0..self.parent.len() {
            let root = self.find(item);
            labels.push(if root == item { count } else { labels[root] });
            count += u32::from(root == item);
        }
        (labels, count as usize)
    }
}

/// Single linkage of `len` items until `clusters` are left (at least one): pairs are merged
/// by ascending distance, ties by the first, then the second item. Labels are numbered by
/// first appearance; with them comes their number.
///
/// `distance(i, j, limit)` is asked for `i < j` and may give anything above `limit` where
/// the distance is above it. Each pair is asked for at most once: the merges are those of
/// the minimum spanning tree (Gower and Ross 1969), grown from item 0 as Prim does.
pub fn single_linkage(
    len: usize,
    clusters: usize,
    mut distance: impl FnMut(usize, usize, f64) -> f64,
) -> (Vec<u32>, usize) {
    let mut sets = Sets::new(len);
    let merges = len.saturating_sub(clusters.max(1));
    if merges == 0 {
        return sets.labels();
    }
    let before = |a: &(f64, usize, usize), b: &(f64, usize, usize)| {
        a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2)))
    };
    // For each item outside the tree, the first of its edges into the tree.
    let mut nearest = vec![(f64::INFINITY, len, len); len];
    let mut outside: Vec<usize> = (1..len).collect();
    let mut edges = Vec::with_capacity(len - 1);
    let mut newest = 0;
    while !outside.is_empty() {
        for &item in &outside {
            let (i, j) = (newest.min(item), newest.max(item));
            let edge = (distance(i, j, nearest[item].0), i, j);
            if before(&edge, &nearest[item]).is_lt() {
                nearest[item] = edge;
            }
        }
        let mut chosen = 0;
        for place in 1..outside.len() {
            if before(&nearest[outside[place]], &nearest[outside[chosen]]).is_lt() {
                chosen = place;
            }
        }
        newest = outside.swap_remove(chosen);
        edges.push(nearest[newest]);
    }
    edges.sort_by(before);
    edges[..merges].iter().for_each(|&(_, i, j)| sets.join(i, j));
    sets.labels()
}

/// Levenshtein distance of two lists, `None` where it is above `limit`.
///
/// Only cells within `limit` of the diagonal are filled in (Ukkonen 1985), and the work
/// stops at the first row that lies above `limit` throughout.
pub fn edit_distance<T: PartialEq>(a: &[T], b: &[T], limit: usize) -> Option<usize> {
    let (mut short, mut long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let head = short.iter().zip(long).take_while(|(x, y)| x == y).count();
    (short, long) = (&short[head..], &long[head..]);
    let tail = short.iter().rev().zip(long.iter().rev()).take_while(|(x, y)| x == y).count();
    (short, long) = (&short[..short.len() - tail], &long[..long.len() - tail]);
    let limit = limit.min(long.len());
    if long.len() - short.len() > limit {
        return None;
    }
    // `row[j]`: distance of the items of `long` so far to the first `j` of `short`. Cells
    // that the band has not reached hold `j`, which there is above the limit already.
    let mut row: Vec<usize> = (0..=short.len()).collect();
    for (i, x) in long.iter().enumerate() {
        let first = (i + 1).saturating_sub(limit).max(1);
        let last = short.len().min(i + 1 + limit);
        let mut diagonal = row[first - 1];
        row[first - 1] = if first == 1 { i + 1 } else { limit + 1 };
        let mut smallest = row[first - 1];
        for j in first..=last {
            let changed = diagonal + usize::from(short[j - 1] != *x);
            diagonal = row[j];
            row[j] = changed.min(diagonal + 1).min(row[j - 1] + 1);
            smallest = smallest.min(row[j]);
        }
        if smallest > limit {
            return None;
        }
    }
    Some(row[short.len()]).filter(|&distance| distance <= limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive_distance(a: &[u8], b: &[u8]) -> usize {
        match (a, b) {
            ([], rest) | (rest, []) => rest.len(),
            ([x, a1 @ ..], [y, b1 @ ..]) => {
                let changed = naive_distance(a1, b1) + usize::from(x != y);
                changed.min(naive_distance(a1, b) + 1).min(naive_distance(a, b1) + 1)
            }
        }
    }

    /// Merges edge by edge, relabelling everything each time.
    fn naive_linkage(len: usize, clusters: usize, matrix: &[f64]) -> Vec<u32> {
        let mut labels: Vec<usize> = (0..len).collect();
        let mut edges: Vec<_> = (0..len).flat_map(|i| (i + 1..len).map(move |j| (i, j))).collect();
        edges.sort_by(|a, b| matrix[a.0 * len + a.1].total_cmp(&matrix[b.0 * len + b.1]));
        for (i, j) in edges {
            let mut left = labels.clone();
            left.sort();
            left.dedup();
            if left.len() <= clusters.max(1) {
                break;
            }
            let (old, new) = (labels[j], labels[i]);
            labels.iter_mut().filter(|l| **l == old).for_each(|l| *l = new);
        }
        let mut seen = Vec::new();
        labels
            .iter()
            .map(|label| {
                let known = seen.iter().position(|s| s == label);
                known.unwrap_or_else(|| {
                    seen.push(*label);
                    seen.len() - 1
                }) as u32
            })
            .collect()
    }

    proptest! {
        #[test]
        fn edit_distance_is_the_naive_one_up_to_its_limit(
            a in prop::collection::vec(0u8..3, 0..7),
            b in prop::collection::vec(0u8..3, 0..7),
            limit in 0usize..9,
        ) {
            let want = naive_distance(&a, &b);
            prop_assert_eq!(edit_distance(&a, &b, limit), (want <= limit).then_some(want));
            prop_assert_eq!(edit_distance(&a, &b, usize::MAX), Some(want));
        }

        #[test]
        fn linkage_is_the_naive_one(
            (len, matrix) in (0usize..8)
                .prop_flat_map(|n| (Just(n), prop::collection::vec(0u8..5, n * n))),
            clusters in 0usize..9,
        ) {
            let matrix: Vec<f64> = matrix.into_iter().map(f64::from).collect();
            let (got, count) = single_linkage(len, clusters, |i, j, limit| {
                assert!(i < j);
                let exact = matrix[i * len + j];
                if exact > limit { f64::INFINITY } else { exact }
            });
            let want = naive_linkage(len, clusters, &matrix);
            prop_assert_eq!(count, want.iter().max().map_or(0, |&l| l as usize + 1));
            prop_assert_eq!(got, want);
        }
    }
}
