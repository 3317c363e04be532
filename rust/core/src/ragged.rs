//! Rows of different lengths in one flat array: validated CSR offsets.
//!
//! A padded `(rows, width)` array is the case in which every row has the same
//! length, so that it is read in place; its padding is then just masked tokens.
//! May depend on `error` alone.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::{Error, Result};

/// Where each row starts and ends in a flat array.
#[derive(Clone, Debug, PartialEq)]
pub struct Offsets<'a>(Form<'a>);

#[derive(Clone, Debug, PartialEq)]
enum Form<'a> {
    Even { rows: usize, width: usize },
    Listed(Cow<'a, [i64]>),
}

impl<'a> Offsets<'a> {
    /// Rows of one width, as in a padded array.
    pub fn even(rows: usize, width: usize) -> Result<Self> {
        match rows.checked_mul(width) {
            Some(total) if i64::try_from(total).is_ok() => Ok(Self(Form::Even { rows, width })),
            _ => Err(Error::TooLarge {
                what: "rows x width",
                got: rows as u128 * width as u128,
                limit: i64::MAX as u128,
            }),
        }
    }

    /// `rows + 1` positions: the first 0, none smaller than the one before, the last `total`.
    pub fn listed(
        argument: &str,
        offsets: impl Into<Cow<'a, [i64]>>,
        total: usize,
    ) -> Result<Self> {
        let offsets = offsets.into();
        let bad = |index: usize, expected: String| {
            let got = offsets.get(index).map_or_else(|| "nothing".to_owned(), i64::to_string);
            Err(Error::Value { argument: argument.to_owned(), index, got, expected })
        };
        if offsets.first() != Some(&0) {
            return bad(0, "0, where the first row starts".to_owned());
        }
        if let Some(i) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
            return bad(i + 1, format!("at least {}, where the row starts", offsets[i]));
        }
        let last = offsets.len() - 1;
        if usize::try_from(offsets[last]) != Ok(total) {
            return bad(last, format!("{total}, the length of the flat array"));
        }
        Ok(Self(Form::Listed(offsets)))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        match &self.0 {
            Form::Even { rows, .. } => *rows,
            Form::Listed(offsets) => offsets.len() - 1,
        }
    }

    /// Tokens in a row, where all rows have the same by construction.
    pub fn width(&self) -> Option<usize> {
        match self.0 {
            Form::Even { width, .. } => Some(width),
            Form::Listed(_) => None,
        }
    }

    /// Length of the flat array.
    pub fn total(&self) -> usize {
        self.start(self.rows())
    }

    /// Where a row starts; `start(rows())` is the total.
    pub fn start(&self, row: usize) -> usize {
        match &self.0 {
            Form::Even { width, .. } => row * width,
            Form::Listed(offsets) => offsets[row] as usize,
        }
    }

    /// A row's positions in the flat array.
    pub fn range(&self, row: usize) -> Range<usize> {
        self.start(row)..self.start(row + 1)
    }

    /// Every row's positions in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.rows()).map(|row| self.range(row))
    }

    /// The longest row's length.
    pub fn longest(&self) -> usize {
        self.ranges().map(|range| range.len()).max().unwrap_or(0)
    }

    /// Consecutive runs of rows that hold some `tokens` values each: the unit in
    /// which rows are handed to threads. Depends on the offsets alone.
    pub fn chunks(&self, tokens: usize) -> Vec<Range<usize>> {
        let mut chunks = Vec::new();
        let mut first = 0;
        for row in 0..self.rows() {
            if self.start(row + 1) - self.start(first) >= tokens {
                chunks.push(first..row + 1);
                first = row + 1;
            }
        }
        if first < self.rows() {
            chunks.push(first..self.rows());
        }
        chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_and_listed_agree() {
        let even = Offsets::even(3, 2).unwrap();
        let listed = Offsets::listed("o", vec![0, 2, 4, 6], 6).unwrap();
        assert_eq!(even.ranges().collect::<Vec<_>>(), listed.ranges().collect::<Vec<_>>());
        assert_eq!(even.chunks(3), vec![0..2, 2..3]);
        assert_eq!(listed.chunks(3), vec![0..2, 2..3]);
    }

    #[test]
    fn each_broken_rule_is_named() {
        let message = |offsets: Vec<i64>, total| {
            Offsets::listed("token_offsets", offsets, total).unwrap_err().to_string()
        };
        assert_eq!(
            message(vec![], 0),
            "token_offsets[0]: got nothing, expected 0, where the first row starts"
        );
        assert_eq!(
            message(vec![1, 2], 2),
            "token_offsets[0]: got 1, expected 0, where the first row starts"
        );
        assert_eq!(
            message(vec![0, 3, 2], 2),
            "token_offsets[2]: got 2, expected at least 3, where the row starts"
        );
        assert_eq!(
            message(vec![0, 3], 4),
            "token_offsets[1]: got 3, expected 4, the length of the flat array"
        );
        assert!(Offsets::even(usize::MAX, 2).is_err());
    }
}
