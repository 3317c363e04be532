//! The ratio of Python's `difflib.SequenceMatcher(None, a, b)`, its `autojunk`
//! heuristic included.
//!
//! Ratcliff and Obershelp's pattern matching: the longest common block, then the
//! same to its left and right. May depend on `exec` and `error`.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::Result;
use crate::exec::Exec;
use crate::similarity::{Pace, needed, ratio};

/// From this length of the second string on, frequent symbols start no match.
const POPULAR_FROM: usize = 200;

/// `difflib.SequenceMatcher(None, a, b).ratio()`, to the last bit.
///
/// It is `2 M / (|a| + |b|)` over code points, `M` the summed lengths of the matching
/// blocks: the longest common block first (of equally long ones that which starts
/// earliest in `a`, then in `b`), then the same left and right of it. Where `b` has
/// `n >= 200` code points, those that occur more than `n / 100 + 1` times in it start no
/// block and only extend one: so the ratio is not symmetric, and one changed letter
/// can take it from 1 to almost 0. Two empty strings give 1. The only error is an interrupt.
pub fn difflib_ratio(a: &str, b: &str, exec: &Exec<'_>) -> Result<f64> {
    let a: Vec<char> = a.chars().collect();
    let matched = Index::new(b).matched(&a, 0.0, &mut Pace::new(exec))?.unwrap_or(0);
    Ok(ratio(matched, a.len() + b.chars().count()))
}

/// The second string, with the places of each symbol in it.
pub(super) struct Index {
    symbols: Vec<char>,
    /// Number of each symbol; the places of number `k` are `starts[k]..starts[k + 1]`.
    ascii: [u32; 128],
    other: HashMap<char, u32>,
    starts: Vec<usize>,
    places: Vec<u32>,
}

impl Index {
    pub(super) fn new(b: &str) -> Self {
        let symbols: Vec<char> = b.chars().collect();
        let mut index = Self {
            symbols: Vec::new(),
            ascii: [u32::MAX; 128],
            other: HashMap::new(),
            starts: vec![0],
            places: Vec::new(),
        };
        let mut lists: Vec<Vec<u32>> = Vec::new();
        for (place, &symbol) in symbols.iter().enumerate() {
            let fresh = lists.len() as u32;
            let number = match index.ascii.get_mut(symbol as usize) {
                Some(slot) => slot,
                None => index.other.entry(symbol).or_insert(u32::MAX),
            };
            if *number == u32::MAX {
                *number = fresh;
                lists.push(Vec::new());
            }
            lists[*number as usize].push(place as u32);
        }
        let most =
            if symbols.len() >= POPULAR_FROM { symbols.len() / 100 + 1 } else { symbols.len() };
        for list in lists {
            if list.len() <= most {
                index.places.extend(list);
            }
            index.starts.push(index.places.len());
        }
        Self { symbols, ..index }
    }

    /// Where a symbol may start or continue a block.
    fn places_of(&self, symbol: char) -> Range<usize> {
        let number = self.ascii.get(symbol as usize).or_else(|| self.other.get(&symbol));
        match number {
            Some(&number) if number != u32::MAX => {
                self.starts[number as usize]..self.starts[number as usize + 1]
            }
            _ => 0..0,
        }
    }

    /// How many symbols of `a` are matched; `None` once the ratio must be below `cutoff`.
    pub(super) fn matched(
        &self,
        a: &[char],
        cutoff: f64,
        pace: &mut Pace<'_, '_>,
    ) -> Result<Option<usize>> {
        let b = &self.symbols[..];
        let Some(needed) = needed(a.len() + b.len(), cutoff) else { return Ok(None) };
        let mut search = Search {
            index: self,
            a,
            places: a.iter().map(|&symbol| self.places_of(symbol)).collect(),
            lengths: [vec![(0, 0); b.len() + 1], vec![(0, 0); b.len() + 1]],
            row: 0,
        };
        let mut open = vec![(0..a.len(), 0..b.len())];
        // What is matched so far, and at most: with all of the open regions.
        let (mut matched, mut most) = (0, a.len().min(b.len()));
        while let Some((left, right)) = open.pop() {
            if most < needed {
                return Ok(None);
            }
            most -= left.len().min(right.len());
            let (i, j, length) = search.longest(left.clone(), right.clone(), pace)?;
            if length == 0 {
                continue;
            }
            matched += length;
            most += length;
            let before = (left.start..i, right.start..j);
            let after = (i + length..left.end, j + length..right.end);
            for (left, right) in [before, after] {
                if !left.is_empty() && !right.is_empty() {
                    most += left.len().min(right.len());
                    open.push((left, right));
                }
            }
        }
        Ok((matched >= needed).then_some(matched))
    }
}

/// The state that searches for blocks share.
struct Search<'s> {
    index: &'s Index,
    a: &'s [char],
    /// `Index::places_of` each symbol of `a`.
    places: Vec<Range<usize>>,
    /// For even and odd rows: `(row, length)` of the block that ends before a place of
    /// `b`, which holds only if `row` is the row before. So nothing is ever cleared.
    lengths: [Vec<(u64, usize)>; 2],
    row: u64,
}

impl Search<'_> {
    /// The longest block within two regions, extended over symbols that start none.
    fn longest(
        &mut self,
        left: Range<usize>,
        right: Range<usize>,
        pace: &mut Pace<'_, '_>,
    ) -> Result<(usize, usize, usize)> {
        let (mut best_i, mut best_j, mut best) = (left.start, right.start, 0);
        self.row += 1;
        for i in left.clone() {
            self.row += 1;
            let [even, odd] = &mut self.lengths;
            let (now, before) = if self.row.is_multiple_of(2) { (even, odd) } else { (odd, even) };
            let places = &self.index.places[self.places[i].clone()];
            pace.spend(1 + places.len())?;
            let from = places.partition_point(|&j| (j as usize) < right.start);
            for &j in &places[from..] {
                let j = j as usize;
                if j >= right.end {
                    break;
                }
                let (row, length) = before[j];
                let length = if row + 1 == self.row { length + 1 } else { 1 };
                now[j + 1] = (self.row, length);
                if length > best {
                    (best_i, best_j, best) = (i + 1 - length, j + 1 - length, length);
                }
            }
        }
        let (a, b) = (self.a, &self.index.symbols);
        while best_i > left.start && best_j > right.start && a[best_i - 1] == b[best_j - 1] {
            (best_i, best_j, best) = (best_i - 1, best_j - 1, best + 1);
        }
        while best_i + best < left.end
            && best_j + best < right.end
            && a[best_i + best] == b[best_j + best]
        {
            best += 1;
        }
        Ok((best_i, best_j, best))
    }
}
