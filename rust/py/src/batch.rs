//! A batch as Python hands it over: kept between calls, viewed for each.
//!
//! May depend on `stored`, `guard` and the core.

use apportion_core::column::{Column, Keys, Mask};
use apportion_core::error::Result as CoreResult;
use apportion_core::exec::Exec;
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::{NanRewards, Rollouts};
use pyo3::prelude::*;

use crate::guard::{detached, raise};
use crate::stored::{Array, Stored, integers, mask_of, stored, typed};

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
            mask: array("mask", mask)?,
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
        detached(py, threads, move |exec| {
            let rollouts = parts.rollouts(exec)?;
            work(&rollouts).map_err(|error| rollouts.placed(error))
        })
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
