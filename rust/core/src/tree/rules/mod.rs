//! Rules of search, one small file each.
//!
//! A rule is a struct of options, stated once in [`rule!`](crate::rule), and a
//! function from a node to a child. A rule that asks other things than leaves says so in
//! `next` and `told`. Depends on `arena`, `step` and `options`.

pub mod branch;
mod card;
pub mod follow;
pub mod level;
pub mod pool;
pub mod segments;

use crate::error::{Error, Result};
use crate::options::Settings;
use crate::tree::answers::Answer;
use crate::tree::arena::{Hot, ROOT, Tree};
use crate::tree::limits::Limits;
use crate::tree::request::{Ask, Next};
use crate::tree::scan::{self, Weights};
use crate::tree::step::Step;

pub use card::{Card, Family};

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
    /// Records of children that do not lie in a row.
    gathered: Vec<Hot>,
}

impl<'a> At<'a> {
    /// A node of a tree.
    pub fn new(tree: &'a Tree, node: u32, limits: &'a Limits, index: usize) -> Self {
        let gathered = if tree.hot[node as usize].is_scattered() {
            tree.children(node).map(|child| tree.hot[child as usize]).collect()
        } else {
            Vec::new()
        };
        Self { tree, node, limits, index, gathered }
    }

    /// The node's own record.
    pub fn hot(&self) -> &Hot {
        &self.tree.hot[self.node as usize]
    }

    /// Records of the node's children, in order.
    pub fn children(&self) -> &[Hot] {
        if !self.gathered.is_empty() {
            return &self.gathered;
        }
        let hot = self.hot();
        if hot.children == 0 {
            return &[];
        }
        let first = hot.first_child as usize;
        &self.tree.hot[first..first + usize::from(hot.children)]
    }

    /// The node of child number `i`.
    pub fn child(&self, i: usize) -> u32 {
        if self.gathered.is_empty() {
            self.hot().first_child + i as u32
        } else {
            self.tree.children(self.node).nth(i).unwrap_or(ROOT)
        }
    }

    /// Visits, those in flight among them.
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
    /// `unvisited` is the `q` of children without visits. All must be finite.
    pub fn best_by_prior(&self, scale: f64, unvisited: f64) -> Option<u32> {
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

/// In a rule that enters the child of the highest `self.score(at)`: what follows from it.
macro_rules! by_score {
    () => {
        fn choose(&self, at: &$crate::tree::rules::At<'_>) -> Option<u32> {
            at.best(self.score(at))
        }

        fn child_scores(&self, at: &$crate::tree::rules::At<'_>) -> Vec<f64> {
            at.each(self.score(at))
        }
    };
}

/// A way to search: which child a descent enters and, where that is not all, what a tree
/// asks and what an answer changes.
pub trait Rule: Send + Sync {
    /// The child to enter; `None` when all are closed, or where nothing is chosen.
    fn choose(&self, at: &At<'_>) -> Option<u32> {
        let _ = at;
        None
    }

    /// What children are compared by, in order; empty where a rule has no one number a child.
    fn child_scores(&self, at: &At<'_>) -> Vec<f64> {
        let _ = at;
        Vec::new()
    }

    /// What a tree asks next: by default one descent by [`choose`](Self::choose), to a leaf
    /// that is to be expanded.
    fn next(&self, step: &mut Step<'_>) -> Next {
        step.descend(|at| self.choose(at))
    }

    /// A column that the rule cannot do without and that the answer has not.
    fn missing(&self, ask: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        let _ = (ask, answer);
        None
    }

    /// Whether the rule compares children by values that come with them: by default, whether
    /// it cannot do without.
    fn judges_children(&self) -> bool {
        let priors = [1.0];
        let answer = Answer { children: 1, priors: Some(&priors), ..Answer::default() };
        self.missing(&Ask::expand(ROOT), &answer) == Some("child_values")
    }

    /// What an answer changes: by default children are attached and the value is backed up.
    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        step.take(ask, answer);
    }

    /// Whether equal states may be merged: whether each simulation is one descent, whose path
    /// is known, and one value.
    fn merges(&self) -> bool {
        false
    }

    /// Whether the rule reads [`Tree::bounds`], which costs a little.
    fn reads_bounds(&self) -> bool {
        false
    }

    /// Nodes that the search ends with, as the rule orders them; none for rules that only
    /// gather statistics.
    fn finals(&self, tree: &Tree) -> Vec<u32> {
        let _ = tree;
        Vec::new()
    }

    /// A root's recommended probabilities of its children: by default shares of visits.
    fn policy(&self, at: &At<'_>) -> Vec<f64> {
        let total: f64 = at.children().iter().map(|c| f64::from(c.visits)).sum();
        at.children().iter().map(|c| f64::from(c.visits) / total.max(1.0)).collect()
    }

    /// A root's recommended child: by default the first of the most visited.
    fn action(&self, at: &At<'_>) -> u32 {
        let visits = at.children().iter().map(|c| c.visits);
        let most = visits.clone().max().unwrap_or(0);
        visits.clone().position(|n| n == most).unwrap_or(0) as u32
    }
}

macro_rules! rules {
    ($($name:ident),* $(,)?) => {
        $(pub mod $name;)*

        /// Every rule, in the order of the list below.
        pub static RULES: &[&Card] = &[$(&$name::CARD),*];
    };
}

rules! {
    puct,
    uct,
    muzero,
    gumbel,
    lightzero,
    alphamath,
    prorag,
    propa,
    groundedprm,
    rstar,
    rstar_math,
    rest_mcts,
    llm_reasoners,
    omegaprm,
    rearter,
    confidence,
    beam,
    dvts,
    early_rejection,
    pra,
    dpo_beam,
    swe_trace,
    treerl,
    tree_grpo,
    treepo,
    spo_tree,
    tree_ps_rag,
}

/// The rule of a name, with settings.
///
/// # Errors
///
/// An unknown name, an unknown option or a bad value.
pub fn make(name: &str, settings: &Settings) -> Result<Box<dyn Rule>> {
    let Some(card) = RULES.iter().find(|card| card.name == name) else {
        let valid: Vec<_> = RULES.iter().map(|card| format!("{:?}", card.name)).collect();
        return Err(Error::BadOption {
            method: "search",
            option: "rule",
            got: format!("{name:?}"),
            expected: format!("one of {}", valid.join(", ")),
        });
    };
    (card.make)(settings)
}
