//! `a2tgpo`: information gain compared at the same turn, and clip bounds that follow it.

use crate::choice;
use crate::column::{GROUP_IDS, OUTCOME_REWARDS, TOKEN_REWARDS, TURN_REWARDS};
use crate::credit::Credit;
use crate::error::Result;
use crate::gains::{Boundary, GainTurns, Pool, rule};
use crate::options::{NonNegative, Unit};
use crate::returns::{discounted, over_root_of_rest};
use crate::rollouts::Rollouts;
use crate::stats::{Counts, Moments, Normaliser, Scale};

/// How far the clip bounds move: the scale lies within `1 +- CLIP_REACH`.
const CLIP_REACH: f64 = 0.3;
/// Weight of the outcome in turns with gains, in mode "turn-group".
const OUTCOME_WEIGHT: f64 = 1.5;

choice! {
    /// How gains and outcomes are combined.
    Mode {
        /// The paper's: gains normalised per turn number, summed, and added to the outcome.
        TurnGroupV1d = "turn-group-v1d",
        /// Gains and outcome accumulated first, then normalised per turn number.
        TurnGroup = "turn-group",
        /// Gains and outcomes of a group normalised together, then accumulated.
        Joint = "joint",
        /// Gains and outcomes of a group normalised apart, then accumulated (IGPO).
        Separate = "separate",
    }
}

crate::method! {
    /// Agentic turn-group policy optimisation: information gain of a turn against that of
    /// the same turn in the group's other trajectories, plus the outcome.
    ///
    /// # Formula
    ///
    /// `g_j` and the outcome `O` become `(x - mean) / (sqrt(var + 1e-8) + eps)`, biased
    /// variance, gains over the group's turns of the same number `j`, outcomes over the
    /// group. With `n` gains in the trajectory, `D_j = g_j + gamma D_{j+1}` and
    /// `A_j = alpha D_j / sqrt(n - j) + O`; the last turn, which has no gain, gets `O`.
    /// The clip scale is `1 + 0.3 (2 sigmoid(g_j) - 1)`, and 1 at the last turn.
    /// `turn_rewards` holds the gain of each turn; that of the last turn is the outcome
    /// unless `outcome_rewards` is there.
    ///
    /// Other modes, without clip scale: "joint" and "separate" are `igpo`. "turn-group":
    /// `s` = std of all outcomes over std of all gains (biased, each at least `eps`, or 1
    /// where fewer than two values or no spread is there), `a_K = s g_K + gamma^2 O` at the last gain `K`,
    /// `a_j = s g_j + gamma a_{j+1}` before it, `A_j` = normalised `a_j` + 1.5 times the
    /// normalised outcome; the last turn gets the normalised outcome.
    ///
    /// # Source
    ///
    /// Chen et al. 2026, arXiv:2605.06200, and `compute_igpo_step_advantage` of the
    /// authors' code, which finds turns at non-zero
    /// token rewards (`boundary="nonzero"`) and so merges a turn without gain into the next.
    ///
    /// # Degenerate cases
    ///
    /// A group of one value, or of equal values, gives 0. A NaN gain is left out of the
    /// statistics and counts 0. A trajectory without outcome is left out and gets 0, with
    /// clip scale 1. `boundary="nonzero"` needs one row a trajectory.
    "a2tgpo" {
        title: "Agentic turn-group policy optimisation",
        granularity: Turn,
        family: "turn rewards",
        paper: "arXiv:2605.06200",
        certainty: Code,
        batch_wide: |options| options.scale == Scale::Batch || options.mode == Mode::TurnGroup,
        needs: [TURN_REWARDS, GROUP_IDS],
        takes: [OUTCOME_REWARDS, TOKEN_REWARDS],
        options: {
            /// Discount from turn to turn.
            gamma: Unit = 1.0,
            /// Weight of the accumulated gains in mode "turn-group-v1d".
            alpha: NonNegative = 0.3,
            /// How gains and outcomes are combined.
            mode: Mode = Mode::TurnGroupV1d,
            /// Where turns end.
            boundary: Boundary = Boundary::Explicit,
            /// Divide by the standard deviation, or by nothing.
            scale: Scale = Scale::Std,
            /// Added to the standard deviation.
            eps: NonNegative = 1e-6,
        },
        presets: {},
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let turns = GainTurns::read(rollouts, options.boundary, METHOD.card.name)?;
    let rule = rule(options.scale, *options.eps);
    let (advantages, counts) = match options.mode {
        Mode::TurnGroupV1d => return paper(&turns, &rule, options),
        Mode::TurnGroup => accumulated_first(&turns, &rule, options)?,
        Mode::Joint => turns.to_outcome(Pool::Joint, &rule, *options.gamma)?,
        Mode::Separate => turns.to_outcome(Pool::Separate, &rule, *options.gamma)?,
    };
    Ok(Credit::new(turns.values(advantages, 0.0)?, counts))
}

fn paper(turns: &GainTurns<'_, '_>, rule: &Normaliser, options: &Options) -> Result<Credit> {
    let (mut values, outcomes, counts) = turns.normalise(&turns.gains, Pool::Turn, rule)?;
    // 2 sigmoid(g) - 1 = tanh(g / 2); turns without a gain have g = 0 and so scale 1.
    let clip_scale = values.iter().map(|g| 1.0 + CLIP_REACH * (g / 2.0).tanh()).collect();
    for (t, gains, last) in turns.trajectories() {
        let gains = &mut values[gains];
        discounted(gains, *options.gamma);
        over_root_of_rest(gains);
        gains.iter_mut().for_each(|d| *d = *options.alpha * *d + outcomes[t]);
        values[last] = outcomes[t];
    }
    Ok(Credit {
        clip_scale: Some(turns.values(clip_scale, 1.0)?),
        ..Credit::new(turns.values(values, 0.0)?, counts)
    })
}

/// Mode "turn-group". The outcome is discounted twice on its way to the last gain, as in
/// the authors' code.
fn accumulated_first(
    turns: &GainTurns<'_, '_>,
    rule: &Normaliser,
    options: &Options,
) -> Result<(Vec<f64>, Counts)> {
    let gamma = *options.gamma;
    let ratio = spread(&turns.outcomes, *options.eps) / spread(&turns.gains, *options.eps);
    let mut mixed = vec![f64::NAN; turns.gains.len()];
    for (t, gains, _) in turns.trajectories() {
        let mut next = gamma * turns.outcomes[t];
        for k in gains.rev() {
            let gain = if turns.gains[k].is_nan() { 0.0 } else { turns.gains[k] };
            next = ratio * gain + gamma * next;
            mixed[k] = next;
        }
    }
    let (mut values, outcomes, counts) = turns.normalise(&mixed, Pool::Turn, rule)?;
    for (t, gains, last) in turns.trajectories() {
        values[gains].iter_mut().for_each(|v| *v += OUTCOME_WEIGHT * outcomes[t]);
        values[last] = outcomes[t];
    }
    Ok((values, counts))
}

/// Biased standard deviation of the values that are present, at least `eps`; 1 where that
/// would be nothing to divide by, and for fewer than two values.
fn spread(values: &[f64], eps: f64) -> f64 {
    let one = |&x: &f64| Moments { count: 1.0, mean: x, squares: 0.0 };
    let all =
        values.iter().filter(|x| !x.is_nan()).map(one).fold(Moments::default(), Moments::merge);
    let std = all.variance(0.0).sqrt().max(eps);
    if all.count > 1.0 && std > 0.0 { std } else { 1.0 }
}
