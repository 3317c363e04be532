//! `remax`: what was collected from each token on, minus the score of the greedy answer.

use crate::column::{
    ColumnSpec, Floats, Kind, Level, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS,
};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::returns::discounted;
use crate::reward::place;
use crate::rollouts::{CHUNK_TOKENS, Rollouts};
use crate::rows::{Pair, fill};
use crate::stats::{Counts, Moments};
use crate::tokens::Real;
use crate::whiten::RowShape;

const REWARDS: ColumnSpec =
    ColumnSpec { derived_from: &[OUTCOME_REWARDS.name, REWARD_MATRIX.name], ..TOKEN_REWARDS };

const REWARD_BASELINES: ColumnSpec = ColumnSpec::new(
    "reward_baselines",
    Level::Trajectory,
    Kind::Reward,
    "Score of the greedy answer to the same prompt.",
);

crate::method! {
    /// ReMax: the rewards from each token on, compared with what the greedy answer to
    /// the same prompt scored, so that no group of samples is needed.
    ///
    /// # Formula
    ///
    /// `G_t = sum_{u >= t} r_u m_u` and `A_t = G_t - b_i m_t` at token `t` of trajectory
    /// `i`, with the mask `m` and the greedy answer's score `b_i`. Where `token_rewards`
    /// is missing, the outcome reward stands on the trajectory's last trained token. In
    /// the layout of one row a turn, `G_t` goes on through the trajectory's later rows.
    ///
    /// # Source
    ///
    /// Li et al. 2023, arXiv:2310.10505, algorithm 1; verl
    /// `compute_remax_outcome_advantage`.
    ///
    /// # Degenerate cases
    ///
    /// A trajectory without trained tokens gives 0. One with a NaN among its rewards, or
    /// whose baseline is NaN, is left out and gets 0. A masked token gets 0 or, with
    /// `remask=False` as in verl, advantage and return `G_t`.
    "remax" {
        title: "ReMax",
        granularity: Token,
        family: "greedy baseline",
        paper: "arXiv:2310.10505",
        certainty: Code,
        needs: [REWARDS, REWARD_BASELINES],
        takes: [],
        options: {
            /// Whether advantages and returns of masked tokens are set to 0. Otherwise they
            /// hold what later tokens collected.
            remask: bool = true,
        },
        presets: {
            "verl" => { remask = false },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let single = rollouts.has(&TOKEN_REWARDS) && !rollouts.floats(&TOKEN_REWARDS)?.is_double();
    if single { run::<f32>(rollouts, options) } else { run::<f64>(rollouts, options) }
}

fn run<T: Real>(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit>
where
    Floats<'static>: From<Vec<T>>,
{
    let batch = Batch::new(rollouts)?;
    let pair: Pair<T> = fill(rollouts, |_: &mut (), row, advantages, returns| {
        batch.row(row, options.remask, advantages, returns)
    })?;
    let mut credit = Credit::new(Values::Tokens(pair.advantages.into()), Counts::default());
    credit.returns = Some(Values::Tokens(pair.returns.into()));
    Ok(credit)
}

/// A row's mask and rewards; 0 outside the mask.
struct Row {
    mask: Vec<bool>,
    rewards: Vec<f64>,
}

/// What is known of each row; NaN where a row is absent.
struct Batch<'b, 'a> {
    rollouts: &'b Rollouts<'a>,
    /// Score that stands on the row's last trained token; `None` with token rewards.
    scores: Option<Vec<f64>>,
    /// Score of the greedy answer.
    baselines: Vec<f64>,
    /// What the later rows of the trajectory collected.
    later: Vec<f64>,
}

impl<'b, 'a> Batch<'b, 'a> {
    fn new(rollouts: &'b Rollouts<'a>) -> Result<Self> {
        let baselines = rollouts.rewards(&REWARD_BASELINES)?;
        let scores = match rollouts.has(&TOKEN_REWARDS) {
            true => None,
            false => Some(rollouts.outcomes()?),
        };
        let later = vec![0.0; baselines.len()];
        let batch = Self { rollouts, scores, baselines, later };
        match rollouts.turn_places() {
            None => Ok(batch),
            Some(places) => batch.joined(places),
        }
    }

    /// Joins rows to trajectories: a trajectory's score moves to its last row, whose
    /// baseline holds for all, and each row learns what comes after it.
    fn joined(mut self, places: &[usize]) -> Result<Self> {
        let turns = self.rollouts.turns()?;
        if let Some(scores) = &mut self.scores {
            let mut by_row = vec![0.0; places.len()];
            for (row, &score) in self.rollouts.last_rows().into_iter().zip(scores.iter()) {
                by_row[row] = score;
            }
            *scores = by_row;
        }
        let totals = match &self.scores {
            Some(scores) => scores.clone(),
            None => self.totals()?,
        };
        for trajectory in 0..self.rollouts.trajectories() {
            let rows = &places[turns.of(trajectory)];
            let all: f64 = rows.iter().map(|&row| totals[row]).sum();
            let baseline = rows.last().map_or(0.0, |&row| self.baselines[row]);
            let mut later = if all.is_nan() { f64::NAN } else { 0.0 };
            for &row in rows.iter().rev() {
                (self.later[row], self.baselines[row]) = (later, baseline);
                later += totals[row];
            }
        }
        Ok(self)
    }

    fn totals(&self) -> Result<Vec<f64>> {
        let sum = |row| Ok(self.read(row)?.map_or(f64::NAN, |row| row.rewards.iter().sum()));
        let chunks = self.rollouts.rows().chunks(CHUNK_TOKENS);
        let sums =
            self.rollouts.exec().map(chunks, |rows| rows.map(sum).collect::<Result<Vec<f64>>>())?;
        Ok(sums.concat())
    }

    /// `None` where a reward is absent.
    fn read(&self, row: usize) -> Result<Option<Row>> {
        let Some(scores) = &self.scores else {
            let mut reader = self.rollouts.token_rewards()?;
            let present = reader.read(row)?;
            let (mask, mut rewards) = (reader.mask, reader.rewards);
            rewards.iter_mut().zip(&mask).filter(|&(_, &m)| !m).for_each(|(r, _)| *r = 0.0);
            return Ok(present.then_some(Row { mask, rewards }));
        };
        let range = self.rollouts.rows().range(row);
        let mut mask = Vec::new();
        self.rollouts.mask().read(range.clone(), &mut mask)?;
        let mut rewards = vec![0.0; range.len()];
        place(scores[row], &mask, &mut rewards);
        Ok((!scores[row].is_nan()).then_some(Row { mask, rewards }))
    }

    fn row<T: Real>(
        &self,
        row: usize,
        remask: bool,
        advantages: &mut [T],
        returns: &mut [T],
    ) -> Result<(RowShape, Moments)> {
        // Nothing is whitened, so what is said of the row's shape and moments is not read.
        let said = (RowShape::Holes, Moments::default());
        let (baseline, later) = (self.baselines[row], self.later[row]);
        if baseline.is_nan() || later.is_nan() {
            return Ok(said);
        }
        let Some(Row { mask, mut rewards }) = self.read(row)? else { return Ok(said) };
        discounted(&mut rewards, 1.0);
        for (t, (&trained, &own)) in mask.iter().zip(&rewards).enumerate() {
            let collected = own + later;
            if trained || !remask {
                returns[t] = T::from_f64(collected);
                advantages[t] = T::from_f64(if trained { collected - baseline } else { collected });
            }
        }
        Ok(said)
    }
}
