//! Reference cases of the methods whose credit is one number a turn: A2TGPO, IGPO.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::credit::{self, Credit, Values};
use apportion_core::error::Result;
use apportion_core::exec::Exec;
use apportion_core::options::{Settings, Value};
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use apportion_core::spread::to_tokens;
use common::{Batch, Case, cases, tokens};

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

fn number(case: &Case, name: &str) -> Value {
    Value::Float(case.hyper(name).as_f64().unwrap())
}

fn scale(case: &Case) -> Value {
    text(if case.hyper("norm_adv_by_std_in_grpo") == false { "none" } else { "std" })
}

fn batch(case: &Case) -> Batch {
    let (rows, width) = case.shape("response_mask");
    Batch {
        rows,
        width,
        mask: case.flat("response_mask"),
        ids: case.ids("index"),
        columns: vec![("token_rewards", case.flat("token_level_rewards"))],
    }
}

fn clip_scale(rollouts: &Rollouts<'_>, credit: &Credit) -> Vec<f64> {
    to_tokens(rollouts, credit.clip_scale.as_ref().unwrap(), 1.0, true).unwrap().to_vec()
}

#[test]
fn a2tgpo() {
    for case in cases("a2tgpo") {
        if !case.has_output("advantages") {
            continue; // The loss's cases belong to the loss.
        }
        let settings = [
            ("boundary", text("nonzero")),
            ("mode", text(case.hyper("info_gain_norm_mode").as_str().unwrap())),
            ("gamma", number(&case, "gamma")),
            ("alpha", number(&case, "adv_rescale_alpha")),
            ("eps", number(&case, "epsilon")),
            ("scale", scale(&case)),
        ];
        batch(&case)
            .run("a2tgpo", &settings, |rollouts, credit| {
                case.check("advantages", &tokens(rollouts, &credit.advantages));
                if case.has_output("clip_scale") {
                    case.check("clip_scale", &clip_scale(rollouts, &credit));
                }
            })
            .unwrap();
    }
}

#[test]
fn igpo() {
    for case in cases("igpo") {
        let settings = [
            ("boundary", text("nonzero")),
            ("mode", text(case.hyper("info_gain_norm_mode").as_str().unwrap())),
            ("gamma", number(&case, "gamma")),
            ("outcome_weight", number(&case, "curriculum_f1_weight")),
            ("gain_weight", number(&case, "curriculum_ig_weight")),
            ("eps", number(&case, "epsilon")),
        ];
        let got = batch(&case).run("igpo", &settings, |r, c| tokens(r, &c.advantages)).unwrap();
        case.check("advantages", &got);
    }
}

/// Two trajectories of three turns in each layout: gains 0.5, 0 | outcome, NaN, 0.2 | outcome.
const MASK: [f64; 12] = [1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0];
const TURN_REWARDS: [f64; 6] = [0.5, 0.0, 1.0, f64::NAN, 0.2, 0.0];

fn packed<'a>(exec: &'a Exec<'a>) -> Rollouts<'a> {
    Rollouts::packed(Offsets::even(2, 6).unwrap(), Mask::F64(&MASK), exec)
        .unwrap()
        .with("group_ids", Column::Keys(Keys::Texts(vec!["p", "p"])))
        .with("turn_rewards", Column::Floats(Floats::F64((&TURN_REWARDS[..]).into())))
}

/// The same trajectories, one row of one token a turn, out of order.
const PLACES: [usize; 6] = [4, 0, 2, 1, 5, 3];

fn step_rows<'a>(exec: &'a Exec<'a>) -> Rollouts<'a> {
    let of_row = |turn_values: [f64; 6]| -> Vec<f64> {
        let mut out = vec![0.0; 6];
        PLACES.iter().zip(turn_values).for_each(|(&place, value)| out[place] = value);
        out
    };
    let index: Vec<i64> =
        of_row([0.0, 1.0, 2.0, 0.0, 1.0, 2.0]).iter().map(|&x| x as i64).collect();
    let owner: Vec<i64> =
        of_row([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).iter().map(|&x| x as i64).collect();
    Rollouts::packed(Offsets::even(6, 1).unwrap(), Mask::All(6), exec)
        .unwrap()
        .with("group_ids", Column::Keys(Keys::Texts(vec!["p"; 6])))
        .with("turn_rewards", Column::Floats(of_row(TURN_REWARDS).into()))
        .with_trajectories(&Keys::Ints(owner.into()), Some(&index))
        .unwrap()
}

fn run(rollouts: &Rollouts<'_>, method: &str, settings: &[(&str, Value)]) -> Result<Credit> {
    let settings: Settings = settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    credit::find(method)?.credit(rollouts, None, &settings)
}

fn by_turn(values: &Values) -> &[f64] {
    match values {
        Values::Turns(values) => values,
        other => panic!("expected one value a turn, got {other:?}"),
    }
}

fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < 1e-5, "got {got:?}, expected {want:?}");
    }
}

#[test]
fn explicit_turns_keep_zero_gains_and_both_layouts_agree() {
    let exec = Exec::default();
    // Turn 0 has one gain (the other is absent), turn 1 has 0 and 0.2; outcomes 1 and 0.
    let root = 2.0f64.sqrt();
    let want = [1.0 - 0.3 / root, 0.7, 1.0, -1.0 + 0.3 / root, -0.7, -1.0];
    let scale = 1.0 + 0.3 * 0.5f64.tanh();
    for rollouts in [packed(&exec), step_rows(&exec)] {
        let credit = run(&rollouts, "a2tgpo", &[]).unwrap();
        close(by_turn(&credit.advantages), &want);
        let clip = by_turn(credit.clip_scale.as_ref().unwrap());
        close(clip, &[1.0, 2.0 - scale, 1.0, 1.0, scale, 1.0]);
        let separate = run(&rollouts, "a2tgpo", &[("mode", text("separate"))]).unwrap();
        assert_eq!(separate.advantages, run(&rollouts, "igpo", &[]).unwrap().advantages);
    }
}

/// The last turn gets the plain outcome part, the others 1.5 times it: with gamma 0 the
/// accumulated gains are the gains themselves.
#[test]
fn turn_group_mode_by_hand() {
    let exec = Exec::default();
    let settings = [("mode", text("turn-group")), ("gamma", Value::Float(0.0))];
    let credit = run(&packed(&exec), "a2tgpo", &settings).unwrap();
    // The absent gain counts 0, so turn 0 compares 0.5 with 0 and turn 1 0 with 0.2.
    close(by_turn(&credit.advantages), &[2.5, 0.5, 1.0, -2.5, -0.5, -1.0]);
    assert!(credit.clip_scale.is_none());
}

#[test]
fn outcome_rewards_come_first_and_an_absent_one_silences_its_trajectory() {
    let exec = Exec::default();
    let outcomes = |values: Vec<f64>| {
        let rollouts = packed(&exec).with("outcome_rewards", Column::Floats(values.into()));
        by_turn(&run(&rollouts, "igpo", &[]).unwrap().advantages).to_vec()
    };
    close(&outcomes(vec![0.0, 3.0])[2..3], &[-1.0]);
    let got = outcomes(vec![f64::NAN, 3.0]);
    assert_eq!(got, [0.0; 6]);
}

#[test]
fn nonzero_boundaries_need_packed_rows() {
    let exec = Exec::default();
    let error = run(&step_rows(&exec), "igpo", &[("boundary", text("nonzero"))]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "igpo: option boundary: got \"nonzero\" with one row a turn, expected \"explicit\", or one row a trajectory"
    );
}
