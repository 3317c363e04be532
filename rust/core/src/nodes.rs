//! Trees in a batch of rollouts, in either of the two forms in which trainers hold them.
//!
//! *Nodes as rows*: a row holds the tokens between a node's parent and itself, `parents`
//! says which row that is, and each shared prefix is there once. A root stands for a
//! prompt. *Paths*: a row or trajectory is a whole path, its turns are the steps, and
//! `node_ids` says which paths share them; the prompt is the group. Methods see nodes,
//! and give credit back without knowing which it is. They see them in parts, some whole
//! trees each: what a part needs on the way stays near the processor, where a column of a
//! forest would be memory that the system clears first, and parts go to threads.
//! May depend on `rollouts`, `group`, `stats`, `tree` and below.

mod part;
mod paths;

use std::borrow::Cow;
use std::ops::Range;

use crate::column::{Column, ColumnSpec, Floats, Keys, Kind, Level, OUTCOME_REWARDS};
use crate::credit::Values;
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::rollouts::Rollouts;
use crate::stats::Counts;
use crate::tree::parents::Parents;

pub use part::Part;
use paths::Paths;

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

/// Nodes of a part, if its trees are not larger.
const PART: usize = 1 << 12;

/// What a column of credit has one value of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// The node itself.
    Node,
    /// The row of a node, or the turn that leads to it, of which it may have several.
    Place,
    /// The row of a node, or the path that ends in it.
    Path,
    /// Nothing: a column that is not asked for.
    Nothing,
}

/// The nodes of a batch, parents before children.
pub struct Nodes<'r, 'a> {
    rollouts: &'r Rollouts<'a>,
    parents: Cow<'r, [i64]>,
    /// Nodes of each part.
    ranges: Vec<Range<usize>>,
    scores: Scores<'r>,
    paths: Option<Paths>,
}

/// The score of a node: read in place where that can be, because a forest is large.
enum Scores<'r> {
    Column(&'r Floats<'r>),
    Own(Vec<f64>),
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
        let (paths, parents, scores) = Paths::read(rollouts)?;
        // Of turns several may share a node; paths are one part.
        let ranges = std::iter::once(0..parents.len()).collect();
        let (parents, scores) = (Cow::Owned(parents), Scores::Own(scores));
        Ok(Self { rollouts, parents, ranges, scores, paths: Some(paths) })
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
        let ranges = Parents::parts(parents, PART)?;
        let scores = if rollouts.has(&OUTCOME_REWARDS) {
            Scores::Column(rollouts.floats(&OUTCOME_REWARDS)?)
        } else {
            Scores::Own(rollouts.outcomes()?)
        };
        Ok(Self { rollouts, parents: Cow::Borrowed(parents), ranges, scores, paths: None })
    }

    /// Runs `work` on each part of the forest. It fills its share of `K` columns, that of
    /// each `unit` as long as the part has of it; they come back whole, and what `work`
    /// returned in the parts' order. Parts depend on the parents alone.
    ///
    /// # Errors
    ///
    /// What `work` raises; a forest too large for the memory.
    pub fn by_part<const K: usize, T: Send>(
        &self,
        units: [Per; K],
        work: impl Fn(&Part<'_>, [&mut [f64]; K]) -> Result<T> + Sync,
    ) -> Result<([Vec<f64>; K], Vec<T>)> {
        let parts: Vec<Part<'_>> =
            self.ranges.iter().map(|range| Part::new(self, range.clone())).collect();
        let mut columns = [const { Vec::new() }; K];
        for (column, unit) in columns.iter_mut().zip(units) {
            *column = zeroed(parts.iter().map(|part| part.count(unit)).sum())?;
        }
        let mut rest = columns.each_mut().map(|column| &mut column[..]);
        let mut jobs = Vec::with_capacity(parts.len());
        for part in &parts {
            let mut unit = units.iter();
            let own = rest.each_mut().map(|rest| {
                let count = unit.next().map_or(0, |&unit| part.count(unit));
                let (own, others) = std::mem::take(rest).split_at_mut(count);
                *rest = others;
                own
            });
            jobs.push((part, own));
        }
        let returned = self.rollouts.exec().map(jobs, |(part, own)| work(part, own))?;
        Ok((columns, returned))
    }

    /// A column as credit, to where the nodes came from.
    pub fn credit(&self, unit: Per, column: Vec<f64>) -> Values {
        match (&self.paths, unit) {
            (Some(paths), Per::Node) => {
                Values::Turns(paths.of_turn.iter().map(|&node| column[node as usize]).collect())
            }
            (Some(_), Per::Place) => Values::Turns(column),
            _ => Values::Trajectories(column),
        }
    }

    /// Credit of the edges into nodes, to where the nodes came from.
    pub fn edges(&self, column: Vec<f64>) -> Values {
        self.credit(Per::Node, column)
    }
}

/// What a user should know of the trees of all parts.
pub fn total(parts: impl IntoIterator<Item = Counts>) -> Counts {
    parts.into_iter().fold(Counts::default(), |all, part| Counts {
        groups: all.groups + part.groups,
        singletons: all.singletons + part.singletons,
        zero_spread: all.zero_spread + part.zero_spread,
        absent: all.absent + part.absent,
    })
}
