//! Tree search: arrays in, arrays out.

mod columns;
mod forest;
mod options;

use apportion_core::tree::rules::{self, RULES};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use forest::Forest;

type Ints<'py> = Bound<'py, PyArray1<i64>>;

fn ints<'py>(py: Python<'py>, values: impl Iterator<Item = i64>) -> Ints<'py> {
    PyArray1::from_vec(py, values.collect())
}

/// The list of rules, with their options.
#[pyfunction]
pub fn search_rules(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let out = PyList::empty(py);
    for card in RULES {
        let options = PyDict::new(py);
        for option in (card.options)() {
            options
                .set_item(option.name, (option.default.to_string(), option.expected, option.doc))?;
        }
        let rule = PyDict::new(py);
        rule.set_item("name", card.name)?;
        rule.set_item("doc", card.doc)?;
        rule.set_item("options", options)?;
        out.append(rule)?;
    }
    Ok(out)
}

/// Visits that sequential halving wants of the child chosen at each simulation.
#[pyfunction]
pub fn considered_visits(py: Python<'_>, considered: usize, simulations: usize) -> Ints<'_> {
    let visits = |i| rules::gumbel::considered_visits(considered, simulations, i) as i64;
    ints(py, (0..simulations).map(visits))
}

/// Adds the classes and functions of this file.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Forest>()?;
    module.add_function(wrap_pyfunction!(considered_visits, module)?)?;
    module.add_function(wrap_pyfunction!(search_rules, module)?)
}
