//! A batch of sampled episodes: layout, columns, and typed reading of both.
//!
//! Two layouts occur in trainers. *Packed*: a row of tokens is a whole
//! trajectory, its turns are the runs of 1 in the mask unless given. *Step
//! rows*: a row is one turn, and rows with equal trajectory ids belong together.
//! Methods see trajectories, turns and tokens and need not know which it is.
//! Whatever a caller hands over is checked here, once.
//! May depend on `column`, `ragged`, `reward_matrix`, `group`, `stats`, `tokens`, `exec` and
//! `error`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::column::{
    Column, ColumnSpec, Floats, GROUP_IDS, Keys, Kind, Level, Mask, OUTCOME_REWARDS, REWARD_MATRIX,
    TOKEN_REWARDS, TURN_REWARDS,
};
use crate::error::{Error, Result};
use crate::exec::Exec;
use crate::group::Groups;
use crate::ragged::Offsets;
use crate::reward_matrix::RewardMatrix;
use crate::stats::{Counts, Normaliser, Weighting, Weights};
use crate::tokens::runs;

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
            return Err(length("loss_mask", mask.len(), rows.total(), Level::Token));
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
            return Err(length("turn_offsets", counts.rows(), self.rows.rows(), Level::Trajectory));
        }
        if bounds.len() != 2 * counts.total() {
            return Err(length("turn_spans", bounds.len() / 2, counts.total(), Level::Turn));
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
            return Err(length("trajectory_ids", ids.len(), rows, Level::Trajectory));
        }
        if let Some(index) = turn_index.filter(|index| index.len() != rows) {
            return Err(length("turn_index", index.len(), rows, Level::Trajectory));
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
                order[first..].sort_by_key(|&row| index[row]);
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
            Err(length(spec.name, column.len(), expected, spec.level))
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

    /// Ids of a column, in the column's own order.
    pub fn keys(&self, spec: &ColumnSpec) -> Result<&Keys<'a>> {
        match self.column(spec)? {
            Column::Keys(keys) => Ok(keys),
            other => Err(wrong_kind(spec, other)),
        }
    }

    /// Ids of a turn column, in turn order.
    pub fn turn_keys(&self, spec: &ColumnSpec) -> Result<Keys<'a>> {
        let keys = self.keys(spec)?;
        Ok(self.turn_places().map_or_else(|| keys.clone(), |places| keys.pick(places)))
    }

    /// Strings of a column, in the column's own order.
    pub fn texts(&self, spec: &ColumnSpec) -> Result<&[&'a str]> {
        match self.column(spec)? {
            Column::Keys(Keys::Texts(texts)) => Ok(texts),
            other => Err(wrong_kind(spec, other)),
        }
    }

    /// Lists of strings, in the column's own order: all strings, and where each list is.
    pub fn lists(&self, spec: &ColumnSpec) -> Result<(&[&'a str], Offsets<'_>)> {
        match self.column(spec)? {
            Column::Lists { items, offsets } => {
                Ok((items, Offsets::listed(spec.name, &offsets[..], items.len())?))
            }
            other => Err(wrong_kind(spec, other)),
        }
    }

    /// Numbers of a column, in the column's own order. Rewards may hold NaN; whatever
    /// else is not finite is an error, but at tokens outside the mask.
    pub fn floats(&self, spec: &ColumnSpec) -> Result<&Floats<'a>> {
        match self.column(spec)? {
            Column::Floats(values) => Ok(values),
            other => Err(wrong_kind(spec, other)),
        }
    }

    /// Score of each trajectory: `outcome_rewards`, else the sum of its row of
    /// `reward_matrix`, else of its `token_rewards`.
    pub fn outcomes(&self) -> Result<Vec<f64>> {
        let by_row = self.row_outcomes()?;
        Ok(match &self.steps {
            None => by_row,
            Some(_) => self.last_rows().iter().map(|&row| by_row[row]).collect(),
        })
    }

    /// As [`outcomes`](Self::outcomes); with weights given, the weighted sum over the reward
    /// functions of `reward_matrix`.
    pub fn weighted_outcomes(&self, weights: &[f64]) -> Result<Vec<f64>> {
        if weights.is_empty() {
            return self.outcomes();
        }
        let matrix = self.reward_matrix()?;
        Ok(matrix.sums(&matrix.weights(weights)?))
    }

    /// Scores of each trajectory by each reward function, infinity refused.
    pub fn reward_matrix(&self) -> Result<RewardMatrix> {
        let by_row = self.row_matrix()?;
        Ok(if self.is_step_rows() { by_row.pick(&self.last_rows()) } else { by_row })
    }

    fn row_matrix(&self) -> Result<RewardMatrix> {
        let (values, width) = match self.column(&REWARD_MATRIX)? {
            // An empty matrix may have no columns either.
            Column::Matrix { values, width } => (values.to_vec(), (*width).max(1)),
            Column::Floats(values) => (values.to_vec(), 1),
            other => return Err(wrong_kind(&REWARD_MATRIX, other)),
        };
        let read = |(i, value)| self.reward(&REWARD_MATRIX, i, value);
        let values = values.into_iter().enumerate().map(read).collect::<Result<_>>()?;
        Ok(RewardMatrix { values, width })
    }

    /// Normalises one value a trajectory within its group.
    pub fn normalise(
        &self,
        rule: &Normaliser,
        values: &[f64],
        weighting: Weighting,
    ) -> Result<(Vec<f64>, Counts)> {
        let groups = self.groups()?;
        Ok(match (weighting, &self.steps) {
            (Weighting::Token, _) => {
                let lengths = self.token_counts()?;
                rule.apply(values, groups, Weights::Lengths(&lengths))
            }
            (Weighting::Row, Some(s)) => {
                let rows: Vec<f64> = s.offsets.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
                rule.apply(values, groups, Weights::Counts(&rows))
            }
            _ => rule.apply(values, groups, Weights::Equal),
        })
    }

    /// Trained tokens of each trajectory, as numbers to calculate with.
    pub fn token_counts(&self) -> Result<Vec<f64>> {
        Ok(self.lengths()?.into_iter().map(|n| n as f64).collect())
    }

    /// Score of the row that holds each turn (step rows), else of its trajectory.
    pub fn turn_outcomes(&self) -> Result<Vec<f64>> {
        let by_row = self.row_outcomes()?;
        Ok(match &self.steps {
            None => self.turns()?.trajectories().map(|t| by_row[t]).collect(),
            Some(s) => s.rows.iter().map(|&row| by_row[row]).collect(),
        })
    }

    fn row_outcomes(&self) -> Result<Vec<f64>> {
        if !self.has(&OUTCOME_REWARDS) && self.has(&REWARD_MATRIX) {
            let matrix = self.row_matrix()?;
            return Ok(matrix.sums(&matrix.weights(&[])?));
        }
        if self.has(&OUTCOME_REWARDS) || !self.has(&TOKEN_REWARDS) {
            return self.rewards(&OUTCOME_REWARDS);
        }
        let sums = self.exec.map(self.rows.chunks(CHUNK_TOKENS), |chunk| {
            let (values, mut rewards) = (self.floats(&TOKEN_REWARDS)?, Vec::new());
            chunk
                .map(|row| {
                    values.read(self.rows.range(row), &mut rewards);
                    let sum = sparse_sum(&rewards);
                    // Whatever is not finite shows in the sum, and only then is the mask read.
                    if sum.is_finite() {
                        return Ok(sum);
                    }
                    let mut reader = self.token_rewards()?;
                    let present = reader.read(row)?;
                    Ok(if present { sparse_sum(&reader.rewards) } else { f64::NAN })
                })
                .collect::<Result<Vec<f64>>>()
        })?;
        Ok(sums.concat())
    }

    /// Score of each turn in turn order: `turn_rewards`, else sums of `token_rewards`
    /// over the turn's tokens.
    pub fn turn_rewards(&self) -> Result<Vec<f64>> {
        if self.has(&TURN_REWARDS) || !self.has(&TOKEN_REWARDS) {
            let values = self.rewards(&TURN_REWARDS)?;
            return Ok(match self.turn_places() {
                None => values,
                Some(places) => places.iter().map(|&row| values[row]).collect(),
            });
        }
        let Column::Floats(rewards) = self.column(&TOKEN_REWARDS)? else {
            return Err(wrong_kind(&TOKEN_REWARDS, self.column(&TOKEN_REWARDS)?));
        };
        let spans = &self.turns()?.spans;
        let sums = self.exec.ranges(spans.len(), 1 << 12, |turns| {
            let mut values = Vec::new();
            turns
                .map(|turn| {
                    let span = spans[turn].clone();
                    rewards.read(span.clone(), &mut values);
                    let mut sum = 0.0;
                    for (i, &value) in values.iter().enumerate() {
                        sum += self.reward(&TOKEN_REWARDS, span.start + i, value)?;
                    }
                    Ok(sum)
                })
                .collect::<Result<Vec<f64>>>()
        })?;
        Ok(sums.concat())
    }

    /// A column of rewards in its own order, NaN treated as asked, infinity refused.
    pub fn rewards(&self, spec: &ColumnSpec) -> Result<Vec<f64>> {
        let values = self.floats(spec)?.to_vec();
        values.into_iter().enumerate().map(|(i, value)| self.reward(spec, i, value)).collect()
    }

    /// One reward of a column, NaN treated as asked, infinity refused.
    pub fn reward(&self, spec: &ColumnSpec, index: usize, value: f64) -> Result<f64> {
        if value.is_finite() {
            return Ok(value);
        }
        if value.is_nan() && self.nan_rewards != NanRewards::Raise {
            self.absent.fetch_add(1, Ordering::Relaxed);
            return Ok(if self.nan_rewards == NanRewards::Zero { 0.0 } else { f64::NAN });
        }
        Err(not_finite(spec, index, value))
    }

    /// Reads `token_rewards` row by row, together with the mask.
    pub fn token_rewards(&self) -> Result<TokenRewards<'_, 'a>> {
        let values = self.floats(&TOKEN_REWARDS)?;
        Ok(TokenRewards { rollouts: self, values, rewards: Vec::new(), mask: Vec::new() })
    }

    /// Numbers of a token column in one row, finite wherever the mask is 1 and 0 elsewhere
    /// where they are not.
    pub fn read_tokens(
        &self,
        spec: &ColumnSpec,
        values: &Floats<'_>,
        range: Range<usize>,
        mask: &[bool],
        into: &mut Vec<f64>,
    ) -> Result<()> {
        let start = range.start;
        values.read(range, into);
        for (i, (value, &trained)) in into.iter_mut().zip(mask).enumerate() {
            if !value.is_finite() {
                if trained {
                    return Err(not_finite(spec, start + i, *value));
                }
                *value = 0.0;
            }
        }
        Ok(())
    }
}

/// Token rewards and mask of one row at a time.
pub struct TokenRewards<'r, 'a> {
    rollouts: &'r Rollouts<'a>,
    values: &'r Floats<'a>,
    /// Rewards of the row read last; NaN outside the mask is 0.
    pub rewards: Vec<f64>,
    /// Its mask.
    pub mask: Vec<bool>,
}

impl TokenRewards<'_, '_> {
    /// Reads a row. `false` if a reward in it is absent, which makes the whole row absent.
    pub fn read(&mut self, row: usize) -> Result<bool> {
        let range = self.rollouts.rows.range(row);
        self.rollouts.mask.read(range.clone(), &mut self.mask)?;
        self.values.read(range.clone(), &mut self.rewards);
        // A fold instead of `all`: without an early exit it is vector instructions.
        if self.rewards.iter().fold(true, |all, r| all & r.is_finite()) {
            return Ok(true);
        }
        let mut present = true;
        for (i, (value, &trained)) in self.rewards.iter_mut().zip(&self.mask).enumerate() {
            if value.is_nan() && !trained {
                *value = 0.0;
            }
            let kept = self.rollouts.reward(&TOKEN_REWARDS, range.start + i, *value)?;
            present &= !kept.is_nan();
            *value = if kept.is_nan() { 0.0 } else { kept };
        }
        Ok(present)
    }
}

/// The sum from left to right. Equal rewards give equal sums wherever they stand, which
/// summing in lanes would not; runs of zeros, of which most rewards consist, are passed over.
fn sparse_sum(values: &[f64]) -> f64 {
    let any = |block: &&[f64]| block.iter().fold(false, |any, &x| any | (x != 0.0));
    values.chunks(16).filter(any).flatten().sum()
}

fn length(argument: &str, got: usize, expected: usize, level: Level) -> Error {
    Error::Length { argument: argument.to_owned(), got, expected, of: level.plural() }
}

fn wrong_kind(spec: &ColumnSpec, got: &Column<'_>) -> Error {
    let expected = spec.kind.name();
    Error::WrongKind { column: spec.name.to_owned(), got: got.describe(), expected }
}

fn not_finite(spec: &ColumnSpec, index: usize, value: f64) -> Error {
    let expected = match spec.kind {
        Kind::Reward | Kind::RewardMatrix => "a finite number, or NaN for an absent reward",
        _ => "a finite number",
    };
    Error::Value {
        argument: spec.name.to_owned(),
        index,
        got: value.to_string(),
        expected: expected.to_owned(),
    }
}
