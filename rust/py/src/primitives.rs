//! The pieces that methods are made of, for estimators written in Python.
//!
//! May depend on `batch`, `stored`, `guard` and the core.

use apportion_core::column::{ColumnSpec, Floats, Kind, Level};
use apportion_core::error::Error;
use apportion_core::group::Groups;
use apportion_core::options::{NonNegative, OptionValue, Value};
use apportion_core::ragged::Offsets;
use apportion_core::returns;
use apportion_core::reward::Shaping;
use apportion_core::rollouts::Rollouts;
use apportion_core::stats::{Centre, Normaliser, Scale, Singleton, Weights, ZeroSpread};
use apportion_core::whiten::{Whitening, whiten_tokens};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::batch::Batch;
use crate::guard::{detached, raise, to_py};
use crate::methods::{IntArray, value};
use crate::stored::keys_of;

type FloatArray<'py> = Bound<'py, PyArray1<f64>>;

/// One option of a primitive, parsed like a method's.
fn option<T: OptionValue>(
    py: Python<'_>,
    method: &'static str,
    option: &'static str,
    given: &Value,
) -> PyResult<T> {
    T::parse(given).ok_or_else(|| {
        let (got, expected) = (given.to_string(), T::expected());
        to_py(py, &Error::BadOption { method, option, got, expected })
    })
}

/// A parsed option as the field holds it.
trait Plain<T> {
    fn plain(self) -> T;
}

impl Plain<f64> for NonNegative {
    fn plain(self) -> f64 {
        *self
    }
}

impl<T> Plain<T> for T {
    fn plain(self) -> T {
        self
    }
}

/// Reads named fields of a struct from keyword arguments.
macro_rules! read_options {
    ($py:expr, $name:literal, $given:expr, $into:ident: $($field:ident $type:ty),* $(,)?) => {
        for (name, item) in $given.iter() {
            let name: String = name.extract()?;
            let given = value(&name, &item)?;
            match name.as_str() {
                $( stringify!($field) => {
                    let parsed: $type = option($py, $name, stringify!($field), &given)?;
                    $into.$field = Plain::plain(parsed);
                } )*
                _ => {
                    let valid = vec![$(stringify!($field)),*];
                    return Err(to_py($py, &Error::UnknownOption { method: $name, option: name, valid }));
                }
            }
        }
    };
}

/// Dense group numbers by first appearance.
#[pyfunction]
pub fn group<'py>(py: Python<'py>, name: &str, ids: &Bound<'py, PyAny>) -> PyResult<IntArray<'py>> {
    let ids = keys_of(py, name, ids, |keys, exec| {
        let groups = Groups::from_keys(keys, exec)?;
        Ok(groups.ids().iter().map(|&id| i64::from(id)).collect::<Vec<_>>())
    })?;
    Ok(PyArray1::from_vec(py, ids))
}

/// Centres and scales values within dense groups; `counted` says whether weights
/// count members (`True`) or only weigh them.
#[pyfunction]
#[pyo3(signature = (values, ids, weights, counted, given))]
pub fn group_normalise<'py>(
    py: Python<'py>,
    values: PyReadonlyArray1<'py, f64>,
    ids: PyReadonlyArray1<'py, i64>,
    weights: Option<PyReadonlyArray1<'py, f64>>,
    counted: bool,
    given: &Bound<'py, PyDict>,
) -> PyResult<FloatArray<'py>> {
    let mut rule = Normaliser::default();
    read_options!(py, "group_normalise", given, rule:
        centre Centre, scale Scale,
        ddof NonNegative, eps NonNegative,
        var_eps NonNegative, var_floor NonNegative,
        floor NonNegative, singleton Singleton,
        zero_spread ZeroSpread,
        spread_tolerance NonNegative);
    let (values, ids) = (values.as_slice()?, ids.as_slice()?);
    let weights = weights.as_ref().map(|w| w.as_slice()).transpose()?;
    let out = detached(py, 1, |_| {
        let groups = Groups::by(ids.len(), |i| ids[i]);
        let weights = match weights {
            None => Weights::Equal,
            Some(w) if counted => Weights::Counts(w),
            Some(w) => Weights::Lengths(w),
        };
        Ok(rule.apply(values, &groups, weights).0)
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// Whitens token values over a batch's trained tokens.
#[pyfunction]
pub fn whiten<'py>(
    py: Python<'py>,
    batch: &Batch,
    values: PyReadonlyArray1<'py, f64>,
    remask: bool,
    threads: usize,
    given: &Bound<'py, PyDict>,
) -> PyResult<FloatArray<'py>> {
    let mut rule = Whitening::VERL;
    read_options!(py, "whiten", given, rule:
        ddof NonNegative, eps NonNegative,
        var_floor NonNegative, mean_eps NonNegative,
        shift_mean bool, divide bool);
    let values = values.as_slice()?;
    let out = batch.run(py, threads, |rollouts: &Rollouts<'_>| {
        let mut out = values.to_vec();
        let floats = Floats::F64(values.into());
        let (mut mask, mut row_values) = (Vec::new(), Vec::new());
        for row in rollouts.rows().ranges() {
            rollouts.mask().read(row.clone(), &mut mask)?;
            rollouts.read_tokens(&VALUES, &floats, row, &mask, &mut row_values)?;
        }
        whiten_tokens(rollouts, &mut out, &rule, remask, |_| true)?;
        Ok(out)
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// The argument of `whiten`, for messages.
const VALUES: ColumnSpec =
    ColumnSpec::new("values", Level::Token, Kind::Float, "Values to whiten.");

/// Accumulates each row from its end: `how` is "sum" (with `gamma`), "min", or
/// "root" (divides by the root of the elements left).
#[pyfunction]
pub fn accumulate<'py>(
    py: Python<'py>,
    values: PyReadonlyArray1<'py, f64>,
    offsets: PyReadonlyArray1<'py, i64>,
    how: &str,
    gamma: f64,
) -> PyResult<FloatArray<'py>> {
    let scan: &(dyn Fn(&mut [f64]) + Sync) = match how {
        "sum" => &|row| returns::discounted(row, gamma),
        "min" => &|row| returns::minimum(row),
        "root" => &|row| returns::over_root_of_rest(row),
        _ => {
            let message = format!(
                "accumulate: option how: got {how:?}, expected \"sum\", \"min\" or \"root\""
            );
            return Err(raise(py, "OptionError", message));
        }
    };
    let (values, offsets) = (values.as_slice()?, offsets.as_slice()?);
    let out = detached(py, 1, |_| {
        let rows = Offsets::listed("offsets", offsets, values.len())?;
        let mut out = values.to_vec();
        rows.ranges().for_each(|row| scan(&mut out[row]));
        Ok(out)
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// Token rewards from scores: placed on the last trained token, clipped, less KL.
#[pyfunction]
pub fn shape_rewards<'py>(
    py: Python<'py>,
    batch: &Batch,
    scores: PyReadonlyArray1<'py, f64>,
    kl: PyReadonlyArray1<'py, f64>,
    clip: Option<(f64, f64)>,
    kl_coef: f64,
    threads: usize,
) -> PyResult<FloatArray<'py>> {
    let (scores, kl) = (scores.as_slice()?, kl.as_slice()?);
    let out = batch.run(py, threads, |rollouts: &Rollouts<'_>| {
        let shaping = Shaping { clip, kl_coef };
        let (mut out, mut mask) = (Vec::with_capacity(kl.len()), Vec::new());
        for (row, &score) in rollouts.rows().ranges().zip(scores) {
            rollouts.mask().read(row.clone(), &mut mask)?;
            out.extend(shaping.apply(score, &kl[row], &mask));
        }
        Ok(out)
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// Registers the functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(group, module)?)?;
    module.add_function(wrap_pyfunction!(group_normalise, module)?)?;
    module.add_function(wrap_pyfunction!(whiten, module)?)?;
    module.add_function(wrap_pyfunction!(shape_rewards, module)?)?;
    module.add_function(wrap_pyfunction!(accumulate, module)?)
}
