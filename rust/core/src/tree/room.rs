//! Memory for the nodes of many trees, side by side in huge pages.
//!
//! A tree of a thousand nodes is smaller than a huge page, but a search goes through
//! hundreds of such trees in turns. In small pages the processor remembers where few of
//! them lie and looks up the rest at each level of each descent, which is a third of a
//! search's time. So trees that will grow together get their room in one slab. What the
//! system gives it clears first, a seventh of a search's time; so the slab of a search that
//! is gone serves the next. Depends on `memory`.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use allocator_api2::alloc::{AllocError, Allocator, Global};

use crate::memory::{HUGE, LARGE, advise_free, advise_huge};

/// A column of a tree's nodes.
pub type Column<T> = allocator_api2::vec::Vec<T, Room>;

/// Pieces of a slab begin at multiples of this: a cache line.
const LINE: usize = 64;

/// Where columns lie: in a slab while it has room, else in memory of their own.
#[derive(Clone, Debug, Default)]
pub struct Room(Option<Arc<Slab>>);

/// Memory that is cut into pieces from its start on, and given back as a whole.
#[derive(Debug)]
struct Slab {
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
/// is short.
struct Spare(Mutex<Option<Block>>);

/// The block of the last slab that was dropped.
static SPARE: Spare = Spare(Mutex::new(None));

impl Room {
    /// Room for columns of these sizes in bytes; no slab where they are small in all, or
    /// where the system has not so much.
    pub fn new(sizes: impl Iterator<Item = usize>) -> Self {
        let bytes = sizes.map(|size| size.next_multiple_of(LINE)).sum();
        Self(if bytes < LARGE { None } else { Slab::new(bytes).map(Arc::new) })
    }

    /// Whether there is a slab.
    pub fn is_slab(&self) -> bool {
        self.0.is_some()
    }

    fn has(&self, piece: NonNull<u8>) -> bool {
        self.0.as_ref().is_some_and(|slab| slab.has(piece))
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
    /// The block if it is large enough, and not so large that most of it would lie idle.
    fn take(&self, bytes: usize) -> Option<Block> {
        let mut block = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        block.take_if(|block| (bytes..=2 * bytes.next_multiple_of(HUGE)).contains(&block.len()))
    }

    /// Lays a block here, in place of the one that lay here.
    fn put(&self, block: Block) {
        // SAFETY: the range is the whole of an allocation that nobody uses.
        if unsafe { advise_free(block.start.as_ptr(), block.len()) } {
            let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(block);
            drop(before); // with the lock open again
        }
    }
}

impl Slab {
    fn new(bytes: usize) -> Option<Self> {
        let block = SPARE.take(bytes).or_else(|| Block::new(bytes))?;
        Some(Self { block: Some(block), used: AtomicUsize::new(0) })
    }

    fn cut(&self, layout: Layout) -> Option<NonNull<u8>> {
        let block = self.block.as_ref()?;
        let size = layout.size().checked_next_multiple_of(LINE)?;
        let end = |used: usize| used.checked_add(size).filter(|&end| end <= block.len());
        let cut = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end).ok();
        let at = cut.filter(|_| layout.align() <= LINE)?;
        // SAFETY: a piece that begins there ends within the block.
        Some(unsafe { block.start.add(at) })
    }

    fn has(&self, piece: NonNull<u8>) -> bool {
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

// SAFETY: pieces of a slab do not overlap and stay until the last clone of the room is gone;
// all others are the global allocator's, and an address tells which kind a piece is.
unsafe impl Allocator for Room {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        match self.0.as_ref().and_then(|slab| slab.cut(layout)) {
            Some(piece) => Ok(NonNull::slice_from_raw_parts(piece, layout.size())),
            None => Global.allocate(layout),
        }
    }

    unsafe fn deallocate(&self, piece: NonNull<u8>, layout: Layout) {
        if !self.has(piece) {
            // SAFETY: it was allocated there.
            unsafe { Global.deallocate(piece, layout) };
        }
    }

    unsafe fn grow(
        &self,
        piece: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if !self.has(piece) {
            // SAFETY: it was allocated there; the caller vouches for the layouts.
            return unsafe { Global.grow(piece, old, new) };
        }
        let grown = Global.allocate(new)?;
        // SAFETY: both are at least as long as `old`, and do not overlap.
        unsafe { piece.copy_to_nonoverlapping(grown.cast(), old.size()) };
        Ok(grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_keep_what_they_hold_wherever_they_lie() {
        let room = Room::new([LARGE / 2, LARGE / 2].into_iter());
        assert!(room.is_slab());
        let mut columns: Vec<Column<u64>> = Vec::new();
        for start in 0..3 {
            // The third has no place in the slab.
            let mut column = Column::with_capacity_in(LARGE / 2 / 8, room.clone());
            column.extend(start..start + 1000);
            columns.push(column);
        }
        let copies = columns.clone();
        for (start, column) in (0..).zip(&mut columns) {
            // Beyond what was asked for, out of the slab where it lay there.
            let more = column.capacity() as u64;
            column.extend(start + 1000..start + 1000 + more);
            assert!(column.iter().copied().eq(start..start + 1000 + more));
        }
        drop((room, columns));
        for (start, column) in (0..).zip(copies) {
            assert!(column.iter().copied().eq(start..start + 1000));
        }
    }

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
    fn a_small_room_is_no_slab() {
        let room = Room::new([100].into_iter());
        assert!(!room.is_slab());
        let mut column = Column::new_in(room);
        column.extend(0..100_u8);
        assert!(column.iter().copied().eq(0..100));
    }
}
