//! Reference cases of credit from trees: TreeRL, Tree-GRPO and its difference form, TreePO,
//! SPO, VinePPO. The rest of what the cases hold is compared through Python.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::credit::{self, Credit, Values};
use apportion_core::exec::Exec;
use apportion_core::options::{Settings, Value};
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use apportion_core::tree::readout::segments;
use common::{Case, cases, flatten, tokens};
use serde_json::Value as Json;

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

fn flag(case: &Case, name: &str) -> Value {
    Value::Bool(case.hyper(name).as_bool().unwrap())
}

fn run(rollouts: &Rollouts<'_>, method: &str, settings: &[(&str, Value)]) -> Credit {
    let settings: Settings = settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    credit::find(method).unwrap().credit(rollouts, None, &settings).unwrap()
}

fn numbers(values: &Values) -> &[f64] {
    match values {
        Values::Trajectories(v) | Values::Turns(v) => v,
        Values::Tokens(_) => panic!("one number a token"),
    }
}

fn extra<'c>(credit: &'c Credit, name: &str) -> &'c [f64] {
    numbers(&credit.extras.iter().find(|(known, _)| *known == name).unwrap().1)
}

/// Nodes as rows of the given lengths.
fn nodes<T>(
    parents: &[i64],
    lengths: &[i64],
    scores: &[f64],
    then: impl FnOnce(&Rollouts<'_>) -> T,
) -> T {
    let offsets = [0].into_iter().chain(lengths.iter().scan(0, |at, n| {
        *at += n;
        Some(*at)
    }));
    let offsets: Vec<i64> = offsets.collect();
    let total = *offsets.last().unwrap() as usize;
    let exec = Exec::default();
    let rows = Offsets::listed("offsets", offsets, total).unwrap();
    let rollouts = Rollouts::packed(rows, Mask::All(total), &exec).unwrap();
    let rollouts = rollouts
        .with("parents", Column::Keys(Keys::Ints(parents.into())))
        .with("outcome_rewards", Column::Floats(Floats::F64(scores.into())));
    then(&rollouts)
}

/// Parents of a case that lists nodes, and the scores of its leaves.
fn listed(case: &Case, leaf: &str, score: &str) -> (Vec<i64>, Vec<f64>) {
    let given = case.input("nodes").as_array().unwrap();
    let parents = given.iter().map(|node| node["parent"].as_i64().unwrap()).collect();
    let scores = given.iter().map(|node| {
        let own = node[score].as_f64();
        if node[leaf] == true { own.unwrap() } else { f64::NAN }
    });
    (parents, scores.collect())
}

fn close(case: &Case, got: f64, want: &Json, rtol: f64) {
    let want = want.as_f64().unwrap();
    assert!((got - want).abs() <= rtol * want.abs() + rtol, "{}: {got} {want}", case.name);
}

#[test]
fn spo() {
    for case in cases("spo_tree") {
        let (parents, scores) = listed(&case, "leaf", "reward");
        let lengths = vec![1; parents.len()];
        for (name, scale) in [("rloo_filter0", false), ("grpo_filter0", true)] {
            nodes(&parents, &lengths, &scores, |rollouts| {
                let credit = run(rollouts, "spo", &[("scale", Value::Bool(scale))]);
                let edges = case.output(name).as_array().unwrap();
                assert_eq!(edges.len(), parents.len() - 1);
                for edge in edges {
                    let n = edge["child"].as_u64().unwrap() as usize;
                    close(&case, numbers(&credit.advantages)[n], &edge["advantage"], 1e-9);
                    close(
                        &case,
                        extra(&credit, "best_of_gain")[n],
                        &edge["prover_advantage"],
                        1e-9,
                    );
                    close(&case, extra(&credit, "node_values")[n], &edge["value"], 1e-9);
                }
            });
        }
    }
}

#[test]
fn tree_grpo_difference() {
    for case in cases("tree_grpo_diff") {
        let (parents, scores) = listed(&case, "is_leaf", "leaf_score");
        nodes(&parents, &vec![1; parents.len()], &scores, |rollouts| {
            let margin = Value::Float(case.hyper("margin").as_f64().unwrap());
            let credit =
                run(rollouts, "tree_grpo", &[("mode", text("tree_diff")), ("margin", margin)]);
            case.check_within("final_score", numbers(&credit.advantages), 1e-9);
        });
    }
}

#[test]
fn treerl() {
    for case in cases("treerl") {
        let (mut parents, mut splits, mut lengths, mut scores) = (vec![], vec![], vec![], vec![]);
        for tree in case.input("trees").as_array().unwrap() {
            let first = parents.len() as i64;
            for chain in tree.as_array().unwrap() {
                parents.push(chain["parent_idx"].as_i64().map_or(-1, |p| first + p));
                splits.push(chain["split_idx"].as_i64().unwrap_or(0));
                lengths.push(chain["n_tokens"].as_i64().unwrap());
                scores.push(chain["score"].as_f64().unwrap());
            }
        }
        let tree = segments::cut(&parents, &splits, &lengths).unwrap();
        let mut outcomes = vec![f64::NAN; tree.parents.len()];
        tree.leaves.iter().zip(&scores).for_each(|(&n, &score)| outcomes[n as usize] = score);
        let settings = [
            ("centre", text(case.hyper("overall_norm_style").as_str().unwrap())),
            ("weighted", flag(&case, "use_weighted_value")),
            ("state_value", flag(&case, "use_state_value_reward")),
        ];
        nodes(&tree.parents, &tree.lengths, &outcomes, |rollouts| {
            let credit = run(rollouts, "treerl", &settings);
            let root = case.output("segment_tree");
            same_subtree(&case, &tree, &credit, 0, root);
            // The rewards of all steps, path by path, in any order.
            let mut got = Vec::new();
            for &leaf in &tree.leaves {
                let mut n = leaf;
                while n > 0 {
                    got.push(numbers(&credit.advantages)[n as usize]);
                    n = tree.parents[n as usize];
                }
            }
            let steps = case.output("paths").as_array().unwrap().iter();
            let steps = steps.flat_map(|path| path.as_array().unwrap());
            let mut want: Vec<f64> = steps.map(|s| s["value"].as_f64().unwrap()).collect();
            got.sort_by(f64::total_cmp);
            want.sort_by(f64::total_cmp);
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() <= 1e-9 * w.abs() + 1e-10, "{}: {g} {w}", case.name);
            }
        });
    }
}

fn same_subtree(case: &Case, tree: &segments::Segments, credit: &Credit, n: usize, want: &Json) {
    assert_eq!(Some(tree.lengths[n]), want["len"].as_i64(), "{}", case.name);
    close(case, extra(credit, "subtree_sums")[n], &want["acc"], 1e-9);
    close(case, extra(credit, "leaf_counts")[n], &want["terminals"], 1e-12);
    let below = (0..tree.parents.len()).filter(|&c| tree.parents[c] == n as i64);
    let listed = want["ch"].as_array().unwrap();
    assert_eq!(below.clone().count(), listed.len(), "{}", case.name);
    below.zip(listed).for_each(|(child, want)| same_subtree(case, tree, credit, child, want));
}

#[test]
fn vineppo() {
    for case in cases("vineppo") {
        let exec = Exec::default();
        let wanted = case.output("rows").as_array().unwrap();
        for (row, want) in case.input("rows").as_array().unwrap().iter().zip(wanted) {
            let (rewards, values) = (flatten(&row["step_rewards"]), flatten(&row["values"]));
            let steps = rewards.len();
            let rows = Offsets::even(1, steps).unwrap();
            let bounds: Vec<i64> = (0..steps as i64).flat_map(|t| [t, t + 1]).collect();
            let counts = Offsets::even(1, steps).unwrap();
            let floats = |v: &[f64]| Column::Floats(Floats::F64(v.to_vec().into()));
            let rollouts = Rollouts::packed(rows, Mask::All(steps), &exec)
                .unwrap()
                .with_turns(&counts, &bounds)
                .unwrap()
                .with("turn_rewards", floats(&rewards))
                .with("turn_values", floats(&values[..steps]))
                .with("final_values", floats(&values[steps..]));
            let credit = run(&rollouts, "vineppo", &[]);
            let pairs = numbers(&credit.advantages).iter().zip(flatten(&want["advantages"]));
            for (got, want) in pairs {
                assert!((got - want).abs() < 1e-10, "{}: {got} {want}", case.name);
            }
            let filled = extra(&credit, "values").iter().zip(flatten(&want["values_filled"]));
            for (got, want) in filled {
                assert!((got - want).abs() < 1e-10, "{}: {got} {want}", case.name);
            }
        }
    }
}

#[test]
fn tree_grpo() {
    for case in cases("tree_grpo") {
        let (rows, width) = case.shape("eos_mask");
        let (mask, rewards) = (case.flat("eos_mask"), case.flat("token_level_rewards"));
        let (prompts, trees) = (case.ids("prompt_index"), case.ids("tree_index"));
        let keys = |ids| Column::Keys(Keys::Texts(ids));
        let exec = Exec::default();
        let rollouts =
            Rollouts::packed(Offsets::even(rows, width).unwrap(), Mask::F64(&mask), &exec)
                .unwrap()
                .with("group_ids", keys(prompts.iter().map(String::as_str).collect()))
                .with("tree_ids", keys(trees.iter().map(String::as_str).collect()))
                .with("token_rewards", Column::Floats(Floats::F64(rewards.into())));
        let eps = Value::Float(case.hyper("epsilon").as_f64().unwrap());
        for mode in ["tree", "tree_2norm", "tree_inner", "tree_per_token"] {
            let credit = run(&rollouts, "tree_grpo", &[("mode", text(mode)), ("eps", eps.clone())]);
            case.check(mode, &tokens(&rollouts, &credit.advantages));
        }
    }
}

#[test]
fn treepo() {
    for case in cases("tree_treepo") {
        let (rows, width) = case.shape("response_mask");
        let (mask, rewards) = (case.flat("response_mask"), case.flat("token_level_rewards"));
        let paths = case.ids("paths");
        let size = case.hyper("segment_size").as_u64().unwrap() as usize;
        let (mut counts, mut bounds, mut steps) = (vec![0_i64], vec![], vec![]);
        let mut prompts = Vec::with_capacity(rows);
        for (row, path) in paths.iter().enumerate() {
            let length = mask[row * width..][..width].iter().sum::<f64>() as usize;
            let mut parts = path.split('#');
            prompts.push(parts.next().unwrap());
            for (k, part) in parts.enumerate() {
                let place = |k: usize| (row * width + length.min(k * size)) as i64;
                bounds.extend([place(k), place(k + 1)]);
                steps.push(part);
            }
            counts.push(steps.len() as i64);
        }
        let exec = Exec::default();
        let turns = Offsets::listed("turns", counts, steps.len()).unwrap();
        let rollouts =
            Rollouts::packed(Offsets::even(rows, width).unwrap(), Mask::F64(&mask), &exec)
                .unwrap()
                .with_turns(&turns, &bounds)
                .unwrap()
                .with("group_ids", Column::Keys(Keys::Texts(prompts)))
                .with("node_ids", Column::Keys(Keys::Texts(steps)))
                .with("token_rewards", Column::Floats(Floats::F64(rewards.into())));
        for combine in ["average", "group_size"] {
            for drop in [false, true] {
                let settings = [("combine", text(combine)), ("drop_flat", Value::Bool(drop))];
                let credit = run(&rollouts, "treepo", &settings);
                let field = format!("tree_rfpp_{combine}_rmnostd{}", u8::from(drop));
                case.check_within(&field, &tokens(&rollouts, &credit.advantages), 2e-5);
            }
        }
        let segments = |further: &[(&str, Value)]| {
            let form = [("form", text("segment"))];
            run(&rollouts, "treepo", &[&form[..], further].concat())
        };
        let plain = ("whiten", Value::Bool(false));
        let normed = ("sibling_norm", Value::Bool(true));
        let eta = ("eta", Value::Float(0.9));
        for (field, settings) in [
            ("segment_advantage", vec![plain.clone()]),
            ("segment_advantage_sibling_norm", vec![plain.clone(), normed.clone()]),
            ("segment_advantage_eta0.9", vec![plain.clone(), eta]),
        ] {
            case.check(field, numbers(&segments(&settings).advantages));
        }
        let progress = segments(&[("against_prefixes", Value::Bool(true))]);
        case.check("tree_group_wise_reward", extra(&progress, "path_scores"));
        case.check("tree_rfpp_progress", &tokens(&rollouts, &progress.advantages));
        case.check("spo_style", &tokens(&rollouts, &segments(&[plain, normed]).advantages));
    }
}
