//! `rloo`: outcome rewards minus the mean of the others of the group.

use crate::column::{GROUP_IDS, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::rollouts::Rollouts;
use crate::stats::{Centre, Normaliser, Scale, Singleton, Weighting};

crate::method! {
    /// REINFORCE leave-one-out: how much better a trajectory scored than the mean of
    /// the *other* trajectories of its group.
    ///
    /// # Formula
    ///
    /// `A_i = s_i - (sum_j s_j - s_i) / (N - 1) = (s_i - mean) N / (N - 1)` over the `N`
    /// trajectories of a group; every trained token of trajectory `i` gets `A_i`.
    ///
    /// # Source
    ///
    /// Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740. Presets: verl
    /// `compute_rloo_outcome_advantage`, which counts every row of a trajectory of several
    /// rows, and its vectorised form; TRL `RLOOTrainer` without its option to normalise;
    /// OpenRLHF; NeMo-RL and AReaL with leave-one-out and no deviation; SkyRL.
    ///
    /// # Degenerate cases
    ///
    /// A group of one keeps its score (`singleton="raw"`) or gives 0 (`"zero"`; OpenRLHF
    /// refuses such groups, its preset gives 0). Equal scores give exactly 0. A NaN score
    /// is left out and gets 0.
    "rloo" {
        title: "REINFORCE leave-one-out",
        granularity: Trajectory,
        family: "group baseline",
        paper: "arXiv:2402.14740",
        certainty: Code,
        needs: [OUTCOME_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// What a group of one gives.
            singleton: Singleton = Singleton::Raw,
            /// What counts once in a mean.
            weighting: Weighting = Weighting::Trajectory,
            /// Factor of each column of reward_matrix; empty: 1 each.
            reward_weights: Vec<f64> = Vec::new(),
        },
        presets: {
            "verl" => { weighting = Weighting::Row },
            "verl_vectorized" => { weighting = Weighting::Row, singleton = Singleton::Zero },
            "trl" => { singleton = Singleton::Zero },
            "openrlhf" => { singleton = Singleton::Zero },
            "nemo_rl" => { singleton = Singleton::Zero },
            "areal" => {},
            "skyrl" => { singleton = Singleton::Zero },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let rule = Normaliser {
        centre: Centre::LeaveOneOut,
        scale: Scale::Nothing,
        singleton: options.singleton,
        ..Normaliser::default()
    };
    let scores = rollouts.weighted_outcomes(&options.reward_weights)?;
    let (advantages, counts) = rollouts.normalise(&rule, &scores, options.weighting)?;
    Ok(Credit::new(Values::Trajectories(advantages), counts))
}
