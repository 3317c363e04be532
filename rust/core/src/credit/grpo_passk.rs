//! `grpo_passk`: only the best trajectory of a group gets credit.

use crate::choice;
use crate::column::{GROUP_IDS, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::{Error, Result};
use crate::options::NonNegative;
use crate::rollouts::Rollouts;
use crate::stats::{Counts, Moments};

choice! {
    /// By what the lead of the best trajectory is divided.
    PassScale {
        /// By nothing.
        Nothing = "none",
        /// By the group's standard deviation.
        Std = "std",
    }
}

crate::method! {
    /// Pass@k form of `grpo`: the best trajectory of a group gets its lead over the
    /// second best, and all others 0, so that a group is paid for its best answer.
    ///
    /// # Formula
    ///
    /// `A_best = (s_best - s_second) / (std + eps)` with the group's standard deviation,
    /// all others 0; every trained token of a trajectory gets its `A`. With `scale="none"`
    /// the lead is not divided.
    ///
    /// # Source
    ///
    /// arXiv:2503.19595; verl `compute_grpo_passk_outcome_advantage`.
    ///
    /// # Degenerate cases
    ///
    /// A group with fewer than two present scores is an error that names its first
    /// trajectory, as in verl; a group with none is not. On ties the first best counts,
    /// with a lead of 0, so equal scores give exactly 0. A NaN score is left out and gets 0.
    "grpo_passk" {
        title: "GRPO, pass@k form",
        granularity: Trajectory,
        family: "group baseline",
        paper: "arXiv:2503.19595",
        certainty: Code,
        needs: [OUTCOME_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// By what the lead is divided.
            scale: PassScale = PassScale::Std,
            /// Degrees of freedom taken off in the variance.
            ddof: NonNegative = 1.0,
            /// Added to the standard deviation.
            eps: NonNegative = 1e-6,
        },
        presets: {
            "verl" => {},
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let scores = rollouts.outcomes()?;
    let mut advantages = vec![0.0; scores.len()];
    let mut counts = Counts::default();
    for members in rollouts.groups()?.iter() {
        let mut present: Vec<usize> =
            members.iter().copied().filter(|&i| !scores[i].is_nan()).collect();
        match present.len() {
            0 => continue,
            1 => {
                return Err(Error::GroupTooSmall {
                    method: METHOD.card.name,
                    trajectory: members[0],
                    got: 1,
                    expected: 2,
                });
            }
            _ => counts.groups += 1,
        }
        let moments = Moments::of(present.iter().map(|&i| scores[i]));
        // Stable, so that of equal scores the first stays in front.
        present.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        counts.zero_spread += usize::from(moments.squares == 0.0);
        let lead = scores[present[0]] - scores[present[1]];
        let variance = moments.variance(*options.ddof);
        advantages[present[0]] = match options.scale {
            PassScale::Nothing => lead,
            PassScale::Std if variance > 0.0 => lead / (variance.sqrt() + *options.eps),
            PassScale::Std => 0.0,
        };
    }
    Ok(Credit::new(Values::Trajectories(advantages), counts))
}
