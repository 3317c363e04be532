//! A search's options, read from loose settings.

use apportion_core::error::Error;
use apportion_core::options::{OptionValue, Settings, Value};
use apportion_core::tree::limits::{Limits, Stop};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::guard::to_py;
use crate::methods::value;

fn bad(py: Python<'_>, option: &'static str, got: String, expected: String) -> PyErr {
    to_py(py, &Error::BadOption { method: "search", option, got, expected })
}

/// One option of the search itself.
pub fn read<T: OptionValue>(given: &Bound<'_, PyDict>, option: &'static str) -> PyResult<T> {
    let item = match given.get_item(option)? {
        Some(item) => value(option, &item)?,
        None => Value::Nothing,
    };
    T::parse(&item).ok_or_else(|| bad(given.py(), option, item.to_string(), T::expected()))
}

/// An integer that fits; `None` is the default.
fn count<T: TryFrom<usize>>(
    given: &Bound<'_, PyDict>,
    option: &'static str,
    default: T,
) -> PyResult<T> {
    match read::<Option<usize>>(given, option)? {
        None => Ok(default),
        Some(number) => T::try_from(number).map_err(|_| {
            let most = 8 * size_of::<T>();
            bad(given.py(), option, number.to_string(), format!("an integer below 2**{most}"))
        }),
    }
}

/// Two numbers that are given together or not at all.
fn pair(
    given: &Bound<'_, PyDict>,
    option: &'static str,
    expected: &str,
) -> PyResult<Option<(f64, f64)>> {
    match read::<Option<Vec<f64>>>(given, option)?.as_deref() {
        None => Ok(None),
        Some(&[first, second]) => Ok(Some((first, second))),
        Some(other) => Err(bad(given.py(), option, format!("{other:?}"), expected.to_owned())),
    }
}

/// All options of the search itself.
pub fn limits(given: &Bound<'_, PyDict>) -> PyResult<Limits> {
    let most = Limits::default();
    Ok(Limits {
        max_nodes: count(given, "max_nodes", most.max_nodes)?,
        max_depth: count(given, "max_depth", most.max_depth)?,
        max_tokens: count(given, "max_tokens", most.max_tokens)?,
        max_rollouts: count(given, "max_rollouts", most.max_rollouts)?,
        max_requests: count(given, "max_requests", most.max_requests)?,
        simulations: count(given, "num_simulations", most.simulations)?,
        on_limit: read(given, "on_limit")?,
        max_failures: count(given, "max_failures", most.max_failures)?,
        gamma: read(given, "gamma")?,
        root_visit: read(given, "root_visit")?,
        solve: read(given, "solve")?,
        close_terminal: read(given, "close_terminal")?,
        seed: read::<usize>(given, "seed")? as u64,
        virtual_loss: read(given, "virtual_loss")?,
        tell_order: read(given, "tell_order")?,
        stop: Stop {
            after: count(given, "stop_after", 0)?,
            gap: read(given, "stop_gap")?,
            width: read(given, "stop_width")?,
            value: read(given, "stop_value")?,
            positives: read(given, "stop_positives")?,
            negatives: read(given, "stop_negatives")?,
            threshold: read(given, "stop_threshold")?,
        },
        widening: pair(given, "widening", "two numbers: factor and power")?,
        noise: pair(given, "root_noise", "two numbers: fraction and alpha")?.unwrap_or((0.0, 1.0)),
        merge: read(given, "merge")?,
        variance: read(given, "variance")?,
    })
}

/// Options of a rule, as they are.
pub fn settings(given: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let read = |(name, item): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let name: String = name.extract()?;
        let item = value(&name, &item)?;
        Ok((name, item))
    };
    given.iter().map(read).collect()
}
