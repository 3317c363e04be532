//! Statistics of rows, each read once. May depend on `exec`, `rows`, `lanes` and `logit`.

use super::float::Float;
use super::lanes::{Ahead, BLOCK, Block, highest, load, sums};
use super::logit::Logit;
use super::rows::Rows;
use crate::error::Result;
use crate::exec::Exec;

/// Statistics of rows, one number a row each.
pub struct RowStats {
    /// `z_target - log_sum`, at most 0; minus infinity where the target is outside.
    pub log_probs: Vec<f64>,
    /// `log sum exp z`.
    pub log_sums: Vec<f64>,
    /// `log_sum - sum p z`.
    pub entropies: Vec<f64>,
}

/// Log-probability of the target, log-sum and entropy of each row.
///
/// A row with NaN or plus infinity gives NaN. A target of minus infinity has minus infinity,
/// as has the log-sum of a row of it alone, whose entropy is NaN.
///
/// # Errors
/// Lengths that do not fit, and rows outside `logits`.
pub fn stats<L: Logit>(logits: &[L], rows: &Rows<'_>, exec: &Exec<'_>) -> Result<RowStats> {
    rows.check(logits.len())?;
    let parts = exec.ranges(rows.targets.len(), rows.at_a_time(), |part| {
        let mut block = [L::Float::ZERO; BLOCK];
        part.map(|row| {
            exec.check()?;
            Ok(row_stats(&logits[rows.range(row)], rows, row, &mut block))
        })
        .collect::<Result<Vec<_>>>()
    })?;
    let all = || parts.iter().flatten();
    Ok(RowStats {
        log_probs: all().map(|r| r[0]).collect(),
        log_sums: all().map(|r| r[1]).collect(),
        entropies: all().map(|r| r[2]).collect(),
    })
}

fn row_stats<L: Logit>(
    logits: &[L],
    rows: &Rows<'_>,
    row: usize,
    block: &mut Block<L::Float>,
) -> [f64; 3] {
    let transform = rows.transform(row);
    let mut total = Sum::EMPTY;
    for part in logits.chunks(BLOCK) {
        load(part, &transform, block);
        total.add(block, Ahead::of(part));
    }
    let log = total.sum.ln();
    let column = usize::try_from(rows.targets[row]).unwrap_or(usize::MAX);
    let z = logits.get(column).map_or(f64::NEG_INFINITY, |x| transform.of(x.widen()).to_f64());
    // An impossible token stays so in a row of them. At most 0 whatever was rounded; `min`
    // would turn NaN into 0.
    let log_prob = if z == f64::NEG_INFINITY { z } else { (z - total.top) - log };
    let log_prob = if log_prob > 0.0 { 0.0 } else { log_prob };
    [log_prob, total.top + log, log - total.tilt / total.sum]
}

/// Sums over the blocks of a row so far, relative to the highest logit so far.
struct Sum {
    top: f64,
    sum: f64,
    tilt: f64,
}

impl Sum {
    const EMPTY: Self = Self { top: f64::NEG_INFINITY, sum: 0.0, tilt: 0.0 };

    fn add<F: Float>(&mut self, block: &Block<F>, ahead: Ahead) {
        let top = highest(block);
        // Minus infinity alone: nothing to add, unless there is NaN.
        let top = if top > F::LOWEST { top } else { F::ZERO };
        let (sum, tilt) = sums(block, top, ahead);
        if sum == 0.0 {
            return;
        }
        let mut new = Self { top: top.to_f64(), sum, tilt };
        if self.sum == 0.0 {
            *self = new;
            return;
        }
        let highest = if new.top > self.top { new.top } else { self.top };
        self.lift(highest);
        new.lift(highest);
        self.sum += new.sum;
        self.tilt += new.tilt;
    }

    /// The same sums relative to a higher logit.
    fn lift(&mut self, top: f64) {
        let gap = self.top - top;
        if gap == 0.0 {
            return;
        }
        let factor = gap.exp();
        self.tilt = if factor == 0.0 { 0.0 } else { (self.tilt + gap * self.sum) * factor };
        self.sum *= factor;
        self.top = top;
    }
}
