//! Tokens to spans and back: runs of a mask, and values spread over tokens.
//!
//! May depend on `column`, `ragged`, `exec`, `memory` and `error`.

use std::ops::Range;

use crate::memory::Zeros;

/// A floating-point type that results can be written in.
pub trait Real: Zeros + Default + PartialEq + Send + Sync + 'static {
    /// Narrows a result.
    fn from_f64(x: f64) -> Self;
    /// Widens a result.
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    fn from_f64(x: f64) -> Self {
        x as Self
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn from_f64(x: f64) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        self
    }
}

/// Maximal runs of `true`, as half-open ranges shifted by `start`.
pub fn runs(mask: &[bool], start: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = at + mask[at..].iter().position(|&m| m)?;
        let length = mask[first..].iter().position(|&m| !m).unwrap_or(mask.len() - first);
        at = first + length;
        Some(start + first..start + at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_maximal_and_shifted() {
        let mask = [false, true, true, false, true];
        assert_eq!(runs(&mask, 10).collect::<Vec<_>>(), [11..13, 14..15]);
        assert_eq!(runs(&[], 0).count(), 0);
        assert_eq!(runs(&[false, false], 0).count(), 0);
    }
}
