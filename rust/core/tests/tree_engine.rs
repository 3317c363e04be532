//! The engine's promises: order of answers, merging, widening, budgets, limits, memory.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use apportion_core::exec::Exec;
use apportion_core::tree::arena::{Fact, Keeps, NONE, ROOT, Tree};
use apportion_core::tree::random::Draw;
use apportion_core::tree::rules;
use apportion_core::tree::search::{
    Answers, Forest, Leaf, Limits, NumberRows, OnLimit, Order, Stop, TellOrder, TokenRows,
};
use proptest::prelude::*;

/// A world in which a state is a number and a node's state hangs on its path alone.
#[derive(Clone, Copy)]
struct World {
    width: usize,
    states: u64,
    ends: f64,
    failing: f64,
}

const WORLD: World = World { width: 3, states: u64::MAX, ends: 0.1, failing: 0.0 };

fn state(tree: &Tree, index: u32, node: u32, world: World) -> u64 {
    let step = |state: u64, node: &u32| {
        let action = u64::from(tree.action(*node));
        Draw::new(state, index as usize, 0, "state").bits(action) % world.states
    };
    tree.path(node)[1..].iter().fold(1, step)
}

fn forest(roots: usize, limits: Limits) -> Forest {
    Forest::new(roots, rules::make("puct", &vec![]).unwrap(), limits).unwrap()
}

fn limits(simulations: u64) -> Limits {
    Limits { simulations, gamma: 0.9, seed: 3, ..Limits::default() }
}

fn ask(forest: &mut Forest, batch: usize, per_tree: usize) -> Vec<Leaf> {
    forest.select(batch, per_tree, Order::Priority, &Exec::default()).unwrap()
}

/// Answers that hang on the leaf alone; with keys where states are merged.
fn tell(forest: &mut Forest, leaves: &[Leaf], world: World) {
    let tree = |l: &Leaf| &forest.trees()[l.tree as usize];
    let states: Vec<u64> =
        leaves.iter().map(|l| state(tree(l), l.tree, l.ask.node, world)).collect();
    let draw = |s: u64, what| Draw::new(s, 0, 0, what).uniform(0);
    let tries = |l: &Leaf| u64::from(tree(l).failures(l.ask.node));
    let fails = |l: &Leaf| {
        Draw::new(9, l.tree as usize, l.ask.node, "fail").uniform(tries(l)) < world.failing
    };
    let failed: Vec<u64> = leaves.iter().filter(|l| fails(l)).map(|l| l.ticket).collect();
    let kept: Vec<usize> = (0..leaves.len()).filter(|&i| !fails(&leaves[i])).collect();
    let tickets: Vec<u64> = kept.iter().map(|&i| leaves[i].ticket).collect();
    let values: Vec<f64> = kept.iter().map(|&i| draw(states[i], "value")).collect();
    let terminal: Vec<bool> = kept.iter().map(|&i| draw(states[i], "end") < world.ends).collect();
    let first = |i: usize| tree(&leaves[i]).children(leaves[i].ask.node).count();
    let keys: Vec<u64> = kept
        .iter()
        .flat_map(|&i| {
            let (from, to) = (first(i), first(i) + world.width);
            let index = leaves[i].tree as usize;
            (from..to).map(move |a| (i, index, a as u64))
        })
        .map(|(i, index, a)| {
            let depth = u64::from(leaves[i].depth) + 1;
            (Draw::new(states[i], index, 0, "state").bits(a) % world.states) << 8 | depth
        })
        .collect();
    forest.fail(&failed).unwrap();
    let answers = Answers {
        tickets: &tickets,
        values: Some(&values),
        terminal: Some(&terminal),
        children: &vec![world.width; kept.len()],
        keys: Some(&keys),
        ..Answers::default()
    };
    forest.expand(&answers, false).unwrap();
}

/// Searches to the end, answering some of what waits, in an order drawn from `key`.
fn search(limits: Limits, world: World, key: u64, batch: usize) -> Forest {
    let mut forest = forest(4, limits);
    let mut held: Vec<Leaf> = Vec::new();
    for round in 0..100_000_u32 {
        held.extend(ask(&mut forest, batch, 3));
        if held.is_empty() {
            return forest;
        }
        let draw = Draw::new(key, 0, round, "order");
        held.sort_by_key(|l| draw.bits(l.ticket));
        let count = 1 + draw.bits(u64::MAX) as usize % held.len();
        let answered: Vec<Leaf> = held.drain(..count).collect();
        tell(&mut forest, &answered, world);
    }
    panic!("the search does not end");
}

fn assert_same(a: &Forest, b: &Forest) {
    for (a, b) in a.trees().iter().zip(b.trees()) {
        assert_eq!(a.hot, b.hot);
        for node in 0..a.len() as u32 {
            assert_eq!(a.raw_value(node).to_bits(), b.raw_value(node).to_bits());
            assert_eq!((a.parent(node), a.end(node)), (b.parent(node), b.end(node)));
            assert_eq!(a.variance(node).to_bits(), b.variance(node).to_bits());
        }
    }
}

fn conserved(forest: &Forest) {
    for tree in forest.trees() {
        for node in (0..tree.len() as u32).filter(|&n| tree.home(n) == n) {
            let count = |n: u32| tree.hot[n as usize].visits;
            let into: u32 = tree.edges(node).iter().map(|&e| count(e)).sum();
            let below: u32 = tree.children(node).map(count).sum();
            assert_eq!(tree.hot[node as usize].in_flight(), 0, "a mark is left on {node}");
            assert!(!tree.is(node, Fact::Asked), "node {node} is still asked for");
            if tree.children(node).next().is_some() {
                assert_eq!(into, below + 1, "node {node}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn in_ticket_order_neither_order_nor_batches_change_a_bit(
        (key, batch) in (any::<u64>(), 1..40_usize),
        (merge, widens, loss) in (any::<bool>(), any::<bool>(), proptest::option::of(-1.0..1.0)),
        failing in prop_oneof![Just(0.0), 0.0..0.6],
    ) {
        let limits = Limits {
            merge,
            widening: widens.then_some((1.0, 0.5)),
            virtual_loss: loss,
            variance: true,
            ..limits(50)
        };
        let states = if merge { 40 } else { u64::MAX };
        let world = World { states, failing, ..WORLD };
        let one = search(limits.clone(), world, key, batch);
        let other = search(limits, world, !key, 12);
        assert_same(&one, &other);
        conserved(&one);
    }

    #[test]
    fn visits_are_conserved_as_answers_arrive_are_cancelled_or_fail(
        key in any::<u64>(),
        merge in any::<bool>(),
        widens in any::<bool>(),
        close_terminal in any::<bool>(),
        solve in proptest::option::of(0.5..1.5),
        failing in prop_oneof![Just(0.01), Just(0.1), Just(0.5), Just(1.0)],
    ) {
        let limits = Limits {
            merge,
            widening: widens.then_some((1.5, 0.4)),
            close_terminal,
            solve,
            tell_order: TellOrder::Arrival,
            ..limits(50)
        };
        let world = World { states: if merge { 30 } else { u64::MAX }, failing, ..WORLD };
        let mut forest = forest(3, limits);
        let mut held: Vec<Leaf> = Vec::new();
        for round in 0..5000_u32 {
            held.extend(ask(&mut forest, 7, 2));
            if held.is_empty() {
                break;
            }
            let draw = Draw::new(key, 0, round, "order");
            held.sort_by_key(|l| draw.bits(l.ticket));
            let rest = held.split_off(1 + draw.bits(u64::MAX) as usize % held.len());
            let (cancelled, told): (Vec<Leaf>, Vec<Leaf>) =
                held.iter().partition(|l| draw.uniform(l.ticket) < 0.2);
            forest.cancel(&cancelled.iter().map(|l| l.ticket).collect::<Vec<_>>()).unwrap();
            tell(&mut forest, &told, world);
            held = rest;
        }
        prop_assert!(held.is_empty(), "the search does not end");
        prop_assert_eq!(forest.in_flight(), 0);
        conserved(&forest);
    }
}

#[test]
fn merged_states_share_children_and_are_worth_the_same() {
    let world = World { states: 5, ends: 0.0, ..WORLD };
    let limits = Limits { merge: true, gamma: 1.0, ..limits(200) };
    let forest = search(limits, world, 1, 12);
    for tree in forest.trees() {
        let links: Vec<_> = tree.merged.as_ref().unwrap().links().collect();
        assert!(links.len() > 100, "only {} links", links.len());
        for (node, home) in links {
            assert!(tree.depth(home) >= tree.depth(node));
            assert_eq!(tree.children(node).count(), 0, "children are the home's");
        }
        let expanded = (0..tree.len() as u32).filter(|&n| tree.hot[n as usize].children > 0);
        // Five states a depth: no more expansions than that.
        let deepest = (0..tree.len() as u32).map(|n| tree.depth(n)).max().unwrap() as usize;
        assert!(expanded.count() <= 1 + 5 * deepest);
    }
    conserved(&forest);
}

#[test]
fn equal_tokens_are_equal_states_without_keys() {
    let mut forest = forest(1, Limits { merge: true, ..limits(10) });
    let leaves = ask(&mut forest, 1, 1);
    let tokens = TokenRows { values: &[5, 6, 7, 5, 6], lengths: &[2, 1, 2] };
    let answers = Answers {
        tickets: &[leaves[0].ticket],
        values: Some(&[0.0]),
        children: &[3],
        tokens: Some(tokens),
        ..Answers::default()
    };
    forest.expand(&answers, false).unwrap();
    let homes: Vec<u32> = (0..4).map(|n| forest.trees()[0].home(n)).collect();
    assert_eq!(homes, [0, 1, 2, 1]);
    assert_eq!(forest.trees()[0].tokens.get(3), [5, 6]);
}

#[test]
fn widening_adds_blocks_as_visits_grow() {
    let limits = Limits { widening: Some((1.0, 0.5)), ..limits(400) };
    let forest = search(limits, World { width: 1, ends: 0.0, ..WORLD }, 1, 12);
    for tree in forest.trees() {
        for node in 0..tree.len() as u32 {
            let children: Vec<u32> = tree.children(node).collect();
            let allowed = f64::from(tree.hot[node as usize].visits).sqrt().floor().max(1.0);
            assert!(children.len() as f64 <= allowed, "{} of {allowed}", children.len());
            for (i, &child) in children.iter().enumerate() {
                assert_eq!((tree.parent(child), tree.action(child)), (node, i as u32));
            }
        }
        assert!(tree.hot[0].children >= 15 && tree.hot[0].is_scattered());
    }
    conserved(&forest);
}

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
fn noise_is_a_share_of_each_prior_and_hangs_on_the_seed() {
    let priors = |seed, fraction| -> Vec<f32> {
        let mut forest = forest(1, Limits { seed, noise: (fraction, 0.3), ..limits(1) });
        let leaves = ask(&mut forest, 1, 1);
        tell(&mut forest, &leaves, World { width: 6, ends: 0.0, ..WORLD });
        forest.trees()[0].hot[1..].iter().map(|h| h.prior).collect()
    };
    assert_eq!(priors(1, 0.5), priors(1, 0.5));
    assert_ne!(priors(1, 0.5), priors(2, 0.5));
    assert!((priors(1, 0.25).iter().sum::<f32>() - 1.0).abs() < 1e-6);
    assert!(priors(1, 0.25).iter().all(|&p| p >= 0.75 / 6.0 - 1e-6));
}

#[test]
fn gamma_numbers_have_their_mean_and_variance() {
    for shape in [0.3, 1.0, 4.5] {
        let draws = Draw::new(1, 0, 0, "test");
        let numbers: Vec<f64> = (0..20_000).map(|i| draws.gamma(i, shape)).collect();
        let mean = numbers.iter().sum::<f64>() / 20_000.0;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!((mean / shape - 1.0).abs() < 0.05, "{shape}: mean {mean}");
        assert!((variance / shape - 1.0).abs() < 0.1, "{shape}: variance {variance}");
    }
}

#[test]
fn prefix_order_is_depth_first() {
    let mut forest = forest(2, Limits { virtual_loss: Some(1.0), ..limits(60) });
    loop {
        let exec = Exec::default();
        let leaves = forest.select(16, 8, Order::Prefix, &exec).unwrap();
        if leaves.is_empty() {
            break;
        }
        let path = |l: &Leaf| (l.tree, forest.trees()[l.tree as usize].path(l.ask.node));
        assert!(leaves.windows(2).all(|pair| path(&pair[0]) <= path(&pair[1])));
        tell(&mut forest, &leaves, WORLD);
    }
}

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
        forest.expand(&answers, false).unwrap();
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
        let message = forest.expand(&answers, false).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    };
    refuse(Answers { children: &[4], ..good }, "children[0]: got 5 nodes of tree 0");
    let tokens = TokenRows { values: &[1; 4], lengths: &[2, 2] };
    refuse(Answers { tokens: Some(tokens), ..good }, "expected at most max_tokens=3");
    let two = Answers { rollouts: Some(&[2]), rollout_rewards: &[0.0, 1.0], ..good };
    refuse(two, "rollouts[0]: got 2 rollouts of tree 0, expected at most max_rollouts=1");
    forest.expand(&good, false).unwrap();
    let leaves = ask(&mut forest, 1, 1);
    let deep = Answers { tickets: &[leaves[0].ticket], children: &[1], ..good };
    let message = forest.expand(&deep, false).unwrap_err().to_string();
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
    forest.expand(&answers, true).unwrap();
    let visits: Vec<u32> = forest.trees().iter().map(|t| t.hot[0].visits).collect();
    let failures: Vec<u8> = forest.trees().iter().map(|t| t.failures(ROOT)).collect();
    assert_eq!((visits, failures), (vec![1, 0, 0], vec![0, 1, 1]));
    assert_eq!(ask(&mut forest, 3, 1).len(), 3, "failed roots are asked again");
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
    forest.expand(&answers, false).unwrap();
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
        let error = forest.expand(&answers, false).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let child_scores = Some(NumberRows { values: &[1.0, 0.0], lengths: &[0, 2, 0] });
    let before = forest.trees()[0].bytes();
    forest.expand(&Answers { child_scores, ..told(&[-0.5, -2.0], &[2, 0, 0]) }, false).unwrap();
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
    forest.expand(&answers, false).unwrap();
    ask(&mut forest, 1, 1);
    let tree = &forest.trees()[0];
    assert_eq!(
        (tree.tokens.get(1), tree.token_log_probs.get(1)),
        (&[4, 5][..], &[-0.5, -0.25][..])
    );
    assert!((0..tree.rollouts.len()).any(|r| tree.rollout_log_probs.get(r) == [-3.0, -1.0]));
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
fn the_fast_loop_chooses_what_the_formula_does() {
    use apportion_core::tree::search::RootVisit;
    for loss in [None, Some(0.7)] {
        for first_play in ["zero", "parent", "infinite"] {
            let option = apportion_core::options::Value::Text(first_play.to_owned());
            let rule = rules::make("puct", &vec![("first_play".to_owned(), option)]).unwrap();
            let limits = Limits { virtual_loss: loss, ..limits(300) };
            let limits = Limits { root_visit: RootVisit::Value, close_terminal: true, ..limits };
            let mut forest = Forest::new(3, rule, limits).unwrap();
            for _ in 0..60 {
                let leaves = ask(&mut forest, 12, 4);
                for (index, tree) in forest.trees().iter().enumerate() {
                    for node in
                        (0..tree.len() as u32).filter(|&n| tree.hot[n as usize].children > 0)
                    {
                        let at = forest.at(index, node);
                        let scores = forest.rule().child_scores(&at);
                        let open = |i: usize| !at.children()[i].is_closed();
                        let want = (0..scores.len())
                            .filter(|&i| open(i))
                            .reduce(|best, i| if scores[i] > scores[best] { i } else { best });
                        assert_eq!(forest.rule().choose(&at), want.map(|i| at.child(i)));
                    }
                }
                tell(&mut forest, &leaves, World { width: 37, ..WORLD });
            }
        }
    }
}
