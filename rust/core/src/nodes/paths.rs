//! Nodes that paths share: those of trajectories whose turns so far have equal ids.
//!
//! May depend on `rollouts`, `group` and below.

use std::collections::HashMap;

use super::NODE_IDS;
use crate::error::Result;
use crate::group::Groups;
use crate::rollouts::Rollouts;

/// Where paths run.
pub struct Paths {
    /// Node of each turn, in turn order.
    pub of_turn: Vec<u32>,
    /// The leaf in which each trajectory ends, its alone.
    pub ends: Vec<u32>,
    /// Trajectory to turns.
    pub offsets: Vec<usize>,
}

impl Paths {
    /// Paths, and parents and scores of the nodes along them; the groups are the roots.
    pub fn read(rollouts: &Rollouts<'_>) -> Result<(Self, Vec<i64>, Vec<f64>)> {
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
        Ok((Self { of_turn, ends, offsets: turns.offsets.clone() }, parents, scores))
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
