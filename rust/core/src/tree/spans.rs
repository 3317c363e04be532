//! Rows of values, each stored once: tokens of edges and rollouts, and numbers beside them.
//!
//! A path's tokens are its edges' spans in a row, so a prefix that many paths share lies
//! in memory once. Depends on nothing.

/// Consecutive spans of one store, in the order in which they came.
#[derive(Clone, Debug, PartialEq)]
pub struct Spans<T = u32> {
    values: Vec<T>,
    /// Where each span ends; shorter than the number of spans while none has values.
    ends: Vec<u32>,
}

impl<T> Default for Spans<T> {
    fn default() -> Self {
        Self { values: Vec::new(), ends: Vec::new() }
    }
}

impl Spans {
    /// Most values of one store.
    pub const MOST: usize = u32::MAX as usize;
}

impl<T: Copy> Spans<T> {
    /// Appends span number `index`; those before it that were left out are empty.
    pub fn push(&mut self, index: usize, values: &[T]) {
        if values.is_empty() {
            return;
        }
        self.ends.resize(index, self.values.len() as u32);
        self.values.extend_from_slice(values);
        self.ends.push(self.values.len() as u32);
    }

    /// Span number `index`; empty where there is none.
    pub fn get(&self, index: usize) -> &[T] {
        let Some(&end) = self.ends.get(index) else { return &[] };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.values[start as usize..end as usize]
    }

    /// Values of all spans.
    pub fn total(&self) -> usize {
        self.values.len()
    }

    /// Whether every span lies within the values.
    pub(super) fn is_sound(&self) -> bool {
        self.ends.is_sorted() && self.ends.last().is_none_or(|&e| e as usize <= self.values.len())
    }

    /// Whether each span is as long as the one of `tokens`, or empty.
    pub(super) fn fits(&self, tokens: &Spans) -> bool {
        let fits = |i: usize| [0, tokens.get(i).len()].contains(&self.get(i).len());
        self.is_sound() && (0..self.ends.len()).all(fits)
    }

    /// Bytes of the spans' bounds, and of the values.
    pub fn bytes(&self) -> (usize, usize) {
        (size_of_val(&*self.ends), size_of_val(&*self.values))
    }
}

/// A finished continuation from a node: the first-class record of Monte Carlo estimates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rollout {
    /// The node that it began at.
    pub node: u32,
    /// Its length in tokens, or in the caller's units where no tokens were given.
    pub length: u32,
    /// What it earned.
    pub reward: f64,
    /// A rule's own number, such as how often the rollout was searched.
    pub mark: u32,
}

crate::state!(Spans<u32> { values, ends });
crate::state!(Spans<f32> { values, ends });
crate::state!(Spans<f64> { values, ends });
crate::state!(Rollout { node, length, reward, mark });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_left_out_are_empty() {
        let mut spans = Spans::default();
        spans.push(2, &[7, 8]);
        spans.push(3, &[]);
        spans.push(5, &[9]);
        let got: Vec<&[u32]> = (0..7).map(|i| spans.get(i)).collect();
        assert_eq!(got, [&[][..], &[], &[7, 8], &[], &[], &[9], &[]]);
        assert_eq!(spans.total(), 3);
    }

    #[test]
    fn numbers_beside_tokens_are_all_there_or_none() {
        let (mut tokens, mut numbers) = (Spans::default(), Spans::<f32>::default());
        tokens.push(1, &[7, 8]);
        tokens.push(2, &[9]);
        assert!(numbers.fits(&tokens));
        numbers.push(2, &[-1.0]);
        assert!(numbers.fits(&tokens));
        numbers.push(3, &[-1.0]);
        assert!(!numbers.fits(&tokens));
    }
}
