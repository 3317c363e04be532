//! `maxrl`: centred outcome rewards over the group's mean.

use crate::choice;
use crate::column::{GROUP_IDS, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::options::NonNegative;
use crate::rollouts::Rollouts;
use crate::stats::{Normaliser, Scale, Singleton, Weighting};

choice! {
    /// What a group whose mean is 0 or negative gives.
    NonPositiveMean {
        /// 0: without success there is nothing to learn from.
        Zero = "zero",
        /// The quotient all the same.
        Divide = "divide",
    }
}

crate::method! {
    /// Maximum-likelihood reinforcement learning: centred scores over the group's mean,
    /// so that a rare success weighs as much as it does in the likelihood of success.
    ///
    /// # Formula
    ///
    /// `A_i = (s_i - mean) / (mean + eps)` over the trajectories of a group; every trained
    /// token of trajectory `i` gets `A_i`. Meant for scores of 0 and 1.
    ///
    /// # Source
    ///
    /// Tajwar et al. 2026, arXiv:2602.02710. Presets: SkyRL `compute_maxrl_advantage`,
    /// prime-rl `max_rl`. No reference cases; checked against the naive oracle
    /// `outcome.maxrl` of the tests, which follows both.
    ///
    /// # Degenerate cases
    ///
    /// A group of one gives 0 or, with `singleton="raw"`, keeps its score. Equal scores
    /// give exactly 0. A mean of at most 0 gives 0 or, with `non_positive_mean="divide"`,
    /// the quotient, which is huge where the mean is just above `-eps`; where `mean + eps`
    /// is exactly 0 it is 0. A NaN score is left out and gets 0.
    "maxrl" {
        title: "Maximum-likelihood reinforcement learning",
        granularity: Trajectory,
        family: "group baseline",
        paper: "arXiv:2602.02710",
        certainty: ThirdParty,
        needs: [OUTCOME_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// Added to the mean in the denominator.
            eps: NonNegative = 1e-6,
            /// What a group of one gives.
            singleton: Singleton = Singleton::Zero,
            /// What a group whose mean is 0 or negative gives.
            non_positive_mean: NonPositiveMean = NonPositiveMean::Zero,
        },
        presets: {
            "skyrl" => {
                singleton = Singleton::Raw,
                non_positive_mean = NonPositiveMean::Divide,
            },
            "prime_rl" => { eps = 0.0 },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let rule =
        Normaliser { scale: Scale::Nothing, singleton: options.singleton, ..Normaliser::default() };
    let scores = rollouts.outcomes()?;
    let (mut advantages, counts) = rollouts.normalise(&rule, &scores, Weighting::Trajectory)?;
    for members in rollouts.groups()?.iter() {
        let present = || members.iter().copied().filter(|&i| !scores[i].is_nan());
        let count = present().count();
        if count > 1 {
            let mean = present().map(|i| scores[i]).sum::<f64>() / count as f64;
            let divisor = mean + *options.eps;
            let kept = mean > 0.0 || options.non_positive_mean == NonPositiveMean::Divide;
            let kept = kept && divisor != 0.0;
            present()
                .for_each(|i| advantages[i] = if kept { advantages[i] / divisor } else { 0.0 });
        }
    }
    Ok(Credit::new(Values::Trajectories(advantages), counts))
}
