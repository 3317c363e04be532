//! Memory for results: zeroed, and in huge pages where the system has them.
//!
//! May depend on `error` alone.

use std::alloc::{Layout, alloc_zeroed};
use std::ffi::c_int;

use crate::error::{Error, Result};

/// Numbers whose zero is all bits 0.
///
/// # Safety
///
/// All bits 0 must be a value of the type, and it must need no dropping.
pub unsafe trait Zeros: Copy {}

// SAFETY: so the standards of floating-point and of binary numbers say.
unsafe impl Zeros for f32 {}
// SAFETY: as above.
unsafe impl Zeros for f64 {}
// SAFETY: as above.
unsafe impl Zeros for u32 {}

/// Sizes from here on are worth huge pages, in bytes.
pub(crate) const LARGE: usize = 4 << 20;

/// `len` zeros. Large ones are memory that the system has not touched yet; asking for
/// huge pages there turns some 500 page faults into one, which otherwise take half of
/// the time of a method that reads and writes each token once.
///
/// # Errors
///
/// [`Error::Memory`] where the system has not so much.
pub fn zeroed<T: Zeros>(len: usize) -> Result<Vec<T>> {
    // Not `vec!`, which ends the process where it gets none; nor asking for room first, and
    // then zeroing it, which touches all of it before it is known to be large.
    let none = Error::Memory { bytes: len as u128 * size_of::<T>() as u128 };
    let Ok(layout) = Layout::array::<T>(len) else { return Err(none) };
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout is not of size 0.
    let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return Err(none);
    }
    // SAFETY: `start` is of the allocator that `Vec` has, for just so many values, which are
    // there: all bits 0 is one.
    let mut values = unsafe { Vec::from_raw_parts(start, len, len) };
    in_huge_pages(&mut values);
    Ok(values)
}

/// Makes room for `len` more values.
pub fn reserve<T>(values: &mut Vec<T>, len: usize) -> Result<()> {
    values
        .try_reserve_exact(len)
        .map_err(|_| Error::Memory { bytes: len as u128 * size_of::<T>() as u128 })
}

/// Asks for huge pages for memory that is to be written as a whole, if it is large.
pub(crate) fn in_huge_pages<T>(values: &mut [T]) {
    if size_of_val(values) >= LARGE {
        // SAFETY: the range is that of `values`.
        unsafe { advise_huge(values.as_mut_ptr().cast(), size_of_val(values)) };
    }
}

/// Bytes of a huge page.
pub(crate) const HUGE: usize = 2 << 20;

/// Asks for huge pages in a range of memory. Where that is refused nothing is lost.
///
/// # Safety
///
/// The range lies within one allocation.
pub(crate) unsafe fn advise_huge(start: *mut u8, length: usize) {
    const MADV_HUGEPAGE: c_int = 14;
    // SAFETY: the advice changes how the system backs the range, not what it holds.
    unsafe { advise(start, length, MADV_HUGEPAGE) };
}

/// Lets the system take the pages of a range of memory where it is short of them; what they
/// hold is lost then, until something is written. `false` where the system cannot do that.
///
/// # Safety
///
/// The range lies within one allocation, of which nothing is read before it is written.
pub(crate) unsafe fn advise_free(start: *mut u8, length: usize) -> bool {
    const MADV_FREE: c_int = 8;
    // SAFETY: nobody reads what may be lost.
    unsafe { advise(start, length, MADV_FREE) }
}

/// Gives advice about the huge pages that lie in a range as a whole; whether it was taken.
#[cfg(target_os = "linux")]
unsafe fn advise(start: *mut u8, length: usize, advice: c_int) -> bool {
    use std::ffi::c_void;

    unsafe extern "C" {
        fn madvise(start: *mut c_void, length: usize, advice: c_int) -> c_int;
    }

    let skipped = start.addr().next_multiple_of(HUGE) - start.addr();
    let whole = length.saturating_sub(skipped) / HUGE * HUGE;
    // SAFETY: the range lies within the allocation and starts at a page's start; the caller
    // vouches for the advice.
    whole > 0 && unsafe { madvise(start.add(skipped).cast(), whole, advice) } == 0
}

#[cfg(not(target_os = "linux"))]
unsafe fn advise(_start: *mut u8, _length: usize, _advice: c_int) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_any_size() {
        for len in [0, 1, (4 << 20) / 8, (7 << 20) / 8 + 3] {
            let values: Vec<f64> = zeroed(len).unwrap();
            assert_eq!(values.len(), len);
            assert!(values.iter().all(|&x| x == 0.0));
        }
    }

    #[test]
    fn too_much_is_an_error() {
        for len in [1 << 50, 1 << 60, usize::MAX] {
            assert_eq!(zeroed::<f64>(len), Err(Error::Memory { bytes: 8 * len as u128 }));
        }
    }
}
