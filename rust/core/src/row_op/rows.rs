//! Where rows of logits lie in memory, checked. May depend on `error` and `logit`.

use std::ops::Range;

use super::float::Float;
use super::logit::Transform;
use crate::error::{Error, Result};

/// Logits handed to a thread at a time: some 10 ms of work.
const LOGITS_AT_A_TIME: usize = 1 << 21;

/// Where rows of logits are, and what is read from them. With logit `x` of a row of
/// temperature `T`: `z = cap tanh(x / cap) / T`, or `x / T` without a cap.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Logits of a row.
    pub width: usize,
    /// Where each row begins.
    pub starts: &'a [i64],
    /// The column of each row whose log-probability is asked for; it may be outside, where
    /// the row is a part of the vocabulary.
    pub targets: &'a [i64],
    /// Keeps logits within plus and minus this.
    pub softcap: Option<f64>,
    /// Of each row, or one for all.
    pub temperatures: &'a [f64],
}

impl Rows<'_> {
    pub(super) fn check(&self, logits: usize) -> Result<()> {
        let rows = self.targets.len();
        same("starts", self.starts.len(), rows)?;
        if self.temperatures.len() != 1 {
            same("temperature", self.temperatures.len(), rows)?;
        }
        let last = logits as i128 - self.width as i128;
        let outside = |&&start: &&i64| start < 0 || i128::from(start) > last;
        match self.starts.iter().enumerate().find(|(_, start)| outside(start)) {
            None => Ok(()),
            Some((index, start)) => Err(Error::Value {
                argument: "starts".into(),
                index,
                got: start.to_string(),
                expected: format!("a row of {} within {logits} logits", self.width),
            }),
        }
    }

    /// Lengths that cut an array so that each part holds a chunk's rows.
    pub(super) fn gaps(&self, chunks: &[Range<usize>]) -> Result<Vec<usize>> {
        let near = |pair: &[i64]| pair[1] < pair[0].saturating_add(self.width as i64);
        if let Some(index) = self.starts.windows(2).position(near) {
            return Err(Error::Value {
                argument: "starts".into(),
                index: index + 1,
                got: self.starts[index + 1].to_string(),
                expected: format!("at least {}, the end of the row before", self.range(index).end),
            });
        }
        let mut from = 0;
        let ends = chunks.iter().enumerate().map(|(k, chunk)| match chunks.get(k + 1) {
            Some(next) => self.range(next.start).start,
            None => self.range(chunk.end - 1).end,
        });
        Ok(ends.map(|end| end - std::mem::replace(&mut from, end)).collect())
    }

    pub(super) fn range(&self, row: usize) -> Range<usize> {
        let start = self.starts[row] as usize;
        start..start + self.width
    }

    pub(super) fn at_a_time(&self) -> usize {
        LOGITS_AT_A_TIME.div_ceil(self.width.max(1))
    }

    pub(super) fn transform<F: Float>(&self, row: usize) -> Transform<F> {
        let shared = self.temperatures.len() == 1;
        let temperature = self.temperatures[if shared { 0 } else { row }];
        Transform { softcap: self.softcap.map(F::of), sharpness: F::of(1.0 / temperature) }
    }
}

pub(super) fn same(argument: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Length { argument: argument.to_owned(), got, expected, of: "rows" })
}
