//! Reference cases of the methods whose credit is one number a turn: A2TGPO, IGPO, MatchTIR.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::credit::{self, Credit, Values};
use apportion_core::error::Result;
use apportion_core::exec::Exec;
use apportion_core::matching::{Scores, greedy, optimal};
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

/// One trajectory whose turns each make one of the calls, and its gold calls; the rewards
/// of the turns are then those of the calls.
fn call_rewards(case: &Case, settings: &[(&str, Value)]) -> Vec<f64> {
    let calls = case.input("preds").as_array().unwrap();
    let calls: Vec<String> = calls.iter().map(|call| format!("[{call}]")).collect();
    let gold = case.input("gts").to_string();
    let mask: Vec<f64> = calls.iter().flat_map(|_| [1.0, 0.0]).collect();
    let exec = Exec::default();
    let rollouts = Rollouts::packed(Offsets::even(1, mask.len()).unwrap(), Mask::F64(&mask), &exec)
        .unwrap()
        .with("group_ids", Column::Keys(Keys::Ints(vec![0].into())))
        .with("tool_calls", texts(calls.iter().map(String::as_str).collect()))
        .with("gold_calls", texts(vec![&gold]));
    let credit = run(&rollouts, "matchtir", settings).unwrap();
    by_turn(extra(&credit, "turn_rewards")).to_vec()
}

fn texts(values: Vec<&str>) -> Column<'_> {
    Column::Keys(Keys::Texts(values))
}

fn extra<'c>(credit: &'c Credit, name: &str) -> &'c Values {
    &credit.extras.iter().find(|(own, _)| *own == name).unwrap().1
}

#[test]
fn matchtir() {
    for case in cases("matchtir") {
        if case.has_output("advantages") {
            let settings = [("lam", number(&case, "lam")), ("scale", scale(&case))];
            let got =
                batch(&case).run("matchtir", &settings, |r, c| tokens(r, &c.advantages)).unwrap();
            case.check("advantages", &got);
        } else if case.has_output("rewards") {
            let settings = [("assign", text("sinkhorn")), ("reg", number(&case, "reg"))];
            case.check("rewards", &call_rewards(&case, &settings));
        } else if case.has_output("rewards_train") {
            let greedy = ("assign", text("greedy"));
            case.check("rewards_train", &call_rewards(&case, std::slice::from_ref(&greedy)));
            let penalty = ("unmatched", number(&case, "unmatched_penalty_default"));
            case.check("rewards_default_penalty", &call_rewards(&case, &[greedy, penalty]));
        } else if case.has_output("f1") {
            case.check("f1", &answer_scores(&case));
        } else {
            check_assignments(&case);
        }
    }
}

fn answer_scores(case: &Case) -> Vec<f64> {
    let pairs = case.input("pairs").as_array().unwrap();
    let side = |at: usize| pairs.iter().map(|pair| pair[at].as_str().unwrap()).collect();
    let exec = Exec::default();
    let rows = pairs.len();
    let rollouts = Rollouts::packed(Offsets::even(rows, 1).unwrap(), Mask::All(rows), &exec)
        .unwrap()
        .with("group_ids", Column::Keys(Keys::Ints(vec![0; rows].into())))
        .with("tool_calls", texts(vec![""; rows]))
        .with("gold_calls", texts(vec!["[]"; rows]))
        .with("texts", texts(side(0)))
        .with("gold_answers", texts(side(1)));
    by_turn(extra(&run(&rollouts, "matchtir", &[]).unwrap(), "turn_rewards")).to_vec()
}

fn check_assignments(case: &Case) {
    let (rows, columns) = case.shape("similarity");
    let scores = Scores::new(case.flat("similarity"), rows, columns).unwrap();
    let numbers = |pairing: Vec<Option<usize>>| -> Vec<f64> {
        pairing.into_iter().map(|column| column.map_or(f64::NAN, |c| c as f64)).collect()
    };
    case.check("assignment", &numbers(greedy(&scores)));
    case.check("optimal_assignment_scipy", &numbers(optimal(&scores, &Exec::default()).unwrap()));
}

#[test]
fn matching_finds_the_best_total_and_names_bad_json() {
    let exec = Exec::default();
    let call = |name: &str, a: i32| format!(r#"[{{"name": "{name}", "arguments": {{"a": {a}}}}}]"#);
    let good =
        [call("f", 1), String::new(), call("f", 2), call("g", 3), call("f", 1), call("f", 1)];
    let gold = [r#"[{"name": "F", "parameters": {"a": 1.0}}]"#, "[]"];
    let with = |calls: Vec<&'static str>| {
        Rollouts::packed(Offsets::even(2, 6).unwrap(), Mask::F64(&MASK), &exec)
            .unwrap()
            .with("group_ids", texts(vec!["p", "p"]))
            .with("tool_calls", texts(calls))
            .with("gold_calls", texts(gold.to_vec()))
    };
    let good: Vec<&'static str> = good.into_iter().map(|s| &*s.leak()).collect();
    let rewards = |assign: &str| {
        let credit = run(&with(good.clone()), "matchtir", &[("assign", text(assign))]).unwrap();
        by_turn(extra(&credit, "turn_rewards")).to_vec()
    };
    assert_eq!(rewards("optimal"), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    close(&rewards("sinkhorn"), &[0.5, 0.0, 1.0 / 3.0, 0.0, 0.0, 0.0]);

    let mut bad = good;
    bad[3] = "[{";
    let error = run(&with(bad), "matchtir", &[]).unwrap_err().to_string();
    assert!(error.starts_with("tool_calls[3]: got \"[{\" (EOF while parsing"), "{error}");
}

#[test]
fn matchtir_agrees_in_both_layouts() {
    let exec = Exec::default();
    let credit = |rollouts| run(&rollouts, "matchtir", &[]).unwrap().advantages;
    assert_eq!(credit(packed(&exec)), credit(step_rows(&exec)));
    // Turn 2: 1 and 0. The second trajectory's sums from turn 0 on hold an absent reward,
    // so that the first stands alone there and keeps 0.5 + 0.9 * 0.9; its total stays raw.
    let spread = 0.5f64.sqrt();
    let sums = [1.31, (0.9 - 0.2) / 2.0 / (0.7 * spread), 0.5 / spread];
    let want = [sums[0], sums[1], sums[2], 0.0, -sums[1], -sums[2]];
    let raw = [1.5, 1.5, 1.5, 0.0, 0.0, 0.0];
    let want: Vec<f64> = want.iter().zip(raw).map(|(a, b)| (a + b) / 2.0).collect();
    close(by_turn(&credit(packed(&exec))), &want);
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
