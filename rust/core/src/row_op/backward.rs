//! The gradient by the logits. May depend on `exec`, `memory`, `rows`, `lanes` and
//! `logit`.

use std::ops::Range;

use super::float::Float;
use super::lanes::{Ahead, BLOCK, Block, Pull, gradient, load};
use super::logit::Logit;
use super::rows::{Rows, same};
use crate::error::Result;
use crate::exec::{Exec, cut, split};
use crate::memory::in_huge_pages;

/// Gradients of the loss by what [`super::stats`] gave, and what of it is needed.
#[derive(Clone, Copy)]
pub struct Pulls<'a> {
    /// [`super::RowStats::log_sums`].
    pub log_sums: &'a [f64],
    /// [`super::RowStats::entropies`].
    pub entropies: &'a [f64],
    /// By log-probabilities.
    pub by_log_probs: &'a [f64],
    /// By log-sums.
    pub by_log_sums: &'a [f64],
    /// By entropies.
    pub by_entropies: &'a [f64],
}

/// The gradient by the logits, written to the same rows of `out`: of `logits`, or in place
/// of the logits that are in `out`. What lies between the rows is left as it is.
///
/// `dx_j = (g [j = target] + p_j (s - g - h (log p_j + H))) dz/dx` with the gradients `g` by
/// the log-probability, `s` by the log-sum and `h` by the entropy. A row where all three are
/// 0 is not read and gives 0.
///
/// # Errors
/// Lengths that do not fit, rows outside `out`, and rows that are not in order.
pub fn grad<L: Logit>(
    logits: Option<&[L]>,
    out: &mut [L],
    rows: &Rows<'_>,
    pulls: &Pulls<'_>,
    exec: &Exec<'_>,
) -> Result<()> {
    rows.check(out.len().min(logits.map_or(usize::MAX, <[L]>::len)))?;
    let count = rows.targets.len();
    for (name, values) in [
        ("log_sums", pulls.log_sums),
        ("entropies", pulls.entropies),
        ("gradients by log_probs", pulls.by_log_probs),
        ("gradients by log_sums", pulls.by_log_sums),
        ("gradients by entropies", pulls.by_entropies),
    ] {
        same(name, values.len(), count)?;
    }
    if logits.is_some() {
        // As a rule the caller's new array: half of the time would go to its page faults.
        in_huge_pages(out);
    }
    let chunks = split(count, rows.at_a_time());
    let parts = cut(out, rows.gaps(&chunks)?.into_iter());
    let jobs = chunks.iter().cloned().zip(parts).collect();
    exec.map(jobs, |(chunk, part): (Range<usize>, &mut [L])| {
        let mut block = [L::Float::ZERO; BLOCK];
        let first = chunk.start;
        for row in chunk {
            exec.check()?;
            let source = logits.map(|all| &all[rows.range(row)]);
            // The first part begins at 0, the others where their first row does.
            let base = if first == 0 { 0 } else { rows.range(first).start };
            let own = rows.range(row);
            let own = &mut part[own.start - base..own.end - base];
            row_grad(source, own, rows, pulls, row, &mut block);
        }
        Ok(())
    })?;
    Ok(())
}

fn row_grad<L: Logit>(
    logits: Option<&[L]>,
    out: &mut [L],
    rows: &Rows<'_>,
    pulls: &Pulls<'_>,
    row: usize,
    block: &mut Block<L::Float>,
) {
    let by_log_prob = pulls.by_log_probs[row];
    let (by_log_sum, by_entropy) = (pulls.by_log_sums[row], pulls.by_entropies[row]);
    if by_log_prob == 0.0 && by_log_sum == 0.0 && by_entropy == 0.0 {
        out.fill(L::narrow(Float::ZERO));
        return;
    }
    let transform = rows.transform::<L::Float>(row);
    let rounded = L::Float::of(pulls.log_sums[row]);
    let pull = Pull {
        log_sum: (rounded, Float::of(pulls.log_sums[row] - rounded.to_f64())),
        entropy: Float::of(pulls.entropies[row]),
        by_log_sum: Float::of(by_log_sum - by_log_prob),
        by_entropy: Float::of(by_entropy),
    };
    let target = usize::try_from(rows.targets[row]).unwrap_or(usize::MAX);
    for start in (0..out.len()).step_by(BLOCK) {
        let here = start..out.len().min(start + BLOCK);
        let part = logits.map_or(&out[here.clone()], |all| &all[here.clone()]);
        let ahead = Ahead::of(part);
        load(part, &transform, block);
        gradient(block, &transform, &pull, &mut out[here.clone()], ahead);
        if here.contains(&target) {
            let z = block[target - start];
            let own = L::Float::of(by_log_prob) * transform.slope(z);
            out[target] = L::narrow(pull.of(z, &transform) + own);
        }
    }
}
