//! `a3`: outcomes compared among trajectories whose actions are alike.

mod prompt;

use crate::choice;
use crate::column::{ColumnSpec, GROUP_IDS, Kind, Level, OUTCOME_REWARDS, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::group::Groups;
use crate::options::{NonNegative, Positive, Unit};
use crate::returns::discounted;
use crate::rollouts::Rollouts;
use crate::stats::{Centre, Normaliser, Scale, Singleton, Weights};

use prompt::{Batch, Found};

/// What kind of action each turn was.
pub const SIGNATURES: ColumnSpec = ColumnSpec::new(
    "signatures",
    Level::Turn,
    Kind::TextList,
    "Intent of a turn's action as a list of tokens, e.g. the verbs of a shell command.",
);

/// Stands for the whole trajectory among `scopes`.
const WHOLE: i64 = -1;

choice! {
    /// Over what the three parts are brought to the same size.
    NormaliseOver {
        /// All turns of the batch.
        Batch = "batch",
        /// The turns of a group.
        Prompt = "prompt",
    }
}

crate::method! {
    /// Structured action credit: a trajectory's outcome against those of trajectories that
    /// acted alike, and of those that acted otherwise in the same state.
    ///
    /// # Formula
    ///
    /// `robust(x) = tanh((x - med) / (max(1.4826 median|x - med|, 0.5) + eps))` over one value
    /// a trajectory of a group, with the lower median. `R` is the outcome.
    ///
    /// 1. Backbone: `robust(R)`.
    /// 2. Residual: at each turn number and for each scope, trajectories are compared by the
    ///    edit distance of their signatures over the last `scope` turns (-1: all turns),
    ///    divided by the longer length, and merged by single linkage until
    ///    `ceil(m / tau)` clusters of the `m` trajectories are left. The residual is the
    ///    scope-weighted mean of `R - mean R` of the others in the cluster (0 when alone);
    ///    `robust` of the one at a trajectory's first turn is given to all its turns.
    /// 3. Tree: turns of a group with the same number share a state if their earlier turns'
    ///    labels are alike: the scope-weighted share of labels that differ, weighted over time
    ///    by `time_decay^j` from the root, is at most `match_tolerance`, or a chain of such
    ///    turns joins them. Likewise turns of a state whose own labels are alike share an action.
    ///    In a state of several actions `support = c / (c + support_prior + eps)` for an action
    ///    taken `c` times and `gain = support (mean R of the action - mean R of the state)`.
    ///    Both are summed backwards with `gamma`: `G`, `U`. The part is
    ///    `G U / (U + support_prior + eps)`.
    ///
    /// Each part is divided by its mean absolute value + 1e-9;
    /// `A = bound tanh((backbone + residual_weight residual + tree_weight tree) / bound)`.
    /// The extras hold every part; a group's number is that of its first turn, -1 is none.
    ///
    /// # Source
    ///
    /// Code at github.com/Hoyant-Su/Agentic-RL-A3. There trajectories are walked in the order
    /// of a set; here ties go to the trajectory that appears first. Because of the division
    /// by means over the batch, splitting a batch changes the credit.
    ///
    /// # Errors
    ///
    /// A scope that is neither positive nor -1; as many `scope_weights` as `scopes` are needed.
    ///
    /// # Degenerate cases
    ///
    /// One trajectory in a group, or equal outcomes: all parts 0. A trajectory without outcome
    /// counts as if it were not there and gets 0.
    "a3" {
        title: "Structured action credit",
        granularity: Turn,
        family: "turn groups",
        paper: "github.com/Hoyant-Su/Agentic-RL-A3",
        certainty: Code,
        batch_wide: |options| options.normalise_over == NormaliseOver::Batch,
        needs: [SIGNATURES, OUTCOME_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS],
        options: {
            /// Numbers of turns whose signatures are joined; -1 for all turns.
            scopes: Vec<i64> = vec![1, 2, 3, WHOLE],
            /// Weight of each scope; made to sum to 1.
            scope_weights: Vec<f64> = vec![0.25; 4],
            /// Trajectories in a cluster, about: `ceil(m / tau)` clusters are made of `m`.
            tau: Positive = 2.0,
            /// Largest distance at which two turns share a state or an action.
            match_tolerance: NonNegative = 0.05,
            /// Weight of a turn's distance relative to the turn before, when states are compared.
            time_decay: Unit = 0.84,
            /// Count of an action at which its support is one half.
            support_prior: NonNegative = 0.1,
            /// Discount from turn to turn in the tree part.
            gamma: Unit = 0.9,
            /// Weight of the residual part.
            residual_weight: NonNegative = 0.65,
            /// Weight of the tree part.
            tree_weight: NonNegative = 1.0,
            /// Largest absolute advantage.
            bound: Positive = 1.1,
            /// Over what the parts are brought to the same size.
            normalise_over: NormaliseOver = NormaliseOver::Batch,
            /// Added to the robust scale and to divisors of counts.
            eps: NonNegative = 1e-6,
        },
        presets: {},
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let batch = Batch::new(rollouts, options)?;
    let prompts = rollouts.groups()?;
    let found = rollouts
        .exec()
        .map(prompts.iter().collect(), |trajectories| batch.compare(trajectories))?;

    let robust = Normaliser {
        centre: Centre::LowerMedian,
        scale: Scale::Mad,
        floor: 0.5,
        eps: *options.eps,
        singleton: Singleton::Zero,
        ..Normaliser::default()
    };
    let over_trajectories = |of_turn: &[f64]| {
        let first = |t| batch.turns.of(t).next().map_or(f64::NAN, |turn| of_turn[turn]);
        let firsts: Vec<f64> = (0..rollouts.trajectories()).map(first).collect();
        let (scores, counts) = robust.apply(&firsts, prompts, Weights::Equal);
        (batch.owner.iter().map(|&t| scores[t].tanh()).collect::<Vec<f64>>(), counts)
    };
    let column = |part: fn(&Found) -> &[f64], none: f64| {
        let mut all = vec![none; batch.scores.len()];
        for found in &found {
            found.turns.iter().zip(part(found)).for_each(|(&turn, &value)| all[turn] = value);
        }
        all
    };
    let accumulated = |part: fn(&Found) -> &[f64]| {
        let mut sums = column(part, 0.0);
        (0..rollouts.trajectories())
            .for_each(|t| discounted(&mut sums[batch.turns.of(t)], *options.gamma));
        sums
    };
    let (backbone, counts) = over_trajectories(&batch.scores);
    let mut residual = column(|found| &found.residual, f64::NAN);
    let (bounded, _) = over_trajectories(&residual);
    residual.iter_mut().filter(|r| r.is_nan()).for_each(|r| *r = 0.0);
    let gains = accumulated(|found| &found.gain);
    let support = accumulated(|found| &found.support);
    let floor = *options.support_prior + *options.eps;
    // Where nothing supports it the gain is 0 too, and 0 / 0 with a prior of 0.
    let shrunk = |(g, u): (&f64, &f64)| if *u > 0.0 { g * u / (u + floor) } else { 0.0 };
    let tree: Vec<f64> = gains.iter().zip(&support).map(shrunk).collect();

    let pools = match options.normalise_over {
        NormaliseOver::Batch => Groups::one(batch.scores.len()),
        NormaliseOver::Prompt => Groups::by(batch.scores.len(), |k| prompts.ids()[batch.owner[k]]),
    };
    let even = |part: &[f64]| same_size(part, &batch, &pools);
    let (b, e, t) = (even(&backbone), even(&bounded), even(&tree));
    let mix = |k: usize| b[k] + *options.residual_weight * e[k] + *options.tree_weight * t[k];
    let bend = |p: f64| *options.bound * (p / *options.bound).tanh();
    let advantages = (0..batch.scores.len()).map(|k| bend(mix(k))).collect();
    Ok(Credit::new(Values::Turns(advantages), counts)
        .with("backbone", Values::Turns(backbone))
        .with("residual", Values::Turns(residual))
        .with("residual_bounded", Values::Turns(bounded))
        .with("state_group", Values::Turns(column(|found| &found.state, -1.0)))
        .with("action_group", Values::Turns(column(|found| &found.action, -1.0)))
        .with("tree_return", Values::Turns(gains))
        .with("tree_support", Values::Turns(support)))
}

/// Divides by the mean absolute value + 1e-9 over each pool's turns that have a score.
fn same_size(part: &[f64], batch: &Batch<'_>, pools: &Groups) -> Vec<f64> {
    let mut out = vec![0.0; part.len()];
    for pool in pools.iter() {
        let present = || pool.iter().filter(|&&turn| !batch.scores[turn].is_nan());
        let sum: f64 = present().map(|&turn| part[turn].abs()).sum();
        let size = sum / present().count() as f64 + 1e-9;
        present().for_each(|&turn| out[turn] = part[turn] / size);
    }
    out
}
