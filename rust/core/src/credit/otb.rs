//! `otb`: returns less the baseline that minimises variance at each position.

use crate::column::{GROUP_IDS, OLD_LOG_PROBS, TOKEN_REWARDS};
use crate::credit::Credit;
use crate::error::Result;
use crate::options::NonNegative;
use crate::rollouts::Rollouts;
use crate::token_baseline::{self, ROLLOUT_IS_WEIGHTS, Rule, SUM_PI_SQUARED};

crate::method! {
    /// Optimal token baseline: the reward from each token on, less the mean over the group
    /// at the same position, weighted by how large each row's gradient is there.
    ///
    /// # Formula
    ///
    /// `G_t` is the sum of rewards of trained tokens from `t` on.
    /// `W_t` is the sum of `e_u` over the trained tokens up to `t`, with
    /// `e = 1 - 2 exp(old_log_probs) + sum_pi_squared`, times `rollout_is_weights` squared
    /// where they are there: the size of the gradient collected so far. Over the rows of a
    /// group, `b_t = sum(G_t W_t) / (sum(W_t) + eps)`; `A_t = G_t - b_t` on trained
    /// tokens. Returns are `G`.
    ///
    /// # Source
    ///
    /// verl, `compute_optimal_token_baseline_advantage`. Its default and its preset
    /// here have `zero_tail=True`.
    ///
    /// # Degenerate cases
    ///
    /// A group of one has no baseline: `A = G`. With `zero_tail`, lengths are counts of
    /// trained tokens and are compared with positions, as in verl. A row without trained
    /// tokens counts as a member. A row with a NaN reward is left out and gets 0.
    "otb" {
        title: "Optimal token baseline",
        granularity: Token,
        family: "group baseline",
        paper: "verl compute_optimal_token_baseline_advantage",
        certainty: Code,
        needs: [TOKEN_REWARDS, GROUP_IDS, OLD_LOG_PROBS, SUM_PI_SQUARED],
        takes: [ROLLOUT_IS_WEIGHTS],
        options: {
            /// Leave out the baseline where one row is longer than all others and would
            /// be compared with itself alone.
            zero_tail: bool = false,
            /// Added to the sum of weights.
            eps: NonNegative = 1e-8,
        },
        presets: { "verl" => { zero_tail = true } },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let rule = Rule { packed: false, zero_tail: options.zero_tail, eps: *options.eps };
    token_baseline::credit(rollouts, rule)
}
