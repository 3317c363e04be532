//! The value of a node, from what is below it: four rules that differ.
//!
//! Depends on `parents`.

use crate::choice;
use crate::column::Floats;
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::tree::parents::Parents;

choice! {
    /// How a node's value follows from what is below it.
    ValueMode {
        /// Mean over the leaves below (TreeRL, TreePS-RAG).
        Leaf = "leaf",
        /// Unweighted mean over the children (SPO, TreePO's segments).
        Child = "child",
        /// Mean over the children, weighted by their visits (tree search).
        Visit = "visit",
        /// Largest of the children.
        Max = "max",
    }
}

/// Values of nodes, and how many parts each is the mean of.
#[derive(Clone, Debug)]
pub struct Tally {
    /// A node's value; NaN where nothing below it has one.
    pub values: Vec<f64>,
    /// Leaves below with a value (`Leaf`), else children with a value; 1 at a leaf that has
    /// one, in the bits other than [`INNER`].
    counts: Vec<u32>,
}

/// Marks a node that has children, with a value or without.
const INNER: u32 = 1 << 31;

impl Tally {
    /// How many leaves or children a node's value is the mean of.
    pub fn count(&self, node: usize) -> f64 {
        f64::from(self.counts[node] & !INNER)
    }

    /// Whether a node has a value and no children.
    pub fn is_leaf(&self, node: usize) -> bool {
        self.counts[node] == 1
    }
}

/// What is known of nodes beforehand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'k> {
    /// Values that stand, NaN where `value_mode` finds them; such a node counts as one leaf.
    pub values: Option<&'k Floats<'k>>,
    /// Visits, read by [`ValueMode::Visit`] alone; a child without any does not count.
    pub visits: Option<&'k Floats<'k>>,
    /// Where the first node stands in these.
    pub first: usize,
}

/// Values of all nodes from those of leaves; `leaf` gives NaN where one is absent.
///
/// Means are taken by steps towards each new part, so that equal parts give exactly
/// their value.
///
/// # Errors
///
/// What `leaf` raises; a known value that is infinite; visits below 0 or not finite.
pub fn node_values(
    parents: &Parents<'_>,
    mode: ValueMode,
    known: Known<'_>,
    leaf: impl Fn(usize) -> Result<f64>,
) -> Result<Tally> {
    let nodes = parents.len();
    let mut values: Vec<f64> = zeroed(nodes)?;
    let mut counts: Vec<u32> = zeroed(nodes)?;
    let mut weights: Vec<f64> = if mode == ValueMode::Visit { zeroed(nodes)? } else { Vec::new() };
    for n in (0..nodes).rev() {
        let given = known.values.map_or(Ok(f64::NAN), |v| known_value(v, known.first + n))?;
        if !given.is_nan() {
            (values[n], counts[n]) = (given, counts[n] & INNER | 1);
        } else if counts[n] == 0 {
            values[n] = leaf(n)?;
            counts[n] = u32::from(!values[n].is_nan());
        } else if counts[n] == INNER {
            values[n] = f64::NAN;
        }
        let Some(p) = parents.of(n) else { continue };
        let (parts, before) = (counts[n] & !INNER, counts[p] & !INNER);
        counts[p] |= INNER;
        if parts == 0 {
            continue;
        }
        let share = match mode {
            ValueMode::Max if before > 0 && values[p] >= values[n] => 0.0,
            ValueMode::Max => 1.0,
            ValueMode::Child => 1.0 / f64::from(before + 1),
            ValueMode::Leaf => f64::from(parts) / f64::from(before + parts),
            ValueMode::Visit => {
                let visits = known.visits.map_or(Ok(1.0), |v| known_visits(v, known.first + n))?;
                if visits == 0.0 {
                    continue;
                }
                weights[p] += visits;
                visits / weights[p]
            }
        };
        counts[p] += if mode == ValueMode::Leaf { parts } else { 1 };
        // The first part is taken as it is, whatever stood there.
        values[p] =
            if share == 1.0 { values[n] } else { values[p] + (values[n] - values[p]) * share };
    }
    Ok(Tally { values, counts })
}

fn known_value(values: &Floats<'_>, node: usize) -> Result<f64> {
    let value = values.get(node);
    if value.is_infinite() {
        return Err(bad("node_values", node, value, "a finite number, or NaN"));
    }
    Ok(value)
}

fn known_visits(visits: &Floats<'_>, node: usize) -> Result<f64> {
    let value = visits.get(node);
    if !(value >= 0.0 && value.is_finite()) {
        return Err(bad("visits", node, value, "a finite number of at least 0"));
    }
    Ok(value)
}

fn bad(argument: &str, index: usize, got: f64, expected: &str) -> Error {
    let (argument, expected) = (argument.to_owned(), expected.to_owned());
    Error::Value { argument, index, got: format!("{got:?}"), expected }
}

/// Leaves below each node, those without a value left out; a leaf counts itself.
pub fn leaf_counts(parents: &Parents<'_>, tally: &Tally) -> Result<Vec<f64>> {
    let mut leaves: Vec<f64> = zeroed(parents.len())?;
    for n in (0..parents.len()).rev() {
        if leaves[n] == 0.0 && !tally.values[n].is_nan() {
            leaves[n] = 1.0;
        }
        if let Some(p) = parents.of(n) {
            leaves[p] += leaves[n];
        }
    }
    Ok(leaves)
}
