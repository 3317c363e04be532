//! `gdpo`: every reward function normalised for itself, then summed.

use crate::choice;
use crate::column::{GROUP_IDS, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::group::Groups;
use crate::options::NonNegative;
use crate::reward_matrix::RewardMatrix;
use crate::rollouts::Rollouts;
use crate::stats::{Centre, Counts, Normaliser, Scale, Singleton, Weights, ZeroSpread};
use crate::whiten::{Whitening, whiten_trajectories};

choice! {
    /// Over what the sum is brought to mean 0 and variance 1.
    Whiten {
        /// Over the trained tokens of the batch: long trajectories weigh more.
        Token = "token",
        /// Over the trajectories of the batch.
        Trajectory = "trajectory",
        /// Over nothing: the sum stays as it is.
        Nothing = "none",
    }
}

crate::method! {
    /// Group reward-decoupled normalisation: each reward function is normalised for
    /// itself before they are summed, so that none drowns the others by its spread.
    ///
    /// # Formula
    ///
    /// `z_ik = (r_ik - mean_k) / (std_k + eps)` within the group for each function `k`;
    /// `a_i = sum_k w_k z_ik`; then `A = (a - mean(a)) / sqrt(var(a) + whiten_eps)` over the
    /// trained tokens of the batch (`whiten="token"`), or
    /// `(a - mean(a)) / (std(a) + whiten_eps)` over its trajectories (`"trajectory"`).
    /// Every trained token of trajectory `i` gets `A_i`. Without `reward_matrix` the
    /// outcome reward is the only function.
    ///
    /// # Source
    ///
    /// Liu et al. 2026, arXiv:2601.05242. Presets: verl
    /// `compute_gdpo_outcome_advantage`; TRL's normalize_then_sum; NeMo-RL with its
    /// leave-one-out mean and deviation.
    ///
    /// # Degenerate cases
    ///
    /// A function that gives equal scores in a group adds exactly 0 there. For a group of
    /// one see `singleton`. A NaN score is left out of its function's statistics and adds
    /// nothing; a trajectory with none but NaN is left out of the last step too and gets 0.
    /// Equal sums, or fewer than two, give exactly 0.
    "gdpo" {
        title: "Group reward-decoupled normalisation policy optimisation",
        granularity: Trajectory,
        family: "group baseline",
        paper: "arXiv:2601.05242",
        certainty: ThirdParty,
        batch_wide: |options| options.whiten != Whiten::Nothing || options.scale == Scale::Batch,
        needs: [OUTCOME_REWARDS, GROUP_IDS],
        takes: [REWARD_MATRIX, TOKEN_REWARDS],
        options: {
            /// Weight of each column of reward_matrix; empty: 1 each.
            reward_weights: Vec<f64> = Vec::new(),
            /// What is subtracted from a score.
            centre: Centre = Centre::Mean,
            /// By what the centred score is divided.
            scale: Scale = Scale::Std,
            /// Added to the standard deviation of a function in a group.
            eps: NonNegative = 1e-6,
            /// What a group of one gives.
            singleton: Singleton = Singleton::Raw,
            /// What a member gives whose scale is 0 although its group has spread.
            zero_spread: ZeroSpread = ZeroSpread::Zero,
            /// Over what the sum is brought to mean 0 and variance 1.
            whiten: Whiten = Whiten::Token,
            /// Added in that step: to the variance over tokens, to the standard deviation
            /// over trajectories.
            whiten_eps: NonNegative = 1e-8,
        },
        presets: {
            "verl" => {},
            "trl" => {
                eps = 1e-4,
                singleton = Singleton::Zero,
                whiten = Whiten::Trajectory,
                whiten_eps = 1e-4,
            },
            "nemo_rl" => {
                centre = Centre::LeaveOneOut,
                scale = Scale::LeaveOneOutStd,
                singleton = Singleton::Zero,
                zero_spread = ZeroSpread::Undivided,
                whiten = Whiten::Trajectory,
                whiten_eps = 0.0,
            },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let matrix = if rollouts.has(&REWARD_MATRIX) {
        rollouts.reward_matrix()?
    } else {
        RewardMatrix::single(rollouts.outcomes()?)
    };
    let weights = matrix.weights(&options.reward_weights)?;
    let (sums, counts) = normalised_sums(&matrix, &weights, rollouts.groups()?, options);
    let eps = *options.whiten_eps;
    let advantages = match options.whiten {
        Whiten::Trajectory => {
            let rule = Normaliser {
                eps,
                singleton: Singleton::Zero,
                // Functions that contradict each other sum to 0 but for rounding; z-scores
                // are of order 1, so this is far below any that mean something.
                spread_tolerance: 1e-12,
                ..Normaliser::default()
            };
            rule.apply(&sums, &Groups::one(sums.len()), Weights::Equal).0
        }
        Whiten::Token => {
            let mut whitened = sums;
            let present: Vec<bool> = whitened.iter().map(|a| !a.is_nan()).collect();
            let rule = Whitening { eps, ..Whitening::VERL };
            whiten_trajectories(rollouts, &mut whitened, &rule, |i| present[i])?;
            absent_to_zero(whitened)
        }
        Whiten::Nothing => absent_to_zero(sums),
    };
    Ok(Credit::new(Values::Trajectories(advantages), counts))
}

/// The weighted sum of each trajectory's normalised scores; NaN where it has none. The
/// counts are those of the function that tells most groups' members apart.
fn normalised_sums(
    matrix: &RewardMatrix,
    weights: &[f64],
    groups: &Groups,
    options: &Options,
) -> (Vec<f64>, Counts) {
    let rule = Normaliser {
        centre: options.centre,
        scale: options.scale,
        eps: *options.eps,
        singleton: options.singleton,
        zero_spread: options.zero_spread,
        ..Normaliser::default()
    };
    let mut normalised = matrix.clone();
    let mut best: Option<Counts> = None;
    for function in 0..matrix.width {
        let scores = matrix.column(function);
        let (own, counts) = rule.apply(&scores, groups, Weights::Equal);
        for (row, (score, z)) in scores.iter().zip(own).enumerate() {
            // An absent score stays NaN, so that the sum leaves it out.
            normalised.values[row * matrix.width + function] =
                if score.is_nan() { *score } else { z };
        }
        best = best.filter(|b| b.zero_spread <= counts.zero_spread).or(Some(counts));
    }
    (normalised.sums(weights), best.unwrap_or_default())
}

fn absent_to_zero(mut values: Vec<f64>) -> Vec<f64> {
    values.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = 0.0);
    values
}
