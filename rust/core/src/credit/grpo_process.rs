//! `grpo_process`: rewards of steps, normalised over their group and summed from each on.

use crate::column::{GROUP_IDS, TOKEN_REWARDS, TURN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::group::Groups;
use crate::options::NonNegative;
use crate::returns::discounted;
use crate::rollouts::Rollouts;
use crate::stats::{Normaliser, Scale, Singleton, Weights};

crate::method! {
    /// GRPO with process supervision: each reasoning step, given as a turn, gets the sum
    /// of its own and all later normalised step rewards.
    ///
    /// # Formula
    ///
    /// `z = (r - mean) / (std + eps)` over all step rewards of the group; every token of
    /// step `k` gets the sum of `z` over the steps from `k` to the last.
    ///
    /// # Source
    ///
    /// Shao et al. 2024, arXiv:2402.03300, section 4.1.3. The paper states neither the
    /// divisor of the variance nor an epsilon: Bessel's and 1e-6 are our choice.
    ///
    /// # Degenerate cases
    ///
    /// A group with one step keeps its reward (`singleton="raw"`) or gives 0. Equal
    /// rewards give exactly 0. A NaN reward is left out and adds 0. The sums favour
    /// trajectories of many good steps.
    "grpo_process" {
        title: "GRPO with process supervision",
        granularity: Turn,
        family: "group baseline",
        paper: "arXiv:2402.03300",
        certainty: Paper,
        needs: [TURN_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS],
        options: {
            /// Divide by the standard deviation, or by nothing.
            scale: Scale = Scale::Std,
            /// Degrees of freedom taken off in the variance.
            ddof: NonNegative = 1.0,
            /// Added to the standard deviation.
            eps: NonNegative = 1e-6,
            /// What a group with one step gives.
            singleton: Singleton = Singleton::Raw,
        },
        presets: {},
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
    let (turns, groups) = (rollouts.turns()?, rollouts.groups()?);
    let ids = turns.trajectories().map(|trajectory| groups.ids()[trajectory]).collect();
    let of_turns = Groups::from_dense(ids, groups.count());
    let (mut sums, counts) = rule.apply(&rollouts.turn_rewards()?, &of_turns, Weights::Equal);
    for trajectory in 0..rollouts.trajectories() {
        discounted(&mut sums[turns.of(trajectory)], 1.0);
    }
    Ok(Credit::new(Values::Turns(sums), counts))
}
