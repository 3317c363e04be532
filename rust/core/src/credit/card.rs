//! What is known of a method besides how to run it, and the block that states it.
//!
//! May depend on `column`, `option_set` and `options`.

use crate::column::ColumnSpec;
use crate::option_set::OptionSpec;
use crate::options::{OptionValue, Settings};

/// The smallest unit within which a method's credit can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// All tokens of a trajectory get the same.
    Trajectory,
    /// All tokens of a turn get the same.
    Turn,
    /// Each token gets its own.
    Token,
}

impl Granularity {
    /// The name as users see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trajectory => "trajectory",
            Self::Turn => "turn",
            Self::Token => "token",
        }
    }
}

/// How sure we are that this is the authors' method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Agrees with the authors' code, run on reference cases.
    Code,
    /// Follows the paper's text; no code could be run.
    Paper,
    /// Follows another trainer's implementation of the paper.
    ThirdParty,
    /// Completed by us where the sources leave gaps.
    Reconstructed,
    /// Our own: there is no other source.
    Own,
}

impl Certainty {
    /// The name as users see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Paper => "paper",
            Self::ThirdParty => "third-party",
            Self::Reconstructed => "reconstructed",
            Self::Own => "own",
        }
    }
}

/// A trainer's settings of a method, by the trainer's name.
pub type Preset = (&'static str, fn() -> Settings);

/// Everything that is known of a method besides how to run it.
pub struct Card {
    /// Its name.
    pub name: &'static str,
    /// Its name written out.
    pub title: &'static str,
    /// Formula, source, errors and degenerate cases.
    pub doc: &'static str,
    /// The unit of its credit.
    pub granularity: Granularity,
    /// What kind of method it is.
    pub family: &'static str,
    /// Paper or code that it comes from.
    pub paper: &'static str,
    /// How sure we are.
    pub certainty: Certainty,
    /// Columns without which it cannot run.
    pub needs: &'static [ColumnSpec],
    /// Columns that it reads where they are there.
    pub takes: &'static [ColumnSpec],
    /// Its options.
    pub options: fn() -> Vec<OptionSpec>,
    /// Its options as trainers set them.
    pub presets: &'static [Preset],
}

/// Declares a method: documentation, card, options and presets in one block.
///
/// The block stands at the top of the method's file; a function
/// `credit(&Rollouts, &Options) -> Result<Credit>` follows it. `batch_wide`, a
/// function of the options, says when credit depends on other groups than a
/// trajectory's own; without it, it never does.
#[macro_export]
macro_rules! method {
    (
        $(#[doc = $doc:literal])*
        $name:literal {
            title: $title:literal,
            granularity: $granularity:ident,
            family: $family:literal,
            paper: $paper:literal,
            certainty: $certainty:ident,
            $( batch_wide: $batch_wide:expr, )?
            needs: [ $($need:expr),* $(,)? ],
            takes: [ $($take:expr),* $(,)? ],
            options: { $( $(#[doc = $option_doc:literal])* $option:ident: $type:ty = $default:expr, )* },
            presets: { $( $trainer:literal => { $( $set:ident = $value:expr ),* $(,)? } ),* $(,)? },
        }
    ) => {
        $crate::option_set! {
            /// Options of the method.
            $name { $( $(#[doc = $option_doc])* $option: $type = $default, )* }
        }

        $(#[doc = $doc])*
        pub static METHOD: $crate::credit::Method = $crate::credit::Method {
            card: $crate::credit::Card {
                name: $name,
                title: $title,
                doc: concat!($($doc, "\n"),*),
                granularity: $crate::credit::Granularity::$granularity,
                family: $family,
                paper: $paper,
                certainty: $crate::credit::Certainty::$certainty,
                needs: &[$($need),*],
                takes: &[$($take),*],
                options: Options::list,
                presets: &[$( ($trainer, || vec![$(
                    (stringify!($set).to_owned(), $crate::options::OptionValue::show(
                        &$crate::credit::same_type(&Options::default().$set, $value)))
                ),*]) ),*],
            },
            run: |rollouts, settings| credit(rollouts, &Options::read(settings)?),
            crosses_groups: |settings| {
                let options = Options::read(settings)?;
                let rules: &[fn(&Options) -> bool] = &[$($batch_wide)?];
                Ok(rules.iter().any(|rule| rule(&options)))
            },
        };
    };
}

/// Makes an option's value from a preset's literal, with the option's own type.
pub fn same_type<T: OptionValue>(_option: &T, literal: T::Literal) -> T {
    T::literal(literal)
}
