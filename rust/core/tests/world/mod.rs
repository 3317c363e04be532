//! Searches over a world whose answers are drawn, for tests of the engine.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

use apportion_core::exec::Exec;
use apportion_core::tree::arena::{Fact, Tree};
use apportion_core::tree::random::Draw;
use apportion_core::tree::rules;
use apportion_core::tree::search::{Answers, Forest, Leaf, Limits, Order};

/// A world in which a state is a number and a node's state hangs on its path alone.
#[derive(Clone, Copy)]
pub struct World {
    pub width: usize,
    pub states: u64,
    pub ends: f64,
    pub failing: f64,
}

pub const WORLD: World = World { width: 3, states: u64::MAX, ends: 0.1, failing: 0.0 };

pub fn state(tree: &Tree, index: u32, node: u32, world: World) -> u64 {
    let step = |state: u64, node: &u32| {
        let action = u64::from(tree.action(*node));
        Draw::new(state, index as usize, 0, "state").bits(action) % world.states
    };
    tree.path(node)[1..].iter().fold(1, step)
}

pub fn forest(roots: usize, limits: Limits) -> Forest {
    Forest::new(roots, rules::make("puct", &vec![]).unwrap(), limits).unwrap()
}

pub fn limits(simulations: u64) -> Limits {
    Limits { simulations, gamma: 0.9, seed: 3, ..Limits::default() }
}

pub fn ask(forest: &mut Forest, batch: usize, per_tree: usize) -> Vec<Leaf> {
    forest.select(batch, per_tree, Order::Priority, &Exec::default()).unwrap()
}

/// Answers that hang on the leaf alone; with keys where states are merged.
pub fn tell(forest: &mut Forest, leaves: &[Leaf], world: World) {
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
    forest.expand(&answers, false, 1).unwrap();
}

/// Searches to the end, answering some of what waits, in an order drawn from `key`.
pub fn search(limits: Limits, world: World, key: u64, batch: usize) -> Forest {
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

pub fn assert_same(a: &Forest, b: &Forest) {
    for (a, b) in a.trees().iter().zip(b.trees()) {
        assert_eq!(a.hot, b.hot);
        for node in 0..a.len() as u32 {
            assert_eq!(a.raw_value(node).to_bits(), b.raw_value(node).to_bits());
            assert_eq!((a.parent(node), a.end(node)), (b.parent(node), b.end(node)));
            assert_eq!(a.variance(node).to_bits(), b.variance(node).to_bits());
        }
    }
}

pub fn conserved(forest: &Forest) {
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
