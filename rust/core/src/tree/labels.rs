//! Labels and rewards of single steps as methods that collect them in trees define them.
//!
//! Plain functions of numbers; nothing of a search is needed. Depends on `error` alone.

use crate::error::{Error, Result};

/// What PROPA makes of the children of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct SiblingRewards {
    /// `ln(1 + boost * q) / ln(1 + boost)` of each child, `q = W / N`, 0 without visits.
    pub rewards: Vec<f64>,
    /// Whether the group teaches nothing: all rewards 0, all 1, or closer than `min_spread`.
    pub dropped: bool,
}

/// Rewards of siblings that form one group (PROPA `create_GRPO_*:log_boost`).
///
/// `value_sums` are of rewards from 0 to 1, one entry a child, as `visits`.
///
/// # Errors
///
/// Lengths that differ; a `boost` that is not above 0; a mean reward outside 0..1.
pub fn sibling_rewards(
    value_sums: &[f64],
    visits: &[u32],
    boost: f64,
    min_spread: f64,
) -> Result<SiblingRewards> {
    same_length("visits", visits.len(), value_sums.len(), "children")?;
    if !(boost > 0.0 && boost.is_finite()) {
        return Err(bad_option("boost", boost, "a finite number above 0"));
    }
    let mut rewards = Vec::with_capacity(visits.len());
    for (index, (&sum, &visits)) in value_sums.iter().zip(visits).enumerate() {
        let q = if visits == 0 { 0.0 } else { sum / f64::from(visits) };
        if !(0.0..=1.0).contains(&q) {
            let expected = "a mean reward from 0 to 1".to_owned();
            return Err(value_error("value_sums", index, format!("mean {q:?}"), expected));
        }
        rewards.push((boost * q).ln_1p() / boost.ln_1p());
    }
    let low = rewards.iter().copied().fold(f64::INFINITY, f64::min);
    let high = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let dropped = rewards.is_empty() || high - low < min_spread;
    Ok(SiblingRewards { rewards, dropped })
}

/// Value of a rollout whose steps were verified (GroundedPRM `mcts.py`).
///
/// `sum_i s_i (m - i) / m^2 + f / m` over the first `m` step scores `s`, `f` the final
/// verdict; `f` alone with `m = 0`. All `T` steps count, or, as in the released code, where
/// the final verdict replaces the last step's own, the first `T - 1` (`overwrite_last`).
pub fn rollout_value(steps: &[f64], last: f64, overwrite_last: bool) -> f64 {
    let count = steps.len() - usize::from(overwrite_last && !steps.is_empty());
    if count == 0 {
        return last;
    }
    let m = count as f64;
    let weighted = steps[..count].iter().enumerate().map(|(i, s)| s * (m - i as f64) / (m * m));
    weighted.sum::<f64>() + last / m
}

/// ReST-MCTS*'s labels of all nodes of a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardLabels {
    /// Whether a right answer lies at or below each node.
    pub hard: Vec<bool>,
    /// Steps to the nearest right answer, the step into the node among them; of a node
    /// without one below, as many as its parent has. 0 where the tree has none.
    pub steps: Vec<u64>,
    /// `v = max(0, v_parent + (1 - v_parent) * r / m)`, `m` the steps, `r` 1 with a right
    /// answer below and -1 without; 0 at the root, and everywhere in a tree without any.
    pub values: Vec<f64>,
}

/// Labels from right answers alone (ReST-MCTS* `treeNode.get_full_value_samples_vm`).
///
/// `parents` are -1 at the root, node 0, and below the node's own number elsewhere.
///
/// # Errors
///
/// A parent out of that range; a right answer that is no node.
pub fn reward_labels(parents: &[i64], correct: &[i64]) -> Result<RewardLabels> {
    let count = parents.len();
    for (index, &parent) in parents.iter().enumerate() {
        let fits = if index == 0 { parent == -1 } else { (0..index as i64).contains(&parent) };
        if !fits {
            let expected = "-1 at node 0, below the node's number elsewhere".to_owned();
            return Err(value_error("parents", index, parent.to_string(), expected));
        }
    }
    let mut distance = vec![u64::MAX; count];
    for (index, &node) in correct.iter().enumerate() {
        match usize::try_from(node).ok().filter(|&node| node < count) {
            Some(node) => distance[node] = 1,
            None => {
                let expected = format!("a node, from 0 to {}", count.saturating_sub(1));
                return Err(value_error("correct", index, node.to_string(), expected));
            }
        }
    }
    for node in (1..count).rev() {
        let parent = parents[node] as usize;
        distance[parent] = distance[parent].min(distance[node].saturating_add(1));
    }
    let hard: Vec<bool> = distance.iter().map(|&d| d != u64::MAX).collect();
    let mut steps = distance;
    let mut values = vec![0.0; count];
    if hard.first() != Some(&true) {
        steps.fill(0);
        return Ok(RewardLabels { hard, steps, values });
    }
    for node in 1..count {
        let parent = parents[node] as usize;
        if !hard[node] {
            steps[node] = steps[parent];
        }
        let sign = if hard[node] { 1.0 } else { -1.0 };
        let gain = (1.0 - values[parent]) * sign / steps[node] as f64;
        values[node] = f64::max(0.0, values[parent] + gain);
    }
    Ok(RewardLabels { hard, steps, values })
}

fn same_length(argument: &str, got: usize, expected: usize, of: &'static str) -> Result<()> {
    let argument = argument.to_owned();
    if got == expected { Ok(()) } else { Err(Error::Length { argument, got, expected, of }) }
}

fn value_error(argument: &str, index: usize, got: String, expected: String) -> Error {
    Error::Value { argument: argument.to_owned(), index, got, expected }
}

fn bad_option(option: &'static str, got: f64, expected: &str) -> Error {
    let (got, expected) = (format!("{got:?}"), expected.to_owned());
    Error::BadOption { method: "sibling_rewards", option, got, expected }
}
