//! Memory for the nodes of many trees, side by side in huge pages.
//!
//! A tree of a thousand nodes is smaller than a huge page, but a search goes through
//! hundreds of such trees in turns. In small pages the processor remembers where few of
//! them lie and looks up the rest at each level of each descent, which is a third of a
//! search's time. So trees that will grow together get their room in one slab.
//! Depends on `memory` and `slab`.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

use allocator_api2::alloc::{AllocError, Allocator, Global};

use crate::memory::LARGE;
use crate::tree::slab::{LINE, Slab};

/// A column of a tree's nodes.
pub type Column<T> = allocator_api2::vec::Vec<T, Room>;

/// Where columns lie: in a slab while it has room, else in memory of their own.
#[derive(Clone, Debug, Default)]
pub struct Room(Option<Arc<Slab>>);

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
    fn a_small_room_is_no_slab() {
        let room = Room::new([100].into_iter());
        assert!(!room.is_slab());
        let mut column = Column::new_in(room);
        column.extend(0..100_u8);
        assert!(column.iter().copied().eq(0..100));
    }
}
