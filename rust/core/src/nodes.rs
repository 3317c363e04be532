//! Trees in a batch of rollouts, in either of the two forms in which trainers hold them.
//!
//! *Nodes as rows*: a row holds the tokens between a node's parent and itself, `parents`
//! says which row that is, and each shared prefix is there once. A root stands for a
//! prompt. *Paths*: a row or trajectory is a whole path, its turns are the steps, and
//! `node_ids` says which paths share them; the prompt is the group. Methods see nodes,
//! and give credit back without knowing which it is.
//! May depend on `rollouts`, `group`, `stats`, `tree` and below.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::column::{Column, ColumnSpec, Floats, Keys, Kind, Level, OUTCOME_REWARDS};
use crate::credit::Values;
use crate::error::{Error, Result};
use crate::group::Groups;
use crate::memory::zeroed;
use crate::rollouts::Rollouts;
use crate::stats::Counts;
use crate::tree::parents::Parents;
use crate::tree::readout::values::{Known, Tally, ValueMode, leaf_counts, node_values};

/// Nodes as rows.
pub const PARENTS: ColumnSpec = ColumnSpec::new(
    "parents",
    Level::Trajectory,
    Kind::Key,
    "Where each row is a node of a tree: the row, an earlier one, whose state the row's tokens \
     continue; -1 for the root, which is the prompt and gets no credit.",
);
/// Nodes as turns of paths.
pub const NODE_IDS: ColumnSpec = ColumnSpec {
    derived_from: &["parents"],
    ..ColumnSpec::new(
        "node_ids",
        Level::Turn,
        Kind::Key,
        "Where each trajectory is a path through a tree: the node that a turn leads to. \
         Trajectories of a group whose turns so far have equal ids share the node. Not \
         needed where parents say what the nodes are.",
    )
};
/// Visits of nodes as rows.
pub const VISITS: ColumnSpec = ColumnSpec::new(
    "visits",
    Level::Trajectory,
    Kind::Reward,
    "With parents: how often a search went through a node, the weight of its value in its \
     parent's under value_mode=\"visit\".",
);
/// Values of nodes as rows.
pub const NODE_VALUES: ColumnSpec = ColumnSpec::new(
    "node_values",
    Level::Trajectory,
    Kind::Reward,
    "With parents: a node's value where it was estimated by itself, as by rollouts from it or \
     by a search; NaN where it follows from what is below.",
);

/// The nodes of a batch, parents before children.
pub struct Nodes<'r, 'a> {
    rollouts: &'r Rollouts<'a>,
    parents: Cow<'r, [i64]>,
    scores: Scores<'r>,
    paths: Option<Paths>,
}

/// The score of a node: read in place where that can be, because a forest is large.
enum Scores<'r> {
    Column(&'r Floats<'r>),
    Own(Vec<f64>),
}

/// Where paths run.
struct Paths {
    /// Node of each turn, in turn order.
    of_turn: Vec<u32>,
    /// The leaf in which each trajectory ends, its alone.
    ends: Vec<u32>,
    /// Trajectory to turns.
    offsets: Vec<usize>,
}

impl<'r, 'a> Nodes<'r, 'a> {
    /// Reads the nodes of a batch.
    ///
    /// # Errors
    ///
    /// A parent that does not come before its row; parents of rows that are turns; a
    /// column of nodes as rows without `parents`; whatever reading a column raises.
    pub fn read(rollouts: &'r Rollouts<'a>) -> Result<Self> {
        if rollouts.has(&PARENTS) {
            return Self::of_rows(rollouts);
        }
        for spec in [&VISITS, &NODE_VALUES] {
            if rollouts.has(spec) {
                let (column, got) = (spec.name.to_owned(), "paths");
                return Err(Error::WrongKind {
                    column,
                    got,
                    expected: "nodes as rows, with parents",
                });
            }
        }
        Self::of_paths(rollouts)
    }

    fn of_rows(rollouts: &'r Rollouts<'a>) -> Result<Self> {
        let wrong = |got| {
            let column = PARENTS.name.to_owned();
            Err(Error::WrongKind { column, got, expected: "rows of integers, a row a node" })
        };
        if rollouts.is_step_rows() {
            return wrong("rows that are turns of trajectories");
        }
        let parents = match rollouts.column(&PARENTS)? {
            Column::Keys(Keys::Ints(parents)) => &parents[..],
            other if other.is_empty() => &[], // of no kind yet
            other => return wrong(other.describe()),
        };
        Parents::new(parents)?;
        let scores = if rollouts.has(&OUTCOME_REWARDS) {
            Scores::Column(rollouts.floats(&OUTCOME_REWARDS)?)
        } else {
            Scores::Own(rollouts.outcomes()?)
        };
        Ok(Self { rollouts, parents: Cow::Borrowed(parents), scores, paths: None })
    }

    fn of_paths(rollouts: &'r Rollouts<'a>) -> Result<Self> {
        let (turns, groups) = (rollouts.turns()?, rollouts.groups()?);
        let ids = Groups::from_keys(&rollouts.turn_keys(&NODE_IDS)?, rollouts.exec())?;
        let mut parents = vec![-1; groups.count()];
        let mut known: HashMap<(u32, u32), u32> = HashMap::new();
        let mut of_turn = Vec::with_capacity(ids.len());
        let mut ends = Vec::with_capacity(rollouts.trajectories());
        for trajectory in 0..rollouts.trajectories() {
            let mut at = groups.ids()[trajectory];
            for turn in turns.of(trajectory) {
                at = *known.entry((at, ids.ids()[turn])).or_insert_with(|| {
                    parents.push(i64::from(at));
                    parents.len() as u32 - 1
                });
                of_turn.push(at);
            }
            ends.push(at);
        }
        own_leaves(&mut parents, &mut ends, groups.count());
        let mut scores = vec![f64::NAN; parents.len()];
        for (&end, outcome) in ends.iter().zip(rollouts.outcomes()?) {
            scores[end as usize] = outcome;
        }
        let paths = Some(Paths { of_turn, ends, offsets: turns.offsets.clone() });
        Ok(Self { rollouts, parents: Cow::Owned(parents), scores: Scores::Own(scores), paths })
    }

    /// Parents of the nodes.
    pub fn parents(&self) -> Parents<'_> {
        Parents::trusted(&self.parents)
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.parents.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// Mean outcome of the leaves below each node.
    pub fn leaf_means(&self) -> Result<Tally> {
        self.tally(ValueMode::Leaf, Known::default())
    }

    /// Values of all nodes by a rule, those in `node_values` as they stand.
    pub fn values(&self, mode: ValueMode) -> Result<Tally> {
        let column = |spec| {
            let there = self.paths.is_none() && self.rollouts.has(spec);
            there.then(|| self.rollouts.floats(spec)).transpose()
        };
        let known = Known { values: column(&NODE_VALUES)?, visits: column(&VISITS)? };
        if mode == ValueMode::Visit && known.visits.is_none() {
            return Err(Error::MissingColumn {
                method: "value_mode=\"visit\"",
                column: VISITS.name,
                level: VISITS.level.name(),
                present: self.rollouts.present(),
                instead: &[],
            });
        }
        self.tally(mode, known)
    }

    fn tally(&self, mode: ValueMode, known: Known<'_>) -> Result<Tally> {
        node_values(&self.parents(), mode, known, |n| match &self.scores {
            Scores::Column(scores) => self.rollouts.reward(&OUTCOME_REWARDS, n, scores.get(n)),
            Scores::Own(scores) => Ok(scores[n]),
        })
    }

    /// Values of all nodes from other scores of leaves.
    pub fn values_of(&self, mode: ValueMode, leaf: impl Fn(usize) -> f64) -> Result<Tally> {
        node_values(&self.parents(), mode, Known::default(), |n| Ok(leaf(n)))
    }

    /// Credit of the edges into nodes, to where the nodes came from.
    pub fn edges(&self, credit: Vec<f64>) -> Values {
        match &self.paths {
            None => Values::Trajectories(credit),
            Some(paths) => {
                Values::Turns(paths.of_turn.iter().map(|&node| credit[node as usize]).collect())
            }
        }
    }

    /// Where credit goes: the node of each row, or of each turn in turn order.
    pub fn places(&self) -> Vec<usize> {
        match &self.paths {
            None => (0..self.len()).collect(),
            Some(paths) => paths.of_turn.iter().map(|&node| node as usize).collect(),
        }
    }

    /// One value for each of [`places`](Self::places).
    pub fn at_places(&self, credit: Vec<f64>) -> Values {
        match &self.paths {
            None => Values::Trajectories(credit),
            Some(_) => Values::Turns(credit),
        }
    }

    /// Credit of whole paths, by leaf: each trajectory its own; to nodes as rows the mean
    /// over the leaves below. NaN, where a leaf has no score, is 0.
    pub fn paths(&self, credit: &[f64]) -> Result<Values> {
        let present = |x: f64| if x.is_nan() { 0.0 } else { x };
        Ok(match &self.paths {
            Some(paths) => Values::Trajectories(
                paths.ends.iter().map(|&n| present(credit[n as usize])).collect(),
            ),
            None => {
                let mut means = self.values_of(ValueMode::Leaf, |n| credit[n])?.values;
                for (n, mean) in means.iter_mut().enumerate() {
                    *mean = if self.parents[n] < 0 { 0.0 } else { present(*mean) };
                }
                Values::Trajectories(means)
            }
        })
    }

    /// The trained tokens of each of [`places`](Self::places) over all paths with a score: as
    /// rows, a node that three paths share counts three times. `leaves` are those below each
    /// node that have one.
    pub fn tokens(&self, tally: &Tally, leaves: &[f64]) -> Result<Vec<f64>> {
        let Some(paths) = &self.paths else {
            let mut tokens = self.row_tokens()?;
            tokens.iter_mut().zip(leaves).for_each(|(tokens, leaves)| *tokens *= leaves);
            return Ok(tokens);
        };
        let (spans, mut mask) = (&self.rollouts.turns()?.spans, Vec::new());
        let mut tokens = Vec::with_capacity(spans.len());
        for (trajectory, turns) in paths.offsets.windows(2).enumerate() {
            let absent = tally.values[paths.ends[trajectory] as usize].is_nan();
            for span in &spans[turns[0]..turns[1]] {
                self.rollouts.mask().read(span.clone(), &mut mask)?;
                let trained = mask.iter().filter(|&&m| m).count();
                tokens.push(if absent { 0.0 } else { trained as f64 });
            }
        }
        Ok(tokens)
    }

    /// Trained tokens of each node that is a row.
    fn row_tokens(&self) -> Result<Vec<f64>> {
        let (rows, given, mut mask) = (self.rollouts.rows(), self.rollouts.mask(), Vec::new());
        let mut tokens: Vec<f64> = zeroed(self.len())?;
        for (row, tokens) in tokens.iter_mut().enumerate() {
            let range = rows.range(row);
            *tokens = match given.prefix(range.clone()) {
                Some(trained) => trained as f64,
                None => {
                    given.read(range, &mut mask)?;
                    mask.iter().filter(|&&m| m).count() as f64
                }
            };
        }
        Ok(tokens)
    }

    /// Trained tokens of each node over all paths; see [`tokens`](Self::tokens).
    pub fn path_tokens(&self, tally: &Tally, leaves: &[f64]) -> Result<Vec<f64>> {
        let tokens = self.tokens(tally, leaves)?;
        let Some(paths) = &self.paths else { return Ok(tokens) };
        let mut of_nodes = vec![0.0; self.len()];
        for (&node, tokens) in paths.of_turn.iter().zip(&tokens) {
            of_nodes[node as usize] += tokens;
        }
        Ok(of_nodes)
    }

    /// Trained tokens from the prompt to each leaf.
    pub fn leaf_tokens(&self) -> Result<Vec<f64>> {
        let Some(paths) = &self.paths else {
            return Ok(self.parents().path_sums(&self.row_tokens()?));
        };
        let lengths = self.rollouts.token_counts()?;
        let mut of_nodes = vec![0.0; self.len()];
        for (&end, &tokens) in paths.ends.iter().zip(&lengths) {
            of_nodes[end as usize] = tokens;
        }
        Ok(of_nodes)
    }

    /// `eta^h` at each of [`places`](Self::places), `h` the steps from there to the end of
    /// the path, its own among them; the mean over paths where several share it.
    pub fn discounts(&self, eta: f64, tally: &Tally) -> Result<Vec<f64>> {
        if let Some(paths) = &self.paths {
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
    pub fn counts(&self, tally: &Tally) -> Counts {
        let mut trees: Vec<(usize, f64, bool)> = Vec::new(); // leaves, first score, all equal
        // Nodes of a tree mostly lie together; from where they do not, they are numbered.
        let (mut start, mut numbers): (_, Option<Vec<u32>>) = (0, None);
        for (n, &parent) in self.parents.iter().enumerate() {
            let tree = match usize::try_from(parent) {
                Ok(p) if numbers.is_none() && p >= start => trees.len() - 1,
                Ok(_) => numbers.get_or_insert_with(|| self.parents().tree_numbers())[n] as usize,
                Err(_) => {
                    start = n;
                    trees.push((0, f64::NAN, true));
                    trees.len() - 1
                }
            };
            if tally.is_leaf(n) {
                let (leaves, first, equal) = &mut trees[tree];
                *first = if *leaves == 0 { tally.values[n] } else { *first };
                *leaves += 1;
                *equal &= *first == tally.values[n];
            }
        }
        let count = |wanted: &dyn Fn(usize, bool) -> bool| {
            trees.iter().filter(|(leaves, _, equal)| wanted(*leaves, *equal)).count()
        };
        Counts {
            groups: count(&|leaves, _| leaves > 0),
            singletons: count(&|leaves, _| leaves == 1),
            zero_spread: count(&|leaves, equal| leaves > 1 && equal),
            absent: 0,
        }
    }
}

/// Gives each trajectory a leaf of its own: where others end too or go on, a further node
/// of no tokens, which changes no mean.
fn own_leaves(parents: &mut Vec<i64>, ends: &mut [u32], roots: usize) {
    let mut taken = vec![0u32; parents.len()];
    (0..roots).for_each(|root| taken[root] = 2);
    ends.iter().for_each(|&end| taken[end as usize] += 1);
    parents.iter().filter(|&&p| p >= 0).for_each(|&p| taken[p as usize] += 2);
    for end in ends.iter_mut().filter(|end| taken[**end as usize] > 1) {
        parents.push(i64::from(*end));
        *end = parents.len() as u32 - 1;
    }
}
