//! GiGPO: reference cases, and its parts against naive versions of them.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::HashMap;

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::credit::{self, Credit, Values};
use apportion_core::error::Error;
use apportion_core::exec::Exec;
use apportion_core::options::{Settings, Value};
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use apportion_core::similarity::{Similar, Similarity, difflib_ratio, first_fit, indel_ratio};
use apportion_core::spread::scatter;
use common::{Case, cases, flatten, tokens};
use proptest::prelude::*;

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

/// Step rows as the reference takes them.
struct Steps {
    width: usize,
    mask: Vec<f64>,
    token_rewards: Vec<f64>,
    turn_rewards: Vec<f64>,
    groups: Vec<String>,
    trajectories: Vec<String>,
    anchors: Vec<String>,
}

impl Steps {
    fn of(case: &Case) -> Self {
        Self {
            width: case.shape("response_mask").1,
            mask: case.flat("response_mask"),
            token_rewards: case.flat("token_level_rewards"),
            turn_rewards: case.flat("step_rewards_raw"),
            groups: case.ids("uid"),
            trajectories: case.ids("traj_uid"),
            anchors: case.ids("anchor_obs"),
        }
    }

    fn run<T>(
        &self,
        like: Option<&str>,
        settings: &Settings,
        threads: usize,
        then: impl FnOnce(&Rollouts<'_>, &Credit) -> T,
    ) -> T {
        let exec = Exec::new(threads, None);
        let rows = Offsets::even(self.groups.len(), self.width).unwrap();
        let rollouts = Rollouts::packed(rows, Mask::F64(&self.mask), &exec)
            .unwrap()
            .with("group_ids", Column::Keys(texts(&self.groups)))
            .with("anchors", Column::Keys(texts(&self.anchors)))
            .with("token_rewards", floats(&self.token_rewards))
            .with("turn_rewards", floats(&self.turn_rewards))
            .with_trajectories(&texts(&self.trajectories), None)
            .unwrap();
        let credit = credit::find("gigpo").unwrap().credit(&rollouts, like, settings).unwrap();
        then(&rollouts, &credit)
    }
}

fn floats(values: &[f64]) -> Column<'_> {
    Column::Floats(Floats::F64(values.into()))
}

fn texts(ids: &[String]) -> Keys<'_> {
    Keys::Texts(ids.iter().map(String::as_str).collect())
}

fn extra<'c>(credit: &'c Credit, name: &str) -> &'c Values {
    &credit.extras.iter().find(|(extra, _)| *extra == name).unwrap().1
}

fn by_row(rollouts: &Rollouts<'_>, values: &Values) -> Vec<f64> {
    let Values::Turns(values) = values else { panic!("one value a turn") };
    scatter(values, rollouts.turn_places().unwrap())
}

/// Labels numbered by first appearance: the reference's ids are random, so only the
/// partition means anything.
fn partition<T: PartialEq>(labels: &[T]) -> Vec<usize> {
    labels.iter().map(|l| labels.iter().position(|other| other == l).unwrap()).collect()
}

fn settings(case: &Case) -> Settings {
    let scale = if case.hyper("mode") == "mean_std_norm" { "std" } else { "none" };
    let rows = case.hyper("compute_mean_std_cross_steps") == true;
    let number = |name| Value::Float(case.hyper(name).as_f64().unwrap());
    let mut settings = vec![
        ("gamma", number("gamma")),
        ("step_weight", number("step_advantage_w")),
        ("eps", number("epsilon")),
        ("scale", text(scale)),
        ("stats_over", text(if rows { "rows" } else { "trajectories" })),
    ];
    if case.hyper("enable_similarity") == true {
        settings.push(("similarity", text("difflib")));
        settings.push(("similarity_threshold", number("similarity_thresh")));
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[test]
fn reference_cases() {
    for case in cases("gigpo") {
        if case.has_output("ratio") {
            check_ratios(&case);
            continue;
        }
        Steps::of(&case).run(None, &settings(&case), 1, |rollouts, credit| {
            let extra = |name| extra(credit, name);
            case.check("advantages", &tokens(rollouts, &credit.advantages));
            case.check("step_returns", &by_row(rollouts, extra("step_returns")));
            case.check("episode_advantage_row", &tokens(rollouts, extra("episode_advantage")));
            case.check("step_advantage", &tokens(rollouts, extra("step_advantage")));
            let want = partition(&flatten(case.output("step_group_id")));
            let got = by_row(rollouts, extra("step_group_id"));
            assert_eq!(partition(&got), want, "{}: step_group_id", case.name);
        });
    }
}

fn check_ratios(case: &Case) {
    let exec = Exec::default();
    let pairs = case.input("pairs").as_array().unwrap();
    let ratios: Vec<f64> = pairs
        .iter()
        .map(|pair| {
            let (a, b) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
            difflib_ratio(a, b, &exec).unwrap()
        })
        .collect();
    case.check("ratio", &ratios);
}

#[test]
fn long_comparisons_can_be_stopped() {
    let stop = || true;
    let exec = Exec::new(1, Some(&stop));
    let long: String = (0..120_000u32).filter_map(|i| char::from_u32(i * 7919 % 1200)).collect();
    let turned: String = long.chars().rev().collect();
    assert_eq!(difflib_ratio(&long, &turned, &exec), Err(Error::Interrupted));
    assert_eq!(indel_ratio(&long, &turned, 0.0, &exec), Err(Error::Interrupted));
    let rule = Similar { similarity: Similarity::Indel, threshold: 0.95 };
    let many: Vec<String> = (0..40_000).map(|i| format!("state number {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(first_fit(&many, rule, &exec), Err(Error::Interrupted));
}

/// Two prompts, two trajectories of two turns each, in the same state but for a clock.
fn clocks() -> Steps {
    let ids = |form: fn(usize) -> String| (0..8).map(form).collect::<Vec<_>>();
    Steps {
        width: 1,
        mask: vec![1.0; 8],
        token_rewards: vec![1.0, 1.0, 0.0, 0.0, 3.0, 3.0, 3.0, 3.0],
        turn_rewards: vec![0.0, 1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 3.0],
        groups: ids(|i| format!("g{}", i / 4)),
        trajectories: ids(|i| format!("t{}", i / 2)),
        anchors: ids(|i| format!("room {} at 08:00:{i}0", ["a", "b"][i % 2])),
    }
}

fn set(settings: &[(&str, &str)]) -> Settings {
    settings.iter().map(|&(name, value)| (name.to_owned(), text(value))).collect()
}

#[test]
fn masked_anchors_are_one_state() {
    let states = |settings: &[(&str, &str)]| {
        clocks().run(None, &set(settings), 1, |r, c| by_row(r, extra(c, "step_group_id")))
    };
    let apart: Vec<f64> = (0..8).map(f64::from).collect();
    assert_eq!(states(&[]), apart);
    assert_eq!(states(&[("anchor_mask", "iso_time")]), [0., 1., 0., 1., 2., 3., 2., 3.]);
    let within_batch = [("anchor_mask", "digits"), ("states_within", "batch")];
    assert_eq!(states(&within_batch), [0., 1., 0., 1., 0., 1., 0., 1.]);
    assert_eq!(states(&[("similarity", "indel")]), apart, "16 characters, 2 apart");
}

#[test]
fn like_roll_pools_states_of_the_batch_and_zeroes_groups_without_spread() {
    let mut settings = set(&[("anchor_mask", "iso_time")]);
    settings.push(("gamma".to_owned(), Value::Float(1.0)));
    let (advantages, episode) = clocks().run(Some("roll"), &settings, 1, |r, c| {
        (by_row(r, &c.advantages), by_row(r, extra(c, "episode_advantage")))
    });
    let z = |x: f64, all: &[f64]| {
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let var = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (all.len() - 1) as f64;
        (x - mean) / (var.sqrt() + 1e-6)
    };
    // Outcomes 1 1 0 0 | 3 3 3 3; returns 1 1 0 0 | 3 2 3 3 with states a b a b | a b a b.
    let outcomes = [1.0, 1.0, 0.0, 0.0];
    let returns = [[1.0, 0.0, 3.0, 3.0], [1.0, 0.0, 2.0, 3.0]];
    for i in 0..8 {
        let want = if i < 4 { z(outcomes[i], &outcomes) } else { 0.0 };
        assert!((episode[i] - want).abs() < 1e-12, "{episode:?}");
        let step = z(returns[i % 2][i / 2], &returns[i % 2]);
        assert!((advantages[i] - want - step).abs() < 1e-12, "{advantages:?}");
    }
}

#[test]
fn packed_rows_and_step_rows_agree() {
    let steps = clocks();
    let settings = set(&[("anchor_mask", "digits"), ("stats_over", "trajectories")]);
    let want = steps.run(None, &settings, 1, |r, c| by_row(r, &c.advantages));
    // A trajectory a row: its turns are the runs of the mask, its outcome stands once.
    let exec = Exec::default();
    let mask = [1u8, 1, 0, 1].repeat(4);
    let ids: Vec<i64> = vec![0, 0, 1, 1];
    let outcomes: Vec<f64> = steps.token_rewards.iter().copied().step_by(2).collect();
    let rollouts = Rollouts::packed(Offsets::even(4, 4).unwrap(), Mask::U8(&mask), &exec)
        .unwrap()
        .with("group_ids", Column::Keys(Keys::Ints(ids.into())))
        .with("anchors", Column::Keys(texts(&steps.anchors)))
        .with("outcome_rewards", floats(&outcomes))
        .with("turn_rewards", floats(&steps.turn_rewards));
    let credit = credit::find("gigpo").unwrap().credit(&rollouts, None, &settings).unwrap();
    assert_eq!(credit.advantages, Values::Turns(want.clone()));
    let spread = tokens(&rollouts, &credit.advantages);
    assert_eq!(spread[..4], [want[0], want[0], 0.0, want[1]]);
}

#[test]
fn only_strings_can_be_alike() {
    let exec = Exec::default();
    let mask = [1u8];
    let rollouts = Rollouts::packed(Offsets::even(1, 1).unwrap(), Mask::U8(&mask), &exec)
        .unwrap()
        .with("group_ids", Column::Keys(Keys::Ints(vec![0].into())))
        .with("anchors", Column::Keys(Keys::Ints(vec![0].into())))
        .with("outcome_rewards", floats(&[1.0]))
        .with("turn_rewards", floats(&[1.0]));
    let gigpo = credit::find("gigpo").unwrap();
    assert!(gigpo.credit(&rollouts, None, &vec![]).is_ok());
    for setting in [("similarity", "difflib"), ("anchor_mask", "hex")] {
        let error = gigpo.credit(&rollouts, None, &set(&[setting])).unwrap_err();
        assert_eq!(error.to_string(), "anchors: got integers, expected strings");
    }
}

#[test]
fn absent_rewards_leave_the_statistics() {
    let mut steps = clocks();
    steps.token_rewards[0] = f64::NAN;
    steps.turn_rewards[3] = f64::NAN;
    let settings = set(&[("anchor_mask", "digits")]);
    let part = |name: &str| steps.run(None, &settings, 1, |r, c| by_row(r, extra(c, name)));
    let third = 1.0 / 3.0;
    assert_eq!(part("episode_advantage")[..4], [0.0, 1.0 - third, -third, -third]);
    // The second trajectory has no return, so the first is alone in both states.
    assert_eq!(part("step_advantage")[..4], [0.0; 4]);
}

/// `difflib` as its documentation describes it, by recursion and plain search.
/// (Python's own module is the oracle in `tests/`.)
fn naive_difflib(a: &[char], b: &[char], popular: &[char]) -> usize {
    let (mut i, mut j, mut best) = (0, 0, 0);
    for x in 0..a.len() {
        for y in 0..b.len() {
            let pairs = a[x..].iter().zip(&b[y..]);
            let length = pairs.take_while(|(p, q)| p == q && !popular.contains(p)).count();
            if length > best {
                (i, j, best) = (x, y, length);
            }
        }
    }
    while i > 0 && j > 0 && a[i - 1] == b[j - 1] {
        (i, j, best) = (i - 1, j - 1, best + 1);
    }
    best += a[i + best..].iter().zip(&b[j + best..]).take_while(|(p, q)| p == q).count();
    if best == 0 {
        return 0;
    }
    best + naive_difflib(&a[..i], &b[..j], popular)
        + naive_difflib(&a[i + best..], &b[j + best..], popular)
}

fn naive_difflib_ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut counts = HashMap::new();
    b.iter().for_each(|&symbol| *counts.entry(symbol).or_insert(0) += 1);
    let most = if b.len() >= 200 { b.len() / 100 + 1 } else { b.len() };
    let popular: Vec<char> =
        counts.into_iter().filter(|&(_, n)| n > most).map(|(symbol, _)| symbol).collect();
    naive_ratio(naive_difflib(&a, &b, &popular), a.len() + b.len())
}

fn naive_indel_ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..a.len() {
        for j in 0..b.len() {
            table[i + 1][j + 1] =
                if a[i] == b[j] { table[i][j] + 1 } else { table[i][j + 1].max(table[i + 1][j]) };
        }
    }
    naive_ratio(table[a.len()][b.len()], a.len() + b.len())
}

fn naive_ratio(matched: usize, total: usize) -> f64 {
    if total == 0 { 1.0 } else { 2.0 * matched as f64 / total as f64 }
}

/// A string and a second one made from it by a few edits, or an unrelated one.
fn pair() -> impl Strategy<Value = (String, String)> {
    let alphabet = prop_oneof![
        Just(vec!['a', 'b']),
        Just("abcdefgh 12".chars().collect::<Vec<_>>()),
        Just("aé观\u{10400}b".chars().collect()),
    ];
    alphabet.prop_flat_map(|alphabet| {
        let symbol = prop::sample::select(alphabet);
        let base = prop::collection::vec(symbol.clone(), 0..320);
        let edit = (any::<prop::sample::Index>(), prop::option::of(symbol.clone()));
        let edits = prop::collection::vec(edit, 0..12);
        (base.clone(), edits, prop::option::weighted(0.2, base)).prop_map(|(base, edits, other)| {
            let mut edited = base.clone();
            for (at, symbol) in edits {
                let at = at.index(edited.len() + 1);
                match symbol {
                    Some(symbol) => edited.insert(at, symbol),
                    None if at < edited.len() => drop(edited.remove(at)),
                    None => {}
                }
            }
            (base.into_iter().collect(), other.unwrap_or(edited).into_iter().collect())
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn difflib_equals_the_naive_one((a, b) in pair()) {
        let got = difflib_ratio(&a, &b, &Exec::default()).unwrap();
        prop_assert_eq!(got, naive_difflib_ratio(&a, &b));
    }

    #[test]
    fn indel_equals_the_table_and_its_cutoff_changes_no_decision(
        (a, b) in pair(), cutoff in 0.0..=1.0f64,
    ) {
        let (exec, want) = (Exec::default(), naive_indel_ratio(&a, &b));
        prop_assert_eq!(indel_ratio(&a, &b, 0.0, &exec).unwrap(), want);
        prop_assert_eq!(indel_ratio(&a, &b, want, &exec).unwrap(), want);
        let cut = indel_ratio(&a, &b, cutoff, &exec).unwrap();
        prop_assert_eq!(cut, if want >= cutoff { want } else { 0.0 });
        prop_assert!(naive_difflib_ratio(&a, &b) <= want);
    }

    #[test]
    fn first_fit_equals_the_naive_loop(
        pairs in prop::collection::vec(pair(), 0..5), threshold in 0.0..=1.0f64,
    ) {
        let all: Vec<&str> = pairs.iter().flat_map(|(a, b)| [&a[..], &b[..]]).collect();
        for (similarity, ratio) in [
            (Similarity::Difflib, naive_difflib_ratio as fn(&str, &str) -> f64),
            (Similarity::Indel, naive_indel_ratio),
        ] {
            let mut want: Vec<usize> = Vec::new();
            for (i, text) in all.iter().enumerate() {
                let fits = |&j: &usize| want[j] == j && ratio(text, all[j]) >= threshold;
                want.push((0..i).find(fits).unwrap_or(i));
            }
            let rule = Similar { similarity, threshold };
            prop_assert_eq!(first_fit(&all, rule, &Exec::default()).unwrap(), want);
        }
    }

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
    let mut state: Vec<usize> = Vec::new();
    for i in 0..n {
        let fits = |&j: &usize| {
            steps.groups[i] == steps.groups[j]
                && state[j] == j
                && (steps.anchors[i] == steps.anchors[j]
                    || similar && naive_difflib_ratio(&steps.anchors[i], &steps.anchors[j]) >= 0.8)
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
