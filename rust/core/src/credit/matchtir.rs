//! `matchtir`: tool calls matched with gold calls, credited by turn and by trajectory.

use std::collections::BTreeSet;

use crate::choice;
use crate::column::{
    ColumnSpec, GROUP_IDS, Kind, Level, OUTCOME_REWARDS, TOKEN_REWARDS, TURN_REWARDS,
};
use crate::credit::{Credit, Values};
use crate::error::{Error, Result};
use crate::exec::Exec;
use crate::group::Groups;
use crate::matching::{Scores, greedy, optimal, sinkhorn};
use crate::options::{NonNegative, Positive, Unit};
use crate::returns::discounted;
use crate::rollouts::Rollouts;
use crate::stats::{Normaliser, Scale, Weights};
use crate::tool_calls::ToolCall;

/// Tool calls of a turn.
pub const TOOL_CALLS: ColumnSpec = ColumnSpec::new(
    "tool_calls",
    Level::Turn,
    Kind::Text,
    "Tool calls of a turn: a JSON list of objects with name and arguments; empty for none.",
);
/// Tool calls that a trajectory should have made.
pub const GOLD_CALLS: ColumnSpec = ColumnSpec::new(
    "gold_calls",
    Level::Trajectory,
    Kind::Text,
    "Tool calls that a trajectory should have made, written as tool_calls.",
);
/// What the policy wrote.
pub const TEXTS: ColumnSpec = ColumnSpec::new(
    "texts",
    Level::Turn,
    Kind::Text,
    "What the policy wrote in a turn; <answer>...</answer> in it marks the final answer.",
);
/// The right final answer.
pub const GOLD_ANSWERS: ColumnSpec = ColumnSpec::new(
    "gold_answers",
    Level::Trajectory,
    Kind::Text,
    "The right final answer of a trajectory.",
);

choice! {
    /// How predicted calls are matched with gold calls.
    Assign {
        /// One to one, best pair first, as the authors' code does.
        Greedy = "greedy",
        /// One to one with the highest total, as the paper says.
        Optimal = "optimal",
        /// Each call in parts, by entropic transport.
        Sinkhorn = "sinkhorn",
    }
}

crate::method! {
    /// Turn rewards from matching a trajectory's tool calls with gold calls, credited
    /// half by the turn and half by the trajectory.
    ///
    /// # Formula
    ///
    /// Similarity of a call with a gold call: 0 where the names differ but for case, else
    /// `S = (1 + J + V) / (2 + |gold arguments|)`, with `J` the Jaccard index of the argument
    /// names and `V` the number of gold arguments with an equal value. The calls of all turns
    /// of a trajectory are matched with its gold calls; the reward of a call is `S` of its
    /// pair, or `unmatched` where it has no pair with `S > 0`. With `assign="sinkhorn"` it is
    /// `sum_g T_g S_g`, `T` the entropic plan with marginals `1/P`, `1/G` and regularisation
    /// `reg`. The reward `r_j` of a turn is the mean over its calls; for a turn with
    /// `<answer>...</answer>` the F1 of its set of words against the gold answer's; else 0.
    /// Where `turn_rewards` or `token_rewards` (read at a turn's last trained token) are
    /// there, they are `r_j`, and nothing is matched.
    ///
    /// `D_j = r_j + lam D_{j+1}` becomes `B_j = (D_j - mean) / (std + eps)` over the group's
    /// turns of the same number, `R` (`outcome_rewards` where there, else the sum of the
    /// rewards) becomes `C` in the same way over the group, both with Bessel's deviation.
    /// `A_j = (C + B_j) / 2` at every trained token of turn `j`.
    ///
    /// # Source
    ///
    /// Qu et al. 2026, arXiv:2601.10712, and the authors' code, which assigns greedily where
    /// the paper says optimally.
    ///
    /// # Errors
    ///
    /// JSON that is malformed or nested over 128 deep names its column and index.
    ///
    /// # Degenerate cases
    ///
    /// A group of one keeps its value; equal values give 0. No gold call: nothing is
    /// matched, and with "sinkhorn" the reward is 0. A trajectory without trained tokens
    /// gets nothing. A NaN reward makes the sums that contain it absent: they enter no
    /// statistic and their part of the credit is 0.
    "matchtir" {
        title: "Matched tool-integrated reasoning",
        granularity: Turn,
        family: "turn rewards",
        paper: "arXiv:2601.10712",
        certainty: Code,
        batch_wide: |options| options.scale == Scale::Batch,
        needs: [GROUP_IDS],
        takes: [
            TURN_REWARDS, TOKEN_REWARDS, OUTCOME_REWARDS,
            TOOL_CALLS, GOLD_CALLS, TEXTS, GOLD_ANSWERS,
        ],
        options: {
            /// Discount from turn to turn.
            lam: Unit = 0.9,
            /// How calls are matched.
            assign: Assign = Assign::Optimal,
            /// Regularisation of `assign="sinkhorn"`.
            reg: Positive = 0.1,
            /// Reward of a call without a pair.
            unmatched: f64 = 0.0,
            /// Divide the trajectory's part by the standard deviation, or by nothing.
            scale: Scale = Scale::Std,
            /// Added to the standard deviations.
            eps: NonNegative = 1e-6,
        },
        presets: {},
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let matched = !rollouts.has(&TURN_REWARDS) && !rollouts.has(&TOKEN_REWARDS);
    let rewards = if matched {
        matched_rewards(rollouts, options)?
    } else if rollouts.has(&TURN_REWARDS) {
        rollouts.turn_rewards()?
    } else {
        last_token_rewards(rollouts)?
    };
    let turns = rollouts.turns()?;
    let trajectories = 0..rollouts.trajectories();
    let totals = if rollouts.has(&OUTCOME_REWARDS) || rollouts.has(&TOKEN_REWARDS) {
        rollouts.outcomes()?
    } else {
        trajectories.clone().map(|t| rewards[turns.of(t)].iter().sum()).collect()
    };
    let prompts = rollouts.groups()?;
    let rule = Normaliser { eps: *options.eps, ..Normaliser::default() };
    let of_trajectory = Normaliser { scale: options.scale, ..rule };
    let (trajectory_part, counts) = of_trajectory.apply(&totals, prompts, Weights::Equal);

    let mut sums = rewards.clone();
    let mut keys = Vec::with_capacity(sums.len());
    for t in trajectories {
        discounted(&mut sums[turns.of(t)], *options.lam);
        keys.extend((0..turns.of(t).len()).map(|j| (prompts.ids()[t], j)));
    }
    let same_turn = Groups::by(keys.len(), |k| keys[k]);
    let (mut advantages, _) = rule.apply(&sums, &same_turn, Weights::Equal);
    for (a, t) in advantages.iter_mut().zip(turns.trajectories()) {
        *a = (*a + trajectory_part[t]) / 2.0;
    }
    let credit = Credit::new(Values::Turns(advantages), counts);
    Ok(if matched { credit.with("turn_rewards", Values::Turns(rewards)) } else { credit })
}

/// Token reward at each turn's last trained token; 0 for a turn without one.
fn last_token_rewards(rollouts: &Rollouts<'_>) -> Result<Vec<f64>> {
    let rewards = rollouts.floats(&TOKEN_REWARDS)?;
    let spans = &rollouts.turns()?.spans;
    let parts = rollouts.exec().ranges(spans.len(), 1 << 10, |turns| {
        let mut mask = Vec::new();
        turns
            .map(|turn| {
                rollouts.mask().read(spans[turn].clone(), &mut mask)?;
                let last = mask.iter().rposition(|&m| m).map(|at| spans[turn].start + at);
                last.map_or(Ok(0.0), |at| rollouts.reward(&TOKEN_REWARDS, at, rewards.get(at)))
            })
            .collect::<Result<Vec<f64>>>()
    })?;
    Ok(parts.concat())
}

/// Reward of each turn from its tool calls or its answer.
fn matched_rewards(rollouts: &Rollouts<'_>, options: &Options) -> Result<Vec<f64>> {
    let calls = rollouts.texts(&TOOL_CALLS)?;
    let gold = rollouts.texts(&GOLD_CALLS)?;
    let answers = match rollouts.has(&TEXTS) && rollouts.has(&GOLD_ANSWERS) {
        true => Some((rollouts.texts(&TEXTS)?, rollouts.texts(&GOLD_ANSWERS)?)),
        false => None,
    };
    let turns = rollouts.turns()?;
    let last_rows = rollouts.last_rows();
    let place = |turn: usize| rollouts.turn_places().map_or(turn, |places| places[turn]);
    let parts = rollouts.exec().ranges(rollouts.trajectories(), 16, |trajectories| {
        let mut rewards = Vec::new();
        for t in trajectories {
            rollouts.exec().check()?;
            let gold = read_calls(&GOLD_CALLS, gold, last_rows[t])?;
            let by_turn = turns
                .of(t)
                .map(|turn| read_calls(&TOOL_CALLS, calls, place(turn)))
                .collect::<Result<Vec<_>>>()?;
            let calls: Vec<&ToolCall> = by_turn.iter().flatten().collect();
            let mut of_calls = call_rewards(&calls, &gold, options, rollouts.exec())?.into_iter();
            for (turn, calls) in turns.of(t).zip(&by_turn) {
                let mean =
                    of_calls.by_ref().take(calls.len()).sum::<f64>() / calls.len().max(1) as f64;
                let answer = answers.and_then(|(texts, gold)| {
                    Some(answer_f1(tagged_answer(texts[place(turn)])?, gold[last_rows[t]]))
                });
                rewards.push(answer.unwrap_or(mean));
            }
        }
        Ok(rewards)
    })?;
    Ok(parts.concat())
}

fn read_calls(spec: &ColumnSpec, texts: &[&str], index: usize) -> Result<Vec<ToolCall>> {
    ToolCall::read_list(texts[index]).map_err(|got| Error::Value {
        argument: spec.name.to_owned(),
        index,
        got,
        expected: "a JSON list of calls, each with a name and with arguments or parameters"
            .to_owned(),
    })
}

/// Reward of each predicted call of a trajectory.
fn call_rewards(
    calls: &[&ToolCall],
    gold: &[ToolCall],
    options: &Options,
    exec: &Exec<'_>,
) -> Result<Vec<f64>> {
    let alike = calls.iter().flat_map(|call| gold.iter().map(move |g| call.similarity(g)));
    let scores = Scores::new(alike.collect(), calls.len(), gold.len())?;
    let pairs = match options.assign {
        Assign::Greedy => greedy(&scores),
        Assign::Optimal => optimal(&scores, exec)?,
        Assign::Sinkhorn => {
            let plan = sinkhorn(&scores, *options.reg, exec)?;
            let share = |row: usize| {
                let of_pair =
                    |column: usize| plan[row * gold.len() + column] * scores.get(row, column);
                (0..gold.len()).map(of_pair).sum()
            };
            return Ok((0..calls.len()).map(share).collect());
        }
    };
    let reward = |(row, column): (usize, Option<usize>)| {
        let score = column.map_or(0.0, |column| scores.get(row, column));
        if score > 0.0 { score } else { options.unmatched }
    };
    Ok(pairs.into_iter().enumerate().map(reward).collect())
}

/// What stands in the first `<answer>...</answer>`.
pub fn tagged_answer(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<answer>")?;
    rest.split_once("</answer>").map(|(answer, _)| answer)
}

/// F1 of the sets of words after lower-casing and turning ASCII punctuation to blanks;
/// 0 where they share none.
pub fn answer_f1(answer: &str, gold: &str) -> f64 {
    let (answer, gold) = (words(answer), words(gold));
    let shared = answer.intersection(&gold).count();
    if shared == 0 { 0.0 } else { 2.0 * shared as f64 / (answer.len() + gold.len()) as f64 }
}

fn words(text: &str) -> BTreeSet<String> {
    let text = text.to_lowercase();
    let between = |c: char| {
        c.is_whitespace() || c.is_ascii_punctuation() || ('\u{1c}'..='\u{1f}').contains(&c)
    };
    text.split(between).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
