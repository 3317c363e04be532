//! How alike two strings are, and strings gathered by likeness.
//!
//! Two measures, both 1 for equal strings and both `2 M / (|a| + |b|)` with
//! lengths in code points; they differ in what counts as matched:
//!
//! - [`indel_ratio`]: `M` is the longest common subsequence. Symmetric and fast.
//! - [`difflib_ratio`]: `M` is what Python's `difflib` matches. Neither symmetric
//!   nor monotone; it is here because published results were made with it.
//!
//! What `difflib` matches is a common subsequence, so its ratio never exceeds
//! that of [`indel_ratio`], which serves as its upper bound.
//! May depend on `choice!`, `exec` and `error`.

mod difflib;
mod first_fit;
mod indel;

pub use difflib::difflib_ratio;
pub use first_fit::{Similar, first_fit};
pub use indel::indel_ratio;

use crate::choice;
use crate::error::Result;
use crate::exec::Exec;

choice! {
    /// How the likeness of two strings is measured.
    Similarity {
        /// [`indel_ratio`]: by the longest common subsequence.
        Indel = "indel",
        /// [`difflib_ratio`]: as Python's `difflib` does.
        Difflib = "difflib",
    }
}

/// Asks every few milliseconds of work whether to stop.
struct Pace<'e, 'x> {
    exec: &'e Exec<'x>,
    work: usize,
}

impl<'e, 'x> Pace<'e, 'x> {
    fn new(exec: &'e Exec<'x>) -> Self {
        Self { exec, work: 0 }
    }

    /// Counts `work` steps of a nanosecond or a few.
    fn spend(&mut self, work: usize) -> Result<()> {
        self.work += work;
        if self.work < 1 << 20 {
            return Ok(());
        }
        self.work = 0;
        self.exec.check()
    }
}

/// `2 matched / total`, in the one rounding that every decision is made by; 1 for two
/// empty strings. It does not fall as `matched` grows, so that a bound on `matched`
/// never changes a decision.
fn ratio(matched: usize, total: usize) -> f64 {
    if total == 0 { 1.0 } else { 2.0 * matched as f64 / total as f64 }
}

/// The smallest `matched` whose ratio is at least `cutoff`; `None` where there is none.
fn needed(total: usize, cutoff: f64) -> Option<usize> {
    let near = (cutoff * total as f64 / 2.0) as usize;
    (near.saturating_sub(1)..=total / 2).find(|&matched| ratio(matched, total) >= cutoff)
}
