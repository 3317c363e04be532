//! What is known of a rule besides how to run it, and the block that states it.
//!
//! May depend on `credit::card` for what methods and rules share, on `option_set` and `options`.

use crate::credit::Certainty;
use crate::error::Result;
use crate::option_set::OptionSpec;
use crate::options::Settings;
use crate::tree::rules::Rule;

/// What kind of search a rule makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Descents from the root, by value and visits.
    Descent,
    /// A pool of rollouts that are searched for their first error.
    Pool,
    /// Levels of partial answers, of which the best go on.
    Beam,
    /// Trees of rollouts that are trained on.
    Branching,
}

impl Family {
    /// The name as users see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Descent => "descent",
            Self::Pool => "pool",
            Self::Beam => "beam",
            Self::Branching => "branching",
        }
    }
}

/// Everything that is known of a rule besides how to run it.
pub struct Card {
    /// Its name.
    pub name: &'static str,
    /// Its name written out.
    pub title: &'static str,
    /// Formula, source and degenerate cases.
    pub doc: &'static str,
    /// What kind of search it makes.
    pub family: Family,
    /// Paper or code that it comes from.
    pub paper: &'static str,
    /// How sure we are.
    pub certainty: Certainty,
    /// Its options.
    pub options: fn() -> Vec<OptionSpec>,
    /// The rule with these settings.
    pub make: fn(&Settings) -> Result<Box<dyn Rule>>,
}

/// States a rule: documentation, card and options in one block.
///
/// The block stands at the top of the rule's file; an `impl Rule for Options` follows it.
#[macro_export]
macro_rules! rule {
    (
        $(#[doc = $doc:literal])*
        $name:literal {
            title: $title:literal,
            family: $family:ident,
            paper: $paper:literal,
            certainty: $certainty:ident,
            options: { $( $(#[doc = $option_doc:literal])* $option:ident: $type:ty = $default:expr, )* },
        }
    ) => {
        $crate::option_set! {
            $(#[doc = $doc])*
            $name { $( $(#[doc = $option_doc])* $option: $type = $default, )* }
        }

        /// The rule in the list.
        pub static CARD: $crate::tree::rules::Card = $crate::tree::rules::Card {
            name: $name,
            title: $title,
            doc: concat!($($doc, "\n"),*),
            family: $crate::tree::rules::Family::$family,
            paper: $paper,
            certainty: $crate::credit::Certainty::$certainty,
            options: Options::list,
            make: |settings| Ok(Box::new(Options::read(settings)?)),
        };
    };
}
