//! The lock around a forest: whoever waits for it has let go of the GIL.
//!
//! A thread that holds the lock may ask for the GIL, to see whether Ctrl-C was pressed. One
//! that waited for the lock with the GIL would stop both for ever. May depend on `guard`
//! and the core.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use apportion_core::error::Error;
use apportion_core::exec::Exec;
use apportion_core::tree::search::Forest;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use crate::guard;

/// A forest for one thread at a time.
pub struct Lock {
    forest: Mutex<Forest>,
    /// The thread that is at it: a signal's handler, run in the middle of a long call, must
    /// not wait for what it interrupted.
    holder: Mutex<Option<ThreadId>>,
}

/// The forest, until this is dropped.
pub struct Held<'a> {
    forest: MutexGuard<'a, Forest>,
    holder: &'a Mutex<Option<ThreadId>>,
}

impl Lock {
    /// A forest that nobody is at.
    pub fn new(forest: Forest) -> Self {
        Self { forest: Mutex::new(forest), holder: Mutex::new(None) }
    }

    /// The forest, for a call that keeps the GIL.
    pub fn attached(&self, py: Python<'_>) -> PyResult<Held<'_>> {
        self.refuse_twice(py)?;
        // A thread that panicked with the lock must not leave it locked for ever.
        let forest = self.forest.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        Ok(self.held(forest))
    }

    /// Runs `work` on the forest without the GIL.
    pub fn detached<T: Send>(
        &self,
        py: Python<'_>,
        threads: usize,
        work: impl FnOnce(&mut Forest, &Exec<'_>) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        self.refuse_twice(py)?;
        guard::detached(py, threads, |exec| {
            let forest = self.forest.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut self.held(forest), exec)
        })
    }

    fn held<'a>(&'a self, forest: MutexGuard<'a, Forest>) -> Held<'a> {
        set(&self.holder, Some(thread::current().id()));
        Held { forest, holder: &self.holder }
    }

    fn refuse_twice(&self, py: Python<'_>) -> PyResult<()> {
        let holder = *self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if holder != Some(thread::current().id()) {
            return Ok(());
        }
        let message = "search: got a call from within another call of the same thread, \
                       expected it after that has returned";
        Err(guard::raise(py, "InputError", message.to_owned()))
    }
}

fn set(holder: &Mutex<Option<ThreadId>>, thread: Option<ThreadId>) {
    *holder.lock().unwrap_or_else(PoisonError::into_inner) = thread;
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        set(self.holder, None);
    }
}

impl Deref for Held<'_> {
    type Target = Forest;

    fn deref(&self) -> &Forest {
        &self.forest
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Forest {
        &mut self.forest
    }
}
