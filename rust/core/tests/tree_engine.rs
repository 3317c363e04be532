//! The engine's promises: order of answers, merging, widening, noise, the choice of children.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod world;

use apportion_core::exec::Exec;
use apportion_core::tree::random::Draw;
use apportion_core::tree::rules;
use apportion_core::tree::search::{Answers, Forest, Leaf, Limits, Order, TellOrder, TokenRows};
use proptest::prelude::*;
use world::{WORLD, World, ask, assert_same, conserved, forest, limits, search, tell};

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
    forest.expand(&answers, false, 1).unwrap();
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
