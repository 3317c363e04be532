//! Rules of search: their cards, their scores, and the labels that methods make of trees.

use apportion_core::error::Error;
use apportion_core::tree::arena::{Keeps, ROOT, Tree};
use apportion_core::tree::labels;
use apportion_core::tree::limits::Limits;
use apportion_core::tree::rules::{self, At, RULES, pool};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::{Ints, ints, options};
use crate::guard::to_py;
use crate::methods;

type Floats<'py> = Bound<'py, PyArray1<f64>>;
type FloatsIn<'py> = PyReadonlyArray1<'py, f64>;
type IntsIn<'py> = PyReadonlyArray1<'py, i64>;

/// Every rule's card.
#[pyfunction]
pub fn search_rules(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let out = PyList::empty(py);
    for card in RULES {
        let entry = PyDict::new(py);
        entry.set_item("name", card.name)?;
        entry.set_item("title", card.title)?;
        entry.set_item("doc", card.doc)?;
        entry.set_item("family", card.family.name())?;
        entry.set_item("paper", card.paper)?;
        entry.set_item("certainty", card.certainty.name())?;
        entry.set_item("options", methods::options(py, (card.options)())?)?;
        out.append(entry)?;
    }
    Ok(out)
}

/// Scores that a rule gives children with these statistics.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // one array a column
pub fn rule_scores<'py>(
    py: Python<'py>,
    rule: &str,
    given: &Bound<'py, PyDict>,
    parent: (i64, f64),
    visits: IntsIn<'py>,
    value_sums: FloatsIn<'py>,
    priors: FloatsIn<'py>,
    values: FloatsIn<'py>,
) -> PyResult<Floats<'py>> {
    let rule = rules::make(rule, &options::settings(given)?).map_err(|e| to_py(py, &e))?;
    let mut tree = Tree::new(1.0, Keeps::default());
    tree.expand(ROOT, priors.as_slice()?.iter().map(|&p| p as f32));
    let root = &mut tree.hot[ROOT as usize];
    (root.visits, root.value_sum) = (parent.0 as u32, parent.1);
    let rows = visits.as_slice()?.iter().zip(value_sums.as_slice()?).zip(values.as_slice()?);
    for (child, ((&visits, &sum), &value)) in (1_u32..).zip(rows) {
        let hot = &mut tree.hot[child as usize];
        (hot.visits, hot.value_sum) = (visits as u32, sum);
        tree.set_value(child, value);
    }
    let limits = Limits::default();
    Ok(PyArray1::from_vec(py, rule.child_scores(&At::new(&tree, ROOT, &limits, 0))))
}

/// Quality and urgency of pooled rollouts, row by row.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // four columns and four options
pub fn pool_scores<'py>(
    py: Python<'py>,
    mc: FloatsIn<'py>,
    lengths: FloatsIn<'py>,
    visits: FloatsIn<'py>,
    totals: FloatsIn<'py>,
    alpha: f64,
    beta: f64,
    scale: f64,
    c: f64,
) -> PyResult<(Floats<'py>, Floats<'py>)> {
    let rows = mc.as_slice()?.iter().zip(lengths.as_slice()?);
    let quality = rows.map(|(&mc, &length)| pool::quality(mc, length, alpha, beta, scale));
    let rows = totals.as_slice()?.iter().zip(visits.as_slice()?);
    let urgency = rows.map(|(&total, &visits)| pool::urgency(total, visits, c));
    let floats = |values: Vec<f64>| PyArray1::from_vec(py, values);
    Ok((floats(quality.collect()), floats(urgency.collect())))
}

/// PROPA's rewards of siblings, and whether their group is dropped.
#[pyfunction]
pub fn sibling_rewards<'py>(
    py: Python<'py>,
    value_sums: FloatsIn<'py>,
    visits: IntsIn<'py>,
    boost: f64,
    min_spread: f64,
) -> PyResult<(Floats<'py>, bool)> {
    let visits: Vec<u32> = visits
        .as_slice()?
        .iter()
        .enumerate()
        .map(|(index, &n)| {
            u32::try_from(n).map_err(|_| {
                let (argument, got) = ("visits".to_owned(), n.to_string());
                let expected = "an integer from 0 to 2**32 - 1".to_owned();
                to_py(py, &Error::Value { argument, index, got, expected })
            })
        })
        .collect::<PyResult<_>>()?;
    let found = labels::sibling_rewards(value_sums.as_slice()?, &visits, boost, min_spread);
    let found = found.map_err(|e| to_py(py, &e))?;
    Ok((PyArray1::from_vec(py, found.rewards), found.dropped))
}

/// GroundedPRM's value of a rollout.
#[pyfunction]
pub fn rollout_value(steps: FloatsIn<'_>, last: f64, overwrite_last: bool) -> PyResult<f64> {
    Ok(labels::rollout_value(steps.as_slice()?, last, overwrite_last))
}

/// ReST-MCTS*'s labels of a tree's nodes: hard, steps, values.
#[pyfunction]
#[allow(clippy::type_complexity)] // three arrays
pub fn reward_labels<'py>(
    py: Python<'py>,
    parents: IntsIn<'py>,
    correct: IntsIn<'py>,
) -> PyResult<(Bound<'py, PyArray1<bool>>, Ints<'py>, Floats<'py>)> {
    let found = labels::reward_labels(parents.as_slice()?, correct.as_slice()?);
    let found = found.map_err(|e| to_py(py, &e))?;
    let steps = ints(py, found.steps.iter().map(|&s| s as i64));
    Ok((PyArray1::from_vec(py, found.hard), steps, PyArray1::from_vec(py, found.values)))
}
