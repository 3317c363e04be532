//! `treepo`: an answer against every group of answers that share a prefix with it, or a
//! segment against the one before.

use crate::choice;
use crate::column::{OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS};
use crate::credit::Credit;
use crate::error::Result;
use crate::nodes::{NODE_IDS, NODE_VALUES, Nodes, PARENTS, Part, Per, VISITS, total};
use crate::options::Unit;
use crate::rollouts::Rollouts;
use crate::stats::{Counts, Moments};
use crate::tree::parents::Parents;
use crate::tree::readout::siblings::child_moments;
use crate::tree::readout::values::{Tally, ValueMode};
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
    let (unit, paths) = match options.form {
        Form::Subgroup => (Per::Path, Per::Path),
        Form::Segment if options.against_prefixes => (Per::Place, Per::Path),
        Form::Segment => (Per::Place, Per::Nothing),
    };
    let ([mut advantages, path_scores], found) =
        nodes.by_part([unit, paths], |part, columns| match options.form {
            Form::Subgroup => subgroups(part, options, columns),
            Form::Segment => segments(part, options, columns),
        })?;
    if options.whiten {
        let all = found.iter().fold(Moments::default(), |all, (_, part)| all.merge(*part));
        let map = Whitening::VERL.fit(&all);
        for x in &mut advantages {
            *x = if x.is_nan() { 0.0 } else { map.apply(*x) };
        }
    }
    let counts = total(found.into_iter().map(|(counts, _)| counts));
    let credit = Credit::new(nodes.credit(unit, advantages), counts);
    Ok(match paths {
        Per::Nothing => credit,
        unit => credit.with("path_scores", nodes.credit(unit, path_scores)),
    })
}

/// Credit of whole answers and the same before whitening, and what that has to know. Credit
/// to be whitened is NaN where there is none.
fn subgroups(
    part: &Part<'_>,
    options: &Options,
    [advantages, path_scores]: [&mut [f64]; 2],
) -> Result<(Counts, Moments)> {
    let (parents, tally) = (part.parents(), part.leaf_means()?);
    let flat = if options.drop_flat { flat(part, &tally) } else { Vec::new() };
    let by_size = options.combine == Combine::GroupSize;
    let scores = against(part, &tally, |n| {
        let leaves = tally.count(n);
        let root = parents.of(n).is_none();
        let counted = root || (leaves > 1.0 && !(options.drop_flat && flat[n]));
        let mean = if root && leaves == 1.0 { 0.0 } else { tally.values[n] };
        let weight = if by_size { leaves } else { 1.0 };
        (mean, if counted { weight } else { 0.0 })
    });
    part.write_paths(&scores, path_scores)?;
    advantages.copy_from_slice(path_scores);
    zero_absent(path_scores);
    let counts = part.counts(&parents.trees(), &tally);
    if !options.whiten {
        zero_absent(advantages);
        return Ok((counts, Moments::default()));
    }
    Ok((counts, standing(&scores, &part.leaf_tokens()?)))
}

/// Scores of leaves less the mean of what `says` has of the nodes along their paths: a
/// value and its weight. NaN at nodes that are not finished leaves.
fn against(part: &Part<'_>, tally: &Tally, says: impl Fn(usize) -> (f64, f64)) -> Vec<f64> {
    let parents = part.parents();
    let mut along = vec![(0.0, 0.0); part.len()];
    let mut scores = vec![f64::NAN; part.len()];
    for n in 0..part.len() {
        let (mut mean, mut total) = parents.of(n).map_or((0.0, 0.0), |p| along[p]);
        let (value, weight) = says(n);
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
fn flat(part: &Part<'_>, tally: &Tally) -> Vec<bool> {
    let parents = part.parents();
    let mut flat = vec![true; part.len()];
    for n in (0..part.len()).rev() {
        if let Some(p) = parents.of(n).filter(|_| !tally.values[n].is_nan()) {
            flat[p] &= flat[n] && tally.values[n] == tally.values[p];
        }
    }
    flat
}

/// Credit of segments, scores of paths against their prefixes where asked for, and what
/// whitening has to know; see [`subgroups`].
fn segments(
    part: &Part<'_>,
    options: &Options,
    [advantages, path_scores]: [&mut [f64]; 2],
) -> Result<(Counts, Moments)> {
    let parents = part.parents();
    let mut tally = part.values(options.value_mode)?;
    let counts = part.counts(&parents.trees(), &tally);
    if options.against_prefixes {
        let means = part.leaf_means()?;
        let scores = against(part, &means, |n| (means.values[n], means.count(n)));
        tally = part.values_of(options.value_mode, |n| scores[n])?;
        part.write_paths(&scores, path_scores)?;
        zero_absent(path_scores);
    }
    let mut values = tally.values.clone();
    if options.sibling_norm {
        normalise_siblings(&parents, &mut values);
    }
    if options.root_value == RootValue::Zero {
        (0..part.len()).filter(|&n| parents.of(n).is_none()).for_each(|n| values[n] = 0.0);
    }
    let discounts = options.eta.map(|eta| part.discounts(*eta, &tally)).transpose()?;
    for (place, advantage) in advantages.iter_mut().enumerate() {
        let n = part.node(place);
        let discount = discounts.as_ref().map_or(1.0, |of| of[place]);
        *advantage = parents.of(n).map_or(f64::NAN, |p| values[n] - discount * values[p]);
    }
    if !options.whiten {
        zero_absent(advantages);
        return Ok((counts, Moments::default()));
    }
    let leaves = part.leaf_counts(&tally)?;
    Ok((counts, standing(advantages, &part.tokens(&tally, &leaves)?)))
}

fn normalise_siblings(parents: &Parents<'_>, values: &mut [f64]) {
    let siblings = child_moments(parents, values);
    for (n, value) in values.iter_mut().enumerate() {
        let Some(of) = parents.of(n).map(|p| siblings[p]).filter(|of| of.count > 1.0) else {
            continue;
        };
        let std = of.variance(0.0).sqrt();
        *value = if std <= NO_SPREAD { 0.0 } else { (*value - of.mean) / std };
    }
}

/// Moments of values that stand so many times each, absent ones left out.
fn standing(values: &[f64], counts: &[f64]) -> Moments {
    let all = values.iter().copied().zip(counts.iter().copied());
    Moments::weighted(all.filter(|&(x, n)| !x.is_nan() && n > 0.0))
}

fn zero_absent(values: &mut [f64]) {
    values.iter_mut().for_each(|x| *x = if x.is_nan() { 0.0 } else { *x });
}
