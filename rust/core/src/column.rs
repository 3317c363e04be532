//! What a batch is made of: named columns of borrowed values, each with a level.
//!
//! Here stand the columns by name; `values` and `mask` hold what is in them. A method
//! lists the columns that it reads as [`ColumnSpec`]s. Those that many methods share stand
//! here; one that a single method reads stands in its file. May depend on nothing else.

mod mask;
mod values;

pub use mask::Mask;
pub use values::{Column, Floats, Keys};

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
