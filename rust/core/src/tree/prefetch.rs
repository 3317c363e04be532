//! Asking for memory before it is read, so that other work goes on while it comes. No
//! result depends on it. Depends on `arena`.

use crate::tree::arena::{ROOT, Tree};

/// Bytes that come at once.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

impl Tree {
    /// Asks for what a descent reads first: the root and, beside it, its children.
    pub(super) fn prefetch_top(&self) {
        prefetch(&self.hot, ROOT as usize, 9);
    }

    /// Asks for what an answer changes: the records of its descent, and where its children go
    /// if `before` answers come first and all have as many children as the root.
    pub(super) fn prefetch_path<'a>(&self, path: impl Iterator<Item = &'a u32>, before: usize) {
        let mut leaf = ROOT;
        for &edge in path {
            prefetch(&self.hot, edge as usize, 1);
            leaf = edge;
        }
        prefetch(&self.cold, leaf as usize, 1);
        let width = usize::from(self.hot[ROOT as usize].children);
        let end = self.len() + before * width;
        prefetch(&self.hot, end, width);
        prefetch(&self.cold, end, width);
    }

    /// Asks for what a descent reads of a node whose own record has just been read: its
    /// children or, where it has none, whether it can be expanded.
    #[inline]
    pub(super) fn prefetch(&self, node: u32) {
        let hot = &self.hot[node as usize];
        if hot.children == 0 {
            prefetch(&self.cold, node as usize, 1);
        } else {
            prefetch(&self.hot, hot.first_child as usize, usize::from(hot.children));
        }
    }
}

/// Asks for `count` of the values from number `first` on, which need not be there. Where
/// the processor has no such instruction, nothing happens.
#[inline(always)]
fn prefetch<T>(values: &[T], first: usize, count: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = values.as_ptr().wrapping_add(first).cast::<i8>();
        for line in 0..count * size_of::<T>() / LINE + 1 {
            // SAFETY: a prefetch reads nothing and cannot fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, first, count);
}
