//! Turns with information gain: where they end, and how gains and outcomes are
//! normalised. What A2TGPO and its ancestor IGPO share.
//!
//! May depend on `rollouts`, `group`, `stats`, `spread` and below.

use std::borrow::Cow;

use crate::choice;
use crate::column::{OUTCOME_REWARDS, TOKEN_REWARDS};
use crate::credit::Values;
use crate::error::{Error, Result};
use crate::group::Groups;
use crate::rollouts::{CHUNK_TOKENS, Rollouts, Turns};
use crate::spread::turns_to_tokens;
use crate::stats::{Counts, Normaliser, Scale, Singleton, Weights};

choice! {
    /// Where turns end.
    Boundary {
        /// Where the rollouts' turns end; each has its gain in `turn_rewards`.
        Explicit = "explicit",
        /// At trained tokens with a non-zero token reward, and at the last trained token.
        Nonzero = "nonzero",
    }
}

/// Which gains and outcomes of a group are normalised together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// All gains and the outcomes.
    Joint,
    /// All gains, and apart from them the outcomes.
    Separate,
    /// The gains of turns with the same number, and apart from them the outcomes.
    Turn,
}

/// Mean and biased standard deviation `sqrt(var + 1e-8) + eps`; a group of one gives 0.
pub fn rule(scale: Scale, eps: f64) -> Normaliser {
    Normaliser {
        scale,
        ddof: 0.0,
        eps,
        var_eps: 1e-8,
        singleton: Singleton::Zero,
        ..Normaliser::default()
    }
}

/// Gains of all turns but each trajectory's last, and the outcome that the last one carries.
pub struct GainTurns<'r, 'a> {
    rollouts: &'r Rollouts<'a>,
    boundary: Boundary,
    turns: Cow<'r, Turns>,
    /// One a turn; NaN where absent, at a trajectory's last turn, and in all of a
    /// trajectory without outcome.
    pub gains: Vec<f64>,
    /// One a trajectory; NaN where absent.
    pub outcomes: Vec<f64>,
}

impl<'r, 'a> GainTurns<'r, 'a> {
    /// Finds the turns. The outcome is `outcome_rewards` where that column is there,
    /// else the reward of the last turn.
    pub fn read(
        rollouts: &'r Rollouts<'a>,
        boundary: Boundary,
        method: &'static str,
    ) -> Result<Self> {
        let (turns, mut gains) = match boundary {
            Boundary::Explicit => (Cow::Borrowed(rollouts.turns()?), rollouts.turn_rewards()?),
            Boundary::Nonzero if rollouts.is_step_rows() => {
                return Err(Error::BadOption {
                    method,
                    option: "boundary",
                    got: "\"nonzero\" with one row a turn".to_owned(),
                    expected: "\"explicit\", or one row a trajectory".to_owned(),
                });
            }
            Boundary::Nonzero => {
                let (turns, gains) = nonzero(rollouts)?;
                (Cow::Owned(turns), gains)
            }
        };
        let last = |t| turns.of(t).last();
        let outcomes = if rollouts.has(&OUTCOME_REWARDS) {
            rollouts.outcomes()?
        } else {
            (0..rollouts.trajectories()).map(|t| last(t).map_or(f64::NAN, |k| gains[k])).collect()
        };
        for (t, outcome) in outcomes.iter().enumerate() {
            if outcome.is_nan() {
                gains[turns.of(t)].fill(f64::NAN);
            } else if let Some(k) = last(t) {
                gains[k] = f64::NAN;
            }
        }
        Ok(Self { rollouts, boundary, turns, gains, outcomes })
    }

    /// For each trajectory that has turns: itself, the turns with gains, and the last turn.
    pub fn trajectories(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>, usize)> {
        (0..self.outcomes.len()).filter_map(|t| {
            let turns = self.turns.of(t);
            let last = turns.end.checked_sub(1).filter(|k| turns.contains(k))?;
            Some((t, turns.start..last, last))
        })
    }

    /// Normalised gains (0 where NaN) and outcomes. `gains` are like the field of that name.
    pub fn normalise(
        &self,
        gains: &[f64],
        pool: Pool,
        rule: &Normaliser,
    ) -> Result<(Vec<f64>, Vec<f64>, Counts)> {
        let prompts = self.rollouts.groups()?.ids();
        let kind = |j| match pool {
            Pool::Joint => 0,
            Pool::Separate => 1,
            Pool::Turn => 1 + j,
        };
        let mut keys = Vec::with_capacity(gains.len() + self.outcomes.len());
        for (t, &prompt) in prompts.iter().enumerate() {
            keys.extend((0..self.turns.of(t).len()).map(|j| (prompt, kind(j))));
        }
        keys.extend(prompts.iter().map(|&prompt| (prompt, 0)));
        let values = [gains, &self.outcomes].concat();
        let groups = Groups::by(keys.len(), |i| keys[i]);
        let (mut normed, counts) = rule.apply(&values, &groups, Weights::Equal);
        let outcomes = normed.split_off(gains.len());
        Ok((normed, outcomes, counts))
    }

    /// IGPO's turn advantages: gains and outcomes normalised in one pool or two, then
    /// `A_j = g_j + gamma A_{j+1}` with the outcome at the last turn.
    pub fn to_outcome(
        &self,
        pool: Pool,
        rule: &Normaliser,
        gamma: f64,
    ) -> Result<(Vec<f64>, Counts)> {
        let (mut values, outcomes, counts) = self.normalise(&self.gains, pool, rule)?;
        for (t, gains, last) in self.trajectories() {
            values[last] = outcomes[t];
            for k in gains.rev() {
                values[k] += gamma * values[k + 1];
            }
        }
        Ok((values, counts))
    }

    /// One value a turn as what a method returns; `fill` stands at other tokens.
    pub fn values(&self, by_turn: Vec<f64>, fill: f64) -> Result<Values> {
        if self.boundary == Boundary::Explicit {
            return Ok(Values::Turns(by_turn));
        }
        let double = self.rollouts.floats(&TOKEN_REWARDS)?.is_double();
        let tokens = turns_to_tokens(self.rollouts, &self.turns, &by_turn, fill, double)?;
        Ok(Values::Tokens(tokens))
    }
}

/// Turns that end where the token reward is not 0, each with that reward. A row's last
/// turn ends at its last trained token, whatever the reward there; NaN if any is absent.
fn nonzero(rollouts: &Rollouts<'_>) -> Result<(Turns, Vec<f64>)> {
    let rows = rollouts.rows();
    let parts = rollouts.exec().map(rows.chunks(CHUNK_TOKENS), |chunk| {
        let mut reader = rollouts.token_rewards()?;
        let (mut counts, mut spans, mut gains) = (Vec::new(), Vec::new(), Vec::new());
        for row in chunk {
            let present = reader.read(row)?;
            let base = rows.start(row);
            let before = spans.len();
            let mut start = 0;
            if let Some(end) = reader.mask.iter().rposition(|&m| m) {
                let read = reader.mask[..=end].iter().zip(&reader.rewards).enumerate();
                for (at, (&trained, &reward)) in read {
                    if at == end || (reward != 0.0 && trained) {
                        spans.push(base + start..base + at + 1);
                        gains.push(if present { reward } else { f64::NAN });
                        start = at + 1;
                    }
                }
            }
            counts.push(spans.len() - before);
        }
        Ok((counts, spans, gains))
    })?;
    let mut turns = Turns { offsets: vec![0], spans: Vec::new() };
    let mut gains = Vec::new();
    for (counts, spans, part) in parts {
        for count in counts {
            turns.offsets.push(turns.offsets[turns.offsets.len() - 1] + count);
        }
        turns.spans.extend(spans);
        gains.extend(part);
    }
    Ok((turns, gains))
}
