//! `tree_ps_rag`: what a step adds to the mean outcome of the paths through it.

use crate::choice;
use crate::column::{OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::Credit;
use crate::error::Result;
use crate::nodes::{NODE_IDS, NODE_VALUES, Nodes, PARENTS, Part, Per, VISITS, total};
use crate::options::NonNegative;
use crate::rollouts::Rollouts;
use crate::stats::Counts;
use crate::tree::readout::siblings::child_moments;
use crate::tree::readout::values::ValueMode;

choice! {
    /// What a node's value is compared with.
    Baseline {
        /// Its parent's and its root's values: `[V(n) - V(root)] + [V(n) - V(p)]`.
        GlobalLocal = "global_local",
        /// Its parent's value alone.
        Parent = "parent",
        /// The mean of its siblings, itself among them, in their standard deviations.
        Sibling = "sibling",
    }
}

crate::method! {
    /// Process supervision from a tree of rollouts: a step is worth the mean outcome of the
    /// answers that grew from it, and its credit is what that is above the step before and
    /// above the prompt.
    ///
    /// # Formula
    ///
    /// `V(n)` is the mean outcome of the leaves below `n`, whatever the shape of the tree
    /// between. `A(n) = [V(n) - V(root)] + [V(n) - V(p)]` for a node `n` with parent `p`;
    /// with `baseline="sibling"` it is `(V(n) - mean) / (std + eps)` over the children of
    /// `p`. With `per_leaf_root` it is divided by the square root of the leaves below. Each
    /// trained token of the step gets `A(n)`.
    ///
    /// # Extras
    ///
    /// `node_values`: `V(n)`, NaN where no leaf below has an outcome.
    ///
    /// # Source
    ///
    /// TreePS-RAG, Zhang et al. 2026, arXiv:2601.06922: the value is the paper's, the form
    /// of the advantage is not given there and was completed. No reference cases; checked
    /// against the naive oracle `trees.tree_ps_rag`.
    ///
    /// # Degenerate cases
    ///
    /// A leaf whose outcome is NaN is left out of every mean; a node without finished
    /// leaves gets 0. A tree of one leaf, and one of equal outcomes, gives exactly 0. Lone
    /// children give 0 under `baseline="sibling"`. Roots get 0.
    "tree_ps_rag" {
        title: "TreePS-RAG: process supervision from rollout trees",
        granularity: Turn,
        family: "tree",
        paper: "arXiv:2601.06922",
        certainty: Reconstructed,
        needs: [OUTCOME_REWARDS, NODE_IDS],
        takes: [PARENTS, NODE_VALUES, VISITS, TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// What a node's value is compared with.
            baseline: Baseline = Baseline::GlobalLocal,
            /// How a node's value follows from those below.
            value_mode: ValueMode = ValueMode::Leaf,
            /// Divide by the square root of the leaves below a node.
            per_leaf_root: bool = false,
            /// Degrees of freedom taken off in the variance of siblings.
            ddof: NonNegative = 0.0,
            /// Added to the standard deviation of siblings.
            eps: NonNegative = 1e-6,
        },
        presets: {},
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let nodes = Nodes::read(rollouts)?;
    let ([advantages, values], counts) =
        nodes.by_part([Per::Node; 2], |part, columns| of_part(part, options, columns))?;
    let credit = Credit::new(nodes.edges(advantages), total(counts));
    Ok(credit.with("node_values", nodes.edges(values)))
}

fn of_part(
    part: &Part<'_>,
    options: &Options,
    [advantages, node_values]: [&mut [f64]; 2],
) -> Result<Counts> {
    let (parents, tally) = (part.parents(), part.values(options.value_mode)?);
    let (trees, values) = (parents.trees(), &tally.values);
    let by_sibling = options.baseline == Baseline::Sibling;
    let siblings = if by_sibling { child_moments(&parents, values) } else { Vec::new() };
    let leaves = if options.per_leaf_root { part.leaf_counts(&tally)? } else { Vec::new() };
    let one = |n: usize| {
        let p = parents.of(n).filter(|_| !values[n].is_nan())?;
        let local = values[n] - values[p];
        let above = match options.baseline {
            Baseline::GlobalLocal => local + (values[n] - values[trees.root(n)]),
            Baseline::Parent => local,
            Baseline::Sibling if siblings[p].squares == 0.0 => 0.0,
            Baseline::Sibling => {
                let std = siblings[p].variance(*options.ddof).sqrt();
                (values[n] - siblings[p].mean) / (std + *options.eps)
            }
        };
        Some(if options.per_leaf_root { above / leaves[n].sqrt() } else { above })
    };
    advantages.iter_mut().enumerate().for_each(|(n, own)| *own = one(n).unwrap_or(0.0));
    node_values.copy_from_slice(values);
    Ok(part.counts(&trees, &tally))
}
