//! `treerl`: rewards of steps from leave-one-out scores of leaves, summed over subtrees.

use crate::choice;
use crate::column::{OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::Credit;
use crate::error::Result;
use crate::memory::zeroed;
use crate::nodes::{NODE_IDS, Nodes, PARENTS};
use crate::rollouts::Rollouts;
use crate::tree::parents::Parents;
use crate::tree::readout::values::{Tally, ValueMode};

choice! {
    /// Over what the mean that is taken off runs.
    Centre {
        /// Tokens of all paths of a tree.
        Token = "token",
        /// Nodes of all paths of a tree, the root among them.
        Step = "step",
        /// Nothing is taken off.
        None = "none",
    }
}

crate::method! {
    /// TreeRL: how much better the answers below a step did than the other answers to the
    /// prompt, against the same of the step before.
    ///
    /// # Formula
    ///
    /// A leaf scores `s - mean` of the tree's other leaves. `S(n)` is the sum of that over
    /// the `L(n)` leaves below `n`, less `mu L(n)`, and with `weighted` over `sqrt(L(n))`;
    /// `mu` is the mean of `S / L` over the tokens of all paths, over their nodes, or 0
    /// (`centre`). `A(n) = [S(n) / L(n) - S(p) / L(p)] + S(n) / L(n)`, the last term with
    /// `state_value` alone. All chains of a prompt are one tree.
    ///
    /// # Extras
    ///
    /// `subtree_sums` (`S`), `state_values` (`S / L`), `leaf_counts` (`L`) and `pass_rates`
    /// (mean score of the leaves below, NaN without).
    ///
    /// # Source
    ///
    /// Hou et al. 2025, arXiv:2506.11902; the authors' `build_into_tree_format` and
    /// `gather_paths` with the released flags. As there, a difference from the parent
    /// within 1e-8 of 0 below the first step is replaced by that of the step before.
    ///
    /// # Degenerate cases
    ///
    /// A lone leaf keeps its score. A leaf whose outcome is NaN is left out; a node without
    /// finished leaves gets 0. Equal scores of several leaves give exactly 0. Roots get 0.
    "treerl" {
        title: "TreeRL: entropy-guided tree search",
        granularity: Turn,
        family: "tree",
        paper: "arXiv:2506.11902",
        certainty: Code,
        needs: [OUTCOME_REWARDS, NODE_IDS],
        takes: [PARENTS, TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// Over what the mean that is taken off runs.
            centre: Centre = Centre::Token,
            /// Divide subtree sums by the square root of their leaves.
            weighted: bool = true,
            /// Add a step's own state value to its difference from the step before.
            state_value: bool = true,
        },
        presets: {},
    }
}

/// A difference from the parent below this is replaced by the step before's.
const NO_DIFFERENCE: f64 = 1e-8;

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let nodes = Nodes::read(rollouts)?;
    let (parents, tally) = (nodes.parents(), nodes.leaf_means()?);
    let roots = parents.roots();
    // Means over leaves and their number are the sums, and equal means are exactly equal.
    let own = |n| leave_one_out(&tally, n, roots[n] as usize);
    let mut state_values = nodes.values_of(ValueMode::Leaf, own)?.values;
    let (mut sums, mut leaves) = (zeroed::<f64>(nodes.len())?, zeroed::<f64>(nodes.len())?);
    leaves.iter_mut().enumerate().for_each(|(n, leaves)| *leaves = tally.count(n));
    match options.centre {
        Centre::Token => {
            take_off_mean(&mut state_values, &nodes.path_tokens(&tally, &leaves)?, &roots);
        }
        Centre::Step => take_off_mean(&mut state_values, &leaves, &roots),
        Centre::None => {}
    }
    for n in 0..nodes.len() {
        if leaves[n] == 0.0 {
            state_values[n] = 0.0;
        } else if options.weighted {
            state_values[n] /= leaves[n].sqrt();
        }
        sums[n] = state_values[n] * leaves[n];
    }
    let advantages = rewards(&parents, &state_values, &leaves, options.state_value)?;
    let counts = nodes.counts(&tally);
    Ok(Credit::new(nodes.edges(advantages), counts)
        .with("subtree_sums", nodes.edges(sums))
        .with("state_values", nodes.edges(state_values))
        .with("leaf_counts", nodes.edges(leaves))
        .with("pass_rates", nodes.edges(tally.values)))
}

/// The score of a leaf less the mean of its tree's others; NaN elsewhere.
fn leave_one_out(tally: &Tally, n: usize, root: usize) -> f64 {
    if !tally.is_leaf(n) {
        return f64::NAN;
    }
    let (score, mean, leaves) = (tally.values[n], tally.values[root], tally.count(root));
    // s - (L mean - s) / (L - 1), in a form that is exactly 0 where s is the mean.
    if leaves > 1.0 { (score - mean) * leaves / (leaves - 1.0) } else { score }
}

/// Takes each tree's weighted mean off the values of its nodes.
fn take_off_mean(values: &mut [f64], weights: &[f64], roots: &[u32]) {
    let mut means: Vec<(f64, f64)> = vec![(0.0, 0.0); roots.len()];
    for (n, &weight) in weights.iter().enumerate() {
        if weight > 0.0 && !values[n].is_nan() {
            let (mean, total) = &mut means[roots[n] as usize];
            *total += weight;
            *mean += (values[n] - *mean) * weight / *total;
        }
    }
    for (n, (_, &root)) in weights.iter().zip(roots).enumerate() {
        values[n] -= means[root as usize].0;
    }
}

/// Rewards of the steps into nodes.
fn rewards(
    parents: &Parents<'_>,
    state_values: &[f64],
    leaves: &[f64],
    with_state: bool,
) -> Result<Vec<f64>> {
    let nodes = parents.len();
    let (mut differences, mut rewards) = (zeroed::<f64>(nodes)?, zeroed::<f64>(nodes)?);
    for n in 0..nodes {
        let Some(p) = parents.of(n).filter(|_| leaves[n] > 0.0) else { continue };
        let difference = state_values[n] - state_values[p];
        let repeated = difference.abs() < NO_DIFFERENCE && parents.of(p).is_some();
        differences[n] = if repeated { differences[p] } else { difference };
        rewards[n] = differences[n] + if with_state { state_values[n] } else { 0.0 };
    }
    Ok(rewards)
}
