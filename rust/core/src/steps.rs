//! Reasoning steps of trajectories: where they end and what they are worth.
//!
//! Steps are given as turns: spans of a row, or rows of their own. May depend on
//! `rollouts` and below.

use std::ops::Range;

use crate::column::OUTCOME_REWARDS;
use crate::error::Result;
use crate::rollouts::Rollouts;

/// A reasoning step with at least one trained token and a reward.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Which turn it is.
    pub turn: usize,
    /// Its last trained token, counted within the trajectory.
    pub end: usize,
    /// Its trained tokens.
    pub tokens: f64,
    /// Its reward.
    pub reward: f64,
}

/// A trajectory as a sequence of tokens with steps in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// The token ranges that it consists of: its row, or the rows of its turns.
    pub pieces: Vec<Range<usize>>,
    /// Which of its tokens are trained.
    pub mask: Vec<bool>,
    /// Its steps in order. Those without trained tokens or with an absent reward are left out.
    pub steps: Vec<Step>,
    /// Its outcome, where it has one.
    pub outcome: Option<f64>,
}

impl Trajectory {
    /// Flat positions of its tokens.
    pub fn tokens(&self) -> impl Iterator<Item = usize> + '_ {
        self.pieces.iter().cloned().flatten()
    }

    /// How many tokens are trained.
    pub fn trained(&self) -> f64 {
        self.mask.iter().filter(|&&m| m).count() as f64
    }

    /// Sum of its step rewards.
    pub fn process(&self) -> f64 {
        self.steps.iter().map(|step| step.reward).sum()
    }
}

/// Reads every trajectory's steps.
pub fn read(rollouts: &Rollouts<'_>) -> Result<Vec<Trajectory>> {
    let (turns, rewards) = (rollouts.turns()?, rollouts.turn_rewards()?);
    let outcomes = match rollouts.has(&OUTCOME_REWARDS) {
        true => rollouts.outcomes()?,
        false => vec![f64::NAN; rollouts.trajectories()],
    };
    let mut buffer = Vec::new();
    let mut trajectories = Vec::with_capacity(outcomes.len());
    for (i, outcome) in outcomes.into_iter().enumerate() {
        rollouts.exec().check()?;
        let pieces = match rollouts.is_step_rows() {
            true => turns.spans[turns.of(i)].to_vec(),
            false => vec![rollouts.rows().range(i)],
        };
        let (mut mask, mut starts) = (Vec::new(), Vec::with_capacity(pieces.len()));
        for piece in &pieces {
            starts.push(mask.len());
            rollouts.mask().read(piece.clone(), &mut buffer)?;
            mask.extend_from_slice(&buffer);
        }
        let mut steps = Vec::new();
        for (k, turn) in turns.of(i).enumerate() {
            let piece = if rollouts.is_step_rows() { k } else { 0 };
            let span = turns.spans[turn].clone();
            let start = starts[piece] + span.start - pieces[piece].start;
            let own = &mask[start..start + span.len()];
            let last = own.iter().rposition(|&m| m);
            if let (Some(last), false) = (last, rewards[turn].is_nan()) {
                let tokens = own.iter().filter(|&&m| m).count() as f64;
                steps.push(Step { turn, end: start + last, tokens, reward: rewards[turn] });
            }
        }
        let outcome = Some(outcome).filter(|v| !v.is_nan());
        trajectories.push(Trajectory { pieces, mask, steps, outcome });
    }
    Ok(trajectories)
}
