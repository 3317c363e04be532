//! Log-probability and entropy of rows of logits, and their gradient: arrays in, arrays out.

use apportion_core::row_op::{self, Logit, Pulls, Rows};
use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;

use crate::guard::{detached, raise};

type Doubles<'py> = Bound<'py, PyArray1<f64>>;
type ReadDoubles<'py> = PyReadonlyArray1<'py, f64>;

/// What `row_op::Rows` borrows: width, starts, targets, softcap, temperatures.
#[derive(FromPyObject)]
pub struct RowArrays<'py>(
    usize,
    PyReadonlyArray1<'py, i64>,
    PyReadonlyArray1<'py, i64>,
    Option<f64>,
    ReadDoubles<'py>,
);

impl RowArrays<'_> {
    fn rows(&self) -> PyResult<Rows<'_>> {
        Ok(Rows {
            width: self.0,
            starts: self.1.as_slice()?,
            targets: self.2.as_slice()?,
            softcap: self.3,
            temperatures: self.4.as_slice()?,
        })
    }
}

/// `f32`, `f64`, or `u16`: the bits of a bfloat16.
fn not_logits(py: Python<'_>, argument: &str) -> PyErr {
    let expected = "a contiguous 1-D array of float32, float64, or uint16 (bfloat16)";
    raise(py, "DtypeError", format!("{argument}: expected {expected}"))
}

/// Log-probabilities, log-sums and entropies of rows.
#[pyfunction]
pub fn row_stats<'py>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    rows: RowArrays<'py>,
    threads: usize,
) -> PyResult<(Doubles<'py>, Doubles<'py>, Doubles<'py>)> {
    fn run<'py, L: Logit + Element>(
        logits: &Bound<'py, PyAny>,
        rows: &RowArrays<'py>,
        threads: usize,
    ) -> Option<PyResult<row_op::RowStats>> {
        let array = logits.cast::<PyArray1<L>>().ok()?.try_readonly().ok()?;
        let values = array.as_slice().ok()?;
        Some(rows.rows().and_then(|rows| {
            detached(logits.py(), threads, |exec| row_op::stats(values, &rows, exec))
        }))
    }
    let got = run::<f32>(logits, &rows, threads)
        .or_else(|| run::<f64>(logits, &rows, threads))
        .or_else(|| run::<u16>(logits, &rows, threads))
        .unwrap_or_else(|| Err(not_logits(py, "logits")))?;
    let array = |values| PyArray1::from_vec(py, values);
    Ok((array(got.log_probs), array(got.log_sums), array(got.entropies)))
}

/// The gradient by the logits into `out`: of `logits`, or in place where they are `None`.
/// `saved` is log-sums and entropies, `upstream` the gradients by all three statistics.
#[pyfunction]
pub fn row_grad<'py>(
    py: Python<'py>,
    logits: Option<Bound<'py, PyAny>>,
    out: &Bound<'py, PyAny>,
    rows: RowArrays<'py>,
    saved: (ReadDoubles<'py>, ReadDoubles<'py>),
    upstream: (ReadDoubles<'py>, ReadDoubles<'py>, ReadDoubles<'py>),
    threads: usize,
) -> PyResult<()> {
    fn run<L: Logit + Element>(
        logits: Option<&Bound<'_, PyAny>>,
        out: &Bound<'_, PyAny>,
        rows: &Rows<'_>,
        pulls: &Pulls<'_>,
        threads: usize,
    ) -> Option<PyResult<()>> {
        let mut target: PyReadwriteArray1<'_, L> =
            out.cast::<PyArray1<L>>().ok()?.try_readwrite().ok()?;
        let source = match logits {
            None => None,
            Some(logits) => Some(logits.cast::<PyArray1<L>>().ok()?.try_readonly().ok()?),
        };
        let source = source.as_ref().map(|array| array.as_slice()).transpose().ok()?;
        let target = target.as_slice_mut().ok()?;
        Some(detached(out.py(), threads, |exec| row_op::grad(source, target, rows, pulls, exec)))
    }
    let rows = rows.rows()?;
    let pulls = Pulls {
        log_sums: saved.0.as_slice()?,
        entropies: saved.1.as_slice()?,
        by_log_probs: upstream.0.as_slice()?,
        by_log_sums: upstream.1.as_slice()?,
        by_entropies: upstream.2.as_slice()?,
    };
    let logits = logits.as_ref();
    run::<f32>(logits, out, &rows, &pulls, threads)
        .or_else(|| run::<f64>(logits, out, &rows, &pulls, threads))
        .or_else(|| run::<u16>(logits, out, &rows, &pulls, threads))
        .unwrap_or_else(|| Err(not_logits(py, "logits and out")))
}
