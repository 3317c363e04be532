//! `igpo`: information gain of turns and the outcome, normalised and accumulated.

use crate::choice;
use crate::column::{GROUP_IDS, OUTCOME_REWARDS, TOKEN_REWARDS, TURN_REWARDS};
use crate::credit::Credit;
use crate::error::Result;
use crate::gains::{Boundary, GainTurns, Pool, rule};
use crate::options::{NonNegative, Unit};
use crate::rollouts::Rollouts;
use crate::stats::Scale;

choice! {
    /// Which rewards are normalised together.
    Mode {
        /// Gains and outcomes of a group together.
        Joint = "joint",
        /// Gains of a group, and apart from them its outcomes.
        Separate = "separate",
    }
}

crate::method! {
    /// Information-gain policy optimisation: a turn is rewarded by how much likelier
    /// it made the gold answer, the last turn by the outcome.
    ///
    /// # Formula
    ///
    /// Gains `g` (times `gain_weight`) and outcomes `O` (times `outcome_weight`) become
    /// `x = (x - mean) / (sqrt(var + 1e-8) + eps)` within a group, biased variance, in one
    /// pool (`mode="joint"`) or two. `A_j = g_j + gamma A_{j+1}`, with `A = O` at the last
    /// turn; every trained token of turn `j` gets `A_j`. `turn_rewards` holds the gain of
    /// each turn; that of the last turn is the outcome unless `outcome_rewards` is there.
    ///
    /// # Source
    ///
    /// Wang et al. 2025, arXiv:2510.14967, and `compute_igpo_turn_level_advantage` as kept
    /// in the code of SIOP, which finds turns at non-zero token rewards
    /// (`boundary="nonzero"`): there a turn without gain merges into the next.
    ///
    /// # Degenerate cases
    ///
    /// A pool of one value, or of equal values, gives 0. A NaN gain is left out of the
    /// statistics and counts 0. A trajectory without outcome is left out and gets 0.
    /// `boundary="nonzero"` needs one row a trajectory.
    "igpo" {
        title: "Information-gain policy optimisation",
        granularity: Turn,
        family: "turn rewards",
        paper: "arXiv:2510.14967",
        certainty: Code,
        batch_wide: |options| options.scale == Scale::Batch,
        needs: [TURN_REWARDS, GROUP_IDS],
        takes: [OUTCOME_REWARDS, TOKEN_REWARDS],
        options: {
            /// Discount from turn to turn.
            gamma: Unit = 1.0,
            /// Which rewards are normalised together.
            mode: Mode = Mode::Separate,
            /// Factor on outcomes before they are normalised (curriculum).
            outcome_weight: NonNegative = 1.0,
            /// Factor on gains before they are normalised (curriculum).
            gain_weight: NonNegative = 1.0,
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
    let mut turns = GainTurns::read(rollouts, options.boundary, METHOD.card.name)?;
    turns.gains.iter_mut().for_each(|g| *g *= *options.gain_weight);
    turns.outcomes.iter_mut().for_each(|o| *o *= *options.outcome_weight);
    let pool = match options.mode {
        Mode::Joint => Pool::Joint,
        Mode::Separate => Pool::Separate,
    };
    let rule = rule(options.scale, *options.eps);
    let (advantages, counts) = turns.to_outcome(pool, &rule, *options.gamma)?;
    Ok(Credit::new(turns.values(advantages, 0.0)?, counts))
}
