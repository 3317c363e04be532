//! Strings gathered by likeness: first fit against the first of each cluster.
//!
//! May depend on the ratios beside it, `exec` and `error`.

use std::cell::OnceCell;

use crate::error::Result;
use crate::exec::Exec;
use crate::similarity::difflib::Index;
use crate::similarity::{Pace, Similarity, indel, ratio};

/// When two strings count as one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similar {
    /// How likeness is measured.
    pub similarity: Similarity,
    /// The smallest ratio that counts.
    pub threshold: f64,
}

/// For each string, the index of the first string of its cluster.
///
/// Strings are taken in order. Each joins the earliest cluster whose first string it
/// is alike enough to, `ratio(string, first) >= threshold`, and else opens one of its
/// own. So the result depends on the order, and two strings of a cluster may be less
/// alike than the threshold. Strings should be distinct, for speed alone.
pub fn first_fit(texts: &[&str], rule: Similar, exec: &Exec<'_>) -> Result<Vec<usize>> {
    let mut firsts: Vec<(usize, Candidate<'_>)> = Vec::new();
    let mut out = Vec::with_capacity(texts.len());
    let mut pace = Pace::new(exec);
    for (place, text) in texts.iter().enumerate() {
        pace.spend(text.len())?;
        let own = Candidate::new(text);
        let mut found = None;
        for (first, candidate) in &firsts {
            if own.is_like(candidate, rule, &mut pace)? {
                found = Some(*first);
                break;
            }
        }
        out.push(found.unwrap_or(place));
        if found.is_none() {
            firsts.push((place, own));
        }
    }
    Ok(out)
}

/// Code points are counted in so many classes, which are exact for ASCII.
const CLASSES: usize = 128;

/// A string with what comparing it needs; what is costly is made on first use.
struct Candidate<'s> {
    text: &'s str,
    len: usize,
    counts: [u32; CLASSES],
    symbols: OnceCell<Vec<char>>,
    index: OnceCell<Index>,
}

impl<'s> Candidate<'s> {
    fn new(text: &'s str) -> Self {
        let (mut len, mut counts) = (0, [0; CLASSES]);
        for symbol in text.chars() {
            len += 1;
            counts[symbol as usize % CLASSES] += 1;
        }
        Self { text, len, counts, symbols: OnceCell::new(), index: OnceCell::new() }
    }

    /// Whether `ratio(self, first) >= threshold`, by ever closer upper bounds: lengths,
    /// symbols in any order, and for `difflib` the longest common subsequence.
    fn is_like(&self, first: &Self, rule: Similar, pace: &mut Pace<'_, '_>) -> Result<bool> {
        pace.spend(CLASSES)?;
        let total = self.len + first.len;
        let below = |matched| ratio(matched, total) < rule.threshold;
        if below(self.len.min(first.len)) || below(self.in_any_order(first)) {
            return Ok(false);
        }
        let Similar { similarity, threshold } = rule;
        let common = indel::matched(self.text, self.len, first.text, first.len, threshold, pace)?;
        if similarity == Similarity::Indel || common.is_none() {
            return Ok(common.is_some());
        }
        let symbols = self.symbols.get_or_init(|| self.text.chars().collect());
        let index = first.index.get_or_init(|| Index::new(first.text));
        Ok(index.matched(symbols, threshold, pace)?.is_some())
    }

    fn in_any_order(&self, other: &Self) -> usize {
        self.counts.iter().zip(&other.counts).map(|(&a, &b)| a.min(b) as usize).sum()
    }
}
