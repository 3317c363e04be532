//! `tree_grpo`: GRPO between the trees of a prompt and within each tree, and its
//! difference form.

use crate::choice;
use crate::column::{
    ColumnSpec, Floats, GROUP_IDS, Kind, Level, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS,
};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::group::Groups;
use crate::nodes::{NODE_IDS, NODE_VALUES, Nodes, PARENTS, Part, Per, VISITS, total};
use crate::options::NonNegative;
use crate::rollouts::Rollouts;
use crate::stats::{Counts, Moments, Normaliser, Weighting, Weights};
use crate::tree::parents::Trees;
use crate::tree::readout::siblings::tree_moments;
use crate::tree::readout::values::ValueMode;

/// Trees of trajectories.
const TREE_IDS: ColumnSpec = ColumnSpec {
    derived_from: &["node_ids", "parents"],
    ..ColumnSpec::new(
        "tree_ids",
        Level::Trajectory,
        Kind::Key,
        "The tree that a trajectory is a path of, among those of its group. Where missing, \
         the first node of the path.",
    )
};

choice! {
    /// What is compared with what.
    Mode {
        /// Deviations within the prompt plus deviations within the tree.
        Tree = "tree",
        /// Deviations within the prompt, normalised once more within the tree.
        Twice = "tree_2norm",
        /// Deviations within the tree alone.
        Inner = "tree_inner",
        /// As `tree`, over token rewards one by one.
        PerToken = "tree_per_token",
        /// A step's value with a bonus for what it is above the step before.
        Difference = "tree_diff",
    }
}

crate::method! {
    /// Tree-GRPO: an answer against all answers to its prompt, and against those that share
    /// its tree.
    ///
    /// # Formula
    ///
    /// `z(x) = (x - mean) / (std + eps)`, Bessel's deviation. `mode="tree"`:
    /// `A = z_prompt(s) + z_tree(s)` of the outcome `s`, on all trained tokens of the path;
    /// `"tree_2norm"`: `z_tree(z_prompt(s))`; `"tree_inner"`: `z_tree(s)`;
    /// `"tree_per_token"`: as `"tree"` with every token's reward in place of the outcome.
    /// `"tree_diff"`, by node: `A(n) = (V(n) + max(V(n) - V(p) - margin, 0)) / sqrt(L(n))`,
    /// `V` the mean outcome of the `L` leaves below.
    ///
    /// With `parents`, where a row is a node, a node's credit in the first three modes is the
    /// mean over the paths through it, and a tree is a child of the root.
    ///
    /// # Extras
    ///
    /// `inter_tree` and `intra_tree`, the two parts, in the first three modes;
    /// `node_values` and `leaf_counts` in `"tree_diff"`.
    ///
    /// # Source
    ///
    /// Ji et al. 2025, arXiv:2509.21240; the authors' `compute_advantage` with the modes'
    /// names, and `calculate_final_score_from_root`. There a step's last token and the
    /// answer get 0 in the difference form: mask them for that.
    ///
    /// # Degenerate cases
    ///
    /// A group or tree of one keeps its score, over `1 + eps`. Equal scores give exactly 0.
    /// A NaN outcome is left out and gets 0; so does a node without finished leaves. Roots
    /// get 0.
    "tree_grpo" {
        title: "Tree-GRPO",
        granularity: Turn,
        family: "tree",
        paper: "arXiv:2509.21240",
        certainty: Code,
        needs: [OUTCOME_REWARDS, TREE_IDS],
        takes: [PARENTS, NODE_IDS, GROUP_IDS, NODE_VALUES, VISITS, TOKEN_REWARDS, REWARD_MATRIX],
        options: {
            /// What is compared with what.
            mode: Mode = Mode::Tree,
            /// Added to the standard deviation.
            eps: NonNegative = 1e-6,
            /// Degrees of freedom taken off in the variance.
            ddof: NonNegative = 1.0,
            /// What a step has to be above the step before to get the bonus of "tree_diff".
            margin: f64 = 0.1,
            /// How a node's value follows from those below, in "tree_diff".
            value_mode: ValueMode = ValueMode::Leaf,
        },
        presets: {},
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    match options.mode {
        Mode::Difference => differences(rollouts, options),
        Mode::PerToken => per_token(rollouts, options),
        _ if rollouts.has(&PARENTS) => of_rows(rollouts, options),
        _ => of_paths(rollouts, options),
    }
}

fn of_paths(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let outcomes = rollouts.outcomes()?;
    let trees = trees(rollouts)?;
    let (inter, intra, both, counts) = parts(options, &outcomes, rollouts.groups()?, &trees);
    Ok(Credit::new(Values::Trajectories(both), counts)
        .with("inter_tree", Values::Trajectories(inter))
        .with("intra_tree", Values::Trajectories(intra)))
}

fn of_rows(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let nodes = Nodes::read(rollouts)?;
    let ([both, inter, intra], counts) =
        nodes.by_part([Per::Node; 3], |part, columns| deviations(part, options, columns))?;
    Ok(Credit::new(nodes.edges(both), total(counts))
        .with("inter_tree", nodes.edges(inter))
        .with("intra_tree", nodes.edges(intra)))
}

/// As [`parts`], of nodes. The mean of deviations of the leaves below a node is the deviation
/// of their mean, since all of them are of the node's prompt and tree.
fn deviations(
    part: &Part<'_>,
    options: &Options,
    [both, inter, intra]: [&mut [f64]; 3],
) -> Result<Counts> {
    let (parents, tally) = (part.parents(), part.leaf_means()?);
    let (prompts, mut trees) = (parents.trees(), Trees::default());
    let below_top = |n| parents.of(n).filter(|&p| parents.of(p).is_some());
    (0..part.len()).for_each(|n| trees.add(below_top(n)));
    let leaf = |n: usize| f64::from(u8::from(tally.is_leaf(n)));
    let standards = |of: &Trees, values: &[f64]| -> Vec<Standard> {
        tree_moments(of, values, leaf).iter().map(|of| Standard::new(of, options)).collect()
    };
    let of_prompts = standards(&prompts, &tally.values);
    for (n, inter) in inter.iter_mut().enumerate() {
        *inter = of_prompts[prompts.of[n] as usize].apply(tally.values[n]);
    }
    let scores = if options.mode == Mode::Twice { &*inter } else { &tally.values[..] };
    let of_trees = standards(&trees, scores);
    for (n, intra) in intra.iter_mut().enumerate() {
        *intra = of_trees[trees.of[n] as usize].apply(scores[n]);
    }
    for n in 0..part.len() {
        if parents.of(n).is_none() || tally.values[n].is_nan() {
            (inter[n], intra[n]) = (0.0, 0.0);
        }
        both[n] = if options.mode == Mode::Tree { inter[n] + intra[n] } else { intra[n] };
    }
    Ok(part.counts(&prompts, &tally))
}

/// `(x - mean) / (std + eps)` of a group.
struct Standard {
    mean: f64,
    divisor: f64,
}

impl Standard {
    fn new(of: &Moments, options: &Options) -> Self {
        if of.count == 1.0 {
            return Self { mean: 0.0, divisor: 1.0 + *options.eps };
        }
        let std = of.variance(*options.ddof).sqrt();
        // Without spread all are 0.
        let divisor = if std > 0.0 { std + *options.eps } else { f64::INFINITY };
        Self { mean: of.mean, divisor }
    }

    fn apply(&self, x: f64) -> f64 {
        (x - self.mean) / self.divisor
    }
}

/// Deviations within prompts, within trees, and what the mode makes of both.
fn parts(
    options: &Options,
    scores: &[f64],
    prompts: &Groups,
    trees: &Groups,
) -> (Vec<f64>, Vec<f64>, Vec<f64>, Counts) {
    let rule = Normaliser { eps: *options.eps, ddof: *options.ddof, ..Normaliser::default() };
    let (inter, counts) = rule.apply(scores, prompts, Weights::Equal);
    let twice = options.mode == Mode::Twice;
    // Absent scores stay absent in the second round.
    let once: Vec<f64> =
        inter.iter().zip(scores).map(|(z, s)| if s.is_nan() { *s } else { *z }).collect();
    let (intra, _) = rule.apply(if twice { &once } else { scores }, trees, Weights::Equal);
    let both = match options.mode {
        Mode::Tree => inter.iter().zip(&intra).map(|(a, b)| a + b).collect(),
        _ => intra.clone(),
    };
    (inter, intra, both, counts)
}

/// Tree of each trajectory.
fn trees(rollouts: &Rollouts<'_>) -> Result<Groups> {
    let prompts = rollouts.groups()?.ids();
    if rollouts.has(&TREE_IDS) {
        let keys = rollouts.keys(&TREE_IDS)?;
        let own = Groups::from_keys(&keys.pick(&rollouts.last_rows()), rollouts.exec())?;
        return Ok(Groups::by(prompts.len(), |t| (prompts[t], own.ids()[t])));
    }
    let first = Groups::from_keys(&rollouts.turn_keys(&NODE_IDS)?, rollouts.exec())?;
    let turns = rollouts.turns()?;
    // A path without a step is a tree of its own.
    Ok(Groups::by(prompts.len(), |t| match turns.of(t).next() {
        Some(turn) => (prompts[t], Some(first.ids()[turn]), 0),
        None => (prompts[t], None, t),
    }))
}

fn differences(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let nodes = Nodes::read(rollouts)?;
    let ([advantages, leaves, values], counts) =
        nodes.by_part([Per::Node; 3], |part, [advantages, leaf_counts, node_values]| {
            let (parents, tally) = (part.parents(), part.values(options.value_mode)?);
            let (leaves, values) = (part.leaf_counts(&tally)?, &tally.values);
            for n in (0..part.len()).filter(|&n| !values[n].is_nan()) {
                let Some(p) = parents.of(n) else { continue };
                let bonus = (values[n] - values[p] - options.margin).max(0.0);
                advantages[n] = (values[n] + bonus) / leaves[n].sqrt();
            }
            leaf_counts.copy_from_slice(&leaves);
            node_values.copy_from_slice(values);
            Ok(part.counts(&parents.trees(), &tally))
        })?;
    Ok(Credit::new(nodes.edges(advantages), total(counts))
        .with("leaf_counts", nodes.edges(leaves))
        .with("node_values", nodes.edges(values)))
}

fn per_token(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let outcomes = rollouts.outcomes()?;
    let trees = trees(rollouts)?;
    let prompts = rollouts.groups()?;
    let of_row = |groups: &Groups| match rollouts.turn_places() {
        None => groups.ids().to_vec(),
        Some(places) => {
            let of_turns: Vec<u32> = match rollouts.turns() {
                Ok(turns) => turns.trajectories().map(|t| groups.ids()[t]).collect(),
                Err(_) => Vec::new(),
            };
            crate::spread::scatter(&of_turns, places)
        }
    };
    let (prompt_of, tree_of) = (of_row(prompts), of_row(&trees));
    let mut within_prompt = vec![Moments::default(); prompts.count()];
    let mut within_tree = vec![Moments::default(); trees.count()];
    let mut reader = rollouts.token_rewards()?;
    let rows = rollouts.rows().rows();
    let mut present = Vec::with_capacity(rows);
    for row in 0..rows {
        present.push(reader.read(row)?);
        if present[row] {
            let trained = || reader.rewards.iter().zip(&reader.mask).filter(|(_, m)| **m);
            let own = Moments::of(trained().map(|(&r, _)| r));
            let (prompt, tree) = (prompt_of[row] as usize, tree_of[row] as usize);
            within_prompt[prompt] = within_prompt[prompt].merge(own);
            within_tree[tree] = within_tree[tree].merge(own);
        }
    }
    let standards = |all: &[Moments]| -> Vec<Standard> {
        all.iter().map(|of| Standard::new(of, options)).collect()
    };
    let (of_prompts, of_trees) = (standards(&within_prompt), standards(&within_tree));
    let mut out = vec![0.0; rollouts.rows().total()];
    for row in (0..rows).filter(|&row| present[row]) {
        reader.read(row)?;
        let (prompt, tree) =
            (&of_prompts[prompt_of[row] as usize], &of_trees[tree_of[row] as usize]);
        let own = &mut out[rollouts.rows().range(row)];
        for ((credit, &reward), _) in
            own.iter_mut().zip(&reader.rewards).zip(&reader.mask).filter(|(_, m)| **m)
        {
            *credit = prompt.apply(reward) + tree.apply(reward);
        }
    }
    let counts = rollouts.normalise(&Normaliser::default(), &outcomes, Weighting::Trajectory)?.1;
    let double = rollouts.floats(&TOKEN_REWARDS)?.is_double();
    let narrow = || out.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let tokens = if double { Floats::from(out) } else { Floats::from(narrow()) };
    Ok(Credit::new(Values::Tokens(tokens), counts))
}
