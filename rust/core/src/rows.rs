//! Token arrays filled row by row, and whitened on the way.
//!
//! What token-level methods share: two outputs of one number a token, written in
//! one pass over the batch with scratch memory for a row alone. May depend on
//! `rollouts`, `whiten` and below.

use std::ops::Range;

use crate::error::Result;
use crate::exec::cut;
use crate::memory::zeroed;
use crate::rollouts::{CHUNK_TOKENS, Rollouts};
use crate::stats::Moments;
use crate::tokens::Real;
use crate::whiten::{RowShape, Whitening, rewrite};

/// Advantages and returns, one number a token.
pub struct Pair<T> {
    /// How much better than expected each token did.
    pub advantages: Vec<T>,
    /// What was collected from each token on.
    pub returns: Vec<T>,
    moments: Moments,
    shapes: Vec<RowShape>,
}

/// Runs `work` on every row with the row's part of both outputs, which hold 0 before.
/// It says what whitening must know: the row's shape and the moments of its advantages.
pub fn fill<T, S, F>(rollouts: &Rollouts<'_>, work: F) -> Result<Pair<T>>
where
    T: Real,
    S: Default,
    F: Fn(&mut S, usize, &mut [T], &mut [T]) -> Result<(RowShape, Moments)> + Sync,
{
    let rows = rollouts.rows();
    let mut advantages: Vec<T> = zeroed(rows.total())?;
    let mut returns: Vec<T> = zeroed(rows.total())?;
    let chunks = rows.chunks(CHUNK_TOKENS);
    let lengths = || chunks.iter().map(|c| rows.start(c.end) - rows.start(c.start));
    let parts = cut(&mut advantages, lengths()).into_iter().zip(cut(&mut returns, lengths()));
    type Job<'j, T> = (Range<usize>, (&'j mut [T], &'j mut [T]));
    let jobs: Vec<Job<'_, T>> = chunks.iter().cloned().zip(parts).collect();
    let found = rollouts.exec().map(jobs, |(chunk, (advantages, returns))| {
        let mut scratch = S::default();
        let mut moments = Moments::default();
        let mut shapes = Vec::with_capacity(chunk.len());
        let base = rows.start(chunk.start);
        for row in chunk {
            let part = rows.start(row) - base..rows.start(row + 1) - base;
            let (shape, own) =
                work(&mut scratch, row, &mut advantages[part.clone()], &mut returns[part])?;
            moments = moments.merge(own);
            shapes.push(shape);
        }
        Ok((moments, shapes))
    })?;
    let moments = found.iter().fold(Moments::default(), |all, (part, _)| all.merge(*part));
    let shapes = found.into_iter().flat_map(|(_, shapes)| shapes).collect();
    Ok(Pair { advantages, returns, moments, shapes })
}

/// Keeps the values of trained tokens, in their order.
pub fn pack(values: &mut Vec<f64>, mask: &[bool]) {
    let mut kept = 0;
    for (t, &trained) in mask.iter().enumerate() {
        // Written in any case and kept or not: a branch would be mispredicted at every hole.
        values[kept] = values[t];
        kept += usize::from(trained);
    }
    values.truncate(kept);
}

impl<T: Real> Pair<T> {
    /// Whitens the advantages; `remask` as in [`crate::whiten::whiten_tokens`].
    pub fn whiten(
        &mut self,
        rollouts: &Rollouts<'_>,
        rule: &Whitening,
        remask: bool,
    ) -> Result<()> {
        let map = rule.fit(&self.moments);
        rewrite(rollouts, &mut self.advantages, None, &self.shapes, &map, remask)
    }

    /// Makes the advantages the whitened returns, 0 where masked. Until then nothing need
    /// have been written to them, which saves a pass through memory; `fill` was told the
    /// moments of the returns.
    pub fn whiten_returns(&mut self, rollouts: &Rollouts<'_>, rule: &Whitening) -> Result<()> {
        let map = rule.fit(&self.moments);
        let from = Some(&self.returns[..]);
        rewrite(rollouts, &mut self.advantages, from, &self.shapes, &map, true)
    }
}
