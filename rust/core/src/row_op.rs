//! Log-probability and entropy of rows of logits on the processor, and their gradient.
//!
//! A row is read once, block by block; sums are `f32` or `f64` within a block, as the
//! logits are, and `f64` across blocks. A row's bits depend on that row alone. May depend
//! on `exec`, `error` and `wide`.

mod lanes;

use std::ops::Range;

use crate::error::{Error, Result};
use crate::exec::{Exec, cut, split};
use lanes::{BLOCK, Float, Pull, Transform, gradient, highest, load, store, sums};

pub use lanes::Logit;

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

/// Statistics of rows, one number a row each.
pub struct RowStats {
    /// `z_target - log_sum`, at most 0; minus infinity where the target is outside.
    pub log_probs: Vec<f64>,
    /// `log sum exp z`.
    pub log_sums: Vec<f64>,
    /// `log_sum - sum p z`.
    pub entropies: Vec<f64>,
}

/// Gradients of the loss by what [`stats`] gave, and what of it is needed.
#[derive(Clone, Copy)]
pub struct Pulls<'a> {
    /// [`RowStats::log_sums`].
    pub log_sums: &'a [f64],
    /// [`RowStats::entropies`].
    pub entropies: &'a [f64],
    /// By log-probabilities.
    pub by_log_probs: &'a [f64],
    /// By log-sums.
    pub by_log_sums: &'a [f64],
    /// By entropies.
    pub by_entropies: &'a [f64],
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
    block: &mut [L::Float; BLOCK],
) -> [f64; 3] {
    let transform = rows.transform(row);
    let mut total = Sum::EMPTY;
    for part in logits.chunks(BLOCK) {
        load(part, &transform, block);
        total.add(block);
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
    block: &mut [L::Float; BLOCK],
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
        load(logits.map_or(&out[here.clone()], |all| &all[here.clone()]), &transform, block);
        let own = here.contains(&target).then(|| (target - start, block[target - start]));
        gradient(block, &transform, &pull);
        if let Some((at, z)) = own {
            block[at] = block[at] + L::Float::of(by_log_prob) * transform.slope(z);
        }
        store(block, &mut out[here]);
    }
}

/// Sums over the blocks of a row so far, relative to the highest logit so far.
struct Sum {
    top: f64,
    sum: f64,
    tilt: f64,
}

impl Sum {
    const EMPTY: Self = Self { top: f64::NEG_INFINITY, sum: 0.0, tilt: 0.0 };

    fn add<F: Float>(&mut self, block: &[F; BLOCK]) {
        let top = highest(block);
        // Minus infinity alone: nothing to add, unless there is NaN.
        let top = if top > F::LOWEST { top } else { F::ZERO };
        let (sum, tilt) = sums(block, top);
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

impl Rows<'_> {
    fn check(&self, logits: usize) -> Result<()> {
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
    fn gaps(&self, chunks: &[Range<usize>]) -> Result<Vec<usize>> {
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

    fn range(&self, row: usize) -> Range<usize> {
        let start = self.starts[row] as usize;
        start..start + self.width
    }

    fn at_a_time(&self) -> usize {
        LOGITS_AT_A_TIME.div_ceil(self.width.max(1))
    }

    fn transform<F: Float>(&self, row: usize) -> Transform<F> {
        let shared = self.temperatures.len() == 1;
        let temperature = self.temperatures[if shared { 0 } else { row }];
        Transform { softcap: self.softcap.map(F::of), sharpness: F::of(1.0 / temperature) }
    }
}

fn same(argument: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Length { argument: argument.to_owned(), got, expected, of: "rows" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, about normal, of spread `std`.
    fn logits(count: usize, std: f64) -> Vec<f64> {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..count).map(|_| std * ((0..12).map(|_| uniform()).sum::<f64>() - 6.0)).collect()
    }

    fn starts(rows: usize, stride: usize) -> Vec<i64> {
        (0..rows).map(|row| (row * stride) as i64).collect()
    }

    /// Logs of all probabilities, and the entropy, as the formulas say.
    fn naive(x: &[f64], transform: &Transform<f64>) -> (Vec<f64>, f64) {
        let z: Vec<f64> = x
            .iter()
            .map(|x| match transform.softcap {
                None => x * transform.sharpness,
                Some(cap) => cap * (x / cap).tanh() * transform.sharpness,
            })
            .collect();
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
        let log_p: Vec<f64> = z.iter().map(|z| z - top - sum.ln()).collect();
        let entropy = -log_p.iter().filter(|l| l.is_finite()).map(|l| l.exp() * l).sum::<f64>();
        (log_p, entropy)
    }

    fn check<L: Logit>(width: usize, std: f64, softcap: Option<f64>, tolerance: f64) {
        let (count, stride) = (3, width + 2);
        let narrow = |x| L::narrow(Float::of(x));
        let own: Vec<L> = logits(count * stride, std).into_iter().map(narrow).collect();
        let (targets, starts) = ([0, width as i64 - 1, width as i64], starts(count, stride));
        let temperatures = [1.0, 0.7, 1.3];
        let rows = Rows {
            width,
            starts: &starts,
            targets: &targets,
            softcap,
            temperatures: &temperatures,
        };
        let exec = Exec::default();
        let got = stats(&own, &rows, &exec).unwrap();
        let (g, s, h) = ([0.5, -1.0, 2.0], [0.0, 0.25, 1.0], [0.3, 0.0, -0.4]);
        let pulls = Pulls {
            log_sums: &got.log_sums,
            entropies: &got.entropies,
            by_log_probs: &g,
            by_log_sums: &s,
            by_entropies: &h,
        };
        let (mut inside, mut apart) = (own.clone(), own.clone());
        grad(None, &mut inside, &rows, &pulls, &exec).unwrap();
        grad(Some(&own), &mut apart, &rows, &pulls, &exec).unwrap();
        for row in 0..count {
            let wide: Vec<f64> = own[rows.range(row)].iter().map(|x| x.widen().to_f64()).collect();
            let transform: Transform<f64> = rows.transform(row);
            let (log_p, entropy) = naive(&wide, &transform);
            let log_prob = log_p.get(targets[row] as usize).copied().unwrap_or(f64::NEG_INFINITY);
            let error = got.log_probs[row] - log_prob;
            assert!(error.abs() <= tolerance || got.log_probs[row] == log_prob, "{error}");
            assert!((got.entropies[row] - entropy).abs() <= tolerance);
            for (j, log_p) in log_p.iter().enumerate() {
                let (p, hit) = (log_p.exp(), f64::from(u8::from(j as i64 == targets[row])));
                let bend = if p > 0.0 { h[row] * (log_p + entropy) } else { 0.0 };
                let slope = transform.slope(transform.of(wide[j]));
                let expected = (g[row] * hit + p * (s[row] - g[row] - bend)) * slope;
                let at = rows.range(row).start + j;
                let found = inside[at].widen().to_f64();
                // A bfloat16 has 8 bits.
                let eps = if size_of::<L>() == 2 { 4e-3 * expected.abs() } else { 0.0 };
                assert!((found - expected).abs() <= tolerance + eps, "{found} {expected}");
                assert!(found.to_bits() == apart[at].widen().to_f64().to_bits());
            }
        }
        let between = |values: &[L]| values[width].widen().to_f64();
        assert!(between(&inside) == between(&own), "what is no row was written");
    }

    #[test]
    fn formulas_hold() {
        for width in [1, 2, 15, 1023, 1024, 1025, 5000] {
            for softcap in [None, Some(30.0)] {
                check::<f64>(width, 3.0, softcap, 1e-12);
                check::<f32>(width, 3.0, softcap, 4e-6);
                check::<u16>(width, 3.0, softcap, 4e-6);
                check::<f64>(width, 60.0, softcap, 1e-11);
                check::<f32>(width, 60.0, softcap, 6e-5);
            }
        }
    }

    #[test]
    fn exponential_is_close() {
        for step in 0..100_000 {
            let x = -87.0 * f64::from(step) / 100_000.0;
            let single = f64::from(Float::exp(x as f32)) / f64::from(x as f32).exp();
            assert!((single - 1.0).abs() < 2e-7, "{x} {single}");
            let x = 8.0 * x;
            let double = Float::exp(x) / x.exp();
            assert!((double - 1.0).abs() < 1e-15, "{x} {double}");
        }
    }

    fn plain<'a>(targets: &'a [i64], starts: &'a [i64], width: usize) -> Rows<'a> {
        Rows { width, starts, targets, softcap: None, temperatures: &[1.0] }
    }

    #[test]
    fn odd_rows() {
        let inf = f32::INFINITY;
        let mut own = vec![-inf; 4000];
        own[3] = 80.0; // the only finite one of its row
        own[2000] = f32::NAN;
        own[3000..].fill(-80.0);
        let starts = starts(4, 1000);
        let rows = plain(&[3, 0, 0, 7], &starts, 1000);
        let got = stats(&own, &rows, &Exec::default()).unwrap();
        assert_eq!((got.log_probs[0], got.entropies[0]), (0.0, 0.0));
        assert!(got.log_probs[1] == -f64::INFINITY && got.log_sums[1] == -f64::INFINITY);
        assert!(got.entropies[1].is_nan());
        assert!(got.log_probs[2].is_nan() && got.entropies[2].is_nan());
        assert!((got.entropies[3] - 1000f64.ln()).abs() < 1e-6);
        own[3005] = inf;
        let got = stats(&own, &rows, &Exec::default()).unwrap();
        assert!(got.log_probs[3].is_nan());
    }

    #[test]
    fn an_impossible_token_has_no_gradient() {
        let own = [1.0f32, f32::NEG_INFINITY, 0.5];
        let (rows, exec) = (plain(&[0], &[0], 3), Exec::default());
        let got = stats(&own, &rows, &exec).unwrap();
        let mut out = [f32::NAN; 3];
        let pulls = Pulls {
            log_sums: &got.log_sums,
            entropies: &got.entropies,
            by_log_probs: &[1.0],
            by_log_sums: &[0.0],
            by_entropies: &[1.0],
        };
        grad(Some(&own), &mut out, &rows, &pulls, &exec).unwrap();
        assert!(out[1] == 0.0 && out[0] > 0.0 && out[2] < 0.0);
    }

    #[test]
    fn threads_and_neighbours_leave_the_bits() {
        const WIDTH: usize = 70_000;
        let own: Vec<f32> = logits(64 * WIDTH, 3.0).into_iter().map(|x| x as f32).collect();
        let (targets, starts): (Vec<i64>, _) = ((0..64).collect(), starts(64, WIDTH));
        let rows = plain(&targets, &starts, WIDTH);
        let one = stats(&own, &rows, &Exec::default()).unwrap();
        let many = stats(&own, &rows, &Exec::new(3, None)).unwrap();
        assert!(one.log_probs == many.log_probs && one.entropies == many.entropies);
        let last = stats(&own, &plain(&targets[63..], &starts[63..], WIDTH), &Exec::default());
        assert_eq!(last.unwrap().log_probs[0], one.log_probs[63]);
        let pulls = Pulls {
            log_sums: &one.log_sums,
            entropies: &one.entropies,
            by_log_probs: &one.log_probs,
            by_log_sums: &one.entropies,
            by_entropies: &one.entropies,
        };
        let (mut first, mut second) = (own.clone(), own.clone());
        grad(None, &mut first, &rows, &pulls, &Exec::default()).unwrap();
        grad(None, &mut second, &rows, &pulls, &Exec::new(3, None)).unwrap();
        assert!(first == second);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let exec = Exec::default();
        let error = |starts: &[i64]| {
            let rows = plain(&[0, 0], starts, 4);
            stats(&[0.0f32; 8], &rows, &exec).err().unwrap().to_string()
        };
        assert!(error(&[0, 5]).starts_with("starts[1]: got 5, expected a row of 4 within 8"));
        assert!(error(&[-1, 4]).starts_with("starts[0]: got -1"));
        assert!(error(&[0]).starts_with("starts: got 1 values, expected 2"));
        let zero = [0.0; 2];
        let pulls = Pulls {
            log_sums: &zero,
            entropies: &zero,
            by_log_probs: &zero,
            by_log_sums: &zero,
            by_entropies: &zero,
        };
        let rows = plain(&[0, 0], &[4, 1], 4);
        let error = grad(None, &mut [0.0f32; 8], &rows, &pulls, &exec).unwrap_err().to_string();
        assert!(error.starts_with("starts[1]: got 1, expected at least 8"), "{error}");
    }

    #[test]
    fn no_rows() {
        let rows = plain(&[], &[], 5);
        assert!(stats(&[] as &[f32], &rows, &Exec::default()).unwrap().log_probs.is_empty());
    }
}
