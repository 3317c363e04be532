//! `grpo`: outcome rewards, centred and scaled within a group.

use crate::column::{GROUP_IDS, OUTCOME_REWARDS, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::options::NonNegative;
use crate::rollouts::Rollouts;
use crate::stats::{Normaliser, Scale, Singleton, Weights};

crate::method! {
    /// Group-relative policy optimisation: how much better a trajectory scored
    /// than the others of its group, in standard deviations.
    ///
    /// # Formula
    ///
    /// `A_i = (s_i - mean) / (std + eps)` over the trajectories of a group, with
    /// Bessel's standard deviation; every trained token of trajectory `i` gets `A_i`.
    /// With `scale="none"` it is `s_i - mean` (Dr. GRPO).
    ///
    /// # Source
    ///
    /// Shao et al. 2024, arXiv:2402.03300, equation of outcome supervision;
    /// Dr. GRPO: Liu et al. 2025, arXiv:2503.20783.
    ///
    /// # Degenerate cases
    ///
    /// A group of one keeps its score (`singleton="raw"`) or gives 0. A group of
    /// equal scores gives exactly 0. A NaN score is left out and gets 0.
    "grpo" {
        title: "Group-relative policy optimisation",
        granularity: Trajectory,
        family: "group baseline",
        paper: "arXiv:2402.03300",
        certainty: Code,
        needs: [OUTCOME_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS],
        options: {
            /// Divide by the group's standard deviation, or by nothing (Dr. GRPO).
            scale: Scale = Scale::Std,
            /// Degrees of freedom taken off in the variance.
            ddof: NonNegative = 1.0,
            /// Added to the standard deviation.
            eps: NonNegative = 1e-6,
            /// What a group of one gives.
            singleton: Singleton = Singleton::Raw,
        },
        presets: {
            "verl" => {},
            "trl" => { eps = 1e-4, singleton = Singleton::Zero },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let rule = Normaliser {
        scale: options.scale,
        ddof: *options.ddof,
        eps: *options.eps,
        singleton: options.singleton,
        ..Normaliser::default()
    };
    let (advantages, counts) = rule.apply(&rollouts.outcomes()?, rollouts.groups()?, Weights::Equal);
    Ok(Credit::new(Values::Trajectories(advantages), counts))
}
