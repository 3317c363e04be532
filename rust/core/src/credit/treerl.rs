//! `treerl`: rewards of steps from leave-one-out scores of leaves, summed over subtrees.

use crate::choice;
use crate::column::{OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::Credit;
use crate::error::Result;
use crate::memory::zeroed;
use crate::nodes::{NODE_IDS, Nodes, PARENTS, Part, Per, total};
use crate::rollouts::Rollouts;
use crate::stats::{Counts, Moments};
use crate::tree::readout::siblings::tree_moments;

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
    let ([advantages, sums, state_values, leaves, pass_rates], counts) =
        nodes.by_part([Per::Node; 5], |part, columns| rewards(part, options, columns))?;
    Ok(Credit::new(nodes.edges(advantages), total(counts))
        .with("subtree_sums", nodes.edges(sums))
        .with("state_values", nodes.edges(state_values))
        .with("leaf_counts", nodes.edges(leaves))
        .with("pass_rates", nodes.edges(pass_rates)))
}

/// Rewards of the steps into nodes, and what they are made of.
fn rewards(
    part: &Part<'_>,
    options: &Options,
    [rewards, sums, state_values, leaves, pass_rates]: [&mut [f64]; 5],
) -> Result<Counts> {
    let (parents, tally) = (part.parents(), part.leaf_means()?);
    let trees = parents.trees();
    pass_rates.copy_from_slice(&tally.values);
    leaves.iter_mut().enumerate().for_each(|(n, leaves)| *leaves = tally.count(n));
    let means = match options.centre {
        Centre::Token => {
            let tokens = part.path_tokens(&tally, leaves)?;
            tree_moments(&trees, &tally.values, |n| tokens[n])
        }
        Centre::Step => tree_moments(&trees, &tally.values, |n| leaves[n]),
        Centre::None => vec![Moments::default(); trees.roots.len()],
    };
    // A leaf's score less the mean of the others is `(s - m) L / (L - 1)`, `m` and `L` those
    // of the tree; so it is of means of leaves. Where another mean is taken off, `m` goes.
    let map = |(&root, of): (&u32, &Moments)| {
        let (own, all) = (tally.values[root as usize], leaves[root as usize]);
        let others = if all > 1.0 { own } else { 0.0 };
        (if of.count > 0.0 { of.mean } else { others }, all / (all - 1.0).max(1.0))
    };
    let maps: Vec<(f64, f64)> = trees.roots.iter().zip(&means).map(map).collect();
    for n in 0..part.len() {
        let (mean, factor) = maps[trees.of[n] as usize];
        let value = (tally.values[n] - mean) * factor;
        state_values[n] = match leaves[n] {
            0.0 => 0.0,
            // Most nodes are leaves, and their roots are slow to draw.
            leaves if leaves > 1.0 && options.weighted => value / leaves.sqrt(),
            _ => value,
        };
        sums[n] = state_values[n] * leaves[n];
    }
    let mut differences: Vec<f64> = zeroed(part.len())?;
    for n in 0..part.len() {
        let Some(p) = parents.of(n).filter(|_| leaves[n] > 0.0) else { continue };
        let difference = state_values[n] - state_values[p];
        let repeated = difference.abs() < NO_DIFFERENCE && parents.of(p).is_some();
        differences[n] = if repeated { differences[p] } else { difference };
        rewards[n] = differences[n] + if options.state_value { state_values[n] } else { 0.0 };
    }
    Ok(part.counts(&trees, &tally))
}
