//! `grpo`: outcome rewards, centred and scaled within a group.

use crate::column::{GROUP_IDS, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::options::NonNegative;
use crate::rollouts::Rollouts;
use crate::stats::{Centre, Normaliser, Scale, Singleton, Weighting, ZeroSpread};

crate::method! {
    /// Group-relative policy optimisation: how much better a trajectory scored
    /// than the others of its group, in standard deviations.
    ///
    /// # Formula
    ///
    /// `A_i = (s_i - mean) / (std + eps)` over the trajectories of a group, with
    /// Bessel's standard deviation; every trained token of trajectory `i` gets `A_i`.
    /// With `scale="none"` it is `s_i - mean` (Dr. GRPO); with `scale="batch"` the mean
    /// is the group's and the standard deviation that of the whole batch (TRL).
    /// `var_floor` gives verl's vectorised form, `sqrt(max(var, var_floor)) + eps`.
    /// `s_i` is the outcome reward or, from several reward functions, their weighted
    /// sum (TRL's sum_then_normalize; for normalize_then_sum see `gdpo`).
    ///
    /// # Source
    ///
    /// Shao et al. 2024, arXiv:2402.03300, equation of outcome supervision;
    /// Dr. GRPO: Liu et al. 2025, arXiv:2503.20783. Presets: verl
    /// `compute_grpo_outcome_advantage` and `compute_grpo_vectorized_outcome_advantage`;
    /// TRL `GRPOTrainer`; OpenRLHF `group_norm`; NeMo-RL with its leave-one-out baseline
    /// and deviation; AReaL `Normalization` at group level; prime-rl (never divided);
    /// SkyRL; ROLL `agentic_reward_norm` at group level.
    ///
    /// # Degenerate cases
    ///
    /// A group of one keeps its score, divided by `1 + eps` (`singleton="raw"`), or
    /// gives 0 (`"zero"`; OpenRLHF refuses such groups, its preset gives 0). A group of
    /// equal scores gives exactly 0. A NaN score is left out and gets 0; so does a
    /// trajectory to which no reward function applies.
    "grpo" {
        title: "Group-relative policy optimisation",
        granularity: Trajectory,
        family: "group baseline",
        paper: "arXiv:2402.03300",
        certainty: Code,
        batch_wide: |options| options.scale == Scale::Batch,
        needs: [OUTCOME_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// What is subtracted from a score.
            centre: Centre = Centre::Mean,
            /// By what the centred score is divided; "none" is Dr. GRPO.
            scale: Scale = Scale::Std,
            /// Degrees of freedom taken off in the variance.
            ddof: NonNegative = 1.0,
            /// Added to the standard deviation.
            eps: NonNegative = 1e-6,
            /// Smallest variance, inside the root.
            var_floor: NonNegative = 0.0,
            /// What a group of one gives.
            singleton: Singleton = Singleton::Raw,
            /// What a member gives whose scale is 0 although its group has spread, as where
            /// all others are equal under scale="leave_one_out_std".
            zero_spread: ZeroSpread = ZeroSpread::Zero,
            /// A standard deviation of at most this counts as no spread.
            spread_tolerance: NonNegative = 0.0,
            /// What counts once in a mean and a variance.
            weighting: Weighting = Weighting::Trajectory,
            /// Factor of each column of reward_matrix; empty: 1 each.
            reward_weights: Vec<f64> = Vec::new(),
        },
        presets: {
            "verl" => {},
            "verl_vectorized" => { var_floor = 1e-6 },
            "trl" => { eps = 1e-4, singleton = Singleton::Zero },
            "openrlhf" => { eps = 1e-9, singleton = Singleton::Zero },
            "nemo_rl" => {
                centre = Centre::LeaveOneOut,
                scale = Scale::LeaveOneOutStd,
                singleton = Singleton::Zero,
                zero_spread = ZeroSpread::Undivided,
            },
            "areal" => { eps = 1e-5, singleton = Singleton::Zero },
            "prime_rl" => { scale = Scale::Nothing, singleton = Singleton::Zero },
            "skyrl" => {},
            "roll" => { spread_tolerance = 1e-6, singleton = Singleton::Zero },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let rule = Normaliser {
        centre: options.centre,
        scale: options.scale,
        ddof: *options.ddof,
        eps: *options.eps,
        var_floor: *options.var_floor,
        singleton: options.singleton,
        zero_spread: options.zero_spread,
        spread_tolerance: *options.spread_tolerance,
        ..Normaliser::default()
    };
    let scores = rollouts.weighted_outcomes(&options.reward_weights)?;
    let (advantages, counts) = rollouts.normalise(&rule, &scores, options.weighting)?;
    Ok(Credit::new(Values::Trajectories(advantages), counts))
}
