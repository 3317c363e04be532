//! Reference cases of the methods whose credit is one number a trajectory.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use apportion_core::options::Value;
use common::{Batch, Case, cases, tokens};

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

fn check(case: &Case, method: &str, settings: &[(&str, Value)]) {
    let got = batch(case).run(method, settings, |r, c| tokens(r, &c.advantages)).unwrap();
    case.check("advantages", &got);
}

#[test]
fn grpo() {
    for folder in ["grpo", "verl_grpo", "verl_dr_grpo_adv"] {
        for case in cases(folder) {
            let std = case.hyper("norm_adv_by_std_in_grpo") == true;
            let scale = Value::Text(if std { "std" } else { "none" }.into());
            check(&case, "grpo", &[("scale", scale)]);
        }
    }
}
