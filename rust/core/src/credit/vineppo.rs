//! `vineppo`: steps against values that were estimated by rollouts from each state.

use crate::column::{
    ColumnSpec, Kind, Level, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS, TURN_REWARDS,
};
use crate::credit::{Credit, Values};
use crate::error::{Error, Result};
use crate::nodes::{NODE_VALUES, Nodes, PARENTS, Per, total};
use crate::rollouts::Rollouts;
use crate::stats::Counts;
use crate::tree::readout::values::ValueMode;

/// Values before turns.
pub const TURN_VALUES: ColumnSpec = ColumnSpec::new(
    "turn_values",
    Level::Turn,
    Kind::Reward,
    "Estimated return from the state in which a turn was taken, customarily the mean outcome \
     of rollouts from there; NaN where it was not estimated.",
);
/// Values after the last turn.
const FINAL_VALUES: ColumnSpec = ColumnSpec::new(
    "final_values",
    Level::Trajectory,
    Kind::Reward,
    "Estimated return from the state after a trajectory's last turn, where it was cut off; \
     missing or NaN, where it ended there, counts as 0.",
);

crate::method! {
    /// VinePPO: what a step changes in the value of the state, values being the mean outcome
    /// of independent rollouts from each state instead of a critic's guess.
    ///
    /// # Formula
    ///
    /// `A_t = r_t + V_{t+1} - V_t` for turn `t`, on each of its trained tokens: `V_t` its
    /// value in `turn_values`, that after the last turn from `final_values`, else 0. `r_t` is
    /// `turn_rewards` where they are given, else the outcome at the last turn and 0 before.
    /// A missing value is filled from the end: `V_t = r_t + V_{t+1}`.
    ///
    /// With `parents` a row is a node: `A(n) = V(n) - V(p)`, `V` from `node_values`, where it
    /// is missing the outcome at leaves and the mean over the children elsewhere.
    ///
    /// # Extras
    ///
    /// `values`: the values used, of turns those before them, of nodes their own.
    ///
    /// # Source
    ///
    /// Kazemnejad et al. 2024, arXiv:2410.01679, equation 6; the authors'
    /// `_compute_step_advantages`, 9 rollouts a state.
    ///
    /// # Degenerate cases
    ///
    /// A turn whose reward is NaN gets 0, and so do those before it up to the next value.
    /// A trajectory of which no value was estimated gives 0 everywhere. Roots get 0.
    "vineppo" {
        title: "VinePPO: Monte-Carlo values of states",
        granularity: Turn,
        family: "tree",
        paper: "arXiv:2410.01679",
        certainty: Code,
        needs: [ColumnSpec { derived_from: &["node_values"], ..TURN_VALUES }],
        takes: [
            FINAL_VALUES, TURN_REWARDS, OUTCOME_REWARDS, TOKEN_REWARDS, REWARD_MATRIX,
            PARENTS, NODE_VALUES,
        ],
        options: {},
        presets: {},
    }
}

fn credit(rollouts: &Rollouts<'_>, _options: &Options) -> Result<Credit> {
    if rollouts.has(&PARENTS) {
        return of_nodes(rollouts);
    }
    let mut ends = vec![0.0; rollouts.trajectories()];
    if rollouts.has(&FINAL_VALUES) {
        let rows = rollouts.floats(&FINAL_VALUES)?;
        for (end, row) in ends.iter_mut().zip(rollouts.last_rows()) {
            let value = finite_or_nan(&FINAL_VALUES, row, rows.get(row))?;
            *end = if value.is_nan() { 0.0 } else { value };
        }
    }
    let rewards = if rollouts.has(&TURN_REWARDS) || rollouts.has(&TOKEN_REWARDS) {
        rollouts.turn_rewards()?
    } else {
        outcome_at_last_turn(rollouts)?
    };
    chain(rollouts, &rewards, &ends)
}

fn of_nodes(rollouts: &Rollouts<'_>) -> Result<Credit> {
    let nodes = Nodes::read(rollouts)?;
    let ([advantages, values], counts) =
        nodes.by_part([Per::Node; 2], |part, [advantages, node_values]| {
            let (parents, tally) = (part.parents(), part.values(ValueMode::Child)?);
            let values = &tally.values;
            for n in (0..part.len()).filter(|&n| !values[n].is_nan()) {
                advantages[n] = parents.of(n).map_or(0.0, |p| values[n] - values[p]);
            }
            node_values.copy_from_slice(values);
            Ok(part.counts(&parents.trees(), &tally))
        })?;
    let credit = Credit::new(nodes.edges(advantages), total(counts));
    Ok(credit.with("values", nodes.edges(values)))
}

fn outcome_at_last_turn(rollouts: &Rollouts<'_>) -> Result<Vec<f64>> {
    let turns = rollouts.turns()?;
    let mut rewards = vec![0.0; turns.spans.len()];
    for (trajectory, outcome) in rollouts.outcomes()?.into_iter().enumerate() {
        if let Some(last) = turns.of(trajectory).next_back() {
            rewards[last] = outcome;
        }
    }
    Ok(rewards)
}

/// `A_t = r_t + V_{t+1} - V_t` along each trajectory, `V` from `turn_values` and `ends` after
/// the last turn; a missing value is `r_t + V_{t+1}`.
pub fn chain(rollouts: &Rollouts<'_>, rewards: &[f64], ends: &[f64]) -> Result<Credit> {
    let turns = rollouts.turns()?;
    let given = rollouts.floats(&TURN_VALUES)?;
    let (mut advantages, mut values) = (vec![0.0; rewards.len()], vec![0.0; rewards.len()]);
    for (trajectory, &end) in ends.iter().enumerate() {
        let mut next = end;
        for turn in turns.of(trajectory).rev() {
            let place = rollouts.turn_places().map_or(turn, |places| places[turn]);
            let known = finite_or_nan(&TURN_VALUES, place, given.get(place))?;
            let gained = rewards[turn] + next;
            values[turn] = if known.is_nan() { gained } else { known };
            let advantage = gained - values[turn];
            advantages[turn] = if advantage.is_nan() { 0.0 } else { advantage };
            next = values[turn];
        }
    }
    let counts = Counts { groups: rollouts.trajectories(), ..Counts::default() };
    Ok(Credit::new(Values::Turns(advantages), counts).with("values", Values::Turns(values)))
}

fn finite_or_nan(spec: &ColumnSpec, index: usize, value: f64) -> Result<f64> {
    if value.is_infinite() {
        return Err(Error::Value {
            argument: spec.name.to_owned(),
            index,
            got: value.to_string(),
            expected: "a finite number, or NaN where it was not estimated".to_owned(),
        });
    }
    Ok(value)
}
