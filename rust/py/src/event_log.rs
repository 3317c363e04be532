//! A search's log: Python values in, Python values out.
//!
//! May depend on `guard` and the core.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use apportion_core::tree::persist::log::{Reader, Writer};
use apportion_core::tree::persist::record::{Item, decode, encode};
use apportion_core::tree::persist::{Error, Result, whole};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::guard::raise;

/// A log that is read to its end, then written.
#[pyclass(frozen, module = "apportion._core")]
pub struct EventLog {
    path: PathBuf,
    state: Mutex<State>,
}

enum State {
    Reading(Reader),
    Writing(Writer),
    Closed,
}

fn exception(py: Python<'_>, path: &Path, error: Error) -> PyErr {
    let path = path.display();
    match error {
        // errno and the path, from which Python picks the exception's class.
        Error::Io(error) => match error.raw_os_error() {
            Some(number) => {
                let message = error.to_string();
                let text = message.split(" (os error").next().unwrap_or_default().to_owned();
                PyOSError::new_err((number, text, path.to_string()))
            }
            None => PyOSError::new_err(format!("{path}: {error}")),
        },
        error => raise(py, "FileFormatError", format!("{path}: {error}")),
    }
}

impl EventLog {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut State) -> Result<T> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut state)
        });
        done.map_err(|error| exception(py, &self.path, error))
    }
}

fn misused<T>(what: &str) -> Result<T> {
    Err(Error::Io(std::io::Error::other(what)))
}

#[pymethods]
impl EventLog {
    /// A new log, or with `create` false one that is there, to be read first.
    #[new]
    fn new(py: Python<'_>, path: PathBuf, create: bool) -> PyResult<Self> {
        let log = Self { path, state: Mutex::new(State::Closed) };
        let opened = if create {
            Writer::create(&log.path).map(State::Writing)
        } else {
            Reader::open(&log.path).map(State::Reading)
        };
        let state = opened.map_err(|error| exception(py, &log.path, error))?;
        Ok(Self { state: Mutex::new(state), ..log })
    }

    /// The next record; `None` after the last whole one.
    fn read<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let item = self.with(py, |state| match state {
            State::Reading(reader) => reader.read()?.map(|bytes| decode(&bytes)).transpose(),
            _ => misused("the log is not being read"),
        })?;
        item.map(|item| show(py, item)).transpose()
    }

    /// Goes over the next record; false after the last whole one.
    fn skip(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, |state| match state {
            State::Reading(reader) => Ok(reader.read()?.is_some()),
            _ => misused("the log is not being read"),
        })
    }

    /// The checksum of everything that was read or written.
    fn chain(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |state| match state {
            State::Reading(reader) => Ok(reader.chain()),
            State::Writing(writer) => Ok(writer.chain()),
            State::Closed => misused("the log is closed"),
        })
    }

    /// Bytes that were read or written.
    fn size(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |state| match state {
            State::Reading(reader) => Ok(reader.at()),
            State::Writing(writer) => Ok(writer.size()),
            State::Closed => misused("the log is closed"),
        })
    }

    /// Ends reading and begins writing; how many bytes of a record cut short were removed.
    fn resume(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |state| match std::mem::replace(state, State::Closed) {
            State::Reading(reader) => {
                let cut = reader.cut_short();
                *state = State::Writing(reader.into_writer(&self.path)?);
                Ok(cut)
            }
            _ => misused("the log is not being read"),
        })
    }

    /// Appends a record.
    fn append(&self, py: Python<'_>, record: &Bound<'_, PyAny>) -> PyResult<()> {
        let item = item(record)?;
        self.with(py, |state| match state {
            State::Writing(writer) => {
                let mut bytes = Vec::new();
                encode(&item, &mut bytes);
                writer.append(&bytes)
            }
            _ => misused("the log is not being written"),
        })
    }

    /// Waits until everything is on the disk.
    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |state| match state {
            State::Writing(writer) => writer.sync(),
            _ => misused("the log is not being written"),
        })
    }

    /// Takes no more records.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |state| {
            *state = State::Closed;
            Ok(())
        })
    }
}

/// The first bytes of a snapshot; the last of them is the format's version.
const SNAPSHOT: [u8; 8] = *b"APTSNAP\x01";

/// Writes a file of one record in one step.
#[pyfunction]
pub fn write_snapshot(py: Python<'_>, path: PathBuf, record: &Bound<'_, PyAny>) -> PyResult<()> {
    let item = item(record)?;
    let written = py.detach(|| {
        let mut bytes = Vec::new();
        encode(&item, &mut bytes);
        whole::write(&path, &SNAPSHOT, &bytes)
    });
    written.map_err(|error| exception(py, &path, error))
}

/// The record of such a file.
#[pyfunction]
pub fn read_snapshot(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyAny>> {
    let read = py.detach(|| whole::read(&path, &SNAPSHOT).and_then(|bytes| decode(&bytes)));
    show(py, read.map_err(|error| exception(py, &path, error))?)
}

fn item(given: &Bound<'_, PyAny>) -> PyResult<Item> {
    macro_rules! array {
        ($type:ty, $item:path) => {
            if let Ok(array) = given.cast::<PyArray1<$type>>() {
                return Ok($item(array.readonly().as_array().to_vec()));
            }
        };
    }
    if given.is_none() {
        return Ok(Item::Nothing);
    }
    if let Ok(flag) = given.cast::<PyBool>() {
        return Ok(Item::Bool(flag.is_true()));
    }
    if given.cast::<PyInt>().is_ok() {
        return Ok(Item::Int(given.extract()?));
    }
    if given.cast::<PyFloat>().is_ok() {
        return Ok(Item::Float(given.extract()?));
    }
    if given.cast::<PyString>().is_ok() {
        return Ok(Item::Text(given.extract()?));
    }
    if let Ok(bytes) = given.cast::<PyBytes>() {
        return Ok(Item::Bytes(bytes.as_bytes().to_vec()));
    }
    array!(i64, Item::Ints);
    array!(f64, Item::Floats);
    array!(bool, Item::Bools);
    array!(u32, Item::Tokens);
    if given.cast::<PyList>().is_ok() || given.cast::<PyTuple>().is_ok() {
        let items = given.try_iter()?.map(|entry| item(&entry?)).collect::<PyResult<_>>()?;
        return Ok(Item::List(items));
    }
    if let Ok(map) = given.cast::<PyDict>() {
        let items = map.iter().map(|(name, entry)| Ok((name.extract()?, item(&entry)?)));
        return Ok(Item::Map(items.collect::<PyResult<_>>()?));
    }
    let got = given.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    let expected = "expected None, a bool, a number, a text, bytes, a list, a \
                    dictionary, or an array of int64, float64, uint32 or booleans";
    Err(raise(given.py(), "DtypeError", format!("log: got {got}, {expected}")))
}

fn show(py: Python<'_>, item: Item) -> PyResult<Bound<'_, PyAny>> {
    Ok(match item {
        Item::Nothing => py.None().into_bound(py),
        Item::Bool(v) => PyBool::new(py, v).to_owned().into_any(),
        Item::Int(v) => v.into_pyobject(py)?.into_any(),
        Item::Float(v) => v.into_pyobject(py)?.into_any(),
        Item::Text(v) => v.into_pyobject(py)?.into_any(),
        Item::Bytes(v) => PyBytes::new(py, &v).into_any(),
        Item::List(v) => {
            let items = v.into_iter().map(|entry| show(py, entry)).collect::<PyResult<Vec<_>>>()?;
            PyTuple::new(py, items)?.into_any()
        }
        Item::Map(v) => {
            let map = PyDict::new(py);
            for (name, entry) in v {
                map.set_item(name, show(py, entry)?)?;
            }
            map.into_any()
        }
        Item::Bools(v) => PyArray1::from_vec(py, v).into_any(),
        Item::Ints(v) => PyArray1::from_vec(py, v).into_any(),
        Item::Floats(v) => PyArray1::from_vec(py, v).into_any(),
        Item::Tokens(v) => PyArray1::from_vec(py, v).into_any(),
    })
}
