//! Reference cases of whitening and of the methods whose credit is one number a token.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::credit::{Credit, Values, find};
use apportion_core::exec::Exec;
use apportion_core::options::{Settings, Value};
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use apportion_core::whiten::{Whitening, whiten_tokens};
use common::{Batch, Case, cases, flatten, tokens};

fn batch(case: &Case, mask: &str, columns: &[(&'static str, &str)]) -> Batch {
    let (rows, width) = case.shape(mask);
    let ids = if case.input("index").is_null() { Vec::new() } else { case.ids("index") };
    let columns = columns.iter().map(|&(name, field)| (name, case.flat(field))).collect();
    Batch { rows, width, mask: case.flat(mask), ids, columns }
}

fn advantages_and_returns(rollouts: &Rollouts<'_>, credit: Credit) -> (Vec<f64>, Vec<f64>) {
    (tokens(rollouts, &credit.advantages), tokens(rollouts, &credit.returns.unwrap()))
}

fn number(case: &Case, name: &str) -> Value {
    Value::Float(case.hyper(name).as_f64().unwrap())
}

#[test]
fn masked_whiten() {
    for case in cases("verl_masked_whiten") {
        let exec = Exec::default();
        let (rows, width) = case.shape("values");
        let mask = case.flat("mask");
        let rows = Offsets::even(rows, width).unwrap();
        let rollouts = Rollouts::packed(rows, Mask::F64(&mask), &exec).unwrap();
        let mut values = case.flat("values");
        let shift_mean = case.hyper("shift_mean") == true;
        let ddof = if case.hyper("unbiased") == true { 1.0 } else { 0.0 };
        let eps = case.hyper("eps").as_f64().unwrap();
        let rule = Whitening { shift_mean, ddof, eps, ..Whitening::VERL };
        whiten_tokens(&rollouts, &mut values, &rule, false, |_| true).unwrap();
        case.check("whitened", &values);
    }
}

#[test]
fn gae() {
    for folder in ["gae", "verl_gae"] {
        for case in cases(folder) {
            let columns = [("token_rewards", "token_level_rewards"), ("values", "values")];
            let settings = [
                ("gamma", number(&case, "gamma")),
                ("lam", number(&case, "lam")),
                ("remask", Value::Bool(false)),
            ];
            let (advantages, returns) = batch(&case, "response_mask", &columns)
                .run("gae", &settings, advantages_and_returns)
                .unwrap();
            let whitened = case.has_output("advantages_whitened");
            case.check(if whitened { "advantages_whitened" } else { "advantages" }, &advantages);
            case.check("returns", &returns);
        }
    }
}

#[test]
fn openrlhf_gae() {
    for case in cases("openrlhf_gae") {
        let settings = [
            ("gamma", number(&case, "gamma")),
            ("lam", case.hyper("lambd").as_f64().map_or(Value::Float(1.0), Value::Float)),
            ("masked", Value::Text("decay".into())),
            ("whiten", Value::Bool(false)),
            ("remask", Value::Bool(false)),
        ];
        let mut batch = batch(&case, "action_mask", &[("token_rewards", "rewards")]);
        // Cumulative returns are the estimator without a critic.
        let critic = case.has_output("advantages");
        let values = if critic { case.flat("values") } else { vec![0.0; batch.mask.len()] };
        batch.columns.push(("values", values));
        let (advantages, returns) = batch.run("gae", &settings, advantages_and_returns).unwrap();
        case.check("returns", &returns);
        if critic {
            case.check("advantages", &advantages);
        }
    }
}

#[test]
fn reinforce_pp() {
    for case in cases("verl_reinforce_pp") {
        let settings = [
            ("gamma", number(&case, "gamma")),
            ("at_mask", Value::Text("reset".into())),
            ("remask", Value::Bool(false)),
        ];
        let batch = batch(&case, "response_mask", &[("token_rewards", "token_level_rewards")]);
        let (advantages, returns) =
            batch.run("reinforce_pp", &settings, advantages_and_returns).unwrap();
        case.check("advantages", &advantages);
        case.check("returns", &returns);
    }
}

#[test]
fn reinforce_pp_carries_decays_or_resets_at_masked_tokens() {
    let batch = Batch {
        rows: 1,
        width: 6,
        mask: vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0],
        ids: Vec::new(),
        columns: vec![("token_rewards", vec![1.0, 8.0, 16.0, 2.0, 4.0, 32.0])],
    };
    let returns = |rule: &str, remask| {
        let settings = [
            ("gamma", Value::Float(0.5)),
            ("at_mask", Value::Text(rule.into())),
            ("remask", Value::Bool(remask)),
        ];
        batch.run("reinforce_pp", &settings, advantages_and_returns).unwrap().1
    };
    assert_eq!(returns("carry", true), [3.0, 0.0, 0.0, 4.0, 4.0, 0.0]);
    assert_eq!(returns("decay", true), [1.5, 0.0, 0.0, 4.0, 4.0, 0.0]);
    assert_eq!(returns("decay", false), [1.5, 1.0, 2.0, 4.0, 4.0, 0.0]);
    assert_eq!(returns("reset", true), [1.0, 0.0, 0.0, 4.0, 4.0, 0.0]);
    assert_eq!(returns("reset", false), [1.0, 8.0, 18.0, 4.0, 4.0, 32.0]);
}

#[test]
fn optimal_token_baselines() {
    for (folder, method) in [("verl_otb", "otb"), ("verl_otb_multi_turn", "tir_otb")] {
        for case in cases(folder) {
            let columns = [
                ("token_rewards", "token_level_rewards"),
                ("old_log_probs", "old_log_probs"),
                ("sum_pi_squared", "sum_pi_squared"),
                ("rollout_is_weights", "rollout_is_weights"),
            ];
            let there = columns.map(|c| !case.input(c.1).is_null());
            let columns: Vec<_> =
                columns.into_iter().zip(there).filter(|c| c.1).map(|c| c.0).collect();
            let settings = [
                ("eps", number(&case, "epsilon")),
                ("zero_tail", Value::Bool(case.hyper("handle_zero_tail") == true)),
            ];
            let (advantages, returns) = batch(&case, "response_mask", &columns)
                .run(method, &settings, advantages_and_returns)
                .unwrap();
            case.check("advantages", &advantages);
            case.check("returns", &returns);
        }
    }
}

/// A padded batch with one more mask: the last token of each step, given as turns.
struct Steps {
    batch: Batch,
    ends: Vec<f64>,
}

impl Steps {
    fn run<T>(
        &self,
        method: &str,
        settings: &[(&str, Value)],
        then: impl FnOnce(&Rollouts<'_>, Credit) -> T,
    ) -> T {
        let Batch { rows, width, mask, ids, columns } = &self.batch;
        let exec = Exec::default();
        let (mut counts, mut spans) = (vec![0], Vec::new());
        for (row, ends) in self.ends.chunks(*width).enumerate() {
            let mut start = row * width;
            for (t, _) in ends.iter().enumerate().filter(|&(_, &end)| end == 1.0) {
                let end = row * width + t + 1;
                spans.extend([start as i64, end as i64]);
                start = end;
            }
            counts.push(spans.len() as i64 / 2);
        }
        let counts = Offsets::listed("turn_offsets", counts, spans.len() / 2).unwrap();
        let keys = Keys::Texts(ids.iter().map(String::as_str).collect());
        let rows = Offsets::even(*rows, *width).unwrap();
        let mut rollouts = Rollouts::packed(rows, Mask::F64(mask), &exec)
            .unwrap()
            .with_turns(&counts, &spans)
            .unwrap()
            .with("group_ids", Column::Keys(keys));
        for (name, values) in columns {
            rollouts = rollouts.with(name, Column::Floats(Floats::F64((&values[..]).into())));
        }
        let settings: Settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let credit = find(method).unwrap().credit(&rollouts, None, &settings).unwrap();
        then(&rollouts, credit)
    }
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

fn extra<'c>(credit: &'c Credit, name: &str) -> &'c Values {
    &credit.extras.iter().find(|(own, _)| *own == name).unwrap().1
}

#[test]
fn grpo_process() {
    for case in cases("grpo_process_supervision_formula") {
        let rewards: Vec<Vec<f64>> =
            case.input("step_rewards").as_array().unwrap().iter().map(flatten).collect();
        let lengths: Vec<Vec<f64>> =
            case.input("step_token_lengths").as_array().unwrap().iter().map(flatten).collect();
        let width = lengths.iter().map(|row| row.iter().sum::<f64>() as usize).max().unwrap();
        let (mut mask, mut ends, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for row in &lengths {
            let mut row_ends = vec![0.0; width];
            let mut end = 0;
            for length in row {
                end += *length as usize;
                row_ends[end - 1] = 1.0;
            }
            ends.extend(row_ends);
            mask.extend((0..width).map(|t| f64::from(u8::from(t < end))));
            wanted.push(end);
        }
        let ids = vec!["a".to_owned(); rewards.len()];
        let columns = vec![("turn_rewards", rewards.concat())];
        let batch = Batch { rows: rewards.len(), width, mask, ids, columns };
        let settings = [("eps", number(&case, "eps"))];
        let got = Steps { batch, ends }.run("grpo_process", &settings, |rollouts, credit| {
            tokens(rollouts, &credit.advantages)
        });
        let rows = got.chunks(width).zip(wanted);
        let got: Vec<f64> = rows.flat_map(|(row, end)| row[..end].to_vec()).collect();
        case.check("advantages", &got);
    }
}

#[test]
fn pure_transform() {
    for case in cases("pure_transform") {
        let (rows, width) = case.shape("step_mask");
        let mask = case.flat("step_mask");
        let logits = case.flat("logits");
        let scores = logits.chunks(2).map(|z| ((z[1] - z[0]) / 2.0).tanh());
        let scores = scores.zip(&mask).map(|(p, m)| p * m).collect();
        let uniform = case.hyper("disable_weighted_reward") == true;
        let settings = [
            ("transform", text(if uniform { "uniform" } else { "softmax" })),
            ("temperature", number(&case, "temperature")),
        ];
        let ids: Vec<String> = (0..rows).map(|row| row.to_string()).collect();
        let columns = vec![("token_rewards", scores)];
        let ends = mask.clone();
        let steps = Steps { batch: Batch { rows, width, mask, ids, columns }, ends };
        let (steps, sums) = steps.run("pure", &settings, |rollouts, credit| {
            let sums = extra(&credit, "process_rewards").clone();
            (tokens(rollouts, extra(&credit, "step_rewards")), sums)
        });
        case.check("transformed_process_reward", &steps);
        let Values::Trajectories(sums) = sums else { unreachable!() };
        case.check("outcome_reward", &sums);
    }
}

#[test]
fn pure_verl() {
    for case in cases("pure_verl_rloo") {
        let settings = [
            ("transform", text("none")),
            ("form", text(case.hyper("return_aggregate_method").as_str().unwrap())),
            ("min_over", text("all")),
            ("baseline_len", text("padded")),
            ("singleton", text("nan")),
            ("whiten", Value::Bool(case.hyper("adv_norm") == true)),
        ];
        let batch = batch(&case, "eos_mask", &[("token_rewards", "token_level_rewards")]);
        let steps = Steps { batch, ends: case.flat("step_end_mask") };
        let (advantages, returns) = steps.run("pure", &settings, advantages_and_returns);
        case.check("advantages", &advantages);
        case.check("returns", &returns);
    }
}

#[test]
fn pure_openrlhf() {
    for case in cases("pure_openrlhf_baseline") {
        for group in 0.. {
            let field = |name: &str| format!("g{group}_{name}");
            if case.input(&field("process_reward")).is_null() {
                break;
            }
            let (rows, width) = case.shape(&field("action_mask"));
            let columns = vec![
                ("token_rewards", case.flat(&field("process_reward"))),
                ("outcome_rewards", case.flat(&field("solved"))),
            ];
            let mask = case.flat(&field("action_mask"));
            let ids = vec![group.to_string(); rows];
            let ends = case.flat(&field("process_reward_mask"));
            let steps = Steps { batch: Batch { rows, width, mask, ids, columns }, ends };
            let verified = case.hyper("reward_mode") == "PRMVR";
            let coef =
                if verified { number(&case, "verifiable_reward_coef") } else { Value::Int(0) };
            let settings = [
                ("transform", text("none")),
                ("baseline", text(case.hyper("reward_baseline").as_str().unwrap())),
                ("outcome_coef", coef),
                ("whiten", Value::Bool(false)),
                ("mask_step_ends", Value::Bool(true)),
            ];
            let got = steps.run("pure", &settings, |rollouts, credit| {
                let shaped = tokens(rollouts, extra(&credit, "shaped_rewards"));
                let Values::Trajectories(agrees) = extra(&credit, "agrees").clone() else {
                    unreachable!()
                };
                (shaped, agrees, advantages_and_returns(rollouts, credit))
            });
            case.check(&format!("baselined_rewards_g{group}"), &got.0);
            case.check(&format!("match_g{group}"), &got.1);
            case.check(&format!("advantages_separator_masked_g{group}"), &got.2.0);
            case.check(&format!("returns_g{group}"), &got.2.1);
        }
    }
}

/// By hand: the worst step decides until it is past; padding and other tokens do not count.
#[test]
fn pure_takes_the_minimum_over_ends_of_steps() {
    let batch = Batch {
        rows: 2,
        width: 5,
        mask: vec![1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        ids: vec!["a".to_owned(); 2],
        columns: vec![("turn_rewards", vec![0.5, 0.25, 0.75, 0.5])],
    };
    let ends = vec![1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
    let settings =
        [("transform", text("none")), ("form", text("min")), ("whiten", Value::Bool(false))];
    let (advantages, _) = Steps { batch, ends }.run("pure", &settings, advantages_and_returns);
    // Returns .25 .25 .25 .75 and .5 .5 0 0 0; summed returns 1.5 and 1; five tokens at most.
    let wanted = [0.05, 0.05, 0.05, 0.55, 0.0, 0.2, 0.2, -0.3, -0.3, -0.3];
    for (got, want) in advantages.iter().zip(wanted) {
        assert!((got - want).abs() < 1e-12, "{advantages:?}");
    }
}
