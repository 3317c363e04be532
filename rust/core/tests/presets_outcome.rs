//! Trainers' settings of the outcome methods, against slow re-computations from what each
//! trainer does, on random groups with ties, singletons and absent scores.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::borrow::Cow;

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::credit::{self, Values};
use apportion_core::error::Result;
use apportion_core::exec::Exec;
use apportion_core::options::{Settings, Value};
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use proptest::prelude::*;

const WIDTH: usize = 4;

/// From a score, its group and the others of its group to its advantage.
type Rule = dyn Fn(f64, &[f64], &[f64]) -> f64;

/// Scores by reward functions, groups and lengths of some trajectories.
#[derive(Clone, Debug)]
struct Sample {
    rewards: Vec<Vec<f64>>,
    ids: Vec<i64>,
    lengths: Vec<usize>,
}

fn samples(functions: usize) -> impl Strategy<Value = Sample> {
    let score = prop::sample::select(vec![0.0, 0.1, 1.0 / 3.0, 1.0, -2.5, 7.25, f64::NAN]);
    let row = (prop::collection::vec(score, functions), 0..4i64, 1..=WIDTH);
    prop::collection::vec(row, 1..12).prop_map(|rows| Sample {
        rewards: rows.iter().map(|r| r.0.clone()).collect(),
        ids: rows.iter().map(|r| r.1).collect(),
        lengths: rows.iter().map(|r| r.2).collect(),
    })
}

impl Sample {
    fn scores(&self) -> Vec<f64> {
        self.rewards.iter().map(|r| r[0]).collect()
    }

    fn run(&self, method: &str, like: &str, settings: &[(&str, Value)]) -> Result<Vec<f64>> {
        let exec = Exec::default();
        let n = self.ids.len();
        let mask: Vec<u8> =
            self.lengths.iter().flat_map(|&l| (0..WIDTH).map(move |t| u8::from(t < l))).collect();
        let flat: Vec<f64> = self.rewards.concat();
        let width = flat.len() / n;
        let rollouts = Rollouts::packed(Offsets::even(n, WIDTH)?, Mask::U8(&mask), &exec)?
            .with("group_ids", Column::Keys(Keys::Ints(Cow::Borrowed(&self.ids))))
            .with("reward_matrix", Column::Matrix { values: flat.into(), width });
        let settings: Settings =
            settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        match credit::find(method)?.credit(&rollouts, Some(like), &settings)?.advantages {
            Values::Trajectories(values) => Ok(values),
            other => panic!("{other:?}"),
        }
    }
}

fn mean(x: &[f64]) -> f64 {
    if x.iter().all(|v| *v == x[0]) { x[0] } else { x.iter().sum::<f64>() / x.len() as f64 }
}

fn std(x: &[f64], ddof: f64) -> f64 {
    let centre = mean(x);
    (x.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / (x.len() as f64 - ddof)).sqrt()
}

/// `f(score, its group, the others of its group)` for each present score, 0 for the absent.
fn each(scores: &[f64], ids: &[i64], f: impl Fn(f64, &[f64], &[f64]) -> f64) -> Vec<f64> {
    let one = |i: usize| {
        let near = |j: &usize| ids[*j] == ids[i] && !scores[*j].is_nan();
        let group: Vec<f64> = (0..ids.len()).filter(near).map(|j| scores[j]).collect();
        let others: Vec<f64> =
            (0..ids.len()).filter(|&j| j != i && near(&j)).map(|j| scores[j]).collect();
        if scores[i].is_nan() { 0.0 } else { f(scores[i], &group, &others) }
    };
    (0..ids.len()).map(one).collect()
}

/// Mean and Bessel's deviation with `eps` added; what a group of one gives is the caller's.
fn z_score(single: impl Fn(f64) -> f64, eps: f64) -> impl Fn(f64, &[f64], &[f64]) -> f64 {
    move |s, group, _| match group.len() {
        1 => single(s),
        _ => (s - mean(group)) / (std(group, 1.0) + eps),
    }
}

fn nemo(s: f64, _: &[f64], others: &[f64]) -> f64 {
    match others.len() {
        0 => 0.0,
        1 => s - others[0],
        _ if std(others, 1.0) > 0.0 => (s - mean(others)) / (std(others, 1.0) + 1e-6),
        _ => s - mean(others),
    }
}

fn close(got: &[f64], want: &[f64]) -> std::result::Result<(), TestCaseError> {
    for (g, w) in got.iter().zip(want) {
        prop_assert!((g - w).abs() <= 1e-9 * (1.0 + w.abs()), "got {got:?}, expected {want:?}");
    }
    prop_assert_eq!(got.len(), want.len());
    Ok(())
}

/// Moments over the values of each trajectory repeated on its tokens; absent ones left out.
fn on_tokens(values: &[f64], lengths: &[usize]) -> Vec<f64> {
    let repeat = |(&v, &n): (&f64, &usize)| std::iter::repeat_n(v, n);
    values.iter().zip(lengths).filter(|(v, _)| !v.is_nan()).flat_map(repeat).collect()
}

/// verl's whitening of one value a trajectory over the tokens of the batch.
fn verl_whiten(values: &[f64], lengths: &[usize]) -> Vec<f64> {
    let all = on_tokens(values, lengths);
    let n = all.len() as f64;
    let flat = n < 2.0 || all.iter().all(|v| *v == all[0]);
    let centre = all.iter().sum::<f64>() / (n + 1e-8);
    let var = all.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / (n + 1e-8) * n / (n - 1.0);
    let one = |v: &f64| match v {
        v if v.is_nan() || flat => 0.0,
        v => (v - centre) / (var + 1e-8).sqrt(),
    };
    values.iter().map(one).collect()
}

/// NaN where a score is absent, for what is summed or whitened next.
fn keep_absent(values: Vec<f64>, scores: &[f64]) -> Vec<f64> {
    values.into_iter().zip(scores).map(|(v, s)| if s.is_nan() { f64::NAN } else { v }).collect()
}

proptest! {
    #[test]
    fn grpo(sample in samples(1)) {
        let (scores, ids) = (sample.scores(), &sample.ids);
        let check = |like: &str, want: Vec<f64>| close(&sample.run("grpo", like, &[])?, &want);
        check("verl", each(&scores, ids, z_score(|s| s / (1.0 + 1e-6), 1e-6)))?;
        check("skyrl", each(&scores, ids, z_score(|s| s / (1.0 + 1e-6), 1e-6)))?;
        check("trl", each(&scores, ids, z_score(|_| 0.0, 1e-4)))?;
        check("openrlhf", each(&scores, ids, z_score(|_| 0.0, 1e-9)))?;
        check("areal", each(&scores, ids, z_score(|_| 0.0, 1e-5)))?;
        check("roll", each(&scores, ids, z_score(|_| 0.0, 1e-6)))?;
        check("prime_rl", each(&scores, ids, |s, group, _| s - mean(group)))?;
        check("nemo_rl", each(&scores, ids, nemo))?;
        check("verl_vectorized", each(&scores, ids, |s, group, _| match group.len() {
            1 => s / (1.0 + 1e-6),
            _ => (s - mean(group)) / (std(group, 1.0).powi(2).max(1e-6).sqrt() + 1e-6),
        }))?;
    }

    #[test]
    fn grpo_over_the_batch_deviation(sample in samples(1)) {
        let scores = sample.scores();
        let present: Vec<f64> = scores.iter().copied().filter(|s| !s.is_nan()).collect();
        let scale = [("scale", Value::Text("batch".into()))];
        let want = each(&scores, &sample.ids, |s, group, _| match group.len() {
            1 => 0.0,
            _ => (s - mean(group)) / (std(&present, 1.0) + 1e-4),
        });
        close(&sample.run("grpo", "trl", &scale)?, &want)?;
    }

    #[test]
    fn rloo(sample in samples(1)) {
        let single = |alone: f64| each(&sample.scores(), &sample.ids, |s, _, others| match others {
            [] => alone * s,
            _ => s - mean(others),
        });
        for like in ["verl", "areal"] {
            close(&sample.run("rloo", like, &[])?, &single(1.0))?;
        }
        for like in ["verl_vectorized", "trl", "openrlhf", "nemo_rl", "skyrl"] {
            close(&sample.run("rloo", like, &[])?, &single(0.0))?;
        }
    }

    #[test]
    fn maxrl(sample in samples(1)) {
        let (scores, ids) = (sample.scores(), &sample.ids);
        let constant = |group: &[f64]| group.iter().all(|v| *v == group[0]);
        close(&sample.run("maxrl", "skyrl", &[])?, &each(&scores, ids, |s, group, _| {
            match group.len() {
                1 => s,
                _ if constant(group) => 0.0,
                _ => (s - mean(group)) / (mean(group) + 1e-6),
            }
        }))?;
        close(&sample.run("maxrl", "prime_rl", &[])?, &each(&scores, ids, |s, group, _| {
            match mean(group) {
                centre if centre <= 0.0 || constant(group) => 0.0,
                centre => (s - centre) / centre,
            }
        }))?;
    }

    #[test]
    fn opo_and_gpg(sample in samples(1)) {
        let (scores, ids) = (sample.scores(), &sample.ids);
        // A length repeats a score, so that the plain mean of the repeated is the weighted one.
        let tokens = on_tokens(&scores, &sample.lengths);
        let token_ids: Vec<i64> = (0..scores.len())
            .filter(|&i| !scores[i].is_nan())
            .flat_map(|i| std::iter::repeat_n(ids[i], sample.lengths[i]))
            .collect();
        let baseline = |id: i64| {
            let own = tokens.iter().zip(&token_ids).filter(|(_, t)| **t == id);
            mean(&own.map(|(s, _)| *s).collect::<Vec<_>>())
        };
        let want: Vec<f64> = (0..scores.len()).map(|i| match scores[i] {
            s if s.is_nan() => 0.0,
            s => {
                let alone = (0..ids.len()).all(|j| j == i || ids[j] != ids[i] || scores[j].is_nan());
                if alone { s } else { s - baseline(ids[i]) }
            }
        }).collect();
        close(&sample.run("opo", "verl", &[])?, &want)?;

        let present = scores.iter().filter(|s| !s.is_nan()).count() as f64;
        let scored = scores.iter().filter(|s| !s.is_nan() && **s != 0.0).count().max(1) as f64;
        let want = each(&scores, ids, |s, group, _| {
            present / scored * if group.len() == 1 { s } else { s - mean(group) }
        });
        close(&sample.run("gpg", "verl", &[])?, &want)?;
    }

    #[test]
    fn reinforce_pp_baseline(sample in samples(1)) {
        let (scores, lengths) = (sample.scores(), &sample.lengths);
        let raw = each(&scores, &sample.ids, |s, group, _| {
            if group.len() == 1 { s } else { s - mean(group) }
        });
        let want = verl_whiten(&keep_absent(raw, &scores), lengths);
        close(&sample.run("reinforce_pp_baseline", "verl", &[])?, &want)?;

        let centred = each(&scores, &sample.ids, |s, group, _| s - mean(group));
        let centred = keep_absent(centred, &scores);
        let tokens = on_tokens(&centred, lengths);
        let flat = tokens.iter().all(|v| *v == tokens[0]);
        let want: Vec<f64> = centred.iter().map(|&x| match x {
            x if x.is_nan() || flat => 0.0,
            x => (x - mean(&tokens)) / std(&tokens, 0.0).powi(2).max(1e-8).sqrt(),
        }).collect();
        for like in ["openrlhf", "nemo_rl"] {
            let got = sample.run("reinforce_pp_baseline", like, &[])?;
            for (g, w) in got.iter().zip(&want) {
                prop_assert!((g - w).abs() <= 1e-7 * (1.0 + w.abs()), "{got:?} {want:?}");
            }
        }
    }

    #[test]
    fn gdpo(sample in samples(2)) {
        let (ids, weights) = (&sample.ids, [1.0, 0.5]);
        let settings = [("reward_weights", Value::Floats(weights.to_vec()))];
        let summed = |rule: &Rule| -> Vec<f64> {
            let column = |k: usize| -> Vec<f64> { sample.rewards.iter().map(|r| r[k]).collect() };
            let parts = [0, 1].map(|k| keep_absent(each(&column(k), ids, rule), &column(k)));
            (0..ids.len()).map(|i| {
                let terms = [0, 1].map(|k| weights[k] * parts[k][i]);
                let present: Vec<f64> = terms.into_iter().filter(|t| !t.is_nan()).collect();
                if present.is_empty() { f64::NAN } else { present.iter().sum() }
            }).collect()
        };
        let over_rows = |sums: &[f64], eps: f64| {
            each(sums, &vec![0; sums.len()], |s, all, _| match all.len() {
                1 => 0.0,
                _ if std(all, 1.0) <= 1e-12 => 0.0,
                _ => (s - mean(all)) / (std(all, 1.0) + eps),
            })
        };
        let verl = summed(&z_score(|s| s / (1.0 + 1e-6), 1e-6));
        let trl = summed(&z_score(|_| 0.0, 1e-4));
        let wanted = [
            ("verl", verl_whiten(&verl, &sample.lengths)),
            ("trl", over_rows(&trl, 1e-4)),
            ("nemo_rl", over_rows(&summed(&nemo), 0.0)),
        ];
        for (like, want) in wanted {
            close(&sample.run("gdpo", like, &settings)?, &want)?;
        }
    }
}

#[test]
fn maxrl_worked_example() {
    // One success in four: (1 - 1/4) / (1/4) = 3, the weight that log-likelihood gives it.
    let sample = Sample {
        rewards: [1.0, 0.0, 0.0, 0.0].map(|s| vec![s]).to_vec(),
        ids: vec![7; 4],
        lengths: vec![1; 4],
    };
    assert_eq!(sample.run("maxrl", "prime_rl", &[]).unwrap(), [3.0, -1.0, -1.0, -1.0]);
}

/// Two sessions, one of three rows and one of one: verl's GRPO counts sessions, its RLOO rows.
#[test]
fn sessions_of_several_rows() {
    let exec = Exec::default();
    let ids = [0, 0, 0, 0];
    let rollouts = Rollouts::packed(Offsets::even(4, 1).unwrap(), Mask::All(4), &exec)
        .unwrap()
        .with("group_ids", Column::Keys(Keys::Ints(Cow::Borrowed(&ids))))
        .with("outcome_rewards", Column::Floats(Floats::from(vec![1.0, 1.0, 1.0, 0.0])))
        .with_trajectories(&Keys::Ints(Cow::Borrowed(&[5, 5, 5, 6])), None)
        .unwrap();
    let run = |method: &str| {
        let credit = credit::find(method).unwrap().credit(&rollouts, Some("verl"), &Vec::new());
        let Values::Trajectories(got) = credit.unwrap().advantages else {
            panic!("not by session")
        };
        got
    };
    let (grpo, rloo) = (run("grpo"), run("rloo"));
    assert!((grpo[0] - 0.5f64.sqrt()).abs() < 1e-5 && (grpo[1] + 0.5f64.sqrt()).abs() < 1e-5);
    assert!((rloo[0] - 1.0 / 3.0).abs() < 1e-12 && (rloo[1] + 1.0).abs() < 1e-12, "{rloo:?}");
}

/// ReMax from scores alone: packed, every trained token gets `s - b`; as step rows, the last
/// row's score reaches the rows before it, and a NaN score leaves out all rows of its session.
#[test]
fn remax_from_scores() {
    let exec = Exec::default();
    let mask = [1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1];
    let floats = |x: &[f64]| Column::Floats(x.to_vec().into());
    let rows = || {
        Rollouts::packed(Offsets::even(4, 3).unwrap(), Mask::U8(&mask), &exec)
            .unwrap()
            .with("reward_baselines", floats(&[0.5, 0.25, 0.5, 0.0]))
    };
    let run = |rollouts: &Rollouts<'_>| {
        let credit = credit::find("remax").unwrap().credit(rollouts, None, &Vec::new()).unwrap();
        match credit.advantages {
            Values::Tokens(tokens) => tokens.to_vec(),
            other => panic!("{other:?}"),
        }
    };
    let packed = rows().with("outcome_rewards", floats(&[1.0, 2.0, 9.0, f64::NAN]));
    assert_eq!(run(&packed), [0.5, 0.5, 0.0, 1.75, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);

    let sessions = Keys::Ints(Cow::Borrowed(&[1, 1, 2, 3]));
    let steps = rows()
        .with("outcome_rewards", floats(&[7.0, 2.0, 9.0, 1.0]))
        .with_trajectories(&sessions, None)
        .unwrap();
    assert_eq!(run(&steps), [1.75, 1.75, 0.0, 1.75, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);

    let mut rewards = [0.0; 12];
    (rewards[0], rewards[3], rewards[2]) = (1.0, 2.0, 100.0);
    let steps =
        rows().with("token_rewards", floats(&rewards)).with_trajectories(&sessions, None).unwrap();
    assert_eq!(run(&steps)[..4], [2.75, 1.75, 0.0, 1.75]);
    rewards[3] = f64::NAN;
    let steps =
        rows().with("token_rewards", floats(&rewards)).with_trajectories(&sessions, None).unwrap();
    assert_eq!(run(&steps), [0.0; 12]);
    assert_eq!(steps.absent(), 1);
}
