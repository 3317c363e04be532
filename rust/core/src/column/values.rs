//! What columns hold: numbers, ids, matrices and lists, borrowed where they can be.
//!
//! May depend on `wide`.

use std::borrow::Cow;
use std::ops::Range;

use crate::wide::wide;

/// Numbers in either precision, borrowed or owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Floats<'a> {
    /// Single precision.
    F32(Cow<'a, [f32]>),
    /// Double precision.
    F64(Cow<'a, [f64]>),
}

impl Floats<'_> {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the numbers are in double precision.
    pub fn is_double(&self) -> bool {
        matches!(self, Self::F64(_))
    }

    /// One number.
    pub fn get(&self, index: usize) -> f64 {
        match self {
            Self::F32(v) => f64::from(v[index]),
            Self::F64(v) => v[index],
        }
    }

    /// Numbers in a range, widened, into a buffer that callers reuse.
    pub fn read(&self, range: Range<usize>, into: &mut Vec<f64>) {
        into.clear();
        match self {
            Self::F32(v) => widen(&v[range], into),
            Self::F64(v) => into.extend_from_slice(&v[range]),
        }
    }

    /// All numbers, widened.
    pub fn to_vec(&self) -> Vec<f64> {
        let mut all = Vec::with_capacity(self.len());
        self.read(0..self.len(), &mut all);
        all
    }
}

wide! {
    fn widen(values: &[f32], into: &mut Vec<f64>) {
        into.extend(values.iter().map(|&x| f64::from(x)));
    }
}

impl From<Vec<f32>> for Floats<'_> {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(Cow::Owned(values))
    }
}

impl From<Vec<f64>> for Floats<'_> {
    fn from(values: Vec<f64>) -> Self {
        Self::F64(Cow::Owned(values))
    }
}

/// Ids that are only compared for equality.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys<'a> {
    /// Machine integers.
    Ints(Cow<'a, [i64]>),
    /// Strings.
    Texts(Vec<&'a str>),
    /// Anything else, written as bytes: long integers, arrays, mixed types.
    Bytes(Vec<&'a [u8]>),
}

impl Keys<'_> {
    /// How many ids.
    pub fn len(&self) -> usize {
        match self {
            Self::Ints(v) => v.len(),
            Self::Texts(v) => v.len(),
            Self::Bytes(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids at the given places, in that order.
    pub fn pick(&self, places: &[usize]) -> Self {
        match self {
            Self::Ints(v) => Self::Ints(places.iter().map(|&i| v[i]).collect()),
            Self::Texts(v) => Self::Texts(places.iter().map(|&i| v[i]).collect()),
            Self::Bytes(v) => Self::Bytes(places.iter().map(|&i| v[i]).collect()),
        }
    }
}

/// A column's values.
#[derive(Clone, Debug)]
pub enum Column<'a> {
    /// Numbers.
    Floats(Floats<'a>),
    /// Numbers in rows of `width`.
    Matrix {
        /// Row after row.
        values: Floats<'a>,
        /// Numbers in a row.
        width: usize,
    },
    /// Ids.
    Keys(Keys<'a>),
    /// Lists of strings, item after item.
    Lists {
        /// All strings of all lists.
        items: Vec<&'a str>,
        /// Where each list starts.
        offsets: Vec<i64>,
    },
}

impl Column<'_> {
    /// How many values.
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(v) => v.len(),
            Self::Matrix { values, width } => values.len().checked_div(*width).unwrap_or(0),
            Self::Keys(v) => v.len(),
            Self::Lists { offsets, .. } => offsets.len().saturating_sub(1),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is there, in words, for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Floats(_) => "numbers",
            Self::Matrix { .. } => "a matrix",
            Self::Keys(Keys::Ints(_)) => "integers",
            Self::Keys(Keys::Texts(_)) => "strings",
            Self::Keys(Keys::Bytes(_)) => "bytes",
            Self::Lists { .. } => "lists of strings",
        }
    }
}
