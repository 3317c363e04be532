//! GiGPO: reference cases, and examples worked by hand.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use apportion_core::column::{Column, Keys, Mask};
use apportion_core::credit::{self, Values};
use apportion_core::exec::Exec;
use apportion_core::options::{Settings, Value};
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use common::steps::{Steps, by_row, extra, floats, text, texts};
use common::{Case, cases, flatten, tokens};

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
    for case in cases("gigpo").iter().filter(|case| !case.has_output("ratio")) {
        Steps::of(case).run(None, &settings(case), 1, |rollouts, credit| {
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
