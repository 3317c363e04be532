//! Rules of search, one small file each.
//!
//! A rule is a struct of options, stated once in [`rule!`](crate::rule), and a
//! function from a node to a child. A rule that asks other things than leaves says so in
//! `next` and `told`. Depends on `at`, `arena`, `step` and `options`.

pub mod branch;
mod card;
pub mod follow;
pub mod level;
pub mod pool;
pub mod segments;

use crate::error::{Error, Result};
use crate::options::Settings;
use crate::tree::answers::Answer;
use crate::tree::arena::{ROOT, Tree};
pub use crate::tree::at::At;
use crate::tree::request::{Ask, Next};
use crate::tree::step::Step;

pub use card::{Card, Family};

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
    /// Refuses options that do not fit together.
    ///
    /// # Errors
    ///
    /// [`Error::BadOption`] naming one of them.
    fn check(&self) -> Result<()> {
        Ok(())
    }

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
        let _ = step;
        Next::Descend
    }

    /// A column that the rule cannot do without and that the answer has not. An answer with
    /// more columns misses none that one with fewer has not missed.
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

    /// What a descent changes that ends at a node without children, which never gets any: by
    /// default the value that the node has is backed up once more.
    fn visit_end(&self, step: &mut Step<'_>, node: u32) {
        step.visit_end(node);
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
/// An unknown name, an unknown option, a bad value or values that do not fit together.
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
    let rule = (card.make)(settings)?;
    rule.check()?;
    Ok(rule)
}
