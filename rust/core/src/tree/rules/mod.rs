//! Rules of selection: which child a descent enters. One small file a rule.
//!
//! A rule is a struct of options, stated once in [`rule!`](crate::rule), and a
//! function from a node to a child. A rule that asks other things than leaves says so in
//! `next` and `told`. Depends on `arena`, `step` and `options`.

use crate::error::{Error, Result};
use crate::options::{Settings, Value};
use crate::tree::answers::Answer;
use crate::tree::arena::{Hot, ROOT, Tree};
use crate::tree::limits::Limits;
use crate::tree::request::{Ask, Next};
use crate::tree::step::Step;

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

    /// The open child of the highest score; the first of equals.
    pub fn best(&self, score: impl Fn(usize, &Hot) -> f64) -> Option<u32> {
        let mut best = None;
        let mut highest = f64::NEG_INFINITY;
        for (i, hot) in self.children().iter().enumerate() {
            if hot.is_closed() {
                continue;
            }
            let score = score(i, hot);
            if best.is_none() || score > highest {
                (best, highest) = (Some(i), score);
            }
        }
        best.map(|i| self.child(i))
    }
}

/// A way to search: which child a descent enters and, where that is not all, what a tree
/// asks and what an answer changes.
pub trait Rule: Send + Sync {
    /// The child to enter; `None` when all are closed.
    fn choose(&self, at: &At<'_>) -> Option<u32>;

    /// What a tree asks next: by default one descent by [`choose`](Self::choose), to a leaf
    /// that is to be expanded.
    fn next(&self, step: &mut Step<'_>) -> Next {
        step.descend(|at| self.choose(at))
    }

    /// What an answer changes: by default children are attached and the value is backed up.
    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        step.take(ask, answer);
    }

    /// Whether the rule reads [`Tree::bounds`], which costs a little.
    fn reads_bounds(&self) -> bool {
        false
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

/// An option of a rule, for listings.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleOption {
    /// Its name.
    pub name: &'static str,
    /// Its default.
    pub default: Value,
    /// What is accepted.
    pub expected: String,
    /// What it means.
    pub doc: &'static str,
}

/// What the list of rules knows of one.
pub struct Card {
    /// Its name.
    pub name: &'static str,
    /// Formula and source.
    pub doc: &'static str,
    /// Its options.
    pub options: fn() -> Vec<RuleOption>,
    /// The rule with these settings.
    pub make: fn(&Settings) -> Result<Box<dyn Rule>>,
}

/// States a rule: its name, its documentation and its options with defaults.
#[macro_export]
macro_rules! rule {
    (
        $(#[doc = $doc:literal])*
        $name:literal { $( $(#[doc = $option_doc:literal])* $option:ident: $type:ty = $default:expr, )* }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct Options { $( $(#[doc = $option_doc])* pub $option: $type, )* }

        impl Default for Options {
            fn default() -> Self {
                Self { $( $option: <$type as $crate::options::OptionValue>::literal($default), )* }
            }
        }

        fn make(
            settings: &$crate::options::Settings,
        ) -> $crate::error::Result<Box<dyn $crate::tree::rules::Rule>> {
            let mut options = Options::default();
            for (name, value) in settings {
                match name.as_str() {
                    $( stringify!($option) => {
                        options.$option = <$type as $crate::options::OptionValue>::parse(value)
                            .ok_or_else(|| $crate::error::Error::BadOption {
                                method: $name,
                                option: stringify!($option),
                                got: value.to_string(),
                                expected: <$type as $crate::options::OptionValue>::expected(),
                            })?;
                    } )*
                    _ => return Err($crate::error::Error::UnknownOption {
                        method: $name,
                        option: name.clone(),
                        valid: vec![$( stringify!($option) ),*],
                    }),
                }
            }
            Ok(Box::new(options))
        }

        fn list() -> Vec<$crate::tree::rules::RuleOption> {
            let defaults = Options::default();
            vec![$( $crate::tree::rules::RuleOption {
                name: stringify!($option),
                default: $crate::options::OptionValue::show(&defaults.$option),
                expected: <$type as $crate::options::OptionValue>::expected(),
                doc: concat!($($option_doc, "\n"),*).trim_ascii(),
            } ),*]
        }

        /// The rule in the list.
        pub static CARD: $crate::tree::rules::Card = $crate::tree::rules::Card {
            name: $name,
            doc: concat!($($doc, "\n"),*),
            options: list,
            make,
        };
    };
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
