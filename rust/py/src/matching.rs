//! Likeness of texts and tool calls, and matching by it, for estimators written in Python.
//!
//! May depend on `guard` and the core.

use apportion_core::cluster;
use apportion_core::error::Error;
use apportion_core::matching::{Scores, greedy, optimal, sinkhorn};
use apportion_core::shell::signature;
use apportion_core::similarity::{difflib_ratio, indel_ratio};
use apportion_core::tool_calls::ToolCall;
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::guard::{detached, raise};
use crate::methods::IntArray;

type FloatArray<'py> = Bound<'py, PyArray1<f64>>;

/// Likeness of two strings from 0 to 1: "indel", or Python's "difflib" with its heuristic.
#[pyfunction]
pub fn text_similarity(py: Python<'_>, a: &str, b: &str, how: &str) -> PyResult<f64> {
    detached(py, 1, |exec| match how {
        "difflib" => difflib_ratio(a, b, exec),
        _ => indel_ratio(a, b, 0.0, exec),
    })
}

/// Likeness of every predicted call with every gold call, row after row, and the shape.
#[pyfunction]
pub fn tool_similarity<'py>(
    py: Python<'py>,
    calls: &str,
    gold: &str,
) -> PyResult<(FloatArray<'py>, usize, usize)> {
    let read = |name: &str, text: &str| {
        ToolCall::read_list(text).map_err(|got| {
            raise(py, "InputError", format!("{name}: got {got}, expected tool calls"))
        })
    };
    let (calls, gold) = (read("calls", calls)?, read("gold", gold)?);
    let scores = calls.iter().flat_map(|c| gold.iter().map(|g| c.similarity(g))).collect();
    Ok((PyArray1::from_vec(py, scores), calls.len(), gold.len()))
}

fn scores(values: &[f64], rows: usize, columns: usize) -> Result<Scores, Error> {
    Scores::new(values.to_vec(), rows, columns)
}

/// What a shell command is about, as tokens.
#[pyfunction]
pub fn shell_signature(py: Python<'_>, command: &str) -> PyResult<Vec<String>> {
    detached(py, 1, |_| signature(command))
}

/// One-to-one assignment: the column of each row, -1 for none.
#[pyfunction]
pub fn assign<'py>(
    py: Python<'py>,
    values: PyReadonlyArray1<'py, f64>,
    rows: usize,
    columns: usize,
    best_total: bool,
) -> PyResult<IntArray<'py>> {
    let values = values.as_slice()?;
    let pairs = detached(py, 1, |exec| {
        let scores = scores(values, rows, columns)?;
        let pairs = if best_total { optimal(&scores, exec)? } else { greedy(&scores) };
        Ok(pairs.into_iter().map(|c| c.map_or(-1, |c| c as i64)).collect::<Vec<_>>())
    })?;
    Ok(PyArray1::from_vec(py, pairs))
}

/// Labels of single linkage down to a number of clusters.
#[pyfunction]
pub fn single_linkage<'py>(
    py: Python<'py>,
    distance: PyReadonlyArray1<'py, f64>,
    items: usize,
    clusters: usize,
) -> PyResult<IntArray<'py>> {
    let distance = distance.as_slice()?;
    let labels = detached(py, 1, |_| {
        let square = scores(distance, items, items)?;
        Ok(cluster::single_linkage(items, clusters, |i, j, _| square.get(i, j)).0)
    })?;
    Ok(PyArray1::from_vec(py, labels.into_iter().map(i64::from).collect()))
}

/// Entropic transport plan, row after row.
#[pyfunction]
pub fn transport<'py>(
    py: Python<'py>,
    values: PyReadonlyArray1<'py, f64>,
    rows: usize,
    columns: usize,
    reg: f64,
) -> PyResult<FloatArray<'py>> {
    let values = values.as_slice()?;
    let plan = detached(py, 1, |exec| sinkhorn(&scores(values, rows, columns)?, reg, exec))?;
    Ok(PyArray1::from_vec(py, plan))
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(text_similarity, module)?)?;
    module.add_function(wrap_pyfunction!(tool_similarity, module)?)?;
    module.add_function(wrap_pyfunction!(shell_signature, module)?)?;
    module.add_function(wrap_pyfunction!(single_linkage, module)?)?;
    module.add_function(wrap_pyfunction!(assign, module)?)?;
    module.add_function(wrap_pyfunction!(transport, module)?)
}
