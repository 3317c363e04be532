//! Reference cases of whitening and of the methods whose credit is one number a token.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use apportion_core::column::Mask;
use apportion_core::credit::Credit;
use apportion_core::exec::Exec;
use apportion_core::options::Value;
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use apportion_core::whiten::{Whitening, whiten_tokens};
use common::{Batch, Case, cases, tokens};

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
