//! `reinforce_pp_baseline`: centred outcome rewards, whitened over the batch.

use crate::column::{GROUP_IDS, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::options::NonNegative;
use crate::rollouts::Rollouts;
use crate::stats::{Normaliser, Scale, Singleton, Weighting};
use crate::whiten::{Whitening, whiten_trajectories};

crate::method! {
    /// REINFORCE++ with a group baseline: scores centred within their group, then
    /// whitened over the whole batch instead of divided by the group's deviation.
    ///
    /// # Formula
    ///
    /// `x_i = s_i - mean` within the group, written on every trained token of trajectory
    /// `i`; then `A = (x - mean(x)) / sqrt(max(var(x), var_floor) + eps)` over all trained
    /// tokens of the batch, so that long trajectories weigh more.
    ///
    /// # Source
    ///
    /// Hu et al. 2025, arXiv:2501.03262. Presets: verl
    /// `compute_reinforce_plus_plus_baseline_outcome_advantage`, which counts every row of
    /// a trajectory of several rows; OpenRLHF `reinforce_baseline` and NeMo-RL, both with
    /// the population variance and without their KL term.
    ///
    /// # Degenerate cases
    ///
    /// A group of one enters the whitening with its score (`singleton="raw"`) or with 0
    /// (`"zero"`; OpenRLHF refuses such groups, its preset takes 0). Equal values, or at
    /// most `ddof` trained tokens, whiten to exactly 0; verl raises for fewer than two
    /// tokens. A NaN score is left out of everything and gets 0.
    "reinforce_pp_baseline" {
        title: "REINFORCE++ with a group baseline",
        granularity: Trajectory,
        family: "group baseline",
        paper: "arXiv:2501.03262",
        certainty: Code,
        batch_wide: |_| true,
        needs: [OUTCOME_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// What a group of one gives before the whitening.
            singleton: Singleton = Singleton::Raw,
            /// What counts once in a group's mean.
            weighting: Weighting = Weighting::Trajectory,
            /// Degrees of freedom taken off in the variance of the whitening.
            ddof: NonNegative = 1.0,
            /// Added to the variance, inside the root.
            eps: NonNegative = 1e-8,
            /// Smallest variance of the whitening.
            var_floor: NonNegative = 0.0,
        },
        presets: {
            "verl" => { weighting = Weighting::Row },
            "openrlhf" => {
                singleton = Singleton::Zero, ddof = 0.0, eps = 0.0, var_floor = 1e-8
            },
            "nemo_rl" => {
                singleton = Singleton::Zero, ddof = 0.0, eps = 0.0, var_floor = 1e-8
            },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let rule =
        Normaliser { scale: Scale::Nothing, singleton: options.singleton, ..Normaliser::default() };
    let Options { ddof, eps, var_floor, .. } = *options;
    // Only verl has the 1e-8 in the mean's divisor, and it is far below any eps.
    let whitening = Whitening { ddof: *ddof, eps: *eps, var_floor: *var_floor, ..Whitening::VERL };
    let scores = rollouts.outcomes()?;
    let (mut advantages, counts) = rollouts.normalise(&rule, &scores, options.weighting)?;
    whiten_trajectories(rollouts, &mut advantages, &whitening, |i| !scores[i].is_nan())?;
    Ok(Credit::new(Values::Trajectories(advantages), counts))
}
