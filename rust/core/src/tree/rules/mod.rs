//! Rules of selection: which child a descent enters. One small file a rule.
//!
//! A rule is a struct of options, stated once in [`rule!`](crate::rule), and a
//! function from a node to a child. Depends on `arena` and `options`.

use crate::error::{Error, Result};
use crate::options::{Settings, Value};
use crate::tree::arena::{Hot, Tree};

/// A node at which a child is to be chosen.
pub struct At<'a> {
    /// Its tree.
    pub tree: &'a Tree,
    /// The node; it has children.
    pub node: u32,
    /// The search that the choice is part of.
    pub context: &'a Context,
    /// The tree's number.
    pub index: usize,
}

/// What of a search rules may read.
#[derive(Clone, Debug)]
pub struct Context {
    /// Key of all randomness.
    pub seed: u64,
    /// Simulations that each tree is given.
    pub simulations: u64,
    /// Loss that a descent in flight is counted as; `None` counts visits alone.
    pub virtual_loss: Option<f64>,
}

impl At<'_> {
    /// The node's own record.
    pub fn hot(&self) -> &Hot {
        &self.tree.hot[self.node as usize]
    }

    /// Records of the node's children, in order.
    pub fn children(&self) -> &[Hot] {
        let range = self.tree.children(self.node);
        &self.tree.hot[range.start as usize..range.end as usize]
    }

    /// Visits, those in flight among them.
    pub fn visits(&self, hot: &Hot) -> f64 {
        f64::from(hot.visits + u32::from(hot.in_flight()))
    }

    /// Mean return of a visited edge, with its virtual losses; `None` without any visit.
    pub fn q(&self, hot: &Hot) -> Option<f64> {
        let loss = self.context.virtual_loss.unwrap_or(0.0) * f64::from(hot.in_flight());
        let visits = match self.context.virtual_loss {
            Some(_) => self.visits(hot),
            None => f64::from(hot.visits),
        };
        (visits > 0.0).then(|| (hot.value_sum - loss) / visits)
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
        best.map(|i| self.hot().first_child + i as u32)
    }
}

/// A way to choose children.
pub trait Rule: Send + Sync {
    /// The child to enter; `None` when all are closed.
    fn choose(&self, at: &At<'_>) -> Option<u32>;

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
