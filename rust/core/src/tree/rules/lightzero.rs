//! `lightzero`: returns scaled by the range seen in the whole tree.

use crate::options::{NonNegative, Positive};
use crate::tree::arena::{NONE, ROOT};
use crate::tree::rules::{At, Rule};

crate::rule! {
    /// `clip(norm(Q), 0, 1) + c * P`, `c = (c_init + ln((n + c_base + 1) / c_base)) * sqrt(n) / (1 + N)`.
    ///
    /// `n` is the number of visits below the node, `norm` maps the range of mean returns
    /// seen anywhere in the tree to 0..1, a range below `min_range` counting as that.
    /// An unvisited child has the mean of its visited siblings' returns and, below the
    /// root, of the same mean one level higher. LightZero
    /// `ctree_muzero/lib/cnode.cpp:cselect_child`, ties to the first child.
    "lightzero" {
        title: "LightZero's PUCT",
        family: Descent,
        paper: "github.com/opendilab/LightZero",
        certainty: Code,
        options: {
            /// First constant of the prior's weight.
            c_init: NonNegative = 1.25,
            /// Second constant, above which visits matter.
            c_base: Positive = 19652.0,
            /// Smallest range that returns are scaled by.
            min_range: NonNegative = 0.01,
        },
    }
}

/// Mean return at a node, mixed with its ancestors' below the root: from the root down.
fn mean_q(at: &At<'_>) -> f64 {
    let mut path = Vec::new();
    let mut node = at.node;
    while node != NONE {
        path.push(node);
        node = at.tree.parent(node);
    }
    path.iter().rev().fold(0.0, |above, &node| {
        let here = At::new(at.tree, node, at.limits, at.index);
        let visited = here.children().iter().filter_map(|c| here.q(c));
        let (sum, count) = visited.fold((0.0, 0.0), |(s, n), q| (s + q, n + 1.0));
        if node == ROOT && count > 0.0 { sum / count } else { (above + sum) / (count + 1.0) }
    })
}

impl Rule for Options {
    fn merges(&self) -> bool {
        true
    }

    fn reads_bounds(&self) -> bool {
        true
    }

    fn choose(&self, at: &At<'_>) -> Option<u32> {
        let below: f64 = at.children().iter().map(|c| at.visits(c)).sum();
        let scale = *self.c_init + ((below + *self.c_base + 1.0) / *self.c_base).ln();
        let scale = scale * below.sqrt();
        let unvisited = mean_q(at);
        let (low, high) = at.tree.bounds;
        let range = if high > low { (high - low).max(*self.min_range) } else { 0.0 };
        at.best(|_, child| {
            let q = at.q(child).unwrap_or(unvisited);
            let value = if range > 0.0 { (q - low) / range } else { q };
            value.clamp(0.0, 1.0) + scale / (at.visits(child) + 1.0) * f64::from(child.prior)
        })
    }
}
