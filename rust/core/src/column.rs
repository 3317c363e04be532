//! What a batch is made of: named columns of borrowed values, each with a level.
//!
//! A method lists the columns that it reads as [`ColumnSpec`]s. Those that many
//! methods share stand here; one that a single method reads stands in its file.
//! May depend on `error`, `memory` and `wide`.

use std::borrow::Cow;
use std::ops::{BitOr, BitXor, Range};

use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::wide::wide;

/// What a column has one value for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// One sampled episode.
    Trajectory,
    /// One assistant message, or any other span of tokens that gets credit.
    Turn,
    /// One token.
    Token,
}

impl Level {
    /// The level's name as users see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trajectory => "trajectory",
            Self::Turn => "turn",
            Self::Token => "token",
        }
    }

    /// The plural, for messages about lengths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Trajectory => "trajectories",
            Self::Turn => "turns",
            Self::Token => "tokens",
        }
    }
}

/// What kind of values a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Numbers.
    Float,
    /// Rewards: numbers among which NaN means "absent".
    Reward,
    /// Rows of numbers, one for each reward function.
    RewardMatrix,
    /// Ids that are only compared: strings, bytes, integers or arrays.
    Key,
    /// Strings that are looked into.
    Text,
    /// Lists of strings.
    TextList,
    /// 0 or 1.
    Flag,
}

impl Kind {
    /// The kind's name as users see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "numbers",
            Self::Reward => "rewards",
            Self::RewardMatrix => "a matrix of rewards",
            Self::Key => "ids",
            Self::Text => "strings",
            Self::TextList => "lists of strings",
            Self::Flag => "flags",
        }
    }
}

/// A column as methods ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    /// Its name.
    pub name: &'static str,
    /// What it has one value for.
    pub level: Level,
    /// What its values are.
    pub kind: Kind,
    /// One sentence: meaning and unit.
    pub doc: &'static str,
    /// Columns from the first present of which it is computed where it is missing.
    pub derived_from: &'static [&'static str],
}

impl ColumnSpec {
    /// A column that is never computed from another.
    pub const fn new(name: &'static str, level: Level, kind: Kind, doc: &'static str) -> Self {
        Self { name, level, kind, doc, derived_from: &[] }
    }

    const fn or(self, derived_from: &'static [&'static str]) -> Self {
        Self { derived_from, ..self }
    }
}

/// Trajectories with equal ids are compared together.
pub const GROUP_IDS: ColumnSpec = ColumnSpec::new(
    "group_ids",
    Level::Trajectory,
    Kind::Key,
    "Trajectories with equal ids are compared together, customarily all answers to one prompt.",
);
/// Terminal score.
pub const OUTCOME_REWARDS: ColumnSpec = ColumnSpec::new(
    "outcome_rewards",
    Level::Trajectory,
    Kind::Reward,
    "Terminal score of a trajectory. Where missing, the sum over a row of reward_matrix, or \
     of token_rewards.",
)
.or(&["reward_matrix", "token_rewards"]);
/// Scores by several reward functions.
pub const REWARD_MATRIX: ColumnSpec = ColumnSpec::new(
    "reward_matrix",
    Level::Trajectory,
    Kind::RewardMatrix,
    "Scores of a trajectory by each reward function, one column a function; NaN where a \
     function does not apply.",
);
/// Score of each turn.
pub const TURN_REWARDS: ColumnSpec = ColumnSpec::new(
    "turn_rewards",
    Level::Turn,
    Kind::Reward,
    "Score of a turn. Computed as the sum of token_rewards over the turn where missing.",
)
.or(&["token_rewards"]);
/// Score of each token.
pub const TOKEN_REWARDS: ColumnSpec =
    ColumnSpec::new("token_rewards", Level::Token, Kind::Reward, "Score of a token.");
/// State in which a turn was taken.
pub const ANCHORS: ColumnSpec = ColumnSpec::new(
    "anchors",
    Level::Turn,
    Kind::Key,
    "State in which a turn was taken; equal states are compared across trajectories.",
);
/// A critic's predictions.
pub const VALUES: ColumnSpec = ColumnSpec::new(
    "values",
    Level::Token,
    Kind::Float,
    "A critic's prediction of the return from a token on.",
);
/// Log-probabilities under the policy before the update.
pub const OLD_LOG_PROBS: ColumnSpec = ColumnSpec::new(
    "old_log_probs",
    Level::Token,
    Kind::Float,
    "Log-probability of a sampled token under the policy before the update, in nats.",
);

/// Numbers in either precision, borrowed or owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Floats<'a> {
    /// Single precision.
    F32(Cow<'a, [f32]>),
    /// Double precision.
    F64(Cow<'a, [f64]>),
}

impl Floats<'_> {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the numbers are in double precision.
    pub fn is_double(&self) -> bool {
        matches!(self, Self::F64(_))
    }

    /// One number.
    pub fn get(&self, index: usize) -> f64 {
        match self {
            Self::F32(v) => f64::from(v[index]),
            Self::F64(v) => v[index],
        }
    }

    /// Numbers in a range, widened, into a buffer that callers reuse.
    pub fn read(&self, range: Range<usize>, into: &mut Vec<f64>) {
        into.clear();
        match self {
            Self::F32(v) => widen(&v[range], into),
            Self::F64(v) => into.extend_from_slice(&v[range]),
        }
    }

    /// All numbers, widened.
    pub fn to_vec(&self) -> Vec<f64> {
        let mut all = Vec::with_capacity(self.len());
        self.read(0..self.len(), &mut all);
        all
    }
}

wide! {
    fn widen(values: &[f32], into: &mut Vec<f64>) {
        into.extend(values.iter().map(|&x| f64::from(x)));
    }
}

impl From<Vec<f32>> for Floats<'_> {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(Cow::Owned(values))
    }
}

impl From<Vec<f64>> for Floats<'_> {
    fn from(values: Vec<f64>) -> Self {
        Self::F64(Cow::Owned(values))
    }
}

/// A token mask in whatever type the trainer holds it.
#[derive(Clone, Debug)]
pub enum Mask<'a> {
    /// Every token is trained.
    All(usize),
    /// Bytes or booleans.
    U8(&'a [u8]),
    /// 32-bit integers.
    I32(&'a [i32]),
    /// 64-bit integers, as verl holds them.
    I64(&'a [i64]),
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
}

impl Mask<'_> {
    /// How many tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::All(n) => *n,
            Self::U8(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tokens of a range are trained, if they come before all masked ones, as in
    /// an answer padded on the right. `None` for any other pattern, valid or not: it takes
    /// [`Mask::read`] to tell. Several times as fast as that.
    pub fn prefix(&self, range: Range<usize>) -> Option<usize> {
        prefix(self, range)
    }

    /// The mask in a range as booleans, into a buffer that callers reuse.
    /// Anything but 0 and 1 is an error.
    pub fn read(&self, range: Range<usize>, into: &mut Vec<bool>) -> Result<()> {
        fn fill<T: Copy + PartialEq + ToString>(
            values: &[T],
            start: usize,
            zero: T,
            one: T,
            into: &mut Vec<bool>,
        ) -> Result<()> {
            into.extend(values.iter().map(|&v| v == one));
            let odd = |&v: &T| !(v == one || v == zero);
            if values.iter().fold(false, |any, v| any | odd(v)) {
                let at = values.iter().position(odd).unwrap_or(0);
                return Err(Error::Value {
                    argument: "loss_mask".to_owned(),
                    index: start + at,
                    got: values[at].to_string(),
                    expected: "0 or 1".to_owned(),
                });
            }
            Ok(())
        }
        into.clear();
        let start = range.start;
        match self {
            Self::All(_) => {
                // The only mask that need not have been in memory before.
                reserve(into, range.len())?;
                into.resize(range.len(), true);
                Ok(())
            }
            Self::U8(v) => fill(&v[range], start, 0, 1, into),
            Self::I32(v) => fill(&v[range], start, 0, 1, into),
            Self::I64(v) => fill(&v[range], start, 0, 1, into),
            Self::F32(v) => fill(&v[range], start, 0.0, 1.0, into),
            Self::F64(v) => fill(&v[range], start, 0.0, 1.0, into),
        }
    }
}

wide! {
    fn prefix(mask: &Mask<'_>, range: Range<usize>) -> Option<usize> {
        #[inline(always)]
        fn count<T, B>(values: &[T], zero: T, one: T, bits: impl Fn(T) -> B) -> Option<usize>
        where
            T: Copy + PartialEq,
            B: Default + PartialEq + BitOr<Output = B> + BitXor<Output = B>,
        {
            // Bits are collected instead of values compared one by one: without an early exit,
            // and without wide comparisons, which old processors lack, it runs at the speed
            // of memory. From front to back, because so memory is read ahead.
            let is = |part: &[T], what: T| {
                let odd = |all, &v: &T| all | (bits(v) ^ bits(what));
                part.iter().fold(B::default(), odd) == B::default()
            };
            let full = 64 * values.chunks_exact(64).take_while(|block| is(block, one)).count();
            let ones = full + values[full..].iter().take_while(|&&v| v == one).count();
            is(&values[ones..], zero).then_some(ones)
        }
        match mask {
            Mask::All(_) => Some(range.len()),
            Mask::U8(v) => count(&v[range], 0, 1, |v| v),
            Mask::I32(v) => count(&v[range], 0, 1, |v| v),
            Mask::I64(v) => count(&v[range], 0, 1, |v| v),
            Mask::F32(v) => count(&v[range], 0.0, 1.0, f32::to_bits),
            Mask::F64(v) => count(&v[range], 0.0, 1.0, f64::to_bits),
        }
    }
}

/// Ids that are only compared for equality.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys<'a> {
    /// Machine integers.
    Ints(Cow<'a, [i64]>),
    /// Strings.
    Texts(Vec<&'a str>),
    /// Anything else, written as bytes: long integers, arrays, mixed types.
    Bytes(Vec<&'a [u8]>),
}

impl Keys<'_> {
    /// How many ids.
    pub fn len(&self) -> usize {
        match self {
            Self::Ints(v) => v.len(),
            Self::Texts(v) => v.len(),
            Self::Bytes(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids at the given places, in that order.
    pub fn pick(&self, places: &[usize]) -> Self {
        match self {
            Self::Ints(v) => Self::Ints(places.iter().map(|&i| v[i]).collect()),
            Self::Texts(v) => Self::Texts(places.iter().map(|&i| v[i]).collect()),
            Self::Bytes(v) => Self::Bytes(places.iter().map(|&i| v[i]).collect()),
        }
    }
}

/// A column's values.
#[derive(Clone, Debug)]
pub enum Column<'a> {
    /// Numbers.
    Floats(Floats<'a>),
    /// Numbers in rows of `width`.
    Matrix {
        /// Row after row.
        values: Floats<'a>,
        /// Numbers in a row.
        width: usize,
    },
    /// Ids.
    Keys(Keys<'a>),
    /// Lists of strings, item after item.
    Lists {
        /// All strings of all lists.
        items: Vec<&'a str>,
        /// Where each list starts.
        offsets: Vec<i64>,
    },
}

impl Column<'_> {
    /// How many values.
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(v) => v.len(),
            Self::Matrix { values, width } => values.len().checked_div(*width).unwrap_or(0),
            Self::Keys(v) => v.len(),
            Self::Lists { offsets, .. } => offsets.len().saturating_sub(1),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is there, in words, for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Floats(_) => "numbers",
            Self::Matrix { .. } => "a matrix",
            Self::Keys(Keys::Ints(_)) => "integers",
            Self::Keys(Keys::Texts(_)) => "strings",
            Self::Keys(Keys::Bytes(_)) => "bytes",
            Self::Lists { .. } => "lists of strings",
        }
    }
}
