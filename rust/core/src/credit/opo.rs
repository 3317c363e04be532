//! `opo`: outcome rewards minus the length-weighted mean of the group.

use crate::column::{GROUP_IDS, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::rollouts::Rollouts;
use crate::stats::{Normaliser, Scale, Singleton, Weighting};

crate::method! {
    /// On-policy RL with optimal reward baseline: the baseline that minimises the
    /// gradient's variance when a trajectory's gradient norm grows with its length.
    ///
    /// # Formula
    ///
    /// `A_i = s_i - b`, `b = sum_j n_j s_j / sum_j n_j` over the trajectories of a group,
    /// with `n_j` trained tokens in trajectory `j`; every trained token of trajectory `i`
    /// gets `A_i`.
    ///
    /// # Source
    ///
    /// Hao et al. 2025, arXiv:2505.23585; verl `compute_opo_outcome_advantage`.
    ///
    /// # Degenerate cases
    ///
    /// A group of one keeps its score (`singleton="raw"`) or gives 0. Equal scores give
    /// exactly 0. A group without a trained token gives 0, where verl has NaN at tokens
    /// that no loss reads. A NaN score is left out and gets 0.
    "opo" {
        title: "Optimal reward baseline",
        granularity: Trajectory,
        family: "group baseline",
        paper: "arXiv:2505.23585",
        certainty: Code,
        needs: [OUTCOME_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// What a group of one gives.
            singleton: Singleton = Singleton::Raw,
        },
        presets: {
            "verl" => {},
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let rule =
        Normaliser { scale: Scale::Nothing, singleton: options.singleton, ..Normaliser::default() };
    let scores = rollouts.outcomes()?;
    let (advantages, counts) = rollouts.normalise(&rule, &scores, Weighting::Token)?;
    Ok(Credit::new(Values::Trajectories(advantages), counts))
}
