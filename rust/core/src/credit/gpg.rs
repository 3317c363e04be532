//! `gpg`: centred outcome rewards, scaled up by the share of scores that are not 0.

use crate::column::{GROUP_IDS, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::options::Positive;
use crate::rollouts::Rollouts;
use crate::stats::{Normaliser, Scale, Singleton, Weighting};

crate::method! {
    /// Group policy gradient: centred scores, made larger when many scores of the batch
    /// are 0, so that the gradient does not shrink with them.
    ///
    /// # Formula
    ///
    /// `A_i = alpha (s_i - mean) / f_norm` with the group's mean and
    /// `alpha = B / max(#{i: s_i != 0}, 1)` over the `B` present trajectories of the batch;
    /// every trained token of trajectory `i` gets `A_i`.
    ///
    /// # Source
    ///
    /// Chu et al. 2025, arXiv:2504.02546; verl `compute_gpg_outcome_advantage`.
    ///
    /// # Degenerate cases
    ///
    /// A group of one keeps its score times `alpha / f_norm` (`singleton="raw"`) or gives
    /// 0. Equal scores give exactly 0. A NaN score is left out, of `B` too, and gets 0.
    "gpg" {
        title: "Group policy gradient",
        granularity: Trajectory,
        family: "group baseline",
        paper: "arXiv:2504.02546",
        certainty: Code,
        batch_wide: |_| true,
        needs: [OUTCOME_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// Divisor of the advantages.
            f_norm: Positive = 1.0,
            /// What a group of one gives.
            singleton: Singleton = Singleton::Raw,
            /// What counts once in a group's mean.
            weighting: Weighting = Weighting::Trajectory,
        },
        presets: {
            "verl" => { weighting = Weighting::Row },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let rule =
        Normaliser { scale: Scale::Nothing, singleton: options.singleton, ..Normaliser::default() };
    let scores = rollouts.outcomes()?;
    let present = scores.iter().filter(|s| !s.is_nan());
    let (all, scored) = present.fold((0.0, 0.0), |(n, k), &s| (n + 1.0, k + f64::from(s != 0.0)));
    let factor = all / f64::max(scored, 1.0) / *options.f_norm;
    let (mut advantages, counts) = rollouts.normalise(&rule, &scores, options.weighting)?;
    advantages.iter_mut().for_each(|a| *a *= factor);
    Ok(Credit::new(Values::Trajectories(advantages), counts))
}
