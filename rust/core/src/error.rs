//! Every rule that input can break, one variant each, carrying the numbers.
//!
//! May depend on nothing else in the crate. A message names the argument, the
//! index, what was got and what was expected, because it is read by a person
//! whose training run has just stopped.

use std::fmt;

/// What went wrong. `Display` is the message that users see.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A method was asked for by a name that is not in the list.
    UnknownMethod {
        /// The name given.
        name: String,
        /// Every valid name.
        valid: Vec<&'static str>,
    },
    /// `like=` named a trainer for which the method has no preset.
    UnknownPreset {
        /// The method.
        method: &'static str,
        /// The trainer given.
        preset: String,
        /// The trainers that the method knows.
        valid: Vec<&'static str>,
    },
    /// An option that the method does not have.
    UnknownOption {
        /// The method.
        method: &'static str,
        /// The option given.
        option: String,
        /// The options that the method has.
        valid: Vec<&'static str>,
    },
    /// An option's value is of the wrong type or out of its range.
    BadOption {
        /// The method or function.
        method: &'static str,
        /// The option.
        option: &'static str,
        /// The value given, printed.
        got: String,
        /// What would have been accepted.
        expected: String,
    },
    /// A method needs a column that the rollouts do not have.
    MissingColumn {
        /// The method.
        method: &'static str,
        /// The column's name.
        column: &'static str,
        /// The column's level, in words.
        level: &'static str,
        /// Names of the columns that are there.
        present: Vec<String>,
        /// Columns of which one would have done as well.
        instead: &'static [&'static str],
    },
    /// A column holds another kind of values than the method reads.
    WrongKind {
        /// The column.
        column: String,
        /// The kind that is there.
        got: &'static str,
        /// The kind that is needed.
        expected: &'static str,
    },
    /// A length does not match.
    Length {
        /// The argument.
        argument: String,
        /// Its length.
        got: usize,
        /// The length that it should have.
        expected: usize,
        /// What that length is, e.g. "trajectories".
        of: &'static str,
    },
    /// A value that is not allowed, at an index.
    Value {
        /// The argument.
        argument: String,
        /// Index into the flat argument.
        index: usize,
        /// The value found, printed.
        got: String,
        /// What would have been accepted.
        expected: String,
    },
    /// A value that is not allowed, in an array of two dimensions.
    Cell {
        /// The argument.
        argument: String,
        /// Its row.
        row: usize,
        /// Its place in the row.
        column: usize,
        /// The value found, printed.
        got: String,
        /// What would have been accepted.
        expected: String,
    },
    /// A group has fewer members than the method needs.
    GroupTooSmall {
        /// The method.
        method: &'static str,
        /// Index of the group's first trajectory.
        trajectory: usize,
        /// Members found.
        got: usize,
        /// Members needed.
        expected: usize,
    },
    /// Sizes whose product or sum does not fit, found before memory is asked for.
    TooLarge {
        /// What was to be allocated.
        what: &'static str,
        /// The size asked for.
        got: u128,
        /// The largest size allowed.
        limit: u128,
    },
    /// The system has not so much memory.
    Memory {
        /// What was asked for.
        bytes: u128,
    },
    /// The caller asked to stop (Ctrl-C).
    Interrupted,
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownMethod { name, valid } => {
                write!(f, "method: got {name:?}, expected one of {}", valid.join(", "))
            }
            Self::UnknownPreset { method, preset, valid } if valid.is_empty() => {
                write!(f, "like: got {preset:?}, but {method} has no presets")
            }
            Self::UnknownPreset { method, preset, valid } => {
                write!(f, "like: got {preset:?}, expected for {method} one of {}", valid.join(", "))
            }
            Self::UnknownOption { method, option, valid } if valid.is_empty() => {
                write!(f, "{method}: unknown option {option:?}; it takes no options")
            }
            Self::UnknownOption { method, option, valid } => {
                write!(
                    f,
                    "{method}: unknown option {option:?}, expected one of {}",
                    valid.join(", ")
                )
            }
            Self::BadOption { method, option, got, expected } => {
                write!(f, "{method}: option {option}: got {got}, expected {expected}")
            }
            Self::MissingColumn { method, column, level, present, instead } => {
                let got = if present.is_empty() { "no columns" } else { &present.join(", ") };
                write!(f, "{method} needs the column {column:?} ({level} level); got only: {got}")?;
                let also = instead.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>();
                if also.is_empty() {
                    return Ok(());
                }
                write!(f, "; {} would do as well", also.join(" or "))
            }
            Self::WrongKind { column, got, expected } => {
                write!(f, "{column}: got {got}, expected {expected}")
            }
            Self::Length { argument, got, expected, of } => {
                write!(f, "{argument}: got {got} values, expected {expected}, the number of {of}")
            }
            Self::Value { argument, index, got, expected } => {
                write!(f, "{argument}[{index}]: got {got}, expected {expected}")
            }
            Self::Cell { argument, row, column, got, expected } => {
                write!(f, "{argument}[{row}, {column}]: got {got}, expected {expected}")
            }
            Self::GroupTooSmall { method, trajectory, got, expected } => write!(
                f,
                "{method}: group_ids[{trajectory}]: got a group of {got}, expected at least {expected} trajectories"
            ),
            Self::TooLarge { what, got, limit } => {
                write!(f, "{what}: got {got}, expected at most {limit}")
            }
            Self::Memory { bytes } => {
                write!(f, "rollouts: a result takes {bytes} bytes, more than there are free")
            }
            Self::Interrupted => write!(f, "interrupted"),
        }
    }
}

impl std::error::Error for Error {}
