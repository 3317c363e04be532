//! Trees given as parents: values of nodes, labels, segments of chains, packed sequences.

use apportion_core::column::Floats;
use apportion_core::error::Error;
use apportion_core::options::{OptionValue, Value};
use apportion_core::ragged::Offsets;
use apportion_core::tree::parents::Parents;
use apportion_core::tree::readout::{pack, pairs, segments, values};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::guard::{detached, to_py};

type Floats64<'py> = Bound<'py, PyArray1<f64>>;
type Ints<'py> = Bound<'py, PyArray1<i64>>;
type GivenFloats<'py> = PyReadonlyArray1<'py, f64>;
type GivenInts<'py> = PyReadonlyArray1<'py, i64>;

fn choice<T: OptionValue>(
    py: Python<'_>,
    method: &'static str,
    option: &'static str,
    given: &str,
) -> PyResult<T> {
    T::parse(&Value::Text(given.to_owned())).ok_or_else(|| {
        let (got, expected) = (format!("{given:?}"), T::expected());
        to_py(py, &Error::BadOption { method, option, got, expected })
    })
}

/// The argument has one value a node.
fn a_node(argument: &str, got: usize, parents: &Parents<'_>) -> Result<(), Error> {
    let (argument, expected) = (argument.to_owned(), parents.len());
    if got == expected {
        Ok(())
    } else {
        Err(Error::Length { argument, got, expected, of: "nodes" })
    }
}

/// Values of nodes from those of leaves, NaN where nothing below has one.
#[pyfunction]
pub fn node_values<'py>(
    py: Python<'py>,
    parents: GivenInts<'py>,
    leaf_values: GivenFloats<'py>,
    visits: Option<GivenFloats<'py>>,
    value_mode: &str,
) -> PyResult<Floats64<'py>> {
    let mode = choice(py, "node_values", "value_mode", value_mode)?;
    let (parents, leaf_values) = (parents.as_slice()?, leaf_values.as_slice()?);
    let visits = visits.as_ref().map(|v| v.as_slice()).transpose()?;
    let out = detached(py, 1, |_| {
        let parents = Parents::new(parents)?;
        a_node("values", leaf_values.len(), &parents)?;
        a_node("visits", visits.map_or(parents.len(), <[f64]>::len), &parents)?;
        let visits = visits.map(|v| Floats::F64(v.into()));
        let known = values::Known { visits: visits.as_ref(), ..values::Known::default() };
        values::node_values(&parents, mode, known, |n| match leaf_values[n] {
            value if value.is_infinite() => Err(Error::Value {
                argument: "values".to_owned(),
                index: n,
                got: value.to_string(),
                expected: "a finite number at a leaf, or NaN where it is absent".to_owned(),
            }),
            value => Ok(value),
        })
    })?;
    Ok(PyArray1::from_vec(py, out.values))
}

/// Parent, better and worse one, and difference of pairs of siblings.
#[pyfunction]
#[allow(clippy::type_complexity)] // four columns
pub fn sibling_pairs<'py>(
    py: Python<'py>,
    parents: GivenInts<'py>,
    values: GivenFloats<'py>,
    margin: f64,
    of: &str,
) -> PyResult<(Ints<'py>, Ints<'py>, Ints<'py>, Floats64<'py>)> {
    let of = choice(py, "preference_pairs", "of", of)?;
    let (parents, values) = (parents.as_slice()?, values.as_slice()?);
    let out = detached(py, 1, |_| {
        let parents = Parents::new(parents)?;
        a_node("values", values.len(), &parents)?;
        Ok(pairs::pairs(&parents, values, margin, of))
    })?;
    let ints = |column| PyArray1::from_vec(py, column);
    let margins = PyArray1::from_vec(py, out.margins);
    Ok((ints(out.parents), ints(out.chosen), ints(out.rejected), margins))
}

/// First wrong node on the way to each, and the steps before it; -1 without.
#[pyfunction]
pub fn first_errors<'py>(
    py: Python<'py>,
    parents: GivenInts<'py>,
    values: GivenFloats<'py>,
    threshold: f64,
) -> PyResult<(Ints<'py>, Ints<'py>)> {
    let (parents, values) = (parents.as_slice()?, values.as_slice()?);
    let (errors, steps) = detached(py, 1, |_| {
        let parents = Parents::new(parents)?;
        a_node("values", values.len(), &parents)?;
        Ok(pairs::first_errors(&parents, values, threshold))
    })?;
    Ok((PyArray1::from_vec(py, errors), PyArray1::from_vec(py, steps)))
}

/// Parents, lengths and chains of segments, and the segment in which each chain ends.
#[pyfunction]
#[allow(clippy::type_complexity)] // four columns
pub fn cut_chains<'py>(
    py: Python<'py>,
    parents: GivenInts<'py>,
    splits: GivenInts<'py>,
    lengths: GivenInts<'py>,
) -> PyResult<(Ints<'py>, Ints<'py>, Ints<'py>, Ints<'py>)> {
    let (parents, splits) = (parents.as_slice()?, splits.as_slice()?);
    let lengths = lengths.as_slice()?;
    let out = detached(py, 1, |_| segments::cut(parents, splits, lengths))?;
    let ints = |column| PyArray1::from_vec(py, column);
    Ok((ints(out.parents), ints(out.lengths), ints(out.chains), ints(out.leaves)))
}

/// Source, node, position, parent and end of each token of a packed forest.
#[pyfunction]
#[allow(clippy::type_complexity)] // five columns
pub fn pack_tree<'py>(
    py: Python<'py>,
    parents: GivenInts<'py>,
    token_offsets: GivenInts<'py>,
) -> PyResult<(Ints<'py>, Ints<'py>, Ints<'py>, Ints<'py>, Ints<'py>)> {
    let (parents, offsets) = (parents.as_slice()?, token_offsets.as_slice()?);
    let out = detached(py, 1, |_| {
        let parents = Parents::new(parents)?;
        let total = offsets.last().map_or(0, |&n| usize::try_from(n).unwrap_or(0));
        let rows = Offsets::listed("token_offsets", offsets, total)?;
        a_node("token_offsets", rows.rows(), &parents)?;
        Ok(pack::pack(&parents, &rows))
    })?;
    let ints = |column| PyArray1::from_vec(py, column);
    Ok((ints(out.source), ints(out.node), ints(out.position), ints(out.parent), ints(out.end)))
}

/// Adds the functions of this file.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(node_values, module)?)?;
    module.add_function(wrap_pyfunction!(sibling_pairs, module)?)?;
    module.add_function(wrap_pyfunction!(first_errors, module)?)?;
    module.add_function(wrap_pyfunction!(cut_chains, module)?)?;
    module.add_function(wrap_pyfunction!(pack_tree, module)?)
}
