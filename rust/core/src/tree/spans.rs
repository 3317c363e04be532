//! Token spans, each stored once: of edges into nodes, and of rollouts.
//!
//! A path's tokens are its edges' spans in a row, so a prefix that many paths share lies
//! in memory once. Depends on nothing.

/// Consecutive spans of one store, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spans {
    tokens: Vec<u32>,
    /// Where each span ends; shorter than the number of spans while none has tokens.
    ends: Vec<u32>,
}

impl Spans {
    /// Most tokens of one store.
    pub const MOST: usize = u32::MAX as usize;

    /// Appends span number `index`; those before it that were left out are empty.
    pub fn push(&mut self, index: usize, tokens: &[u32]) {
        if tokens.is_empty() {
            return;
        }
        self.ends.resize(index, self.tokens.len() as u32);
        self.tokens.extend_from_slice(tokens);
        self.ends.push(self.tokens.len() as u32);
    }

    /// Span number `index`; empty where there is none.
    pub fn get(&self, index: usize) -> &[u32] {
        let Some(&end) = self.ends.get(index) else { return &[] };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.tokens[start as usize..end as usize]
    }

    /// Tokens of all spans.
    pub fn total(&self) -> usize {
        self.tokens.len()
    }

    /// Whether every span lies within the tokens.
    pub(super) fn is_sound(&self) -> bool {
        self.ends.is_sorted() && self.ends.last().is_none_or(|&e| e as usize <= self.tokens.len())
    }

    /// Bytes of the spans' bounds, and of the tokens.
    pub fn bytes(&self) -> (usize, usize) {
        (size_of_val(&*self.ends), size_of_val(&*self.tokens))
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

crate::state!(Spans { tokens, ends });
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
}
