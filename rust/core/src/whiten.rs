//! Whitening: token values of a whole batch brought to mean 0 and variance 1.
//!
//! Trainers differ in the divisor, in where the epsilon stands and in what they
//! do outside the mask; each rule is a field of [`Whitening`]. Statistics are
//! [`Moments`] of rows, merged in the rows' order, so that they are the same bits
//! for any number of threads. May depend on `rollouts`, `stats` and below.

use std::ops::Range;

use crate::error::Result;
use crate::exec::cut;
use crate::rollouts::{CHUNK_TOKENS, Rollouts};
use crate::stats::Moments;
use crate::tokens::Real;
use crate::wide::wide;

/// `y = (x - mean) / sqrt(max(var, var_floor) + eps)`, over the trained tokens of a batch.
///
/// `mean = sum / (n + mean_eps)`, and `var` is taken about that mean with divisor
/// `(n + mean_eps) (n - ddof) / n`. Equal values give exactly 0, which verl's mean, a
/// little off in double precision, would not. So does a batch of at most `ddof`
/// tokens, where verl raises an error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whitening {
    /// Degrees of freedom taken off the count in the variance.
    pub ddof: f64,
    /// Added to the variance, inside the root.
    pub eps: f64,
    /// Smallest variance.
    pub var_floor: f64,
    /// Added to the count in the mean.
    pub mean_eps: f64,
    /// Whether the mean is taken off; otherwise only the spread changes.
    pub shift_mean: bool,
    /// Whether the result is divided; otherwise it is only centred.
    pub divide: bool,
}

impl Whitening {
    /// verl's `masked_whiten`: Bessel's variance, 1e-8 inside the root and in the mean's divisor.
    pub const VERL: Self = Self {
        ddof: 1.0,
        eps: 1e-8,
        var_floor: 0.0,
        mean_eps: 1e-8,
        shift_mean: true,
        divide: true,
    };

    /// OpenRLHF's: population variance of at least 1e-8.
    pub const OPENRLHF: Self =
        Self { ddof: 0.0, eps: 0.0, var_floor: 1e-8, mean_eps: 0.0, ..Self::VERL };

    /// The map that whitens values with these moments.
    pub fn fit(&self, moments: &Moments) -> Affine {
        let Moments { count, mean, squares } = *moments;
        if count <= self.ddof {
            return Affine { centre: 0.0, factor: 0.0, offset: 0.0 };
        }
        let constant = squares == 0.0;
        let centre = if constant { mean } else { mean * count / (count + self.mean_eps) };
        let about = squares + count * (mean - centre) * (mean - centre);
        let var = about / (count + self.mean_eps) * count / (count - self.ddof);
        let root = (var.max(self.var_floor) + self.eps).sqrt();
        let factor = match (self.divide, constant) {
            (false, _) => 1.0,
            // 1 / root may be infinite here, and 0 times that is not 0.
            (true, true) => 0.0,
            (true, false) => 1.0 / root,
        };
        Affine { centre, factor, offset: if self.shift_mean { 0.0 } else { centre } }
    }
}

/// `y = (x - centre) factor + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Taken off first.
    pub centre: f64,
    /// Then multiplied by.
    pub factor: f64,
    /// Then added.
    pub offset: f64,
}

impl Affine {
    /// Maps one value.
    pub fn apply(&self, x: f64) -> f64 {
        (x - self.centre) * self.factor + self.offset
    }
}

wide! {
    fn apply_all<T: Real>(map: &Affine, values: &mut [T]) {
        for x in values {
            *x = T::from_f64(map.apply(x.to_f64()));
        }
    }
}

/// What whitening has to know of a row. The first pass finds it, so that the
/// second need not read the mask again where trained tokens come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowShape {
    /// The row's reward is absent: it enters no statistic and stays as it is.
    Absent,
    /// So many trained tokens, and then masked ones whose value is 0.
    Prefix(usize),
    /// Anything else.
    Holes,
}

impl RowShape {
    fn of<T: Real>(values: &[T], mask: &[bool]) -> Self {
        let trained = mask.iter().filter(|&&m| m).count();
        let first = mask[..trained].iter().all(|&m| m);
        if first && values[trained..].iter().all(|x| x.to_f64() == 0.0) {
            Self::Prefix(trained)
        } else {
            Self::Holes
        }
    }
}

wide! {
    /// Moments of `values`, summed in eight lanes relative to the first value: a
    /// common offset costs no digits, and equal values have exactly no spread.
    pub fn moments<T: Real>(values: &[T]) -> Moments {
        const LANES: usize = 8;
        let Some(shift) = values.first().map(|x| x.to_f64()) else { return Moments::default() };
        let (mut sum, mut squares) = ([0.0; LANES], [0.0; LANES]);
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            let away = block.map(|x| x.to_f64() - shift);
            for (lane, away) in away.iter().enumerate() {
                sum[lane] += away;
                squares[lane] += away * away;
            }
        }
        for (lane, x) in rest.iter().enumerate() {
            let away = x.to_f64() - shift;
            sum[lane] += away;
            squares[lane] += away * away;
        }
        let total = |lanes: [f64; LANES]| lanes.iter().sum();
        Moments::from_sums(values.len() as f64, total(sum), total(squares), shift)
    }
}

/// Whitens token values in place. Outside the mask the result is 0, or, where not
/// `remask`, whatever the same map makes of what stood there (verl and others leave
/// that in). Rows that are not `present` enter no statistic and stay as they are.
pub fn whiten_tokens<T: Real>(
    rollouts: &Rollouts<'_>,
    values: &mut [T],
    rule: &Whitening,
    remask: bool,
    present: impl Fn(usize) -> bool + Sync,
) -> Result<()> {
    let rows = rollouts.rows();
    let found = rollouts.exec().map(rows.chunks(CHUNK_TOKENS), |chunk| {
        let (mut mask, mut trained) = (Vec::new(), Vec::new());
        let mut all = Moments::default();
        let mut shapes = Vec::with_capacity(chunk.len());
        for row in chunk {
            if !present(row) {
                shapes.push(RowShape::Absent);
                continue;
            }
            let range = rows.range(row);
            rollouts.mask().read(range.clone(), &mut mask)?;
            trained.clear();
            let row = &values[range];
            trained.extend(row.iter().zip(&mask).filter(|&(_, &m)| m).map(|(&x, _)| x));
            all = all.merge(moments(&trained));
            shapes.push(RowShape::of(row, &mask));
        }
        Ok((all, shapes))
    })?;
    let all = found.iter().fold(Moments::default(), |all, (part, _)| all.merge(*part));
    let shapes: Vec<RowShape> = found.into_iter().flat_map(|(_, shapes)| shapes).collect();
    rewrite(rollouts, values, None, &shapes, &rule.fit(&all), remask)
}

/// Whitens one value a trajectory in place, as if it stood on each trained token of its
/// own. Trajectories that are not `present` enter no statistic and stay as they are.
pub fn whiten_trajectories(
    rollouts: &Rollouts<'_>,
    values: &mut [f64],
    rule: &Whitening,
    present: impl Fn(usize) -> bool,
) -> Result<()> {
    let lengths = rollouts.token_counts()?;
    let own = |i: usize| Moments::repeated(values[i], lengths[i]);
    let all = (0..lengths.len()).filter(|&i| present(i) && lengths[i] > 0.0).map(own);
    let map = rule.fit(&all.fold(Moments::default(), Moments::merge));
    for (_, x) in values.iter_mut().enumerate().filter(|(i, _)| present(*i)) {
        *x = map.apply(*x);
    }
    Ok(())
}

/// Maps token values row by row, in place or, where `from` is given, from there into
/// `values`, which hold 0 before; `remask` as in [`whiten_tokens`].
pub fn rewrite<T: Real>(
    rollouts: &Rollouts<'_>,
    values: &mut [T],
    from: Option<&[T]>,
    shapes: &[RowShape],
    map: &Affine,
    remask: bool,
) -> Result<()> {
    let rows = rollouts.rows();
    let chunks = rows.chunks(CHUNK_TOKENS);
    let parts = cut(values, chunks.iter().map(|c| rows.start(c.end) - rows.start(c.start)));
    let jobs = chunks.iter().cloned().zip(parts).collect();
    rollouts.exec().map(jobs, |(chunk, part): (Range<usize>, &mut [T])| {
        let mut mask = Vec::new();
        let base = rows.start(chunk.start);
        for row in chunk {
            let range = rows.range(row);
            let mapped = match shapes[row] {
                RowShape::Absent => 0,
                RowShape::Prefix(trained) if remask => trained,
                RowShape::Prefix(_) | RowShape::Holes => range.len(),
            };
            let part = &mut part[range.start - base..][..mapped];
            if let Some(from) = from {
                part.copy_from_slice(&from[range.start..][..mapped]);
            }
            apply_all(map, part);
            if remask && shapes[row] == RowShape::Holes {
                rollouts.mask().read(range, &mut mask)?;
                for (x, _) in part.iter_mut().zip(&mask).filter(|&(_, &m)| !m) {
                    *x = T::default();
                }
            }
        }
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::column::Mask;
    use crate::exec::Exec;
    use crate::ragged::Offsets;

    fn whitened(threads: usize, width: usize, mask: &[u8], x: &[f64], remask: bool) -> Vec<f64> {
        let exec = Exec::new(threads, None);
        let rows = Offsets::even(x.len() / width, width).unwrap();
        let rollouts = Rollouts::packed(rows, Mask::U8(mask), &exec).unwrap();
        let mut out = x.to_vec();
        whiten_tokens(&rollouts, &mut out, &Whitening::VERL, remask, |_| true).unwrap();
        out
    }

    #[test]
    fn equal_values_give_exactly_zero() {
        for value in [0.1, 1.0 / 3.0, 1e300, -7.7e-9] {
            let out = whitened(1, 5, &[1; 35], &[value; 35], true);
            assert!(out.iter().all(|&y| y == 0.0), "{value}: {out:?}");
        }
        let few = Whitening::VERL.fit(&moments(&[3.0]));
        assert_eq!(few.apply(3.0), 0.0);
        assert_eq!(Whitening::OPENRLHF.fit(&Moments::default()).apply(3.0), 0.0);
    }

    #[test]
    fn centring_alone_and_spread_alone() {
        let m = moments(&[1.0, 3.0]);
        let centred = Whitening { divide: false, ..Whitening::OPENRLHF }.fit(&m);
        assert_eq!([centred.apply(1.0), centred.apply(3.0)], [-1.0, 1.0]);
        let kept = Whitening { shift_mean: false, ..Whitening::OPENRLHF }.fit(&m);
        assert_eq!([kept.apply(1.0), kept.apply(3.0)], [1.0, 3.0]);
    }

    #[test]
    fn threads_change_no_bit() {
        let width = 1 << 12;
        let x: Vec<f64> = (0..width * 200).map(|i| (i as f64 * 0.7).sin() + 3.0).collect();
        let mask: Vec<u8> = (0..x.len()).map(|i| u8::from(i % 7 != 3)).collect();
        assert_eq!(whitened(1, width, &mask, &x, true), whitened(3, width, &mask, &x, true));
    }

    proptest! {
        #[test]
        fn as_the_formula_says(
            cells in prop::collection::vec((-5.0..5.0f64, 0..2u8), 12),
            offset in prop::sample::select(vec![0.0, 1e6]),
            remask: bool,
        ) {
            let x: Vec<f64> = cells.iter().map(|c| c.0 + offset).collect();
            let mask: Vec<u8> = cells.iter().map(|c| c.1).collect();
            let got = whitened(1, 4, &mask, &x, remask);
            let trained: Vec<f64> =
                x.iter().zip(&mask).filter(|c| *c.1 == 1).map(|c| *c.0).collect();
            let n = trained.len() as f64;
            let mean = trained.iter().sum::<f64>() / (n + 1e-8);
            let squares = trained.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            let var = squares / (n + 1e-8) * n / (n - 1.0);
            for i in 0..x.len() {
                let kept = n > 1.0 && (mask[i] == 1 || !remask);
                let want = if kept { (x[i] - mean) / (var + 1e-8).sqrt() } else { 0.0 };
                prop_assert!((got[i] - want).abs() <= 1e-6, "{} {want}", got[i]);
            }
        }
    }
}
