//! What nodes, edges and rollouts hold, and in how many bytes.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod world;

use apportion_core::tree::arena::{Keeps, NONE, ROOT, Tree};
use apportion_core::tree::rules;
use apportion_core::tree::search::{Answers, Forest, Limits, NumberRows, TokenRows};
use world::{WORLD, World, ask, forest, limits, search};

#[test]
fn variance_is_that_of_the_returns() {
    let mut tree = Tree::new(1.0, Keeps { variance: true, ..Keeps::default() });
    let returns = [0.3, -1.0, 2.5, 0.0, 0.25];
    returns.iter().for_each(|&r| tree.back_up(ROOT, r));
    let mean = returns.iter().sum::<f64>() / 5.0;
    let want = returns.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / 4.0;
    assert!((tree.variance(ROOT) - want).abs() < 1e-12);
    assert!((tree.half_width(ROOT, 2.0) - 2.0 * (want / 5.0).sqrt()).abs() < 1e-12);
    assert_eq!(Tree::new(1.0, Keeps::default()).variance(ROOT), f64::INFINITY);
}

#[test]
fn a_node_takes_at_most_64_bytes() {
    for (name, limits) in [
        ("plain", limits(800)),
        ("variance", Limits { variance: true, ..limits(800) }),
        ("merged", Limits { merge: true, ..limits(800) }),
    ] {
        let forest = search(limits, World { width: 8, ends: 0.0, ..WORLD }, 1, 12);
        let (nodes, bytes) = forest
            .trees()
            .iter()
            .fold((0, 0), |sum, tree| (sum.0 + tree.len(), sum.1 + tree.bytes().0));
        let each = bytes as f64 / nodes as f64;
        println!("{name}: {each:.1} bytes a node");
        assert!(each <= 64.0, "{name}: {each} bytes a node");
    }
    assert_eq!(size_of::<apportion_core::tree::arena::Hot>(), 24);
}

#[test]
fn a_chain_of_a_million_nodes_is_searched() {
    let mut tree = Tree::new(1.0, Keeps::default());
    for node in 0..1_000_000 {
        tree.expand(node, [1.0].into_iter());
        tree.tokens.push(node as usize + 1, &[node]);
    }
    assert_eq!(tree.path(1_000_000).len(), 1_000_001);
    assert_eq!(tree.tokens.get(1_000_000), [999_999]);
    let rule = rules::make("puct", &vec![]).unwrap();
    let limits = limits(1);
    let mut step = apportion_core::tree::step::Step::new(&mut tree, &limits, 0);
    let next = step.descend(|at| rule.choose(at));
    let apportion_core::tree::request::Next::Ask(ask) = next else { panic!() };
    assert_eq!((ask.node, step.tree.hot[500].in_flight()), (1_000_000, 1));
    rule.told(&mut step, &ask, &apportion_core::tree::answers::Answer::default());
    assert_eq!((tree.hot[0].visits, tree.hot[0].in_flight()), (1, 0));
    assert_eq!(tree.parent(ROOT), NONE);
}

#[test]
fn rollouts_are_records_and_their_mean_a_value() {
    let mut forest = forest(1, limits(5));
    let leaves = ask(&mut forest, 1, 1);
    let answers = Answers {
        tickets: &[leaves[0].ticket],
        children: &[0],
        rollouts: Some(&[3]),
        rollout_rewards: &[1.0, 0.0, 0.5],
        rollout_tokens: Some(TokenRows { values: &[4, 5, 6], lengths: &[2, 0, 1] }),
        ..Answers::default()
    };
    forest.expand(&answers, false, 1).unwrap();
    let tree = &forest.trees()[0];
    assert_eq!(tree.value(ROOT), 0.5);
    let lengths: Vec<u32> = tree.rollouts.iter().map(|r| r.length).collect();
    assert_eq!(lengths, [2, 0, 1]);
    assert_eq!(tree.rollout_tokens.get(2), [6]);
}

#[test]
fn log_probs_of_edges_are_kept_where_they_are_told() {
    let mut forest = forest(1, limits(5));
    let leaves = ask(&mut forest, 1, 1);
    let tokens = TokenRows { values: &[4, 5, 6], lengths: &[2, 0, 1] };
    let plain = Answers {
        tickets: &[leaves[0].ticket],
        children: &[3],
        values: Some(&[0.0]),
        tokens: Some(tokens),
        ..Answers::default()
    };
    let told = |values: &'static [f64], lengths: &'static [usize]| {
        let token_log_probs = Some(NumberRows { values, lengths });
        Answers { token_log_probs, ..plain }
    };
    for (answers, words) in [
        (told(&[-1.0], &[1]), "token_log_probs: got 1 values, expected 3, the number of children"),
        (told(&[-1.0], &[1, 0, 0]), "token_log_probs[0]: got 1 log-probs, expected 2, one for"),
        (told(&[-1.0], &[0, 1, 0]), "token_log_probs[1]: got 1 log-probs, expected 0"),
        (told(&[-1.0], &[2, 0, 0]), "token_log_probs: got 1 values, expected 2"),
        (told(&[f64::NAN], &[0, 0, 1]), "token_log_probs[0]: got NaN, expected a finite number"),
        (told(&[0.5], &[0, 0, 1]), "token_log_probs[0]: got 0.5, expected a finite number of"),
        (Answers { tokens: None, ..told(&[-1.0], &[0, 0, 1]) }, "token_log_probs[2]: got 1 log"),
    ] {
        let error = forest.expand(&answers, false, 1).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let child_scores = Some(NumberRows { values: &[1.0, 0.0], lengths: &[0, 2, 0] });
    let before = forest.trees()[0].bytes();
    forest.expand(&Answers { child_scores, ..told(&[-0.5, -2.0], &[2, 0, 0]) }, false, 1).unwrap();
    let tree = &forest.trees()[0];
    assert_eq!(tree.token_log_probs.get(1), [-0.5, -2.0]);
    assert_eq!((tree.token_log_probs.get(2), tree.token_log_probs.get(3)), (&[][..], &[][..]));
    assert_eq!(tree.child_scores.get(2), [1.0, 0.0]);
    let (nodes, values) = tree.bytes();
    // Bounds of spans up to the last that has values; three tokens, two log-probs, two scores.
    assert_eq!(nodes - before.0, 3 * 40 + 4 * (4 + 2 + 3));
    assert_eq!(values - before.1, 3 * 4 + 2 * 4 + 2 * 8);
}

#[test]
fn a_rollout_that_is_cut_leaves_its_log_probs_with_the_new_node() {
    let rule = rules::make("treerl", &vec![]).unwrap();
    let mut forest = Forest::new(1, rule, limits(5)).unwrap();
    let leaves = ask(&mut forest, 1, 1);
    let log_probs = [-0.5, -0.25, -3.0, -1.0];
    let answers = Answers {
        tickets: &[leaves[0].ticket],
        children: &[0],
        rollouts: Some(&[1]),
        rollout_rewards: &[1.0],
        rollout_tokens: Some(TokenRows { values: &[4, 5, 6, 7], lengths: &[4] }),
        rollout_log_probs: Some(&log_probs),
        ..Answers::default()
    };
    forest.expand(&answers, false, 1).unwrap();
    ask(&mut forest, 1, 1);
    let tree = &forest.trees()[0];
    assert_eq!(
        (tree.tokens.get(1), tree.token_log_probs.get(1)),
        (&[4, 5][..], &[-0.5, -0.25][..])
    );
    assert!((0..tree.rollouts.len()).any(|r| tree.rollout_log_probs.get(r) == [-3.0, -1.0]));
}
