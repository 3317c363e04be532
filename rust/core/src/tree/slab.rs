//! A slab: memory that many columns share, and that the next search takes over.
//!
//! The system clears what it gives, which is a seventh of a search's time; so the slab of a
//! search that is gone is kept, for the system to take back where memory is short.
//! Depends on `memory`.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::memory::{HUGE, advise_free, advise_huge};

/// Pieces of a slab begin at multiples of this: a cache line.
pub(super) const LINE: usize = 64;

/// Memory that is cut into pieces from its start on, and given back as a whole.
#[derive(Debug)]
pub(super) struct Slab {
    /// There until the slab is dropped.
    block: Option<Block>,
    used: AtomicUsize,
}

/// Whole huge pages.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is the block's own.
unsafe impl Send for Block {}
// SAFETY: as above, and a block has nothing that changes.
unsafe impl Sync for Block {}

/// Where a block lies that nobody uses. The system may take its pages meanwhile, if memory
/// is short. Nobody waits for another thread here: in a process that was forked while one
/// was at it, that thread is gone and the lock stays.
struct Spare(Mutex<Option<Block>>);

/// The block of the last slab that was dropped.
static SPARE: Spare = Spare(Mutex::new(None));

impl Slab {
    /// At least so many bytes, more than 0; `None` where the system has not so much.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        let block = SPARE.take(bytes).or_else(|| Block::new(bytes))?;
        Some(Self { block: Some(block), used: AtomicUsize::new(0) })
    }

    /// The next piece; `None` where it has no place any more.
    pub(super) fn cut(&self, layout: Layout) -> Option<NonNull<u8>> {
        let block = self.block.as_ref()?;
        let size = layout.size().checked_next_multiple_of(LINE)?;
        let end = |used: usize| used.checked_add(size).filter(|&end| end <= block.len());
        let cut = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end).ok();
        let at = cut.filter(|_| layout.align() <= LINE)?;
        // SAFETY: a piece that begins there ends within the block.
        Some(unsafe { block.start.add(at) })
    }

    /// Whether a piece is one of this slab.
    pub(super) fn has(&self, piece: NonNull<u8>) -> bool {
        let Some(block) = &self.block else { return false };
        let start = block.start.addr().get();
        (start..start + block.len()).contains(&piece.addr().get())
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // Columns that lie in the block hold the slab: none is left.
        if let Some(block) = self.block.take() {
            SPARE.put(block);
        }
    }
}

impl Block {
    fn new(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.checked_next_multiple_of(HUGE)?, HUGE).ok()?;
        // SAFETY: `bytes` is not 0, so neither is the layout's size.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        // SAFETY: the range is the whole of the allocation.
        unsafe { advise_huge(start.as_ptr(), layout.size()) };
        Some(Self { start, layout })
    }

    fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and nothing that lies in it is left.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl Spare {
    fn lock(&self) -> Option<MutexGuard<'_, Option<Block>>> {
        match self.0.try_lock() {
            Ok(block) => Some(block),
            Err(TryLockError::Poisoned(block)) => Some(block.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The block if it is large enough, and not so large that most of it would lie idle.
    fn take(&self, bytes: usize) -> Option<Block> {
        let most = 2 * bytes.next_multiple_of(HUGE);
        self.lock()?.take_if(|block| (bytes..=most).contains(&block.len()))
    }

    /// Lays a block here, in place of the one that lay here.
    fn put(&self, block: Block) {
        // SAFETY: the range is the whole of an allocation that nobody uses.
        if unsafe { advise_free(block.start.as_ptr(), block.len()) } {
            let before = self.lock().map(|mut spare| spare.replace(block));
            drop(before); // with the lock open again
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_is_left_serves_who_wants_about_as_much() {
        let spare = Spare(Mutex::new(None));
        assert!(spare.take(HUGE).is_none());
        let block = Block::new(4 * HUGE).unwrap();
        let start = block.start;
        spare.put(block);
        if cfg!(target_os = "linux") {
            assert!(spare.take(4 * HUGE + 1).is_none());
            assert!(spare.take(HUGE).is_none());
            let again = spare.take(3 * HUGE - 5).unwrap();
            assert_eq!((again.start, again.len()), (start, 4 * HUGE));
            // SAFETY: the block is that long, and nobody else's.
            unsafe { again.start.write_bytes(7, again.len()) };
            spare.put(again);
            spare.put(Block::new(HUGE).unwrap());
            assert_eq!(spare.take(HUGE).unwrap().len(), HUGE);
        }
        assert!(spare.take(4 * HUGE).is_none());
    }

    #[test]
    fn nobody_waits_for_a_thread_that_a_fork_has_left_behind() {
        let spare = Spare(Mutex::new(None));
        spare.put(Block::new(HUGE).unwrap());
        let held = spare.0.lock();
        assert!(spare.take(HUGE).is_none());
        spare.put(Block::new(HUGE).unwrap());
        drop(held);
        assert_eq!(spare.take(HUGE).is_some(), cfg!(target_os = "linux"));
    }
}
