//! Reference cases of A3 with all its parts, and what they leave open.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use apportion_core::cluster::single_linkage;
use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::credit::{self, Credit, Values};
use apportion_core::error::Result;
use apportion_core::exec::Exec;
use apportion_core::options::{Settings, Value};
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use apportion_core::spread::scatter;
use common::{Case, cases};
use serde_json::Value as Json;

/// Step rows as the reference takes them.
#[derive(Clone, Default)]
struct Steps {
    prompts: Vec<String>,
    owners: Vec<String>,
    numbers: Vec<i64>,
    scores: Vec<f64>,
    signatures: Vec<Vec<String>>,
}

impl Steps {
    fn of(case: &Case) -> Self {
        let strings = |list: &Json| -> Vec<String> {
            list.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect()
        };
        Self {
            prompts: case.ids("prompt"),
            owners: case.ids("traj"),
            numbers: case.flat("turn").iter().map(|&x| x as i64).collect(),
            scores: case.flat("episode_score"),
            signatures: case.input("signature").as_array().unwrap().iter().map(strings).collect(),
        }
    }

    /// The rows at the given places.
    fn pick(&self, places: &[usize]) -> Self {
        Self {
            prompts: places.iter().map(|&i| self.prompts[i].clone()).collect(),
            owners: places.iter().map(|&i| self.owners[i].clone()).collect(),
            numbers: places.iter().map(|&i| self.numbers[i]).collect(),
            scores: places.iter().map(|&i| self.scores[i]).collect(),
            signatures: places.iter().map(|&i| self.signatures[i].clone()).collect(),
        }
    }

    fn signature_column(&self) -> Column<'_> {
        let mut offsets = vec![0];
        for signature in &self.signatures {
            offsets.push(offsets[offsets.len() - 1] + signature.len() as i64);
        }
        Column::Lists {
            items: self.signatures.iter().flatten().map(String::as_str).collect(),
            offsets,
        }
    }

    /// Every part by name, in row order.
    fn run(&self, settings: &Settings, threads: usize) -> Result<Vec<(&'static str, Vec<f64>)>> {
        let exec = Exec::new(threads, None);
        let rows = self.prompts.len();
        let rollouts = Rollouts::packed(Offsets::even(rows, 1)?, Mask::All(rows), &exec)?
            .with("group_ids", Column::Keys(keys(&self.prompts)))
            .with("outcome_rewards", Column::Floats(Floats::F64((&self.scores[..]).into())))
            .with("signatures", self.signature_column())
            .with_trajectories(&keys(&self.owners), Some(&self.numbers))?;
        let credit = credit::find("a3")?.credit(&rollouts, None, settings)?;
        let Credit { advantages, extras, .. } = credit;
        let places = rollouts.turn_places().unwrap();
        let parts = [("scalar_advantage", advantages)].into_iter().chain(extras);
        Ok(parts.map(|(name, values)| (name, scatter(by_turn(&values), places))).collect())
    }
}

fn keys(ids: &[String]) -> Keys<'_> {
    Keys::Texts(ids.iter().map(String::as_str).collect())
}

fn by_turn(values: &Values) -> &[f64] {
    match values {
        Values::Turns(values) => values,
        _ => &[],
    }
}

/// Numbered by first appearance, so that equal partitions compare equal.
fn partition(labels: &[f64]) -> Vec<f64> {
    let first = |label: &f64| labels.iter().position(|l| l == label).unwrap();
    let mut firsts: Vec<usize> = labels.iter().map(first).collect();
    let mut seen = firsts.clone();
    seen.sort();
    seen.dedup();
    firsts.iter_mut().for_each(|f| *f = seen.binary_search(f).unwrap());
    firsts.into_iter().map(|f| f as f64).collect()
}

fn settings(case: &Case) -> Settings {
    let names = [
        ("epsilon", "eps"),
        ("adv_bound", "bound"),
        ("trie_min_count", "tau"),
        ("w_trie", "residual_weight"),
        ("w_action_cluster", "tree_weight"),
        ("support_prior", "support_prior"),
        ("decision_gamma", "gamma"),
        ("A3_algo_tree_intent_match_tau", "match_tolerance"),
        ("A3_algo_tree_bucket_time_decay", "time_decay"),
    ];
    let number = |name| Value::Float(case.hyper(name).as_f64().unwrap());
    let mut all: Settings =
        names.iter().map(|(theirs, ours)| ((*ours).to_owned(), number(theirs))).collect();
    let list = |name| common::flatten(case.hyper(name));
    let scopes = list("intent_scopes").iter().map(|&x| x as i64).collect();
    all.push(("scopes".to_owned(), Value::Ints(scopes)));
    all.push(("scope_weights".to_owned(), Value::Floats(list("w_intent_scopes"))));
    all
}

#[test]
fn a3() {
    for case in cases("a3") {
        if case.has_output("labels") {
            let (len, _) = case.shape("distance");
            let distance = case.flat("distance");
            let k = case.hyper("k").as_u64().unwrap() as usize;
            let (labels, _) = single_linkage(len, k, |i, j, _| distance[i * len + j]);
            let labels: Vec<f64> = labels.into_iter().map(f64::from).collect();
            case.check("labels", &labels);
        } else if case.has_output("scalar_advantage") {
            for (name, got) in Steps::of(&case).run(&settings(&case), 1).unwrap() {
                let is_group = name.ends_with("_group");
                case.check(name, &if is_group { partition(&got) } else { got });
            }
        }
    }
}

/// The largest reference batch.
fn example() -> Steps {
    let all = cases("a3");
    let steps = all.iter().filter(|case| case.has_output("scalar_advantage")).map(Steps::of);
    steps.max_by_key(|steps| steps.prompts.len()).unwrap()
}

#[test]
fn threads_and_equal_outcomes() {
    let steps = example();
    let one = steps.run(&Settings::new(), 1).unwrap();
    assert_eq!(one, steps.run(&Settings::new(), 3).unwrap());
    let equal = Steps { scores: vec![0.1; steps.scores.len()], ..steps };
    assert!(equal.run(&Settings::new(), 1).unwrap()[0].1.iter().all(|&a| a == 0.0));
}

/// A trajectory without outcome changes nothing but its own credit.
#[test]
fn an_absent_outcome_is_as_if_the_trajectory_were_not_there() {
    let steps = example();
    let (gone, kept): (Vec<usize>, Vec<usize>) =
        (0..steps.prompts.len()).partition(|&i| steps.owners[i] == steps.owners[0]);
    let mut absent = steps.clone();
    absent.scores[gone[0]] = f64::NAN;
    let want = steps.pick(&kept).run(&Settings::new(), 1).unwrap();
    for ((name, got), (_, want)) in absent.run(&Settings::new(), 1).unwrap().iter().zip(want) {
        let others: Vec<f64> = kept.iter().map(|&i| got[i]).collect();
        if name.ends_with("_group") {
            assert_eq!(partition(&others), partition(&want));
            assert!(gone.iter().all(|&i| got[i] == -1.0));
        } else {
            assert_eq!(others, want, "{name}");
            assert!(gone.iter().all(|&i| got[i] == 0.0), "{name}");
        }
    }
}

#[test]
fn one_row_a_trajectory_gives_the_same() {
    let steps = example();
    let mut order: Vec<usize> = (0..steps.prompts.len()).collect();
    order.sort_by_key(|&i| {
        (steps.owners.iter().position(|o| *o == steps.owners[i]), steps.numbers[i])
    });
    let mut steps = steps.pick(&order);
    // Packed turns are numbered without gaps.
    for i in 0..order.len() {
        let continued = i > 0 && steps.owners[i] == steps.owners[i - 1];
        steps.numbers[i] = if continued { steps.numbers[i - 1] + 1 } else { 0 };
    }
    let by_row = steps.run(&Settings::new(), 1).unwrap();

    // A token and a gap a turn.
    let firsts: Vec<usize> = (0..order.len()).filter(|&i| steps.numbers[i] == 0).collect();
    let ends = firsts[1..].iter().copied().chain([order.len()]);
    let offsets: Vec<i64> = [0].into_iter().chain(ends.map(|end| 2 * end as i64)).collect();
    let mask = [1.0, 0.0].repeat(order.len());
    let first = steps.pick(&firsts);
    let exec = Exec::default();
    let rows = Offsets::listed("token_offsets", offsets, mask.len()).unwrap();
    let rollouts = Rollouts::packed(rows, Mask::F64(&mask), &exec)
        .unwrap()
        .with("group_ids", Column::Keys(keys(&first.prompts)))
        .with("outcome_rewards", Column::Floats(first.scores.clone().into()))
        .with("signatures", steps.signature_column());
    let credit = credit::find("a3").unwrap().credit(&rollouts, None, &Settings::new()).unwrap();
    assert_eq!(by_turn(&credit.advantages), by_row[0].1);
}

#[test]
fn bad_scopes_are_named() {
    let run = |name: &str, value| {
        example().run(&vec![(name.to_owned(), value)], 1).unwrap_err().to_string()
    };
    assert_eq!(
        run("scopes", Value::Ints(vec![1, 0, 2, -1])),
        "a3: option scopes: got [1, 0, 2, -1], expected numbers of turns of at least 1, or -1"
    );
    assert_eq!(
        run("scope_weights", Value::Floats(vec![1.0])),
        "a3: option scope_weights: got [1.0], expected 4 numbers of at least 0, not all 0"
    );
}
