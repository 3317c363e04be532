//! Some whole trees of a batch: what methods read of them. Nodes are numbered from 0.
//!
//! May depend on `rollouts`, `stats`, `tree` and below.

use std::ops::Range;

use super::paths::Paths;
use super::{NODE_VALUES, Nodes, Per, Scores, VISITS};
use crate::column::OUTCOME_REWARDS;
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::stats::Counts;
use crate::tree::parents::{Parents, Trees};
use crate::tree::readout::values::{Known, Tally, ValueMode, leaf_counts, node_values};

/// Some whole trees of a batch.
pub struct Part<'n> {
    nodes: &'n Nodes<'n, 'n>,
    /// Which nodes these are in the batch; all of them where they are those of paths.
    range: Range<usize>,
}

impl<'n> Part<'n> {
    /// The nodes of a range that no edge crosses.
    pub(super) fn new(nodes: &'n Nodes<'n, 'n>, range: Range<usize>) -> Self {
        Self { nodes, range }
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// How many of a unit there are.
    pub fn count(&self, unit: Per) -> usize {
        match (unit, self.paths()) {
            (Per::Nothing, _) => 0,
            (Per::Node, _) | (_, None) => self.len(),
            (Per::Place, Some(paths)) => paths.of_turn.len(),
            (Per::Path, Some(paths)) => paths.ends.len(),
        }
    }

    fn paths(&self) -> Option<&'n Paths> {
        self.nodes.paths.as_ref()
    }

    /// Parents of the nodes.
    pub fn parents(&self) -> Parents<'_> {
        Parents::trusted(&self.nodes.parents).part(self.range.clone())
    }

    /// Mean outcome of the leaves below each node.
    pub fn leaf_means(&self) -> Result<Tally> {
        self.tally(ValueMode::Leaf, Known::default())
    }

    /// Values of all nodes by a rule, those in `node_values` as they stand.
    pub fn values(&self, mode: ValueMode) -> Result<Tally> {
        let rollouts = self.nodes.rollouts;
        let column = |spec| {
            let there = self.paths().is_none() && rollouts.has(spec);
            there.then(|| rollouts.floats(spec)).transpose()
        };
        let (values, visits) = (column(&NODE_VALUES)?, column(&VISITS)?);
        if mode == ValueMode::Visit && visits.is_none() {
            return Err(Error::MissingColumn {
                method: "value_mode=\"visit\"",
                column: VISITS.name,
                level: VISITS.level.name(),
                present: rollouts.present(),
                instead: &[],
            });
        }
        self.tally(mode, Known { values, visits, first: self.range.start })
    }

    fn tally(&self, mode: ValueMode, known: Known<'_>) -> Result<Tally> {
        let (rollouts, first) = (self.nodes.rollouts, self.range.start);
        node_values(&self.parents(), mode, known, |n| match &self.nodes.scores {
            Scores::Column(scores) => {
                rollouts.reward(&OUTCOME_REWARDS, first + n, scores.get(first + n))
            }
            Scores::Own(scores) => Ok(scores[first + n]),
        })
    }

    /// Values of all nodes from other scores of leaves.
    pub fn values_of(&self, mode: ValueMode, leaf: impl Fn(usize) -> f64) -> Result<Tally> {
        node_values(&self.parents(), mode, Known::default(), |n| Ok(leaf(n)))
    }

    /// Leaves below each node that have a value; a leaf counts itself.
    pub fn leaf_counts(&self, tally: &Tally) -> Result<Vec<f64>> {
        leaf_counts(&self.parents(), tally)
    }

    /// The node of a row or turn.
    pub fn node(&self, place: usize) -> usize {
        self.paths().map_or(place, |paths| paths.of_turn[place] as usize)
    }

    /// Credit of whole paths, by leaf: each path its own; to nodes as rows the mean over the
    /// leaves below. NaN where a leaf has no score, and at roots that are rows.
    pub fn write_paths(&self, of_leaves: &[f64], into: &mut [f64]) -> Result<()> {
        if let Some(paths) = self.paths() {
            into.iter_mut().zip(&paths.ends).for_each(|(x, &n)| *x = of_leaves[n as usize]);
            return Ok(());
        }
        into.copy_from_slice(&self.values_of(ValueMode::Leaf, |n| of_leaves[n])?.values);
        let parents = self.parents();
        (0..self.len()).filter(|&n| parents.of(n).is_none()).for_each(|n| into[n] = f64::NAN);
        Ok(())
    }

    /// The trained tokens of each row or turn over all paths with a score: as rows, a node
    /// that three paths share counts three times. `leaves` are those below each node that
    /// have one.
    pub fn tokens(&self, tally: &Tally, leaves: &[f64]) -> Result<Vec<f64>> {
        let Some(paths) = self.paths() else {
            let mut tokens = self.row_tokens()?;
            tokens.iter_mut().zip(leaves).for_each(|(tokens, leaves)| *tokens *= leaves);
            return Ok(tokens);
        };
        let rollouts = self.nodes.rollouts;
        let (spans, mut mask) = (&rollouts.turns()?.spans, Vec::new());
        let mut tokens = Vec::with_capacity(spans.len());
        for (trajectory, turns) in paths.offsets.windows(2).enumerate() {
            let absent = tally.values[paths.ends[trajectory] as usize].is_nan();
            for span in &spans[turns[0]..turns[1]] {
                rollouts.mask().read(span.clone(), &mut mask)?;
                let trained = mask.iter().filter(|&&m| m).count();
                tokens.push(if absent { 0.0 } else { trained as f64 });
            }
        }
        Ok(tokens)
    }

    /// Trained tokens of each node that is a row.
    fn row_tokens(&self) -> Result<Vec<f64>> {
        let (rows, given) = (self.nodes.rollouts.rows(), self.nodes.rollouts.mask());
        let (mut tokens, mut mask) = (zeroed::<f64>(self.len())?, Vec::new());
        for (row, tokens) in self.range.clone().zip(&mut tokens) {
            let range = rows.range(row);
            let trained = match given.prefix(range.clone()) {
                Some(trained) => trained,
                None => {
                    given.read(range, &mut mask)?;
                    mask.iter().filter(|&&m| m).count()
                }
            };
            *tokens = trained as f64;
        }
        Ok(tokens)
    }

    /// Trained tokens of each node over all paths; see [`tokens`](Self::tokens).
    pub fn path_tokens(&self, tally: &Tally, leaves: &[f64]) -> Result<Vec<f64>> {
        let tokens = self.tokens(tally, leaves)?;
        let Some(paths) = self.paths() else { return Ok(tokens) };
        let mut of_nodes = vec![0.0; self.len()];
        for (&node, tokens) in paths.of_turn.iter().zip(&tokens) {
            of_nodes[node as usize] += tokens;
        }
        Ok(of_nodes)
    }

    /// Trained tokens from the prompt to each leaf.
    pub fn leaf_tokens(&self) -> Result<Vec<f64>> {
        let Some(paths) = self.paths() else {
            return Ok(self.parents().path_sums(&self.row_tokens()?));
        };
        let lengths = self.nodes.rollouts.token_counts()?;
        let mut of_nodes = vec![0.0; self.len()];
        for (&end, &tokens) in paths.ends.iter().zip(&lengths) {
            of_nodes[end as usize] = tokens;
        }
        Ok(of_nodes)
    }

    /// `eta^h` at each row or turn, `h` the steps from there to the end of the path, its own
    /// among them; the mean over paths where several share it.
    pub fn discounts(&self, eta: f64, tally: &Tally) -> Result<Vec<f64>> {
        if let Some(paths) = self.paths() {
            let left = paths.offsets.windows(2).flat_map(|turns| (1..=turns[1] - turns[0]).rev());
            return Ok(left.map(|steps| eta.powf(steps as f64)).collect());
        }
        let (parents, leaves) = (self.parents(), leaf_counts(&self.parents(), tally)?);
        let mut sums: Vec<f64> = zeroed(self.len())?;
        for n in (0..self.len()).rev() {
            sums[n] = eta * if tally.is_leaf(n) { 1.0 } else { sums[n] };
            if let Some(p) = parents.of(n) {
                sums[p] += sums[n];
            }
        }
        Ok(sums.iter().zip(&leaves).map(|(sum, leaves)| sum / leaves.max(1.0)).collect())
    }

    /// What a user should know of the trees: each is a group, its scores those of leaves.
    pub fn counts(&self, trees: &Trees, tally: &Tally) -> Counts {
        // Leaves, the score of the first, and whether all are equal.
        let mut found = vec![(0, f64::NAN, true); trees.roots.len()];
        let mut start = 0;
        for run in trees.of.chunk_by(|a, b| a == b) {
            let of_tree = &mut found[run[0] as usize];
            let (mut leaves, mut first, mut equal) = *of_tree;
            for n in (start..start + run.len()).filter(|&n| tally.is_leaf(n)) {
                first = if leaves == 0 { tally.values[n] } else { first };
                leaves += 1;
                equal &= first == tally.values[n];
            }
            *of_tree = (leaves, first, equal);
            start += run.len();
        }
        let count = |wanted: &dyn Fn(usize, bool) -> bool| {
            found.iter().filter(|(leaves, _, equal)| wanted(*leaves, *equal)).count()
        };
        Counts {
            groups: count(&|leaves, _| leaves > 0),
            singletons: count(&|leaves, _| leaves == 1),
            zero_spread: count(&|leaves, equal| leaves > 1 && equal),
            absent: 0,
        }
    }
}
