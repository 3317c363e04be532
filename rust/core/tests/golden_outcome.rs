//! Reference cases of the methods whose credit is one number a trajectory.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use apportion_core::credit::Credit;
use apportion_core::error::Error;
use apportion_core::options::Value;
use apportion_core::reward::Shaping;
use apportion_core::rollouts::Rollouts;
use common::{Batch, Case, cases, tokens};

/// Cases whose reference, in single precision, is further off the exact value than
/// float32 outputs are compared at, with the relative tolerance that they need and why.
const TOLERANCES: &[(&str, f64)] = &[
    // Variance as E[x^2] - E[x]^2, which cancels: 3.1e-5 off in one group.
    ("verl_grpo_vectorized/case_04_ragged_uneven_groups", 5e-5),
];

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
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

/// Advantages and returns over tokens; a method without returns of its own has its advantages'.
fn both(rollouts: &Rollouts<'_>, credit: Credit) -> (Vec<f64>, Vec<f64>) {
    let returns = credit.returns.as_ref().unwrap_or(&credit.advantages);
    (tokens(rollouts, &credit.advantages), tokens(rollouts, returns))
}

fn check(case: &Case, batch: &Batch, method: &str, settings: &[(&str, Value)]) {
    let (advantages, returns) = batch.run(method, settings, both).unwrap();
    let own = TOLERANCES.iter().find(|(name, _)| *name == case.name);
    let rtol = own.map_or(case.rtol(), |(_, rtol)| *rtol);
    case.check_within("advantages", &advantages, rtol);
    case.check_within("returns", &returns, rtol);
}

fn check_all(folder: &str, method: &str, settings: &[(&str, Value)]) {
    cases(folder).iter().for_each(|case| check(case, &batch(case), method, settings));
}

fn std_or_none(case: &Case) -> Value {
    text(if case.hyper("norm_adv_by_std_in_grpo") == true { "std" } else { "none" })
}

#[test]
fn grpo() {
    for folder in ["grpo", "verl_grpo", "verl_dr_grpo_adv"] {
        for case in cases(folder) {
            check(&case, &batch(&case), "grpo", &[("scale", std_or_none(&case))]);
        }
    }
}

#[test]
fn grpo_vectorized() {
    for case in cases("verl_grpo_vectorized") {
        let eps = Value::Float(case.hyper("epsilon").as_f64().unwrap());
        let settings = [("scale", std_or_none(&case)), ("eps", eps.clone()), ("var_floor", eps)];
        check(&case, &batch(&case), "grpo", &settings);
    }
}

#[test]
fn grpo_passk() {
    for case in cases("verl_grpo_passk") {
        let settings = [("scale", std_or_none(&case))];
        if case.has_output("error") {
            let got = batch(&case).run("grpo_passk", &settings, both);
            let message = case.output("error").as_str().unwrap();
            assert!(message.contains("at least 2"), "{}: {message}", case.name);
            assert!(
                matches!(got, Err(Error::GroupTooSmall { trajectory: 0, got: 1, expected: 2, .. })),
                "{}: {got:?}",
                case.name
            );
        } else {
            check(&case, &batch(&case), "grpo_passk", &settings);
        }
    }
}

#[test]
fn rloo() {
    check_all("verl_rloo", "rloo", &[]);
    check_all("verl_rloo_vectorized", "rloo", &[("singleton", text("zero"))]);
}

#[test]
fn opo() {
    check_all("verl_opo", "opo", &[]);
}

#[test]
fn gpg() {
    check_all("verl_gpg", "gpg", &[]);
}

#[test]
fn reinforce_pp_baseline() {
    check_all("verl_reinforce_pp_baseline", "reinforce_pp_baseline", &[]);
}

#[test]
fn remax() {
    for case in cases("verl_remax") {
        let mut batch = batch(&case);
        batch.columns.push(("reward_baselines", case.flat("reward_baselines")));
        check(&case, &batch, "remax", &[("remask", Value::Bool(false))]);
    }
}

/// TRL's reward matrix: one token a row, so that token credit is row credit.
#[test]
fn trl() {
    for case in cases("trl_grpo_advantage") {
        let (rows, _) = case.shape("rewards_per_func");
        let block = case.hyper("num_generations").as_u64().unwrap() as usize;
        let batch = Batch {
            rows,
            width: 1,
            mask: vec![1.0; rows],
            ids: (0..rows).map(|row| (row / block).to_string()).collect(),
            columns: vec![("reward_matrix", case.flat("rewards_per_func"))],
        };
        let weights = common::flatten(case.hyper("reward_weights"));
        let eps = Value::Float(case.hyper("eps").as_f64().unwrap());
        let mut settings = vec![
            ("reward_weights", Value::Floats(weights)),
            ("singleton", text("zero")),
            ("eps", eps.clone()),
        ];
        let method = if case.hyper("multi_objective_aggregation") == "sum_then_normalize" {
            let scale = case.hyper("scale_rewards").as_str().unwrap();
            settings.push(("scale", text(if scale == "group" { "std" } else { scale })));
            "grpo"
        } else {
            settings.extend([("whiten", text("trajectory")), ("whiten_eps", eps)]);
            "gdpo"
        };
        let got = batch.run(method, &settings, |r, c| tokens(r, &c.advantages)).unwrap();
        case.check("advantages", &got);
    }
}

#[test]
fn openrlhf_reward() {
    for case in cases("openrlhf_reward") {
        let (rows, width) = case.shape("action_mask");
        let (scores, kl) = (case.flat("r"), case.flat("kl"));
        let mask: Vec<bool> = case.flat("action_mask").iter().map(|&m| m == 1.0).collect();
        let clip = case.hyper("reward_clip_range").as_array();
        let shaping = Shaping {
            clip: clip.map(|range| (range[0].as_f64().unwrap(), range[1].as_f64().unwrap())),
            kl_coef: case.hyper("kl_coef").as_f64().unwrap(),
        };
        let row = |i: usize| {
            let span = i * width..(i + 1) * width;
            shaping.apply(scores[i], &kl[span.clone()], &mask[span])
        };
        let got: Vec<f64> = (0..rows).flat_map(row).collect();
        case.check("reward", &got);
    }
}
