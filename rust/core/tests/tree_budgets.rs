//! When a tree ends, and what becomes of answers that go beyond a limit.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod world;

use apportion_core::tree::arena::ROOT;
use apportion_core::tree::search::{Answers, Forest, Limits, OnLimit, Stop, TokenRows};
use world::{ask, forest, limits};

fn told(mut forest: Forest, values: impl Fn(u64) -> f64, terminal: bool) -> Forest {
    loop {
        let leaves = ask(&mut forest, 1, 1);
        let Some(leaf) = leaves.first() else { return forest };
        let answers = Answers {
            tickets: &[leaf.ticket],
            values: Some(&[values(leaf.ticket)]),
            children: &[2],
            terminal: Some(&[terminal && leaf.depth == 2]),
            ..Answers::default()
        };
        forest.expand(&answers, false, 1).unwrap();
    }
}

#[test]
fn every_stop_stops() {
    let stopped = |stop: Stop, values: fn(u64) -> f64| {
        let forest = told(forest(1, Limits { stop, ..limits(500) }), values, true);
        assert_eq!(forest.in_flight(), 0);
        forest.trees()[0].simulations
    };
    let swings: fn(u64) -> f64 = |t| if t % 2 == 0 { 1.0 } else { -1.0 };
    assert_eq!(stopped(Stop::default(), swings), 500);
    assert!(stopped(Stop { value: Some(1.0), ..Stop::default() }, swings) < 20);
    let both = Stop { positives: Some(1), negatives: Some(1), ..Stop::default() };
    let early = stopped(both.clone(), swings);
    assert!(early < 20, "{early}");
    assert!(stopped(Stop { after: 30, ..both.clone() }, swings) >= 30);
    let right: fn(u64) -> f64 = |t| if t % 2 == 0 { 1.0 } else { 0.0 };
    assert_eq!(stopped(both.clone(), right), 500);
    assert!(stopped(Stop { threshold: 0.5, ..both }, right) < 20);
    assert!(stopped(Stop { width: Some(0.5), ..Stop::default() }, swings) < 200);
    assert_eq!(stopped(Stop { width: Some(0.0), ..Stop::default() }, swings), 500);
    assert!(stopped(Stop { gap: Some(0.1), ..Stop::default() }, swings) < 20);
}

#[test]
fn every_budget_ends_a_tree() {
    let spent = |limits: Limits| told(forest(1, limits), |_| 0.5, false).trees()[0].requests;
    assert_eq!(spent(Limits { max_requests: 7, ..limits(500) }), 7);
    assert_eq!(spent(Limits { max_nodes: 7, ..limits(500) }), 4);
    assert_eq!(spent(limits(9)), 10);
    assert_eq!(spent(Limits { max_depth: 1, ..limits(500) }), 3);
}

#[test]
fn beyond_a_limit_is_an_error_where_that_is_wanted() {
    let limits = Limits { on_limit: OnLimit::Error, max_nodes: 4, max_depth: 1, ..limits(9) };
    let mut forest = forest(1, Limits { max_tokens: 3, max_rollouts: 1, ..limits });
    let leaves = ask(&mut forest, 1, 1);
    let tickets = [leaves[0].ticket];
    let good =
        Answers { tickets: &tickets, values: Some(&[0.0]), children: &[2], ..Answers::default() };
    let mut refuse = |answers: Answers<'_>, says: &str| {
        let message = forest.expand(&answers, false, 1).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    };
    refuse(Answers { children: &[4], ..good }, "children[0]: got 5 nodes of tree 0");
    let tokens = TokenRows { values: &[1; 4], lengths: &[2, 2] };
    refuse(Answers { tokens: Some(tokens), ..good }, "expected at most max_tokens=3");
    let two = Answers { rollouts: Some(&[2]), rollout_rewards: &[0.0, 1.0], ..good };
    refuse(two, "rollouts[0]: got 2 rollouts of tree 0, expected at most max_rollouts=1");
    forest.expand(&good, false, 1).unwrap();
    let leaves = ask(&mut forest, 1, 1);
    let deep = Answers { tickets: &[leaves[0].ticket], children: &[1], ..good };
    let message = forest.expand(&deep, false, 1).unwrap_err().to_string();
    assert!(message.contains("got 2 depth of tree 0"), "{message}");
    assert_eq!(forest.trees()[0].len(), 3);
}

#[test]
fn numbers_that_are_none_fail_their_leaf_alone_where_that_is_wanted() {
    let mut forest = forest(3, limits(5));
    let leaves = ask(&mut forest, 3, 1);
    let tickets: Vec<u64> = leaves.iter().map(|l| l.ticket).collect();
    let answers = Answers {
        tickets: &tickets,
        values: Some(&[0.5, f64::NAN, 0.5]),
        children: &[1, 1, 1],
        priors: Some(&[1.0, 1.0, -1.0]),
        ..Answers::default()
    };
    forest.expand(&answers, true, 1).unwrap();
    let visits: Vec<u32> = forest.trees().iter().map(|t| t.hot[0].visits).collect();
    let failures: Vec<u8> = forest.trees().iter().map(|t| t.failures(ROOT)).collect();
    assert_eq!((visits, failures), (vec![1, 0, 0], vec![0, 1, 1]));
    assert_eq!(ask(&mut forest, 3, 1).len(), 3, "failed roots are asked again");
}
