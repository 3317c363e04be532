//! `tir_otb`: the optimal token baseline for rows interrupted by tool output.

use crate::column::{GROUP_IDS, OLD_LOG_PROBS, TOKEN_REWARDS};
use crate::credit::Credit;
use crate::error::Result;
use crate::options::NonNegative;
use crate::rollouts::Rollouts;
use crate::token_baseline::{self, ROLLOUT_IS_WEIGHTS, Rule, SUM_PI_SQUARED};

crate::method! {
    /// Optimal token baseline for several turns: as `otb`, but a token is compared with
    /// those that have as many trained tokens before them, so that tool output of
    /// different lengths does not shift what is compared.
    ///
    /// # Formula
    ///
    /// `G_t` is the sum of rewards of trained tokens from `t` on.
    /// `W_t` is the sum of `e_u` over the trained tokens up to `t`, with
    /// `e = 1 - 2 exp(old_log_probs) + sum_pi_squared`, times `rollout_is_weights` squared
    /// where they are there: the size of the gradient collected so far. Over the rows of a
    /// group, at the `k`-th trained token of each, `b_k = sum(G W) / (sum(W) + eps)`;
    /// `A = G - b_k`. Returns are `G`.
    ///
    /// # Source
    ///
    /// verl, `compute_multi_turn_optimal_token_baseline_advantage`.
    ///
    /// # Degenerate cases
    ///
    /// A group with one row that has trained tokens has no baseline: `A = G`. A row with a
    /// NaN reward is left out and gets 0.
    "tir_otb" {
        title: "Optimal token baseline for several turns",
        granularity: Token,
        family: "group baseline",
        paper: "verl compute_multi_turn_optimal_token_baseline_advantage",
        certainty: Code,
        needs: [TOKEN_REWARDS, GROUP_IDS, OLD_LOG_PROBS, SUM_PI_SQUARED],
        takes: [ROLLOUT_IS_WEIGHTS],
        options: {
            /// Leave out the baseline where one row is longer than all others and would
            /// be compared with itself alone.
            zero_tail: bool = true,
            /// Added to the sum of weights.
            eps: NonNegative = 1e-8,
        },
        presets: { "verl" => { zero_tail = true } },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let rule = Rule { packed: true, zero_tail: options.zero_tail, eps: *options.eps };
    token_baseline::credit(rollouts, rule)
}
