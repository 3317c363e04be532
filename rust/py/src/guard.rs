//! The one way from Python into the core: GIL released, Ctrl-C answered, errors
//! and panics turned into named exceptions.
//!
//! May depend on `apportion_core` alone.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use apportion_core::error::Error;
use apportion_core::exec::Exec;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// How often Python is asked whether Ctrl-C was pressed.
const SIGNAL_PERIOD: Duration = Duration::from_millis(50);

/// Runs `work` without the GIL on up to `threads` threads.
pub fn detached<T: Send>(
    py: Python<'_>,
    threads: usize,
    work: impl FnOnce(&Exec<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let raised: Mutex<Option<PyErr>> = Mutex::new(None);
    let asked = Mutex::new(Instant::now());
    let poll = || {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.elapsed() < SIGNAL_PERIOD {
            return false;
        }
        *asked = Instant::now();
        let signal = Python::attach(|py| py.check_signals()).err();
        let stop = signal.is_some();
        if stop {
            *raised.lock().unwrap_or_else(PoisonError::into_inner) = signal;
        }
        stop
    };
    let outcome =
        py.detach(|| catch_unwind(AssertUnwindSafe(|| work(&Exec::new(threads, Some(&poll))))));
    // A signal's exception was taken from Python and must go back there, even where the
    // work was done before it looked.
    if let Some(raised) = raised.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(raised);
    }
    match outcome {
        Ok(result) => result.map_err(|error| to_py(py, &error)),
        Err(panic) => Err(internal(py, &*panic)),
    }
}

/// The core's error as the Python exception that names it.
pub fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error {
        Error::UnknownMethod { .. }
        | Error::UnknownPreset { .. }
        | Error::UnknownOption { .. }
        | Error::BadOption { .. } => "OptionError",
        Error::MissingColumn { .. } => "MissingColumnError",
        _ => "InputError",
    };
    raise(py, class, error.to_string())
}

/// An exception of `apportion.errors`.
pub fn raise(py: Python<'_>, class: &str, message: String) -> PyErr {
    let found = py
        .import("apportion.errors")
        .and_then(|errors| errors.getattr(class))
        .and_then(|class| Ok(class.cast_into::<PyType>()?));
    match found {
        Ok(class) => PyErr::from_type(class, message),
        Err(error) => error,
    }
}

fn internal(py: Python<'_>, panic: &(dyn Any + Send)) -> PyErr {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown panic");
    raise(py, "InternalError", format!("a bug in apportion, please report it: {text}"))
}

/// Panics, on the calling thread or on a helper's: for the test of the guard alone.
#[pyfunction]
pub fn _panic(py: Python<'_>, helper: bool) -> PyResult<()> {
    let caller = std::thread::current().id();
    detached(py, 2, |exec| {
        let started = std::sync::Barrier::new(2);
        exec.ranges(2, 1, |_| {
            started.wait();
            assert!((std::thread::current().id() == caller) == helper, "asked to panic");
            Ok(())
        })
    })?;
    Ok(())
}
