//! A batch as Python hands it over: references to its arrays, viewed for each call.

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::error::Result as CoreResult;
use apportion_core::exec::Exec;
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::{NanRewards, Rollouts};
use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyList;

use crate::guard::{detached, raise};

/// An array that Python owns and the core reads.
enum Array {
    U8(Py<PyArray1<u8>>),
    I32(Py<PyArray1<i32>>),
    I64(Py<PyArray1<i64>>),
    F32(Py<PyArray1<f32>>),
    F64(Py<PyArray1<f64>>),
}

/// The same array while a call reads it; writing to it from Python is refused meanwhile.
enum View<'py> {
    U8(PyReadonlyArray1<'py, u8>),
    I32(PyReadonlyArray1<'py, i32>),
    I64(PyReadonlyArray1<'py, i64>),
    F32(PyReadonlyArray1<'py, f32>),
    F64(PyReadonlyArray1<'py, f64>),
}

impl Array {
    fn new(argument: &str, value: &Bound<'_, PyAny>) -> PyResult<Self> {
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

    fn view<'py>(&self, py: Python<'py>) -> PyResult<View<'py>> {
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
enum Stored {
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

/// Rows of tokens with named columns, as the core reads them.
///
/// Built by `apportion.Rollouts`, which turns whatever a trainer holds into
/// flat contiguous arrays first. Holds references, copies nothing.
#[pyclass(frozen, module = "apportion._core")]
pub struct Batch {
    rows: usize,
    width: Option<usize>,
    token_offsets: Option<Array>,
    mask: Option<Array>,
    turns: Option<(Array, Array)>,
    trajectory_ids: Option<Stored>,
    turn_index: Option<Array>,
    columns: Vec<(String, Stored)>,
    nan_rewards: NanRewards,
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

fn stored(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Stored> {
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

#[pymethods]
impl Batch {
    /// Rows either of one `width` or bounded by `token_offsets`. A column is an
    /// array, an `(array, width)` pair, a list of strings or of bytes, or a
    /// `(strings, offsets)` pair.
    #[new]
    #[pyo3(signature = (*, rows, width, token_offsets, mask, turns, trajectory_ids, turn_index, nan_rewards, columns))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        rows: usize,
        width: Option<usize>,
        token_offsets: Option<Bound<'_, PyAny>>,
        mask: Option<Bound<'_, PyAny>>,
        turns: Option<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
        trajectory_ids: Option<Bound<'_, PyAny>>,
        turn_index: Option<Bound<'_, PyAny>>,
        nan_rewards: &str,
        columns: Vec<(String, Bound<'_, PyAny>)>,
    ) -> PyResult<Self> {
        let array = |name: &str, value: Option<Bound<'_, PyAny>>| {
            value.map(|value| Array::new(name, &value)).transpose()
        };
        let turns = turns
            .map(|(offsets, spans)| {
                Ok::<_, PyErr>((
                    Array::new("turn_offsets", &offsets)?,
                    Array::new("turn_spans", &spans)?,
                ))
            })
            .transpose()?;
        let keep = |(name, value): (String, Bound<'_, PyAny>)| {
            let column = stored(&name, &value)?;
            Ok((name, column))
        };
        Ok(Self {
            rows,
            width,
            token_offsets: array("token_offsets", token_offsets)?,
            mask: array("loss_mask", mask)?,
            turns,
            trajectory_ids: trajectory_ids.map(|ids| stored("trajectory_ids", &ids)).transpose()?,
            turn_index: array("turn_index", turn_index)?,
            columns: columns.into_iter().map(keep).collect::<PyResult<_>>()?,
            nan_rewards: match nan_rewards {
                "raise" => NanRewards::Raise,
                "zero" => NanRewards::Zero,
                _ => NanRewards::Mask,
            },
        })
    }
}

impl Batch {
    /// Views the arrays, builds the core's `Rollouts` and runs `work` on it without the GIL.
    pub fn run<T: Send>(
        &self,
        py: Python<'_>,
        threads: usize,
        work: impl FnOnce(&Rollouts<'_>) -> CoreResult<T> + Send,
    ) -> PyResult<T> {
        let view = |array: &Option<Array>| array.as_ref().map(|a| a.view(py)).transpose();
        let (offsets, mask, index) =
            (view(&self.token_offsets)?, view(&self.mask)?, view(&self.turn_index)?);
        let turns = match &self.turns {
            None => None,
            Some((offsets, spans)) => Some((offsets.view(py)?, spans.view(py)?)),
        };
        let view_of = |stored: &Stored| match stored {
            Stored::Numbers { values, .. } => values.view(py).map(Some),
            _ => Ok(None),
        };
        let id_view = self.trajectory_ids.as_ref().map(view_of).transpose()?.flatten();
        let views = self.columns.iter().map(|(_, c)| view_of(c)).collect::<PyResult<Vec<_>>>()?;

        let columns = self
            .columns
            .iter()
            .zip(&views)
            .map(|((name, stored), view)| Ok((&name[..], typed(py, name, stored, view.as_ref())?)))
            .collect::<PyResult<Vec<_>>>()?;
        let ids = match &self.trajectory_ids {
            None => None,
            Some(stored) => match typed(py, "trajectory_ids", stored, id_view.as_ref())? {
                Column::Keys(keys) => Some(keys),
                other => {
                    let message = format!("trajectory_ids: got {}, expected ids", other.describe());
                    return Err(raise(py, "InputError", message));
                }
            },
        };
        let parts = Parts {
            rows: self.rows,
            width: self.width,
            offsets: integers(py, "token_offsets", offsets.as_ref())?,
            mask: mask.as_ref().map(mask_of),
            turns: match &turns {
                None => None,
                Some((offsets, spans)) => Some((
                    integers(py, "turn_offsets", Some(offsets))?.unwrap_or(&[]),
                    integers(py, "turn_spans", Some(spans))?.unwrap_or(&[]),
                )),
            },
            ids,
            index: integers(py, "turn_index", index.as_ref())?,
            columns,
            nan_rewards: self.nan_rewards,
        };
        detached(py, threads, move |exec| work(&parts.rollouts(exec)?))
    }
}

/// Plain slices of everything: what crosses to the threads without the GIL.
struct Parts<'v> {
    rows: usize,
    width: Option<usize>,
    offsets: Option<&'v [i64]>,
    mask: Option<Mask<'v>>,
    turns: Option<(&'v [i64], &'v [i64])>,
    ids: Option<Keys<'v>>,
    index: Option<&'v [i64]>,
    columns: Vec<(&'v str, Column<'v>)>,
    nan_rewards: NanRewards,
}

impl<'v> Parts<'v> {
    fn rollouts<'e>(self, exec: &'e Exec<'e>) -> CoreResult<Rollouts<'e>>
    where
        'v: 'e,
    {
        let tokens = self.mask.as_ref().map(Mask::len);
        let rows = match (self.offsets, self.width) {
            (Some(offsets), _) => {
                let last = offsets.last().copied().unwrap_or(0);
                let total = tokens.unwrap_or_else(|| usize::try_from(last).unwrap_or(0));
                Offsets::listed("token_offsets", offsets, total)?
            }
            (None, width) => Offsets::even(self.rows, width.unwrap_or(0))?,
        };
        let mask = self.mask.unwrap_or_else(|| Mask::All(rows.total()));
        let mut rollouts = Rollouts::packed(rows, mask, exec)?.with_nan_rewards(self.nan_rewards);
        for (name, column) in self.columns {
            rollouts = rollouts.with(name, column);
        }
        if let Some((offsets, spans)) = self.turns {
            let counts = Offsets::listed("turn_offsets", offsets, spans.len() / 2)?;
            rollouts = rollouts.with_turns(&counts, spans)?;
        }
        match self.ids {
            None => Ok(rollouts),
            Some(ids) => rollouts.with_trajectories(&ids, self.index),
        }
    }
}

/// Runs `work` on ids that are not part of a batch.
pub fn keys_of<T: Send>(
    py: Python<'_>,
    name: &str,
    ids: &Bound<'_, PyAny>,
    work: impl FnOnce(&Keys<'_>) -> T + Send,
) -> PyResult<T> {
    let ids = stored(name, ids)?;
    let view = match &ids {
        Stored::Numbers { values, .. } => Some(values.view(py)?),
        _ => None,
    };
    match typed(py, name, &ids, view.as_ref())? {
        Column::Keys(keys) => detached(py, 1, |_| Ok(work(&keys))),
        other => {
            let message = format!("{name}: got {}, expected ids", other.describe());
            Err(raise(py, "InputError", message))
        }
    }
}

fn typed<'v>(
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

fn integers<'v>(
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

fn mask_of<'v>(view: &'v View<'_>) -> Mask<'v> {
    match view {
        View::U8(v) => Mask::U8(slice(v)),
        View::I32(v) => Mask::I32(slice(v)),
        View::I64(v) => Mask::I64(slice(v)),
        View::F32(v) => Mask::F32(slice(v)),
        View::F64(v) => Mask::F64(slice(v)),
    }
}
