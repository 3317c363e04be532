//! Where turns are: given as spans, one a row, or found as runs of the mask.
//!
//! May depend on what `rollouts` may depend on.

use std::ops::Range;
use std::sync::OnceLock;

use super::{CHUNK_TOKENS, Rollouts, length};
use crate::column::{Column, GROUP_IDS, Keys, Level};
use crate::error::{Error, Result};
use crate::group::Groups;
use crate::ragged::Offsets;
use crate::tokens::runs;

/// Turns in trajectory order, each a span of flat token positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Turns {
    /// Trajectory to turns.
    pub offsets: Vec<usize>,
    /// Turn to tokens; tokens with mask 0 inside a span get no credit.
    pub spans: Vec<Range<usize>>,
}

impl Turns {
    /// A trajectory's turns.
    pub fn of(&self, trajectory: usize) -> Range<usize> {
        self.offsets[trajectory]..self.offsets[trajectory + 1]
    }

    /// The trajectory of each turn.
    pub fn trajectories(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.offsets.len() - 1).flat_map(|t| self.of(t).map(move |_| t))
    }
}

/// Which rows make up a trajectory, in the step-row layout.
#[derive(Debug)]
pub(super) struct Steps {
    /// Row of each turn, trajectory after trajectory.
    pub rows: Vec<usize>,
    /// Trajectory to its place in `rows`.
    pub offsets: Vec<usize>,
    /// `turn_index` of each turn, where it was given.
    pub numbers: Option<Vec<i64>>,
}

impl Rollouts<'_> {
    /// Says where the turns are, instead of taking runs of the mask: `counts`
    /// are offsets from trajectories to turns, `bounds` flat `start, end` pairs.
    pub fn with_turns(self, counts: &Offsets<'_>, bounds: &[i64]) -> Result<Self> {
        if counts.rows() != self.rows.rows() {
            return Err(length(
                "turn_offsets",
                counts.rows(),
                self.rows.rows(),
                Level::Trajectory.plural(),
            ));
        }
        if bounds.len() != 2 * counts.total() {
            return Err(length(
                "turn_spans",
                bounds.len() / 2,
                counts.total(),
                Level::Turn.plural(),
            ));
        }
        let mut spans = Vec::with_capacity(counts.total());
        for (row, turns) in self.rows.ranges().zip(counts.ranges()) {
            let mut earliest = row.start;
            for turn in turns {
                let span = (bounds[2 * turn], bounds[2 * turn + 1]);
                match (usize::try_from(span.0), usize::try_from(span.1)) {
                    (Ok(start), Ok(end)) if earliest <= start && start <= end && end <= row.end => {
                        spans.push(start..end);
                        earliest = end;
                    }
                    _ => {
                        return Err(Error::Value {
                            argument: "turn_spans".to_owned(),
                            index: turn,
                            got: format!("{span:?}"),
                            expected: format!("start <= end within tokens {earliest}..{}", row.end),
                        });
                    }
                }
            }
        }
        let offsets = (0..=counts.rows()).map(|row| counts.start(row)).collect();
        let turns = OnceLock::from(Turns { offsets, spans });
        Ok(Self { turns, ..self })
    }

    /// One row of tokens a turn. Rows with equal `(group, trajectory_ids)` are one
    /// trajectory; its turns are in the rows' order, or in that of `turn_index`.
    /// Call it after the columns are there.
    pub fn with_trajectories(self, ids: &Keys<'_>, turn_index: Option<&[i64]>) -> Result<Self> {
        let rows = self.rows.rows();
        if ids.len() != rows {
            return Err(length("trajectory_ids", ids.len(), rows, "rows"));
        }
        if let Some(index) = turn_index.filter(|index| index.len() != rows) {
            return Err(length("turn_index", index.len(), rows, "rows"));
        }
        let own = Groups::from_keys(ids, self.exec)?;
        let within = match self.columns.get(GROUP_IDS.name) {
            Some(Column::Keys(keys)) if keys.len() == rows => Groups::from_keys(keys, self.exec)?,
            _ => Groups::one(rows),
        };
        let trajectories = Groups::by(rows, |row| (within.ids()[row], own.ids()[row]));
        let mut order = Vec::with_capacity(rows);
        let mut offsets = vec![0];
        for members in trajectories.iter() {
            let first = order.len();
            order.extend_from_slice(members);
            if let Some(index) = turn_index {
                let own = &mut order[first..];
                own.sort_by_key(|&row| index[row]);
                if let Some(pair) = own.windows(2).find(|pair| index[pair[0]] == index[pair[1]]) {
                    return Err(Error::Value {
                        argument: "turn_index".to_owned(),
                        index: pair[1],
                        got: index[pair[1]].to_string(),
                        expected: format!("another number than that of row {}", pair[0]),
                    });
                }
            }
            offsets.push(order.len());
        }
        let spans = order.iter().map(|&row| self.rows.range(row)).collect();
        let turns = OnceLock::from(Turns { offsets: offsets.clone(), spans });
        let numbers = turn_index.map(|index| order.iter().map(|&row| index[row]).collect());
        Ok(Self { steps: Some(Steps { rows: order, offsets, numbers }), turns, ..self })
    }

    /// Turns, found as runs of the mask unless they were given.
    pub fn turns(&self) -> Result<&Turns> {
        if let Some(turns) = self.turns.get() {
            return Ok(turns);
        }
        let found = self.exec.map(self.rows.chunks(CHUNK_TOKENS), |chunk| {
            let (mut counts, mut spans, mut mask) = (Vec::new(), Vec::new(), Vec::new());
            for row in chunk {
                let range = self.rows.range(row);
                self.mask.read(range.clone(), &mut mask)?;
                let before = spans.len();
                spans.extend(runs(&mask, range.start));
                counts.push(spans.len() - before);
            }
            Ok((counts, spans))
        })?;
        let (mut offsets, mut spans) = (vec![0], Vec::new());
        for (counts, part) in found {
            for count in counts {
                offsets.push(offsets[offsets.len() - 1] + count);
            }
            spans.extend(part);
        }
        Ok(self.turns.get_or_init(|| Turns { offsets, spans }))
    }

    /// Number of each turn within its trajectory: `turn_index` where it was given, else
    /// 0, 1, 2 and so on.
    pub fn turn_numbers(&self) -> Result<Vec<i64>> {
        if let Some(numbers) = self.steps.as_ref().and_then(|s| s.numbers.clone()) {
            return Ok(numbers);
        }
        let turns = self.turns()?;
        Ok((0..self.trajectories()).flat_map(|t| 0..turns.of(t).len() as i64).collect())
    }
}
