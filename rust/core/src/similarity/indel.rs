//! Normalised insertion-deletion similarity by a bit-parallel longest common
//! subsequence.
//!
//! Each bit of a vector says whether the subsequence grows at that place of the
//! pattern; one addition a word and row updates 64 of them (Crochemore, Iliopoulos,
//! Pinzon and Reid 2001; Hyyro 2004). May depend on `exec` and `error`.

use std::collections::HashMap;
use std::str::Chars;

use crate::error::Result;
use crate::exec::Exec;
use crate::similarity::{Pace, needed, ratio};

/// `2 LCS(a, b) / (|a| + |b|)` over code points, where it is at least `cutoff`; else 0.
///
/// LCS is the length of the longest common subsequence, so the ratio is 1 less the
/// normalised number of insertions and deletions that turn one into the other. Two
/// empty strings give 1. A higher `cutoff` is faster: less of the table is looked at.
/// The only error is an interrupt.
pub fn indel_ratio(a: &str, b: &str, cutoff: f64, exec: &Exec<'_>) -> Result<f64> {
    let (a_len, b_len) = (a.chars().count(), b.chars().count());
    let matched = matched(a, a_len, b, b_len, cutoff, &mut Pace::new(exec))?;
    Ok(matched.map_or(0.0, |matched| ratio(matched, a_len + b_len)))
}

/// Longest common subsequence of strings of known lengths; `None` if its ratio is below `cutoff`.
pub(super) fn matched(
    a: &str,
    a_len: usize,
    b: &str,
    b_len: usize,
    cutoff: f64,
    pace: &mut Pace<'_, '_>,
) -> Result<Option<usize>> {
    let Some(needed) = needed(a_len + b_len, cutoff) else { return Ok(None) };
    if needed > a_len.min(b_len) {
        return Ok(None);
    }
    // A common start and end belong to some longest common subsequence.
    let (a, b) = strip(a, b);
    let inner = a.chars().count();
    let outer = a_len - inner;
    let (pattern, m, text, n) = match (inner, b_len - outer) {
        (a_len, b_len) if a_len <= b_len => (a, a_len, b, b_len),
        (a_len, b_len) => (b, b_len, a, a_len),
    };
    let least = needed.saturating_sub(outer);
    if least > m {
        return Ok(None);
    }
    let found = if m == 0 { 0 } else { lcs(pattern, m, text, n, least, pace)? };
    Ok((found >= least).then_some(outer + found))
}

/// Both strings without their common start and end.
fn strip<'s>(a: &'s str, b: &'s str) -> (&'s str, &'s str) {
    let mut start = common(a.as_bytes(), b.as_bytes());
    while !a.is_char_boundary(start) {
        start -= 1;
    }
    let (a, b) = (&a[start..], &b[start..]);
    let mut end = common_end(a.as_bytes(), b.as_bytes());
    while !a.is_char_boundary(a.len() - end) {
        end -= 1;
    }
    (&a[..a.len() - end], &b[..b.len() - end])
}

fn common(a: &[u8], b: &[u8]) -> usize {
    const STRIDE: usize = 16;
    let strides = a.chunks_exact(STRIDE).zip(b.chunks_exact(STRIDE));
    let whole = STRIDE * strides.take_while(|(x, y)| x == y).count();
    whole + a[whole..].iter().zip(&b[whole..]).take_while(|(x, y)| x == y).count()
}

fn common_end(a: &[u8], b: &[u8]) -> usize {
    const STRIDE: usize = 16;
    let strides = a.rchunks_exact(STRIDE).zip(b.rchunks_exact(STRIDE));
    let whole = STRIDE * strides.take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[..a.len() - whole], &b[..b.len() - whole]);
    whole + a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count()
}

/// Where each symbol stands in the pattern: a row of `words` 64-bit words a symbol.
/// Read no further than is asked for: most comparisons end early.
struct Places<'p> {
    unread: Chars<'p>,
    read: usize,
    ascii: [u32; 128],
    other: HashMap<char, u32>,
    rows: Vec<u64>,
    words: usize,
}

impl<'p> Places<'p> {
    fn new(pattern: &'p str, words: usize) -> Self {
        // Row 0 is that of symbols which do not occur.
        let mut rows = Vec::with_capacity(words * 48);
        rows.resize(words, 0);
        let unread = pattern.chars();
        Self { unread, read: 0, ascii: [0; 128], other: HashMap::new(), rows, words }
    }

    /// Reads the pattern's first `count` symbols.
    fn read_to(&mut self, count: usize) {
        let fresh = count.saturating_sub(self.read);
        for symbol in self.unread.by_ref().take(fresh) {
            let row = match self.ascii.get_mut(symbol as usize) {
                Some(row) => row,
                None => self.other.entry(symbol).or_insert(0),
            };
            if *row == 0 {
                *row = (self.rows.len() / self.words) as u32;
                self.rows.resize(self.rows.len() + self.words, 0);
            }
            self.rows[*row as usize * self.words + self.read / 64] |= 1 << (self.read % 64);
            self.read += 1;
        }
    }

    fn row(&self, symbol: char) -> &[u64] {
        let known = self.ascii.get(symbol as usize).or_else(|| self.other.get(&symbol));
        let first = known.map_or(0, |&row| row as usize) * self.words;
        &self.rows[first..first + self.words]
    }
}

/// Longest common subsequence where it is at least `least`; else a smaller number.
///
/// A subsequence of `least` matches never pairs places further apart than the
/// lengths less `least`: it would skip too much. Matches outside that band are
/// ignored, word by word, which leaves the vector there as it is.
fn lcs(
    pattern: &str,
    m: usize,
    text: &str,
    n: usize,
    least: usize,
    pace: &mut Pace<'_, '_>,
) -> Result<usize> {
    const ROWS_A_CHECK: usize = 32;
    let mut places = Places::new(pattern, m.div_ceil(64));
    let mut grows = vec![u64::MAX; places.words];
    for (row, symbol) in text.chars().enumerate() {
        let first = row.saturating_sub(n - least) / 64;
        let last = (row + (m - least) + 1).min(m).div_ceil(64);
        places.read_to(64 * last);
        let mut carry = false;
        for (v, &matches) in grows[first..last].iter_mut().zip(&places.row(symbol)[first..last]) {
            let u = *v & matches;
            let (sum, over) = v.overflowing_add(u);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            carry = over | again;
            *v = sum | (*v - u);
        }
        pace.spend(last - first)?;
        let check = (row + 1).is_multiple_of(ROWS_A_CHECK);
        if check && at_most(&grows[..last], m, n - row - 1) < least {
            return Ok(0);
        }
    }
    Ok(grows.iter().map(|word| word.count_zeros() as usize).sum())
}

/// Upper bound on the longest common subsequence when `rest` symbols of the text are
/// left: what is found up to the end of a word of the pattern, plus the lesser of what is
/// left of the text and of the pattern from that word's start.
fn at_most(grows: &[u64], m: usize, rest: usize) -> usize {
    let mut found = 0;
    let ends = grows.iter().enumerate().map(|(word, grows)| {
        found += grows.count_zeros() as usize;
        found + rest.min(m - 64 * word)
    });
    ends.max().unwrap_or(0)
}
