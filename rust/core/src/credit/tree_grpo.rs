//! `tree_grpo`: GRPO between the trees of a prompt and within each tree, and its
//! difference form.

use crate::choice;
use crate::column::{
    ColumnSpec, Floats, GROUP_IDS, Kind, Level, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS,
};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::group::Groups;
use crate::memory::filled;
use crate::nodes::{NODE_IDS, NODE_VALUES, Nodes, PARENTS, VISITS};
use crate::options::NonNegative;
use crate::rollouts::Rollouts;
use crate::stats::{Counts, Moments, Normaliser, Weighting, Weights};
use crate::tree::readout::values::{ValueMode, leaf_counts};

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
    let (parents, tally) = (nodes.parents(), nodes.leaf_means()?);
    let leaves: Vec<usize> = (0..nodes.len()).filter(|&n| tally.is_leaf(n)).collect();
    let roots = parents.roots();
    let mut tops: Vec<usize> = Vec::with_capacity(nodes.len());
    for n in 0..nodes.len() {
        let below_root = parents.of(n).filter(|&p| parents.of(p).is_some());
        tops.push(below_root.map_or(n, |p| tops[p]));
    }
    let prompts = Groups::by(leaves.len(), |i| roots[leaves[i]]);
    let trees = Groups::by(leaves.len(), |i| tops[leaves[i]]);
    let scores: Vec<f64> = leaves.iter().map(|&n| tally.values[n]).collect();
    let (inter, intra, both, counts) = parts(options, &scores, &prompts, &trees);
    let spread = |of_leaves: Vec<f64>| {
        let mut by_node = vec![f64::NAN; nodes.len()];
        leaves.iter().zip(of_leaves).for_each(|(&n, x)| by_node[n] = x);
        nodes.paths(&by_node)
    };
    Ok(Credit::new(spread(both)?, counts)
        .with("inter_tree", spread(inter)?)
        .with("intra_tree", spread(intra)?))
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
    let (parents, tally) = (nodes.parents(), nodes.values(options.value_mode)?);
    let leaves = leaf_counts(&parents, &tally)?;
    let values = &tally.values;
    let one = |n: usize| {
        let p = parents.of(n).filter(|_| !values[n].is_nan())?;
        let bonus = (values[n] - values[p] - options.margin).max(0.0);
        Some((values[n] + bonus) / leaves[n].sqrt())
    };
    let advantages = filled(nodes.len(), |n| one(n).unwrap_or(0.0))?;
    let counts = nodes.counts(&tally);
    Ok(Credit::new(nodes.edges(advantages), counts)
        .with("leaf_counts", nodes.edges(leaves))
        .with("node_values", nodes.edges(tally.values)))
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
    let z = |x: f64, of: &Moments| match of.count {
        1.0 => x / (1.0 + *options.eps),
        _ if of.squares == 0.0 => 0.0,
        _ => (x - of.mean) / (of.variance(*options.ddof).sqrt() + *options.eps),
    };
    let mut out = vec![0.0; rollouts.rows().total()];
    for row in (0..rows).filter(|&row| present[row]) {
        reader.read(row)?;
        let (prompt, tree) =
            (within_prompt[prompt_of[row] as usize], within_tree[tree_of[row] as usize]);
        let own = &mut out[rollouts.rows().range(row)];
        for ((credit, &reward), _) in
            own.iter_mut().zip(&reader.rewards).zip(&reader.mask).filter(|(_, m)| **m)
        {
            *credit = z(reward, &prompt) + z(reward, &tree);
        }
    }
    let counts = rollouts.normalise(&Normaliser::default(), &outcomes, Weighting::Trajectory)?.1;
    let double = rollouts.floats(&TOKEN_REWARDS)?.is_double();
    let narrow = || out.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let tokens = if double { Floats::from(out) } else { Floats::from(narrow()) };
    Ok(Credit::new(Values::Tokens(tokens), counts))
}
