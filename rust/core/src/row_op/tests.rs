//! The formulas, written out, on rows of many widths; odd rows; what does not fit.

use super::float::Float;
use super::logit::Transform;
use super::{Logit, Pulls, Rows, grad, stats};
use crate::exec::Exec;

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
    let rows =
        Rows { width, starts: &starts, targets: &targets, softcap, temperatures: &temperatures };
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
