//! The token mask, read in whatever type a trainer holds it.
//!
//! May depend on `error`, `memory` and `wide`.

use std::ops::{BitOr, BitXor, Range};

use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::wide::wide;

/// A token mask in whatever type the trainer holds it.
#[derive(Clone, Debug)]
pub enum Mask<'a> {
    /// Every token is trained.
    All(usize),
    /// Bytes or booleans.
    U8(&'a [u8]),
    /// 32-bit integers.
    I32(&'a [i32]),
    /// 64-bit integers, as verl holds them.
    I64(&'a [i64]),
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision.
    F64(&'a [f64]),
}

impl Mask<'_> {
    /// How many tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::All(n) => *n,
            Self::U8(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tokens of a range are trained, if they come before all masked ones, as in
    /// an answer padded on the right. `None` for any other pattern, valid or not: it takes
    /// [`Mask::read`] to tell. Several times as fast as that.
    #[inline]
    pub fn prefix(&self, range: Range<usize>) -> Option<usize> {
        // Here as well as there, because rows of a token are many.
        if let Self::All(_) = self { Some(range.len()) } else { prefix(self, range) }
    }

    /// The mask in a range as booleans, into a buffer that callers reuse.
    /// Anything but 0 and 1 is an error.
    pub fn read(&self, range: Range<usize>, into: &mut Vec<bool>) -> Result<()> {
        fn fill<T: Copy + PartialEq + ToString>(
            values: &[T],
            start: usize,
            zero: T,
            one: T,
            into: &mut Vec<bool>,
        ) -> Result<()> {
            into.extend(values.iter().map(|&v| v == one));
            let odd = |&v: &T| !(v == one || v == zero);
            if values.iter().fold(false, |any, v| any | odd(v)) {
                let at = values.iter().position(odd).unwrap_or(0);
                return Err(Error::Value {
                    argument: "mask".to_owned(),
                    index: start + at,
                    got: values[at].to_string(),
                    expected: "0 or 1".to_owned(),
                });
            }
            Ok(())
        }
        into.clear();
        let start = range.start;
        match self {
            Self::All(_) => {
                // The only mask that need not have been in memory before.
                reserve(into, range.len())?;
                into.resize(range.len(), true);
                Ok(())
            }
            Self::U8(v) => fill(&v[range], start, 0, 1, into),
            Self::I32(v) => fill(&v[range], start, 0, 1, into),
            Self::I64(v) => fill(&v[range], start, 0, 1, into),
            Self::F32(v) => fill(&v[range], start, 0.0, 1.0, into),
            Self::F64(v) => fill(&v[range], start, 0.0, 1.0, into),
        }
    }
}

wide! {
    fn prefix(mask: &Mask<'_>, range: Range<usize>) -> Option<usize> {
        #[inline(always)]
        fn count<T, B>(values: &[T], zero: T, one: T, bits: impl Fn(T) -> B) -> Option<usize>
        where
            T: Copy + PartialEq,
            B: Default + PartialEq + BitOr<Output = B> + BitXor<Output = B>,
        {
            // Bits are collected instead of values compared one by one: without an early exit,
            // and without wide comparisons, which old processors lack, it runs at the speed
            // of memory. From front to back, because so memory is read ahead.
            let is = |part: &[T], what: T| {
                let odd = |all, &v: &T| all | (bits(v) ^ bits(what));
                part.iter().fold(B::default(), odd) == B::default()
            };
            let full = 64 * values.chunks_exact(64).take_while(|block| is(block, one)).count();
            let ones = full + values[full..].iter().take_while(|&&v| v == one).count();
            is(&values[ones..], zero).then_some(ones)
        }
        match mask {
            Mask::All(_) => Some(range.len()),
            Mask::U8(v) => count(&v[range], 0, 1, |v| v),
            Mask::I32(v) => count(&v[range], 0, 1, |v| v),
            Mask::I64(v) => count(&v[range], 0, 1, |v| v),
            Mask::F32(v) => count(&v[range], 0.0, 1.0, f32::to_bits),
            Mask::F64(v) => count(&v[range], 0.0, 1.0, f64::to_bits),
        }
    }
}
