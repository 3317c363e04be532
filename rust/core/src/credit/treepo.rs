//! `treepo`: an answer against every group of answers that share a prefix with it, or a
//! segment against the one before.

use crate::choice;
use crate::column::{OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::Credit;
use crate::error::Result;
use crate::memory::filled;
use crate::nodes::{NODE_IDS, NODE_VALUES, Nodes, PARENTS, VISITS};
use crate::options::Unit;
use crate::rollouts::Rollouts;
use crate::stats::Moments;
use crate::tree::readout::siblings::child_moments;
use crate::tree::readout::values::{Tally, ValueMode, leaf_counts};
use crate::whiten::Whitening;

choice! {
    /// What gets credit.
    Form {
        /// Whole answers, against the groups that share their prefixes.
        Subgroup = "subgroup",
        /// Segments, against the segment before.
        Segment = "segment",
    }
}

choice! {
    /// How the groups along a path are combined.
    Combine {
        /// All the same.
        Average = "average",
        /// By how many answers they have.
        GroupSize = "group_size",
    }
}

choice! {
    /// The value of a root in the segment form.
    RootValue {
        /// 0, as in the released code.
        Zero = "zero",
        /// Its children's mean.
        Mean = "mean",
    }
}

crate::method! {
    /// TreePO: how much better an answer did than the answers that share its first segment,
    /// its first two, and so on.
    ///
    /// # Formula
    ///
    /// `form="subgroup"`: `A = mean_d (s - mean_d)` for outcome `s`, `d` running over the
    /// prompt and over every node of the path below which there are two leaves or more,
    /// `mean_d` the mean outcome of the leaves below; with `combine="group_size"` the
    /// differences are weighted by the numbers of leaves. `drop_flat` leaves out nodes below
    /// which all outcomes are equal.
    ///
    /// `form="segment"`: `A(n) = V(n) - V(p)`, `V` the unweighted mean over the children
    /// and 0 at the root (`root_value`). With `eta` it is `V(n) - eta^h V(p)`, `h` the
    /// segments from `n` to the end of the path, its own among them. With `against_prefixes`
    /// the outcome is first replaced by its mean difference from the prompt, from every node
    /// of its path and from itself, weighted by leaves. With `sibling_norm` values of
    /// siblings are first normalised (population deviation), as in TreePO's rendering of SPO.
    ///
    /// With `whiten` the result is brought to mean 0 and deviation 1 over the trained tokens
    /// of all paths.
    ///
    /// With `parents`, where a row is a node, a node's credit in the subgroup form is the mean
    /// over the paths through it.
    ///
    /// # Extras
    ///
    /// `path_scores`, by path: the outcome less what it is compared with, before whitening
    /// (subgroup form, or `against_prefixes`).
    ///
    /// # Source
    ///
    /// Li et al. 2025, arXiv:2508.17445; the authors'
    /// `compute_tree_reinforce_plus_plus_baseline_outcome_advantage`,
    /// `tree_group_wise_reward`, `calculate_segment_advantage`, `compute_spo_advantage`.
    ///
    /// # Degenerate cases
    ///
    /// A prompt with one answer keeps its outcome. Equal outcomes of a prompt give exactly 0
    /// before whitening. A NaN outcome is left out and gets 0. A lone child keeps its value
    /// under `sibling_norm`; siblings within 1e-8 of each other get 0. Roots get 0.
    "treepo" {
        title: "TreePO: sub-group and segment advantages",
        granularity: Turn,
        family: "tree",
        paper: "arXiv:2508.17445",
        certainty: Code,
        batch_wide: |options| options.whiten,
        needs: [OUTCOME_REWARDS, NODE_IDS],
        takes: [PARENTS, NODE_VALUES, VISITS, TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// What gets credit.
            form: Form = Form::Subgroup,
            /// How the groups along a path are combined.
            combine: Combine = Combine::Average,
            /// Leave out groups below the prompt whose outcomes are all equal.
            drop_flat: bool = false,
            /// How a node's value follows from those below, in the segment form.
            value_mode: ValueMode = ValueMode::Child,
            /// The value of a root in the segment form.
            root_value: RootValue = RootValue::Zero,
            /// Discount of a parent's value for each segment to the end.
            eta: Option<Unit> = None,
            /// Take outcomes against all prefixes first, in the segment form.
            against_prefixes: bool = false,
            /// Normalise values among siblings first, in the segment form.
            sibling_norm: bool = false,
            /// Bring the credit to mean 0 and deviation 1 over all tokens.
            whiten: bool = true,
        },
        presets: {},
    }
}

/// A deviation of siblings of at most this is none.
const NO_SPREAD: f64 = 1e-8;

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let nodes = Nodes::read(rollouts)?;
    match options.form {
        Form::Subgroup => subgroups(&nodes, options),
        Form::Segment => segments(&nodes, options),
    }
}

fn subgroups(nodes: &Nodes<'_, '_>, options: &Options) -> Result<Credit> {
    let tally = nodes.leaf_means()?;
    let flat = if options.drop_flat { flat(nodes, &tally) } else { Vec::new() };
    let by_size = options.combine == Combine::GroupSize;
    let scores = against(nodes, &tally, |n| {
        let leaves = tally.count(n);
        let root = nodes.parents().of(n).is_none();
        let counted = root || (leaves > 1.0 && !(options.drop_flat && flat[n]));
        let mean = if root && leaves == 1.0 { 0.0 } else { tally.values[n] };
        (
            mean,
            if !counted {
                0.0
            } else if by_size {
                leaves
            } else {
                1.0
            },
        )
    });
    let mut advantages = scores.clone();
    if options.whiten {
        whiten(&mut advantages, &nodes.leaf_tokens()?);
    }
    let counts = nodes.counts(&tally);
    Ok(Credit::new(nodes.paths(&advantages)?, counts).with("path_scores", nodes.paths(&scores)?))
}

/// Scores of leaves less the mean of what `part` says of the nodes along their paths: a
/// value and its weight. NaN at nodes that are not finished leaves.
fn against(nodes: &Nodes<'_, '_>, tally: &Tally, part: impl Fn(usize) -> (f64, f64)) -> Vec<f64> {
    let parents = nodes.parents();
    let mut along = vec![(0.0, 0.0); nodes.len()];
    let mut scores = vec![f64::NAN; nodes.len()];
    for n in 0..nodes.len() {
        let (mut mean, mut total) = parents.of(n).map_or((0.0, 0.0), |p| along[p]);
        let (value, weight) = part(n);
        if weight > 0.0 {
            total += weight;
            mean = if total == weight { value } else { mean + (value - mean) * weight / total };
        }
        along[n] = (mean, total);
        if tally.is_leaf(n) {
            scores[n] = tally.values[n] - mean;
        }
    }
    scores
}

/// Nodes below which all leaves have the same score.
fn flat(nodes: &Nodes<'_, '_>, tally: &Tally) -> Vec<bool> {
    let parents = nodes.parents();
    let mut flat = vec![true; nodes.len()];
    for n in (0..nodes.len()).rev() {
        if let Some(p) = parents.of(n).filter(|_| !tally.values[n].is_nan()) {
            flat[p] &= flat[n] && tally.values[n] == tally.values[p];
        }
    }
    flat
}

fn segments(nodes: &Nodes<'_, '_>, options: &Options) -> Result<Credit> {
    let parents = nodes.parents();
    let mut tally = nodes.values(options.value_mode)?;
    let counts = nodes.counts(&tally);
    let mut path_scores = None;
    if options.against_prefixes {
        let means = nodes.leaf_means()?;
        let scores = against(nodes, &means, |n| (means.values[n], means.count(n)));
        tally = nodes.values_of(options.value_mode, |n| scores[n])?;
        path_scores = Some(nodes.paths(&scores)?);
    }
    let mut values = tally.values.clone();
    if options.sibling_norm {
        normalise_siblings(nodes, &mut values);
    }
    for n in (0..nodes.len()).filter(|&n| parents.of(n).is_none()) {
        if options.root_value == RootValue::Zero {
            values[n] = 0.0;
        }
    }
    let places = nodes.places();
    let discounts = options.eta.map(|eta| nodes.discounts(*eta, &tally)).transpose()?;
    let one = |place: usize| {
        let n = places[place];
        let p = parents.of(n).filter(|_| !values[n].is_nan())?;
        Some(values[n] - discounts.as_ref().map_or(1.0, |of| of[place]) * values[p])
    };
    // NaN keeps roots and what has no value out of the whitening.
    let mut advantages = filled(places.len(), |place| one(place).unwrap_or(f64::NAN))?;
    if options.whiten {
        let leaves = leaf_counts(&parents, &tally)?;
        whiten(&mut advantages, &nodes.tokens(&tally, &leaves)?);
    }
    advantages.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = 0.0);
    let credit = Credit::new(nodes.at_places(advantages), counts);
    Ok(match path_scores {
        Some(scores) => credit.with("path_scores", scores),
        None => credit,
    })
}

fn normalise_siblings(nodes: &Nodes<'_, '_>, values: &mut [f64]) {
    let (parents, siblings) = (nodes.parents(), child_moments(&nodes.parents(), values));
    for (n, value) in values.iter_mut().enumerate() {
        let Some(of) = parents.of(n).map(|p| siblings[p]).filter(|of| of.count > 1.0) else {
            continue;
        };
        let std = of.variance(0.0).sqrt();
        *value = if std <= NO_SPREAD { 0.0 } else { (*value - of.mean) / std };
    }
}

/// Whitens values that stand so many times each; NaN stays.
fn whiten(values: &mut [f64], counts: &[f64]) {
    let standing = values.iter().zip(counts).filter(|(x, n)| !x.is_nan() && **n > 0.0);
    let all = standing.map(|(&x, &n)| Moments::repeated(x, n));
    let map = Whitening::VERL.fit(&all.fold(Moments::default(), Moments::merge));
    values.iter_mut().for_each(|x| *x = map.apply(*x));
}
