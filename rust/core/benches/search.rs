//! The search engine alone, without Python: what the boundary costs is what the rows of
//! `benches/trees/search` take beyond these.
//!
//! `cargo bench -p apportion-core --bench search`. One thread; answers are looked up in the
//! table that the Python rows use.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use apportion_core::exec::Exec;
use apportion_core::tree::random::Draw;
use apportion_core::tree::rules;
use apportion_core::tree::search::{Answers, Forest, Leaf, Limits, Order};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const STATES: usize = 1 << 12;

/// Values and priors of states.
struct Table {
    children: usize,
    values: Vec<f64>,
    priors: Vec<f64>,
}

impl Table {
    fn new(children: usize) -> Self {
        let values = (0..STATES as u64).map(|i| Draw::new(0, 0, 0, "value").uniform(i));
        let weight = |i: u64| Draw::new(0, 0, 0, "prior").uniform(i).powi(3) + 0.01;
        let mut priors: Vec<f64> = (0..(STATES * children) as u64).map(weight).collect();
        for row in priors.chunks_mut(children) {
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|weight| *weight /= sum);
        }
        Self { children, values: values.collect(), priors }
    }

    fn state(leaf: &Leaf) -> usize {
        let node = u64::from(leaf.ask.node).wrapping_mul(2_654_435_761);
        (node.wrapping_add(u64::from(leaf.tree) * 40_503)) as usize % STATES
    }

    fn tell(&self, forest: &mut Forest, leaves: &[Leaf]) {
        let row = |s: usize| &self.priors[s * self.children..][..self.children];
        let tickets: Vec<u64> = leaves.iter().map(|leaf| leaf.ticket).collect();
        let values: Vec<f64> = leaves.iter().map(|leaf| self.values[Self::state(leaf)]).collect();
        let priors: Vec<f64> =
            leaves.iter().flat_map(|leaf| row(Self::state(leaf)).iter().copied()).collect();
        let answers = Answers {
            tickets: &tickets,
            values: Some(&values),
            children: &vec![self.children; leaves.len()],
            priors: Some(&priors),
            ..Answers::default()
        };
        forest.expand(&answers, false).unwrap();
    }
}

fn searched(table: &Table, trees: usize, simulations: u64, per_tree: usize) -> Forest {
    let limits = Limits { simulations, ..Limits::default() };
    let rule = rules::make("puct", &vec![]).unwrap();
    let mut forest = Forest::new(trees, rule, limits).unwrap();
    let exec = Exec::default();
    loop {
        let batch = per_tree * trees;
        let leaves = forest.select(batch, per_tree, Order::Priority, &exec).unwrap();
        if leaves.is_empty() {
            return forest;
        }
        table.tell(&mut forest, &leaves);
    }
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("256 trees x 800");
    for (children, per_tree) in [(8, 8), (8, 1), (32, 8)] {
        let table = Table::new(children);
        group.throughput(Throughput::Elements(256 * 800));
        group.sample_size(20);
        group.bench_function(format!("{children} children, {per_tree} under way"), |bencher| {
            bencher.iter(|| black_box(searched(&table, 256, 800, per_tree)));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
