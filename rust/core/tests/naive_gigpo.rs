//! GiGPO against quadratic loops over step rows.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use apportion_core::exec::Exec;
use apportion_core::options::Value;
use apportion_core::similarity::difflib_ratio;
use common::steps::{Steps, by_row, text};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Against quadratic loops over step rows in any order.
    #[test]
    fn credit_equals_the_naive_loops(
        rows in prop::collection::vec((0..3usize, 0..3usize, 0..4usize, -2..3i8, 0..3u8), 1..25),
        std in any::<bool>(), trajectories in any::<bool>(), similarity in 0..3usize,
    ) {
        let states = ["go to the red door", "go to the rad door", "stay", "stay here"];
        let steps = Steps {
            width: 1,
            mask: vec![1.0; rows.len()],
            token_rewards: rows.iter().map(|r| f64::from(r.4)).collect(),
            turn_rewards: rows.iter().map(|r| f64::from(r.3)).collect(),
            groups: rows.iter().map(|r| format!("g{}", r.0)).collect(),
            trajectories: rows.iter().map(|r| format!("g{}t{}", r.0, r.1)).collect(),
            anchors: rows.iter().map(|r| states[r.2].to_owned()).collect(),
        };
        let mut settings = vec![
            ("scale".to_owned(), text(if std { "std" } else { "none" })),
            ("stats_over".to_owned(), text(if trajectories { "trajectories" } else { "rows" })),
        ];
        if similarity > 0 {
            settings.push(("similarity_threshold".to_owned(), Value::Float(0.8)));
            settings.push(("similarity".to_owned(), text(["indel", "difflib"][similarity - 1])));
        }
        let want = naive_gigpo(&steps, std, trajectories, similarity > 0);
        for threads in [1, 3] {
            let got = steps.run(None, &settings, threads, |r, c| by_row(r, &c.advantages));
            for (g, w) in got.iter().zip(&want) {
                prop_assert!((g - w).abs() <= 1e-9 * (1.0 + w.abs()), "{:?} {:?}", got, want);
            }
        }
    }
}

fn naive_gigpo(steps: &Steps, std: bool, trajectories: bool, similar: bool) -> Vec<f64> {
    let n = steps.groups.len();
    // Against a naive version of its own in `similarity.rs`.
    let alike = |a: &str, b: &str| difflib_ratio(a, b, &Exec::default()).unwrap() >= 0.8;
    let mut state: Vec<usize> = Vec::new();
    for i in 0..n {
        let fits = |&j: &usize| {
            steps.groups[i] == steps.groups[j]
                && state[j] == j
                && (steps.anchors[i] == steps.anchors[j]
                    || similar && alike(&steps.anchors[i], &steps.anchors[j]))
        };
        state.push((0..i).find(fits).unwrap_or(i));
    }
    let returns: Vec<f64> = (0..n)
        .map(|i| {
            let later = (i..n).filter(|&j| steps.trajectories[j] == steps.trajectories[i]);
            later.enumerate().map(|(k, j)| 0.95f64.powi(k as i32) * steps.turn_rewards[j]).sum()
        })
        .collect();
    let part = |values: &[f64], counted: &dyn Fn(usize, usize) -> bool, i: usize, raw: bool| {
        let sample: Vec<f64> = (0..n).filter(|&j| counted(i, j)).map(|j| values[j]).collect();
        if sample.len() == 1 {
            let scale = if std { 1.0 + 1e-6 } else { 1.0 };
            return if raw { values[i] / scale } else { 0.0 };
        }
        let mean = sample.iter().sum::<f64>() / sample.len() as f64;
        let squares: f64 = sample.iter().map(|x| (x - mean) * (x - mean)).sum();
        let scale = (squares / (sample.len() as f64 - 1.0)).sqrt();
        let flat = sample.iter().all(|x| *x == sample[0]);
        match (std, flat) {
            (_, true) if values[i] == sample[0] => 0.0,
            (true, true) => 0.0,
            (true, false) => (values[i] - mean) / (scale + 1e-6),
            (false, _) => values[i] - mean,
        }
    };
    let counts = |i: usize, j: usize| {
        let first = (0..j).all(|k| steps.trajectories[k] != steps.trajectories[j]);
        steps.groups[i] == steps.groups[j] && (first || !trajectories)
    };
    (0..n)
        .map(|i| {
            let episode = part(&steps.token_rewards, &counts, i, true);
            episode + part(&returns, &|i, j| state[i] == state[j], i, false)
        })
        .collect()
}
