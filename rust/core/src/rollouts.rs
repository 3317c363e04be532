//! A batch of sampled episodes: its layout here, the reading of its columns in `read`.
//!
//! Two layouts occur in trainers. *Packed*: a row of tokens is a whole
//! trajectory, its turns are the runs of 1 in the mask unless given. *Step
//! rows*: a row is one turn, and rows with equal trajectory ids belong together.
//! Methods see trajectories, turns and tokens and need not know which it is.
//! Whatever a caller hands over is checked here, once.
//! May depend on `column`, `ragged`, `reward_matrix`, `group`, `stats`, `tokens`, `exec` and
//! `error`.

mod read;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::column::{Column, ColumnSpec, GROUP_IDS, Keys, Level, Mask};
use crate::error::{Error, Result};
use crate::exec::Exec;
use crate::group::Groups;
use crate::ragged::Offsets;
use crate::tokens::runs;

pub use read::TokenRewards;

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

/// Turns in trajectory order, each a span of flat token positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Turns {
    /// Trajectory to turns.
    pub offsets: Vec<usize>,
    /// Turn to tokens; tokens with mask 0 inside a span get no credit.
    pub spans: Vec<Range<usize>>,
}

impl Turns {
    /// A trajectory's turns.
    pub fn of(&self, trajectory: usize) -> Range<usize> {
        self.offsets[trajectory]..self.offsets[trajectory + 1]
    }

    /// The trajectory of each turn.
    pub fn trajectories(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.offsets.len() - 1).flat_map(|t| self.of(t).map(move |_| t))
    }
}

/// Which rows make up a trajectory, in the step-row layout.
#[derive(Debug)]
struct Steps {
    /// Row of each turn, trajectory after trajectory.
    rows: Vec<usize>,
    /// Trajectory to its place in `rows`.
    offsets: Vec<usize>,
    /// `turn_index` of each turn, where it was given.
    numbers: Option<Vec<i64>>,
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
            return Err(length("loss_mask", mask.len(), rows.total(), Level::Token.plural()));
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

    /// Says where the turns are, instead of taking runs of the mask: `counts`
    /// are offsets from trajectories to turns, `bounds` flat `start, end` pairs.
    pub fn with_turns(self, counts: &Offsets<'_>, bounds: &[i64]) -> Result<Self> {
        if counts.rows() != self.rows.rows() {
            return Err(length(
                "turn_offsets",
                counts.rows(),
                self.rows.rows(),
                Level::Trajectory.plural(),
            ));
        }
        if bounds.len() != 2 * counts.total() {
            return Err(length(
                "turn_spans",
                bounds.len() / 2,
                counts.total(),
                Level::Turn.plural(),
            ));
        }
        let mut spans = Vec::with_capacity(counts.total());
        for (row, turns) in self.rows.ranges().zip(counts.ranges()) {
            let mut earliest = row.start;
            for turn in turns {
                let span = (bounds[2 * turn], bounds[2 * turn + 1]);
                match (usize::try_from(span.0), usize::try_from(span.1)) {
                    (Ok(start), Ok(end)) if earliest <= start && start <= end && end <= row.end => {
                        spans.push(start..end);
                        earliest = end;
                    }
                    _ => {
                        return Err(Error::Value {
                            argument: "turn_spans".to_owned(),
                            index: turn,
                            got: format!("{span:?}"),
                            expected: format!("start <= end within tokens {earliest}..{}", row.end),
                        });
                    }
                }
            }
        }
        let offsets = (0..=counts.rows()).map(|row| counts.start(row)).collect();
        let turns = OnceLock::from(Turns { offsets, spans });
        Ok(Self { turns, ..self })
    }

    /// One row of tokens a turn. Rows with equal `(group, trajectory_ids)` are one
    /// trajectory; its turns are in the rows' order, or in that of `turn_index`.
    /// Call it after the columns are there.
    pub fn with_trajectories(self, ids: &Keys<'_>, turn_index: Option<&[i64]>) -> Result<Self> {
        let rows = self.rows.rows();
        if ids.len() != rows {
            return Err(length("trajectory_ids", ids.len(), rows, "rows"));
        }
        if let Some(index) = turn_index.filter(|index| index.len() != rows) {
            return Err(length("turn_index", index.len(), rows, "rows"));
        }
        let own = Groups::from_keys(ids);
        let within = match self.columns.get(GROUP_IDS.name) {
            Some(Column::Keys(keys)) if keys.len() == rows => Groups::from_keys(keys),
            _ => Groups::one(rows),
        };
        let trajectories = Groups::by(rows, |row| (within.ids()[row], own.ids()[row]));
        let mut order = Vec::with_capacity(rows);
        let mut offsets = vec![0];
        for members in trajectories.iter() {
            let first = order.len();
            order.extend_from_slice(members);
            if let Some(index) = turn_index {
                let own = &mut order[first..];
                own.sort_by_key(|&row| index[row]);
                if let Some(pair) = own.windows(2).find(|pair| index[pair[0]] == index[pair[1]]) {
                    return Err(Error::Value {
                        argument: "turn_index".to_owned(),
                        index: pair[1],
                        got: index[pair[1]].to_string(),
                        expected: format!("another number than that of row {}", pair[0]),
                    });
                }
            }
            offsets.push(order.len());
        }
        let spans = order.iter().map(|&row| self.rows.range(row)).collect();
        let turns = OnceLock::from(Turns { offsets: offsets.clone(), spans });
        let numbers = turn_index.map(|index| order.iter().map(|&row| index[row]).collect());
        Ok(Self { steps: Some(Steps { rows: order, offsets, numbers }), turns, ..self })
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

    /// Turns, found as runs of the mask unless they were given.
    pub fn turns(&self) -> Result<&Turns> {
        if let Some(turns) = self.turns.get() {
            return Ok(turns);
        }
        let found = self.exec.map(self.rows.chunks(CHUNK_TOKENS), |chunk| {
            let (mut counts, mut spans, mut mask) = (Vec::new(), Vec::new(), Vec::new());
            for row in chunk {
                let range = self.rows.range(row);
                self.mask.read(range.clone(), &mut mask)?;
                let before = spans.len();
                spans.extend(runs(&mask, range.start));
                counts.push(spans.len() - before);
            }
            Ok((counts, spans))
        })?;
        let (mut offsets, mut spans) = (vec![0], Vec::new());
        for (counts, part) in found {
            for count in counts {
                offsets.push(offsets[offsets.len() - 1] + count);
            }
            spans.extend(part);
        }
        Ok(self.turns.get_or_init(|| Turns { offsets, spans }))
    }

    /// Number of each turn within its trajectory: `turn_index` where it was given, else
    /// 0, 1, 2 and so on.
    pub fn turn_numbers(&self) -> Result<Vec<i64>> {
        if let Some(numbers) = self.steps.as_ref().and_then(|s| s.numbers.clone()) {
            return Ok(numbers);
        }
        let turns = self.turns()?;
        Ok((0..self.trajectories()).flat_map(|t| 0..turns.of(t).len() as i64).collect())
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
            None => Groups::from_keys(keys),
            Some(_) => Groups::from_keys(&keys.pick(&self.last_rows())),
        };
        Ok(self.groups.get_or_init(|| groups))
    }
}

fn length(argument: &str, got: usize, expected: usize, of: &'static str) -> Error {
    Error::Length { argument: argument.to_owned(), got, expected, of }
}
