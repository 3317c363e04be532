//! What must hold of any search, whatever the answers and their order.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};

use apportion_core::error::Error;
use apportion_core::exec::Exec;
use apportion_core::tree::arena::{Keeps, ROOT, Tree};
use apportion_core::tree::random::Draw;
use apportion_core::tree::rules::{self, RULES};
use apportion_core::tree::search::{
    Answers, Forest, Kind, Leaf, Limits, Order, TellOrder, TokenRows,
};
use proptest::prelude::*;

fn limits(simulations: u64) -> Limits {
    Limits { simulations, max_failures: 2, gamma: 0.9, seed: 7, ..Limits::default() }
}

fn forest(rule: &str, roots: usize, limits: Limits) -> Forest {
    Forest::new(roots, rules::make(rule, &vec![]).unwrap(), limits).unwrap()
}

/// An answer that depends on nothing but the leaf, with whatever any rule may need.
fn tell(forest: &mut Forest, leaves: &[Leaf], width: usize, threads: usize) -> Result<(), Error> {
    let draws = |l: &Leaf, what| Draw::new(1, l.tree as usize, l.ask.node, what);
    let draw = |l: &Leaf, what| draws(l, what).uniform(0);
    let tickets: Vec<u64> = leaves.iter().map(|l| l.ticket).collect();
    let values: Vec<f64> = leaves.iter().map(|l| draw(l, "value")).collect();
    let terminal: Vec<bool> = leaves.iter().map(|l| draw(l, "end") < 0.1).collect();
    let runs = |l: &Leaf| matches!(l.ask.kind, Kind::Rollout | Kind::Probe);
    let children: Vec<usize> = leaves.iter().map(|l| if runs(l) { 0 } else { width }).collect();
    let each = |what: &'static str| -> Vec<f64> {
        let grown = leaves.iter().filter(|l| !runs(l));
        grown.flat_map(|l| (0..width as u64).map(move |i| draws(l, what).uniform(i))).collect()
    };
    let wanted = |l: &Leaf| if runs(l) { usize::from(l.ask.want) } else { 0 };
    let rollouts: Vec<usize> = leaves.iter().map(wanted).collect();
    let all = || leaves.iter().flat_map(|l| (0..wanted(l) as u64).map(move |i| (l, i)));
    let rewards: Vec<f64> =
        all().map(|(l, i)| f64::from(draws(l, "right").uniform(i) < 0.5)).collect();
    let lengths: Vec<usize> =
        all().map(|(l, i)| 1 + (draws(l, "length").bits(i) % 30) as usize).collect();
    let count: usize = lengths.iter().sum();
    let tokens: Vec<u32> = (0..count as u32).map(|t| t % 7).collect();
    let log_probs: Vec<f64> = (0..count).map(|t| -((t % 13) as f64)).collect();
    forest.expand(
        &Answers {
            tickets: &tickets,
            values: Some(&values),
            terminal: Some(&terminal),
            children: &children,
            priors: Some(&each("prior")),
            child_values: Some(&each("child value")),
            rollouts: Some(&rollouts),
            rollout_rewards: &rewards,
            rollout_tokens: Some(TokenRows { values: &tokens, lengths: &lengths }),
            rollout_log_probs: Some(&log_probs),
            ..Answers::default()
        },
        false,
        threads,
    )
}

/// Own evaluations of a node: its visits less its children's.
fn own_visits(tree: &Tree, node: u32) -> u32 {
    let below: u32 = tree.children(node).map(|c| tree.hot[c as usize].visits).sum();
    tree.hot[node as usize].visits - below
}

/// Rules under which each evaluation is one visit of its node.
const PLAIN: [&str; 8] =
    ["puct", "uct", "muzero", "gumbel", "lightzero", "alphamath", "rstar", "rstar_math"];

fn unmarked(forest: &Forest) {
    for tree in forest.trees() {
        for (node, hot) in tree.hot.iter().enumerate() {
            assert_eq!(hot.in_flight(), 0, "a mark is left on node {node}");
        }
    }
}

fn conserved(forest: &Forest) {
    for tree in forest.trees() {
        for node in 0..tree.len() as u32 {
            let own = own_visits(tree, node);
            assert!(
                tree.children(node).next().is_none() || own == 1,
                "node {node}: {own} own visits"
            );
        }
        let root = u64::from(tree.hot[ROOT as usize].visits);
        assert!(root == tree.simulations + 1 || root == 0, "{root}, {}", tree.simulations);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn visits_are_conserved_in_any_order_of_answers_and_failures(
        rule in 0..RULES.len(),
        roots in 1..5_usize,
        width in 1..5_usize,
        failing in 0.0..0.6_f64,
        loss in proptest::option::of(-1.0..1.0_f64),
        key in any::<u64>(),
    ) {
        let limits = Limits { virtual_loss: loss, ..limits(60) };
        let mut forest = forest(RULES[rule].name, roots, limits);
        let mut held: Vec<Leaf> = Vec::new();
        for round in 0..4000_u64 {
            let leaves = forest.select(6, 3, Order::Priority, &Exec::default()).unwrap();
            if leaves.is_empty() && held.is_empty() {
                break;
            }
            held.extend(leaves);
            let draw = Draw::new(key, 0, round as u32, "order");
            held.sort_by_key(|l| draw.bits(l.ticket));
            let answered: Vec<Leaf> = held.drain(..held.len().div_ceil(2)).collect();
            let fails = |l: &&Leaf| draw.uniform(l.ticket) < failing;
            let failed: Vec<u64> = answered.iter().filter(fails).map(|l| l.ticket).collect();
            let rest: Vec<Leaf> = answered.iter().filter(|l| !fails(l)).copied().collect();
            forest.fail(&failed).unwrap();
            tell(&mut forest, &rest, width, 1).unwrap();
        }
        prop_assert!(held.is_empty());
        prop_assert_eq!(forest.in_flight(), 0);
        unmarked(&forest);
        if PLAIN.contains(&RULES[rule].name) {
            conserved(&forest);
        }
    }
}

/// A search whose batches are long enough for several threads.
fn finished(rule: &str, threads: usize) -> Forest {
    let mut forest = forest(rule, 100, limits(40));
    loop {
        let leaves = forest.select(1500, 0, Order::Priority, &Exec::new(threads, None)).unwrap();
        if leaves.is_empty() {
            return forest;
        }
        tell(&mut forest, &leaves, 3, threads).unwrap();
    }
}

#[test]
fn threads_change_nothing() {
    for card in RULES {
        let (one, four) = (finished(card.name, 1), finished(card.name, 4));
        assert!(one.save() == four.save(), "{}", card.name);
        for tree in one.trees() {
            assert!(
                !PLAIN.contains(&card.name) || tree.simulations == 40 || tree.hot[0].is_proven(),
                "{}: {}",
                card.name,
                tree.simulations
            );
        }
    }
}

/// What happens to requests before they are answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Nothing,
    Cancelled,
    Interrupted,
    FailedOnce,
}

/// Asks for up to `share` leaves of each of three trees; leaves by tree.
fn ask(forest: &mut Forest, share: usize, exec: &Exec<'_>) -> Result<Vec<Leaf>, Error> {
    let mut leaves = forest.select(3 * share, share, Order::Priority, exec)?;
    leaves.sort_by_key(|leaf| leaf.tree);
    Ok(leaves)
}

/// Trees of a search of which every request meets with its fate before it is answered. Ends
/// are visited once, so that nothing but requests changes them.
fn after(fate: Fate, rule: &str, share: usize, tell_order: TellOrder) -> Vec<Tree> {
    let mut forest = forest(rule, 3, Limits { tell_order, close_terminal: true, ..limits(40) });
    let mut failed = std::collections::BTreeSet::new();
    for round in 0.. {
        if fate == Fate::Interrupted {
            let stop = AtomicBool::new(false);
            let poll = || stop.swap(true, Ordering::Relaxed);
            let stopped = ask(&mut forest, share, &Exec::new(1, Some(&poll)));
            assert!(stopped.is_err() || stopped.unwrap().is_empty());
        }
        let mut leaves = ask(&mut forest, share, &Exec::default()).unwrap();
        if fate == Fate::Cancelled {
            let draw = Draw::new(1, 0, round, "cancel");
            let mut shuffled = leaves.clone();
            shuffled.sort_by_key(|leaf| draw.bits(leaf.ticket));
            shuffled.iter().for_each(|leaf| forest.cancel(&[leaf.ticket]).unwrap());
            let again = ask(&mut forest, share, &Exec::default()).unwrap();
            let asked = |l: &[Leaf]| l.iter().map(|l| (l.tree, l.ask)).collect::<Vec<_>>();
            assert_eq!(asked(&again), asked(&leaves), "{rule}");
            leaves = again;
        }
        if fate == Fate::FailedOnce {
            let (fails, rest): (Vec<Leaf>, _) =
                leaves.iter().partition(|leaf| failed.insert((leaf.tree, leaf.ask.node)));
            let tickets: Vec<u64> = fails.iter().map(|leaf| leaf.ticket).collect();
            forest.fail(&tickets).unwrap();
            if !fails.is_empty() && rest.is_empty() {
                continue;
            }
            leaves = rest;
        }
        if leaves.is_empty() {
            break;
        }
        tell(&mut forest, &leaves, 3, 1).unwrap();
    }
    forest.trees().to_vec()
}

fn assert_alike(found: &[Tree], expected: &[Tree], what: &str) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.hot, expected.hot, "{what}");
        assert_eq!(found.notes, expected.notes, "{what}");
        assert_eq!(found.rollouts, expected.rollouts, "{what}");
        assert_eq!(found.simulations, expected.simulations, "{what}");
    }
}

#[test]
fn requests_that_were_taken_back_leave_no_trace() {
    for card in RULES {
        for (share, order) in
            [(1, TellOrder::Ticket), (4, TellOrder::Ticket), (4, TellOrder::Arrival)]
        {
            let expected = after(Fate::Nothing, card.name, share, order);
            for fate in [Fate::Cancelled, Fate::Interrupted] {
                let found = after(fate, card.name, share, order);
                let what = format!("{}, {fate:?}, {order:?}, {share}", card.name);
                assert_alike(&found, &expected, &what);
                let requests =
                    |trees: &[Tree]| trees.iter().map(|t| t.requests).collect::<Vec<_>>();
                assert_eq!(requests(&found), requests(&expected), "{what}");
            }
        }
    }
}

#[test]
fn a_request_that_failed_once_is_asked_again_in_its_turn() {
    for card in RULES {
        let expected = after(Fate::Nothing, card.name, 1, TellOrder::Ticket);
        let found = after(Fate::FailedOnce, card.name, 1, TellOrder::Ticket);
        assert_alike(&found, &expected, card.name);
    }
}

#[test]
fn a_chain_of_a_million_nodes_needs_no_stack() {
    let mut tree = Tree::new(1.0, Keeps::default());
    for node in 0..1_000_000 {
        tree.expand(node, [1.0].into_iter());
    }
    tree.mark(1_000_000);
    tree.unmark(1_000_000);
    tree.back_up(1_000_000, 0.5);
    tree.prove(1_000_000, 1.0);
    tree.solve_up(1_000_000, 1.0);
    assert!(tree.hot[0].is_proven());
    tree.close(1_000_000);
    assert!(tree.hot[0].is_closed());
    assert_eq!(tree.hot[0].value_sum, 0.5);
}

#[test]
fn a_tree_stops_at_its_nodes() {
    let mut forest = forest("puct", 1, Limits { max_nodes: 10, ..limits(100) });
    loop {
        let leaves = forest.select(1, 1, Order::Priority, &Exec::default()).unwrap();
        if leaves.is_empty() {
            break;
        }
        tell(&mut forest, &leaves, 4, 1).unwrap();
    }
    assert!(forest.trees()[0].len() <= 10);
    conserved(&forest);
}

#[test]
fn wrong_answers_are_named_and_change_nothing() {
    let mut forest = forest("puct", 2, limits(10));
    let leaves = forest.select(2, 1, Order::Priority, &Exec::default()).unwrap();
    let tickets: Vec<u64> = leaves.iter().map(|l| l.ticket).collect();
    let good = Answers {
        tickets: &tickets,
        values: Some(&[0.0, 1.0]),
        children: &[1, 2],
        ..Answers::default()
    };
    let mut refuse = |answers: Answers<'_>, says: &str| {
        let message = forest.expand(&answers, false, 1).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    };
    refuse(Answers { values: Some(&[0.0, f64::NAN]), ..good }, "values[1]: got NaN");
    refuse(Answers { values: Some(&[0.0]), ..good }, "values: got 1 values, expected 2");
    refuse(Answers { priors: Some(&[1.0]), ..good }, "priors: got 1 values, expected 3");
    refuse(Answers { priors: Some(&[1.0, -1.0, 0.0]), ..good }, "priors[1]: got -1.0");
    refuse(Answers { rewards: Some(&[0.0, f64::INFINITY]), ..good }, "rewards[1]: got inf");
    refuse(Answers { children: &[1, 70_000], ..good }, "children[1]: got 70000");
    refuse(Answers { tickets: &[0, 0], ..good }, "tickets[1]: got 0 again");
    refuse(Answers { tickets: &[0, 9], ..good }, "tickets[1]: got unknown ticket 9");
    assert_eq!(forest.trees()[0].len(), 1);
    forest.expand(&good, false, 1).unwrap();
    let again = forest.expand(&good, false, 1).unwrap_err().to_string();
    assert!(
        again.contains("tickets[0]: got ticket 0, answered, failed or cancelled already"),
        "{again}"
    );
    assert!(forest.fail(&tickets).is_err());
}
