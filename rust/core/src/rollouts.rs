//! A batch of sampled episodes: what is there and how long it is. Turns are found in
//! `turns`, columns read in `read`.
//!
//! Two layouts occur in trainers. *Packed*: a row of tokens is a whole
//! trajectory, its turns are the runs of 1 in the mask unless given. *Step
//! rows*: a row is one turn, and rows with equal trajectory ids belong together.
//! Methods see trajectories, turns and tokens and need not know which it is.
//! Whatever a caller hands over is checked here, once.
//! May depend on `column`, `ragged`, `reward_matrix`, `group`, `stats`, `tokens`, `exec` and
//! `error`.

mod read;
mod turns;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::column::{Column, ColumnSpec, GROUP_IDS, Level, Mask};
use crate::error::{Error, Result};
use crate::exec::Exec;
use crate::group::Groups;
use crate::ragged::Offsets;

pub use read::TokenRewards;
use turns::Steps;
pub use turns::Turns;

/// Tokens handed to a thread at a time.
pub const CHUNK_TOKENS: usize = 1 << 18;

/// The most tokens and rows of a batch: beyond it sizes are a mistake, and are refused
/// before memory is asked for.
pub const MAX_TOKENS: usize = 1 << 40;
/// See [`MAX_TOKENS`].
pub const MAX_ROWS: usize = 1 << 28;

/// What a NaN among rewards means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NanRewards {
    /// The value is absent: out of every statistic, credit 0.
    Mask,
    /// An error that names the index.
    Raise,
    /// The value is 0.
    Zero,
}

/// A batch. Borrowed columns, each with a level; see the module's text.
pub struct Rollouts<'a> {
    rows: Offsets<'a>,
    mask: Mask<'a>,
    steps: Option<Steps>,
    turns: OnceLock<Turns>,
    groups: OnceLock<Groups>,
    columns: BTreeMap<String, Column<'a>>,
    nan_rewards: NanRewards,
    absent: AtomicUsize,
    exec: &'a Exec<'a>,
}

impl<'a> Rollouts<'a> {
    /// One row of tokens a trajectory.
    pub fn packed(rows: Offsets<'a>, mask: Mask<'a>, exec: &'a Exec<'a>) -> Result<Self> {
        let sizes = [("tokens", rows.total(), MAX_TOKENS), ("rows", rows.rows(), MAX_ROWS)];
        for (what, got, limit) in sizes {
            if got > limit {
                return Err(Error::TooLarge { what, got: got as u128, limit: limit as u128 });
            }
        }
        if mask.len() != rows.total() {
            return Err(length("mask", mask.len(), rows.total(), Level::Token.plural()));
        }
        Ok(Self {
            rows,
            mask,
            steps: None,
            turns: OnceLock::new(),
            groups: OnceLock::new(),
            columns: BTreeMap::new(),
            nan_rewards: NanRewards::Mask,
            absent: AtomicUsize::new(0),
            exec,
        })
    }

    /// Adds a column. Its length is checked when a method reads it.
    pub fn with(mut self, name: &str, column: Column<'a>) -> Self {
        self.columns.insert(name.to_owned(), column);
        self
    }

    /// Sets what a NaN among rewards means.
    pub fn with_nan_rewards(self, nan_rewards: NanRewards) -> Self {
        Self { nan_rewards, ..self }
    }

    /// Where work is spread over threads.
    pub fn exec(&self) -> &Exec<'a> {
        self.exec
    }

    /// Rows of tokens.
    pub fn rows(&self) -> &Offsets<'a> {
        &self.rows
    }

    /// Which tokens are trained.
    pub fn mask(&self) -> &Mask<'a> {
        &self.mask
    }

    /// Whether each row is one turn of a trajectory.
    pub fn is_step_rows(&self) -> bool {
        self.steps.is_some()
    }

    /// Number of trajectories.
    pub fn trajectories(&self) -> usize {
        self.steps.as_ref().map_or(self.rows.rows(), |s| s.offsets.len() - 1)
    }

    /// How many reward values were NaN so far.
    pub fn absent(&self) -> usize {
        self.absent.load(Ordering::Relaxed)
    }

    /// Whether a column is there.
    pub fn has(&self, spec: &ColumnSpec) -> bool {
        self.columns.contains_key(spec.name)
    }

    /// Names of the columns that are there.
    pub fn present(&self) -> Vec<String> {
        self.columns.keys().cloned().collect()
    }

    /// A column, checked for its length.
    pub fn column(&self, spec: &ColumnSpec) -> Result<&Column<'a>> {
        let column = self.columns.get(spec.name).ok_or_else(|| Error::MissingColumn {
            method: "the method",
            column: spec.name,
            level: spec.level.name(),
            present: self.present(),
            instead: &[],
        })?;
        let expected = match spec.level {
            Level::Trajectory => self.rows.rows(),
            Level::Turn => self.turns()?.spans.len(),
            Level::Token => self.rows.total(),
        };
        if column.len() == expected {
            Ok(column)
        } else {
            let rows = self.is_step_rows() && spec.level != Level::Token;
            let of = if rows { "rows" } else { spec.level.plural() };
            Err(length(spec.name, column.len(), expected, of))
        }
    }

    /// An error's index as row and column where the argument came in as such.
    pub fn placed(&self, error: Error) -> Error {
        let Error::Value { argument, index, got, expected } = error else { return error };
        let padded = self.rows.width().filter(|&width| width > 1);
        let width = match self.columns.get(&argument) {
            Some(Column::Matrix { width, .. }) => Some(*width),
            Some(Column::Floats(values)) if values.len() == self.rows.total() => padded,
            None if argument == "mask" => padded,
            _ => None,
        };
        match width {
            Some(width) => {
                Error::Cell { argument, row: index / width, column: index % width, got, expected }
            }
            None => Error::Value { argument, index, got, expected },
        }
    }

    /// The row that holds each turn's value (step rows), or the turn itself.
    pub fn turn_places(&self) -> Option<&[usize]> {
        self.steps.as_ref().map(|s| &s.rows[..])
    }

    /// The row whose value stands for each trajectory: its last.
    pub fn last_rows(&self) -> Vec<usize> {
        match &self.steps {
            None => (0..self.rows.rows()).collect(),
            Some(s) => s.offsets[1..].iter().map(|&end| s.rows[end - 1]).collect(),
        }
    }

    /// Trained tokens of each trajectory.
    pub fn lengths(&self) -> Result<Vec<usize>> {
        let by_row: Vec<usize> = self
            .exec
            .map(self.rows.chunks(CHUNK_TOKENS), |chunk| {
                let mut mask = Vec::new();
                chunk
                    .map(|row| {
                        let range = self.rows.range(row);
                        if let Some(trained) = self.mask.prefix(range.clone()) {
                            return Ok(trained);
                        }
                        self.mask.read(range, &mut mask)?;
                        Ok(mask.iter().filter(|&&m| m).count())
                    })
                    .collect::<Result<Vec<_>>>()
            })?
            .concat();
        Ok(match &self.steps {
            None => by_row,
            Some(s) => s
                .offsets
                .windows(2)
                .map(|w| s.rows[w[0]..w[1]].iter().map(|&row| by_row[row]).sum())
                .collect(),
        })
    }

    /// Groups of trajectories, from `group_ids`.
    pub fn groups(&self) -> Result<&Groups> {
        if let Some(groups) = self.groups.get() {
            return Ok(groups);
        }
        let keys = self.keys(&GROUP_IDS)?;
        let groups = match &self.steps {
            None => Groups::from_keys(keys, self.exec)?,
            Some(_) => Groups::from_keys(&keys.pick(&self.last_rows()), self.exec)?,
        };
        Ok(self.groups.get_or_init(|| groups))
    }
}

fn length(argument: &str, got: usize, expected: usize, of: &'static str) -> Error {
    Error::Length { argument: argument.to_owned(), got, expected, of }
}
