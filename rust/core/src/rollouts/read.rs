//! Reading columns of a batch: typed, finite, and in the order that a method wants.
//!
//! Rewards may be NaN, which is treated as the batch says; whatever else is not
//! finite is an error that names its index.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{CHUNK_TOKENS, NanRewards, Rollouts};
use crate::column::{
    Column, ColumnSpec, Floats, Keys, Kind, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS,
    TURN_REWARDS,
};
use crate::error::{Error, Result};
use crate::ragged::Offsets;
use crate::reward_matrix::RewardMatrix;
use crate::stats::{Counts, Normaliser, Weighting, Weights};

/// Largest reward in size: the sum of a batch of its squares is still a number.
const LARGEST: f64 = 1e145;

impl<'a> Rollouts<'a> {
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

    /// One reward of a column, NaN treated as asked, infinity refused, and what would
    /// make infinities of a batch's squares.
    pub fn reward(&self, spec: &ColumnSpec, index: usize, value: f64) -> Result<f64> {
        if value.abs() <= LARGEST {
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

fn wrong_kind(spec: &ColumnSpec, got: &Column<'_>) -> Error {
    let expected = spec.kind.name();
    Error::WrongKind { column: spec.name.to_owned(), got: got.describe(), expected }
}

fn not_finite(spec: &ColumnSpec, index: usize, value: f64) -> Error {
    let expected = match spec.kind {
        _ if value.is_finite() => "a reward of at most 1e145 in size",
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
