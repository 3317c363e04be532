//! Running methods, and telling what there is to run.
//!
//! May depend on `batch`, `guard` and the core.

use apportion_core::column::{ColumnSpec, Floats};
use apportion_core::credit::{Credit, METHODS, Method, OptionSpec, Values, find};
use apportion_core::options::{Settings, Value};
use apportion_core::rollouts::Rollouts;
use apportion_core::spread::{self, scatter};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString};

use crate::batch::Batch;
use crate::guard::{raise, to_py};

/// 64-bit integers for Python.
pub type IntArray<'py> = Bound<'py, PyArray1<i64>>;

/// A setting from Python.
pub fn value(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Value> {
    if given.is_none() {
        return Ok(Value::Nothing);
    }
    if let Ok(flag) = given.cast::<PyBool>() {
        return Ok(Value::Bool(flag.is_true()));
    }
    let read = if given.cast::<PyString>().is_ok() {
        given.extract().map(Value::Text)
    } else if given.cast::<PyInt>().is_ok() {
        given.extract().map(Value::Int)
    } else if given.cast::<PyFloat>().is_ok() {
        given.extract().map(Value::Float)
    } else {
        let ints = given.extract::<Vec<i64>>().map(Value::Ints);
        ints.or_else(|_| given.extract::<Vec<f64>>().map(Value::Floats))
            // NumPy's integers are no numbers of Python, but can be made one.
            .or_else(|_| given.extract::<i64>().map(Value::Int))
            .or_else(|_| given.extract::<f64>().map(Value::Float))
    };
    read.map_err(|_| {
        let got = given.repr().map_or_else(|_| "?".to_owned(), |r| r.to_string());
        let expected = if given.cast::<PyInt>().is_ok() {
            "expected a number below 2**63"
        } else {
            "expected None, a bool, a number, a string of valid Unicode or a list of numbers"
        };
        raise(given.py(), "OptionError", format!("option {name}: got {got}, {expected}"))
    })
}

fn settings(given: &Bound<'_, PyDict>) -> PyResult<Settings> {
    given
        .iter()
        .map(|(name, item)| {
            let name: String = name.extract()?;
            let value = value(&name, &item)?;
            Ok((name, value))
        })
        .collect()
}

fn show<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Nothing => py.None().into_bound(py),
        Value::Bool(v) => PyBool::new(py, *v).to_owned().into_any(),
        Value::Int(v) => v.into_pyobject(py)?.into_any(),
        Value::Float(v) => v.into_pyobject(py)?.into_any(),
        Value::Text(v) => v.into_pyobject(py)?.into_any(),
        Value::Floats(v) => v.into_pyobject(py)?.into_any(),
        Value::Ints(v) => v.into_pyobject(py)?.into_any(),
    })
}

/// Values and their level; turns in the order in which Python gave them.
fn give<'py>(
    py: Python<'py>,
    values: Values,
    places: Option<&[usize]>,
) -> PyResult<(&'static str, Bound<'py, PyAny>)> {
    let array = |v: Vec<f64>| PyArray1::from_vec(py, v).into_any();
    Ok(match values {
        Values::Trajectories(v) => ("trajectory", array(v)),
        Values::Turns(v) => ("turn", array(places.map_or_else(|| v.clone(), |p| scatter(&v, p)))),
        Values::Tokens(v) => ("token", floats(py, v)),
    })
}

fn floats<'py>(py: Python<'py>, values: Floats<'static>) -> Bound<'py, PyAny> {
    match values {
        Floats::F32(v) => PyArray1::from_vec(py, v.into_owned()).into_any(),
        Floats::F64(v) => PyArray1::from_vec(py, v.into_owned()).into_any(),
    }
}

/// What a run hands back beside the credit.
struct Ran {
    credit: Credit,
    places: Option<Vec<usize>>,
}

/// Runs a method and returns a dictionary of `(level, array)` pairs and counts.
#[pyfunction]
pub fn credit<'py>(
    batch: &Batch,
    py: Python<'py>,
    method: &str,
    given: &Bound<'py, PyDict>,
    like: Option<&str>,
    threads: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let settings = settings(given)?;
    let method: &Method = find(method).map_err(|error| to_py(py, &error))?;
    let work = |rollouts: &Rollouts<'_>| {
        let credit = method.credit(rollouts, like, &settings)?;
        Ok(Ran { credit, places: rollouts.turn_places().map(<[usize]>::to_vec) })
    };
    let Ran { credit, places } = batch.run(py, threads, work)?;
    let places = places.as_deref();
    let out = PyDict::new(py);
    out.set_item("advantages", give(py, credit.advantages, places)?)?;
    let optional = [
        ("returns", credit.returns),
        ("clip_scale", credit.clip_scale),
        ("loss_mask", credit.loss_mask),
    ];
    for (name, values) in optional {
        out.set_item(name, values.map(|v| give(py, v, places)).transpose()?)?;
    }
    let extras = PyDict::new(py);
    for (name, values) in credit.extras {
        extras.set_item(name, give(py, values, places)?)?;
    }
    out.set_item("extras", extras)?;
    let counts = PyDict::new(py);
    counts.set_item("groups", credit.counts.groups)?;
    counts.set_item("singletons", credit.counts.singletons)?;
    counts.set_item("zero_spread", credit.counts.zero_spread)?;
    counts.set_item("absent", credit.counts.absent)?;
    out.set_item("counts", counts)?;
    Ok(out)
}

/// Whether, with these options, credit depends on other groups than a trajectory's own.
#[pyfunction]
pub fn batch_wide(
    py: Python<'_>,
    method: &str,
    given: &Bound<'_, PyDict>,
    like: Option<&str>,
) -> PyResult<bool> {
    let settings = settings(given)?;
    find(method).and_then(|found| found.batch_wide(like, &settings)).map_err(|e| to_py(py, &e))
}

/// Writes values of trajectories or turns over trained tokens, `fill` elsewhere.
#[pyfunction]
pub fn to_tokens<'py>(
    batch: &Batch,
    py: Python<'py>,
    level: &str,
    values: PyReadonlyArray1<'py, f64>,
    fill: f64,
    double: bool,
    threads: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let values = values.as_slice()?.to_vec();
    let written = batch.run(py, threads, |rollouts| {
        let values = match (level, rollouts.turn_places()) {
            ("trajectory", _) => Values::Trajectories(values),
            (_, None) => Values::Turns(values),
            (_, Some(places)) => Values::Turns(places.iter().map(|&row| values[row]).collect()),
        };
        spread::to_tokens(rollouts, &values, fill, double)
    })?;
    Ok(floats(py, written))
}

/// Means of token values over the trained tokens of each turn, in turn order.
#[pyfunction]
pub fn to_turns<'py>(
    py: Python<'py>,
    batch: &Batch,
    values: PyReadonlyArray1<'py, f64>,
    threads: usize,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let values = Floats::F64(values.as_slice()?.into());
    let means = batch.run(py, threads, |rollouts| spread::to_turns(rollouts, &values))?;
    Ok(PyArray1::from_vec(py, means))
}

/// Turns as `(offsets, spans)`: trajectories to turns, turns to flat `start, end` pairs.
#[pyfunction]
pub fn turns<'py>(
    batch: &Batch,
    py: Python<'py>,
    threads: usize,
) -> PyResult<(IntArray<'py>, IntArray<'py>)> {
    let (offsets, spans) = batch.run(py, threads, |rollouts| {
        let turns = rollouts.turns()?;
        let offsets = turns.offsets.iter().map(|&o| o as i64).collect();
        let spans = turns.spans.iter().flat_map(|s| [s.start as i64, s.end as i64]).collect();
        Ok::<(Vec<i64>, Vec<i64>), _>((offsets, spans))
    })?;
    Ok((PyArray1::from_vec(py, offsets), PyArray1::from_vec(py, spans)))
}

/// Trained tokens of each trajectory.
#[pyfunction]
pub fn lengths<'py>(batch: &Batch, py: Python<'py>, threads: usize) -> PyResult<IntArray<'py>> {
    let lengths = batch.run(py, threads, |rollouts| rollouts.lengths())?;
    Ok(PyArray1::from_vec(py, lengths.into_iter().map(|n| n as i64).collect()))
}

/// Group of each trajectory.
#[pyfunction]
pub fn groups<'py>(batch: &Batch, py: Python<'py>, threads: usize) -> PyResult<IntArray<'py>> {
    let groups = batch.run(py, threads, |rollouts| {
        Ok(rollouts.groups()?.ids().iter().map(|&id| i64::from(id)).collect())
    })?;
    Ok(PyArray1::from_vec(py, groups))
}

/// Where a row is a turn: the row of each turn, in turn order.
#[pyfunction]
pub fn turn_rows<'py>(
    batch: &Batch,
    py: Python<'py>,
    threads: usize,
) -> PyResult<Option<IntArray<'py>>> {
    let rows = batch.run(py, threads, |rollouts| {
        let places = rollouts.turn_places();
        Ok(places.map(|rows| rows.iter().map(|&row| row as i64).collect()))
    })?;
    Ok(rows.map(|rows| PyArray1::from_vec(py, rows)))
}

fn column<'py>(py: Python<'py>, spec: &ColumnSpec, required: bool) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("name", spec.name)?;
    out.set_item("level", spec.level.name())?;
    out.set_item("kind", format!("{:?}", spec.kind))?;
    out.set_item("doc", spec.doc)?;
    out.set_item("derived_from", spec.derived_from)?;
    out.set_item("required", required)?;
    Ok(out)
}

/// Options as users see them.
pub fn options<'py>(py: Python<'py>, specs: Vec<OptionSpec>) -> PyResult<Bound<'py, PyList>> {
    let options = PyList::empty(py);
    for option in specs {
        let one = PyDict::new(py);
        one.set_item("name", option.name)?;
        one.set_item("default", show(py, &option.default)?)?;
        one.set_item("expected", option.expected)?;
        one.set_item("doc", option.doc)?;
        options.append(one)?;
    }
    Ok(options)
}

/// Every method's card, in the order of the core's list.
#[pyfunction]
pub fn methods(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let out = PyList::empty(py);
    for method in METHODS {
        let card = &method.card;
        let entry = PyDict::new(py);
        entry.set_item("name", card.name)?;
        entry.set_item("title", card.title)?;
        entry.set_item("doc", card.doc)?;
        entry.set_item("granularity", card.granularity.name())?;
        entry.set_item("family", card.family)?;
        entry.set_item("paper", card.paper)?;
        entry.set_item("certainty", card.certainty.name())?;
        let wide = method.batch_wide(None, &Settings::new()).map_err(|e| to_py(py, &e))?;
        entry.set_item("batch_wide", wide)?;
        let columns = PyList::empty(py);
        for (specs, required) in [(card.needs, true), (card.takes, false)] {
            specs.iter().try_for_each(|spec| columns.append(column(py, spec, required)?))?;
        }
        entry.set_item("columns", columns)?;
        entry.set_item("options", options(py, (card.options)())?)?;
        let presets = PyDict::new(py);
        for (trainer, preset) in card.presets {
            let set = PyDict::new(py);
            for (name, value) in preset() {
                set.set_item(name, show(py, &value)?)?;
            }
            presets.set_item(trainer, set)?;
        }
        entry.set_item("presets", presets)?;
        out.append(entry)?;
    }
    Ok(out)
}
