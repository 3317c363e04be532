//! A node at which a child is to be chosen, as rules see it. Depends on `arena`, `limits`
//! and `scan`.

use std::borrow::Cow;

use crate::tree::arena::{Hot, ROOT, Tree};
use crate::tree::limits::Limits;
use crate::tree::scan::{self, Weights};

/// A node at which a child is to be chosen.
pub struct At<'a> {
    /// Its tree.
    pub tree: &'a Tree,
    /// The node; it has children.
    pub node: u32,
    /// The search that the choice is part of.
    pub limits: &'a Limits,
    /// The tree's number.
    pub index: usize,
    /// Records of the children; a copy where they do not lie in a row.
    children: Cow<'a, [Hot]>,
}

impl<'a> At<'a> {
    /// A node of a tree.
    #[inline]
    pub fn new(tree: &'a Tree, node: u32, limits: &'a Limits, index: usize) -> Self {
        let hot = &tree.hot[node as usize];
        let children = if hot.is_scattered() {
            gathered(tree, node)
        } else if hot.children == 0 {
            Cow::Borrowed(&[][..])
        } else {
            let first = hot.first_child as usize;
            Cow::Borrowed(&tree.hot[first..first + usize::from(hot.children)])
        };
        Self { tree, node, limits, index, children }
    }

    /// The node's own record.
    #[inline]
    pub fn hot(&self) -> &Hot {
        &self.tree.hot[self.node as usize]
    }

    /// Records of the node's children, in order.
    #[inline]
    pub fn children(&self) -> &[Hot] {
        &self.children
    }

    /// The node of child number `i`.
    #[inline]
    pub fn child(&self, i: usize) -> u32 {
        match self.children {
            Cow::Borrowed(_) => self.hot().first_child + i as u32,
            Cow::Owned(_) => nth(self.tree, self.node, i),
        }
    }

    /// Visits, those in flight among them.
    #[inline]
    pub fn visits(&self, hot: &Hot) -> f64 {
        f64::from(hot.visits + u32::from(hot.in_flight()))
    }

    /// Mean return of a visited edge, with its virtual losses; `None` without any visit.
    pub fn q(&self, hot: &Hot) -> Option<f64> {
        match self.limits.virtual_loss {
            None => (hot.visits > 0).then(|| hot.value_sum / f64::from(hot.visits)),
            Some(loss) => {
                let visits = self.visits(hot);
                (visits > 0.0).then(|| (hot.value_sum - loss * f64::from(hot.in_flight())) / visits)
            }
        }
    }

    /// The open child of the highest `q + scale * P / (1 + N)`, the first of equals;
    /// `unvisited` is the `q` of children without visits.
    #[inline]
    pub fn best_by_prior(&self, scale: f64, unvisited: f64) -> Option<u32> {
        // An infinite weight would make no number of a prior of 0.
        let scale = scale.min(1e200);
        let weights = Weights { scale, unvisited, loss: self.limits.virtual_loss };
        scan::best(self.children(), weights).map(|i| self.child(i))
    }

    /// The open child of the highest score; the first of equals.
    pub fn best(&self, score: impl Fn(usize, &Hot) -> f64) -> Option<u32> {
        let (mut best, mut highest) = (usize::MAX, f64::NEG_INFINITY);
        for (i, hot) in self.children().iter().enumerate() {
            let score = score(i, hot);
            // One condition without shortcuts: which child wins is hard to foretell.
            let better = !hot.is_closed() & ((score > highest) | (best == usize::MAX));
            (best, highest) = if better { (i, score) } else { (best, highest) };
        }
        (best != usize::MAX).then(|| self.child(best))
    }

    /// Every child's score.
    pub fn each(&self, score: impl Fn(usize, &Hot) -> f64) -> Vec<f64> {
        self.children().iter().enumerate().map(|(i, hot)| score(i, hot)).collect()
    }
}

#[cold]
fn gathered(tree: &Tree, node: u32) -> Cow<'_, [Hot]> {
    tree.children(node).map(|child| tree.hot[child as usize]).collect()
}

#[cold]
fn nth(tree: &Tree, node: u32, i: usize) -> u32 {
    tree.children(node).nth(i).unwrap_or(ROOT)
}
