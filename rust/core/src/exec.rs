//! Where work is spread over threads, and where it can be stopped.
//!
//! The one place in the crate that starts threads. Threads are scoped to a call
//! instead of kept in a pool: a pool that was built before `fork` does not exist
//! in the child, and waiting for it hangs for ever; with nothing kept, there is
//! nothing to lose. Starting a thread costs some 20 us, so work is only spread
//! when it is much longer than that.
//!
//! Chunk boundaries depend on the input alone, and results come back in chunk
//! order, so sums are the same bits for any number of threads.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::error::{Error, Result};

/// Asked now and then on the calling thread; `true` means stop.
pub type Poll<'a> = dyn Fn() -> bool + Sync + 'a;

/// How often a thread that waits for the others asks whether to stop.
const WAIT: Duration = Duration::from_millis(20);

/// A job before it is taken, and its result after.
type Slot<J, T> = Mutex<(Option<J>, Option<Result<T>>)>;

/// How many threads a call may use, and how it learns that it should stop.
pub struct Exec<'a> {
    threads: usize,
    cancelled: AtomicBool,
    poll: Option<&'a Poll<'a>>,
    owner: ThreadId,
}

impl Default for Exec<'_> {
    fn default() -> Self {
        Self::new(1, None)
    }
}

impl<'a> Exec<'a> {
    /// `threads` of 0 means 1. `poll` runs only on the thread that calls `new`.
    pub fn new(threads: usize, poll: Option<&'a Poll<'a>>) -> Self {
        let owner = thread::current().id();
        Self { threads: threads.max(1), cancelled: AtomicBool::new(false), poll, owner }
    }

    /// How many threads may work at once.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// [`Error::Interrupted`] once the caller wants to stop. Call it every few
    /// milliseconds in loops that are not divided into chunks.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if let Some(poll) = self.poll
            && thread::current().id() == self.owner
            && poll()
        {
            self.cancelled.store(true, Ordering::Relaxed);
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// Runs `work` on every job and returns the results in the jobs' order.
    /// The error of the earliest failed job wins, whatever finished first.
    pub fn map<J, T, F>(&self, jobs: Vec<J>, work: F) -> Result<Vec<T>>
    where
        J: Send,
        T: Send,
        F: Fn(J) -> Result<T> + Sync,
    {
        let workers = self.threads.min(jobs.len());
        if workers <= 1 {
            return jobs
                .into_iter()
                .map(|job| {
                    self.check()?;
                    work(job)
                })
                .collect();
        }
        self.check()?;
        let slots: Vec<Slot<J, T>> =
            jobs.into_iter().map(|job| Mutex::new((Some(job), None))).collect();
        let next = AtomicUsize::new(0);
        let pull = &|| {
            while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(job) = slot.0.take() {
                    slot.1 = Some(self.check().and_then(|()| work(job)));
                }
            }
        };
        thread::scope(|scope| {
            let (working, all_done) = channel::<()>();
            let spawn = |working| {
                scope.spawn(move || {
                    let _dropped_at_the_end = working;
                    pull();
                })
            };
            let helpers: Vec<_> = (1..workers).map(|_| spawn(working.clone())).collect();
            drop(working);
            pull();
            // The last job may be a long one of a helper; `poll` runs on this thread alone,
            // and what it says reaches the helper as `cancelled`.
            while all_done.recv_timeout(WAIT) == Err(RecvTimeoutError::Timeout) {
                let _ = self.check();
            }
            for helper in helpers {
                if let Err(panic) = helper.join() {
                    resume_unwind(panic);
                }
            }
        });
        slots
            .into_iter()
            .map(|slot| {
                let slot = slot.into_inner().unwrap_or_else(PoisonError::into_inner);
                slot.1.unwrap_or(Err(Error::Interrupted))
            })
            .collect()
    }

    /// Runs `work` on consecutive ranges that cover `0..items`, each of at least
    /// `grain` items but for the last.
    pub fn ranges<T, F>(&self, items: usize, grain: usize, work: F) -> Result<Vec<T>>
    where
        T: Send,
        F: Fn(Range<usize>) -> Result<T> + Sync,
    {
        self.map(split(items, grain), work)
    }
}

/// Consecutive ranges of `grain` items that cover `0..items`; the last may be shorter.
pub fn split(items: usize, grain: usize) -> Vec<Range<usize>> {
    let grain = grain.max(1);
    (0..items).step_by(grain).map(|start| start..items.min(start + grain)).collect()
}

/// Cuts `values` at the given lengths, which must sum to its length, so that each
/// job of [`Exec::map`] owns the part that it writes.
pub fn cut<T>(mut values: &mut [T], lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    lengths
        .map(|length| {
            let (head, tail) = std::mem::take(&mut values).split_at_mut(length);
            values = tail;
            head
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_for_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let got = Exec::new(threads, None).ranges(10, 3, Ok).unwrap();
            assert_eq!(got, [0..3, 3..6, 6..9, 9..10]);
        }
    }

    #[test]
    fn the_earliest_error_wins() {
        let fail = |range: Range<usize>| -> Result<()> {
            Err(Error::TooLarge { what: "range", got: range.start as u128, limit: 0 })
        };
        let got = Exec::new(4, None).ranges(8, 1, fail);
        assert_eq!(got, Err(Error::TooLarge { what: "range", got: 0, limit: 0 }));
    }

    #[test]
    fn a_poll_that_says_stop_stops() {
        let stop = || true;
        for threads in [1, 3] {
            let got = Exec::new(threads, Some(&stop)).ranges(8, 1, Ok);
            assert_eq!(got, Err(Error::Interrupted));
        }
    }

    #[test]
    fn a_poll_is_asked_while_helpers_work() {
        let (busy, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        let owner = thread::current().id();
        // Says stop only once the caller has nothing left to do but wait.
        let stop = || busy.load(Ordering::SeqCst) && asked.fetch_add(1, Ordering::SeqCst) > 2;
        let exec = Exec::new(2, Some(&stop));
        let got = exec.ranges(2, 1, |_| {
            if thread::current().id() == owner {
                while !busy.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                return Ok(());
            }
            busy.store(true, Ordering::SeqCst);
            loop {
                exec.check()?;
                thread::yield_now();
            }
        });
        assert_eq!(got, Err(Error::Interrupted));
    }

    #[test]
    fn a_panic_in_a_worker_reaches_the_caller() {
        let caught = std::panic::catch_unwind(|| {
            Exec::new(3, None).ranges(9, 1, |r| -> Result<()> {
                if r.start == 5 { panic!("boom") } else { Ok(()) }
            })
        });
        assert!(caught.is_err());
    }
}
