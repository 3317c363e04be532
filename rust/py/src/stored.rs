//! What Python owns and the core reads: arrays, strings and lists, and views of them.
//!
//! May depend on `guard` and the core.

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::error::Result as CoreResult;
use apportion_core::exec::Exec;
use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyList;

use crate::guard::{detached, raise};

/// An array that Python owns and the core reads.
pub enum Array {
    U8(Py<PyArray1<u8>>),
    I32(Py<PyArray1<i32>>),
    I64(Py<PyArray1<i64>>),
    F32(Py<PyArray1<f32>>),
    F64(Py<PyArray1<f64>>),
}

/// The same array while a call reads it; writing to it from Python is refused meanwhile.
pub enum View<'py> {
    U8(PyReadonlyArray1<'py, u8>),
    I32(PyReadonlyArray1<'py, i32>),
    I64(PyReadonlyArray1<'py, i64>),
    F32(PyReadonlyArray1<'py, f32>),
    F64(PyReadonlyArray1<'py, f64>),
}

impl Array {
    pub fn new(argument: &str, value: &Bound<'_, PyAny>) -> PyResult<Self> {
        fn own<T: Element>(value: &Bound<'_, PyAny>) -> Option<Py<PyArray1<T>>> {
            let array = value.cast::<PyArray1<T>>().ok()?;
            array.try_readonly().ok()?.as_slice().ok()?;
            Some(array.clone().unbind())
        }
        own(value)
            .map(Self::F32)
            .or_else(|| own(value).map(Self::F64))
            .or_else(|| own(value).map(Self::I64))
            .or_else(|| own(value).map(Self::I32))
            .or_else(|| own(value).map(Self::U8))
            .ok_or_else(|| {
                let got =
                    value.get_type().name().map_or_else(|_| "?".to_owned(), |n| n.to_string());
                let message = format!(
                    "{argument}: got {got}, expected a contiguous aligned 1-D array of numbers"
                );
                raise(value.py(), "InputError", message)
            })
    }

    pub fn view<'py>(&self, py: Python<'py>) -> PyResult<View<'py>> {
        fn read<'py, T: Element>(
            array: &Py<PyArray1<T>>,
            py: Python<'py>,
        ) -> PyResult<PyReadonlyArray1<'py, T>> {
            array
                .bind(py)
                .try_readonly()
                .map_err(|error| raise(py, "InputError", error.to_string()))
        }
        Ok(match self {
            Self::U8(a) => View::U8(read(a, py)?),
            Self::I32(a) => View::I32(read(a, py)?),
            Self::I64(a) => View::I64(read(a, py)?),
            Self::F32(a) => View::F32(read(a, py)?),
            Self::F64(a) => View::F64(read(a, py)?),
        })
    }
}

fn slice<'v, T: Element>(view: &'v PyReadonlyArray1<'_, T>) -> &'v [T] {
    view.as_slice().unwrap_or(&[])
}

/// A column as it is kept between calls.
pub enum Stored {
    Numbers { values: Array, width: Option<usize> },
    Texts(Vec<PyBackedStr>),
    Bytes(Vec<PyBackedBytes>),
    Lists { items: Vec<PyBackedStr>, offsets: Vec<i64> },
}

impl Stored {
    fn column<'v>(&'v self, view: Option<&'v View<'_>>) -> Option<Column<'v>> {
        Some(match (self, view) {
            (Self::Numbers { width: None, .. }, Some(View::I64(v))) => {
                Column::Keys(Keys::Ints(slice(v).into()))
            }
            (Self::Numbers { width, .. }, Some(view)) => {
                let values = match view {
                    View::F32(v) => Floats::F32(slice(v).into()),
                    View::F64(v) => Floats::F64(slice(v).into()),
                    _ => return None,
                };
                match *width {
                    None => Column::Floats(values),
                    Some(width) => Column::Matrix { values, width },
                }
            }
            (Self::Numbers { .. }, None) => return None,
            (Self::Texts(v), _) => Column::Keys(Keys::Texts(v.iter().map(|s| &**s).collect())),
            (Self::Bytes(v), _) => Column::Keys(Keys::Bytes(v.iter().map(|b| &**b).collect())),
            (Self::Lists { items, offsets }, _) => Column::Lists {
                items: items.iter().map(|s| &**s).collect(),
                offsets: offsets.clone(),
            },
        })
    }
}

/// Strings, or an error that names the first that is not valid.
fn texts(argument: &str, list: &Bound<'_, PyList>) -> PyResult<Vec<PyBackedStr>> {
    list.iter()
        .enumerate()
        .map(|(i, item)| {
            item.extract::<PyBackedStr>().map_err(|_| {
                let got = item.repr().map_or_else(|_| "?".to_owned(), |r| r.to_string());
                let message =
                    format!("{argument}[{i}]: got {got}, expected a string of valid Unicode");
                raise(list.py(), "InputError", message)
            })
        })
        .collect()
}

pub fn stored(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Stored> {
    if let Ok((values, width)) = value.extract::<(Bound<'_, PyAny>, usize)>() {
        return Ok(Stored::Numbers { values: Array::new(name, &values)?, width: Some(width) });
    }
    if let Ok((items, offsets)) = value.extract::<(Bound<'_, PyList>, Vec<i64>)>() {
        return Ok(Stored::Lists { items: texts(name, &items)?, offsets });
    }
    if let Ok(list) = value.cast::<PyList>() {
        let bytes: Option<Vec<PyBackedBytes>> =
            list.iter().map(|item| item.extract::<PyBackedBytes>().ok()).collect();
        if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
            return Ok(Stored::Bytes(bytes));
        }
        return texts(name, list).map(Stored::Texts);
    }
    Ok(Stored::Numbers { values: Array::new(name, value)?, width: None })
}

/// Runs `work` on ids that are not part of a batch.
pub fn keys_of<T: Send>(
    py: Python<'_>,
    name: &str,
    ids: &Bound<'_, PyAny>,
    work: impl FnOnce(&Keys<'_>, &Exec<'_>) -> CoreResult<T> + Send,
) -> PyResult<T> {
    let ids = stored(name, ids)?;
    let view = match &ids {
        Stored::Numbers { values, .. } => Some(values.view(py)?),
        _ => None,
    };
    match typed(py, name, &ids, view.as_ref())? {
        Column::Keys(keys) => detached(py, 1, |exec| work(&keys, exec)),
        other => {
            let message = format!("{name}: got {}, expected ids", other.describe());
            Err(raise(py, "InputError", message))
        }
    }
}

pub fn typed<'v>(
    py: Python<'_>,
    name: &str,
    stored: &'v Stored,
    view: Option<&'v View<'_>>,
) -> PyResult<Column<'v>> {
    stored.column(view).ok_or_else(|| {
        let message = format!("{name}: got an array of a type that no column has");
        raise(py, "InputError", message)
    })
}

pub fn integers<'v>(
    py: Python<'_>,
    name: &str,
    view: Option<&'v View<'_>>,
) -> PyResult<Option<&'v [i64]>> {
    match view {
        None => Ok(None),
        Some(View::I64(v)) => Ok(Some(slice(v))),
        Some(_) => Err(raise(py, "InputError", format!("{name}: expected 64-bit integers"))),
    }
}

pub fn mask_of<'v>(view: &'v View<'_>) -> Mask<'v> {
    match view {
        View::U8(v) => Mask::U8(slice(v)),
        View::I32(v) => Mask::I32(slice(v)),
        View::I64(v) => Mask::I64(slice(v)),
        View::F32(v) => Mask::F32(slice(v)),
        View::F64(v) => Mask::F64(slice(v)),
    }
}
