//! Python bindings: view arrays, release the GIL, call the core. No logic of its own.

mod batch;
mod event_log;
mod guard;
mod matching;
mod methods;
mod primitives;
mod readout;
mod row_op;
mod stored;
mod tree;

use pyo3::prelude::*;

/// The extension module `apportion._core`.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("__debug_build__", cfg!(debug_assertions))?;
    module.add_class::<batch::Batch>()?;
    module.add_function(wrap_pyfunction!(methods::methods, module)?)?;
    module.add_function(wrap_pyfunction!(methods::credit, module)?)?;
    module.add_function(wrap_pyfunction!(methods::batch_wide, module)?)?;
    module.add_function(wrap_pyfunction!(methods::to_tokens, module)?)?;
    module.add_function(wrap_pyfunction!(methods::to_turns, module)?)?;
    module.add_function(wrap_pyfunction!(methods::turns, module)?)?;
    module.add_function(wrap_pyfunction!(methods::lengths, module)?)?;
    module.add_function(wrap_pyfunction!(methods::groups, module)?)?;
    module.add_function(wrap_pyfunction!(methods::turn_rows, module)?)?;
    matching::register(module)?;
    module.add_function(wrap_pyfunction!(guard::_panic, module)?)?;
    primitives::register(module)?;
    readout::register(module)?;
    module.add_function(wrap_pyfunction!(row_op::row_stats, module)?)?;
    module.add_function(wrap_pyfunction!(row_op::row_grad, module)?)?;
    tree::register(module)?;
    module.add_class::<event_log::EventLog>()?;
    module.add_function(wrap_pyfunction!(event_log::write_snapshot, module)?)?;
    module.add_function(wrap_pyfunction!(event_log::read_snapshot, module)?)?;
    // The stub says what there is; a list beside it would only have to be kept in step.
    module.delattr("__all__")
}
