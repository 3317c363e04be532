//! Tree search: arrays in, arrays out.

mod columns;
mod forest;
mod lock;
mod options;
mod rules;

use apportion_core::tree::rules::gumbel;
use numpy::PyArray1;
use pyo3::prelude::*;

use forest::Forest;

type Ints<'py> = Bound<'py, PyArray1<i64>>;

fn ints<'py>(py: Python<'py>, values: impl Iterator<Item = i64>) -> Ints<'py> {
    PyArray1::from_vec(py, values.collect())
}

/// Visits that sequential halving wants of the child chosen at each simulation.
#[pyfunction]
pub fn considered_visits(py: Python<'_>, considered: usize, simulations: usize) -> Ints<'_> {
    let visits = |i| gumbel::considered_visits(considered, simulations, i) as i64;
    ints(py, (0..simulations).map(visits))
}

/// Adds the classes and functions of this file.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Forest>()?;
    module.add_function(wrap_pyfunction!(considered_visits, module)?)?;
    module.add_function(wrap_pyfunction!(rules::search_rules, module)?)?;
    module.add_function(wrap_pyfunction!(rules::rule_scores, module)?)?;
    module.add_function(wrap_pyfunction!(rules::pool_scores, module)?)?;
    module.add_function(wrap_pyfunction!(rules::sibling_rewards, module)?)?;
    module.add_function(wrap_pyfunction!(rules::rollout_value, module)?)?;
    module.add_function(wrap_pyfunction!(rules::reward_labels, module)?)
}
