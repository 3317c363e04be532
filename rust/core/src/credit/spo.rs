//! `spo`: what a segment adds to the chance of success, in a tree or along a chain.

use crate::column::{
    ColumnSpec, Floats, OLD_LOG_PROBS, OUTCOME_REWARDS, REWARD_MATRIX, TOKEN_REWARDS,
};
use crate::credit::vineppo::{TURN_VALUES, chain};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::nodes::{NODE_IDS, NODE_VALUES, Nodes, PARENTS, Part, Per, VISITS, total};
use crate::options::{NonNegative, Unit};
use crate::rollouts::Rollouts;
use crate::stats::Counts;
use crate::tree::readout::siblings::child_moments;
use crate::tree::readout::values::ValueMode;

/// Where nothing says what the nodes are, values say that turns are segments of a chain.
const SEGMENTS: ColumnSpec =
    ColumnSpec { derived_from: &["parents", TURN_VALUES.name], ..NODE_IDS };

crate::method! {
    /// Segment policy optimisation: how much more likely the answer is to be right after a
    /// segment than before it.
    ///
    /// # Formula
    ///
    /// *Tree* (with `node_ids` or `parents`): `A(n) = V(n) - V(p)`, `V` the unweighted mean
    /// over the children, at leaves the outcome. With `scale` it is divided by the standard
    /// deviation of the children of `p` plus `eps`. With `drop_zero` a segment leaves the
    /// loss where `A(n) + B(n) = 0`, `B(n) = [1 - (1 - V(n))^k] - [1 - (1 - V(p))^k]` being
    /// what it adds to the chance that one of `k = best_of` tries succeeds.
    ///
    /// *Chain* (with `turn_values` alone, each turn being a segment): `A_t = V_{t+1} - V_t`,
    /// `V_t` the value estimated before segment `t` and the last the outcome. Where
    /// `old_log_probs` are given, only tokens of a probability below `max_prob` are trained.
    ///
    /// # Extras
    ///
    /// Tree: `node_values` (`V(n)`, NaN where nothing below has an outcome) and
    /// `best_of_gain` (`B(n)`).
    ///
    /// # Source
    ///
    /// Guo et al. 2025, arXiv:2505.23564; the authors' `extract_edges_from_tree` and
    /// cut points of the chain. Population standard deviation.
    ///
    /// # Degenerate cases
    ///
    /// A leaf whose outcome is NaN is left out of every mean, and a node with nothing else
    /// below gets 0. Children of equal values give exactly 0; so does a lone child. Roots
    /// get 0. A chain whose outcome is NaN gives 0 in its last segment, and a segment with
    /// a value missing at either end 0.
    "spo" {
        title: "Segment policy optimisation",
        granularity: Turn,
        family: "tree",
        paper: "arXiv:2505.23564",
        certainty: Code,
        needs: [OUTCOME_REWARDS, SEGMENTS],
        takes: [
            PARENTS, NODE_VALUES, VISITS, TURN_VALUES, OLD_LOG_PROBS, TOKEN_REWARDS, REWARD_MATRIX,
        ],
        options: {
            /// How a node's value follows from those below.
            value_mode: ValueMode = ValueMode::Child,
            /// Divide by the standard deviation of the siblings.
            scale: bool = false,
            /// Added to the standard deviation.
            eps: NonNegative = 1e-8,
            /// Tries of which one has to succeed in the term by which segments are kept.
            best_of: usize = 4,
            /// Take segments of no credit and no such gain out of the loss.
            drop_zero: bool = true,
            /// Probability from which on a chain's tokens are not trained.
            max_prob: Unit = 0.9,
        },
        presets: {},
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    if !rollouts.has(&PARENTS) && !rollouts.has(&NODE_IDS) {
        return along_chains(rollouts, options);
    }
    let nodes = Nodes::read(rollouts)?;
    let kept = if options.drop_zero { Per::Node } else { Per::Nothing };
    let units = [Per::Node, Per::Node, Per::Node, kept];
    let ([advantages, gains, values, kept], counts) =
        nodes.by_part(units, |part, columns| in_trees(part, options, columns))?;
    let mut credit = Credit::new(nodes.edges(advantages), total(counts))
        .with("best_of_gain", nodes.edges(gains))
        .with("node_values", nodes.edges(values));
    credit.loss_mask = options.drop_zero.then(|| nodes.edges(kept));
    Ok(credit)
}

/// Credit of the segments of trees, their gains, values of nodes, and which are trained.
fn in_trees(
    part: &Part<'_>,
    options: &Options,
    [advantages, gains, node_values, kept]: [&mut [f64]; 4],
) -> Result<Counts> {
    let (parents, tally) = (part.parents(), part.values(options.value_mode)?);
    let values = &tally.values;
    let siblings = if options.scale { child_moments(&parents, values) } else { Vec::new() };
    let miss = |n: usize| power(1.0 - values[n], options.best_of);
    for n in 0..part.len() {
        let Some(p) = parents.of(n).filter(|_| !values[n].is_nan()) else { continue };
        advantages[n] = values[n] - values[p];
        gains[n] = miss(p) - miss(n);
        if options.scale && advantages[n] != 0.0 {
            advantages[n] /= siblings[p].variance(0.0).sqrt() + *options.eps;
        }
    }
    for (kept, (a, b)) in kept.iter_mut().zip(advantages.iter().zip(gains.iter())) {
        *kept = f64::from(u8::from(a + b != 0.0));
    }
    node_values.copy_from_slice(values);
    Ok(part.counts(&parents.trees(), &tally))
}

/// `x^k`; the usual 4 without a loop, of which a forest has many.
fn power(x: f64, k: usize) -> f64 {
    if k == 4 { (x * x) * (x * x) } else { x.powi(i32::try_from(k).unwrap_or(i32::MAX)) }
}

fn along_chains(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let outcomes = rollouts.outcomes()?;
    let mut credit = chain(rollouts, &vec![0.0; rollouts.turns()?.spans.len()], &outcomes)?;
    if rollouts.has(&OLD_LOG_PROBS) {
        credit.loss_mask = Some(Values::Tokens(unlikely(rollouts, *options.max_prob)?));
    }
    Ok(credit)
}

/// 1 at trained tokens of a probability below `most`.
fn unlikely(rollouts: &Rollouts<'_>, most: f64) -> Result<Floats<'static>> {
    let log_probs = rollouts.floats(&OLD_LOG_PROBS)?;
    let (mut out, mut mask, mut row) = (Vec::new(), Vec::new(), Vec::new());
    for range in rollouts.rows().ranges() {
        rollouts.mask().read(range.clone(), &mut mask)?;
        rollouts.read_tokens(&OLD_LOG_PROBS, log_probs, range, &mask, &mut row)?;
        let kept = |(x, &m): (&f64, &bool)| if m && x.exp() < most { 1.0_f32 } else { 0.0 };
        out.extend(row.iter().zip(&mask).map(kept));
    }
    Ok(Floats::from(out))
}
