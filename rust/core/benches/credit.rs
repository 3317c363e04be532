//! Token-level methods on the arrays that trainers hand over, beside a plain copy.
//!
//! `cargo bench -p apportion-core --bench credit`. `ROWS` and `WIDTH` set the size, 8192
//! x 2048 unless given. Throughput is bytes of input read and of output written, each
//! once, so that it can be compared with the copy's.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::credit::{Values, find};
use apportion_core::exec::Exec;
use apportion_core::options::{Settings, Value};
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use apportion_core::spread::to_tokens;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn size(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Uniform numbers below 1, the same in every run.
fn noise(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 40) as f32 / (1u64 << 24) as f32
}

struct Batch {
    rows: usize,
    width: usize,
    mask: Vec<i64>,
    rewards: Vec<f32>,
    values: Vec<f32>,
    groups: Vec<i64>,
    trained: usize,
}

impl Batch {
    /// Lengths uniform from an eighth of the width to all of it, padded on the right; a
    /// reward at the last token; eight rows a group.
    fn new(rows: usize, width: usize) -> Self {
        let mut state = 1;
        let (mut mask, mut rewards) = (vec![0; rows * width], vec![0.0; rows * width]);
        let mut trained = 0;
        for row in 0..rows {
            let length = width / 8 + (noise(&mut state) * (width * 7 / 8) as f32) as usize;
            mask[row * width..][..length].fill(1);
            rewards[row * width + length - 1] = noise(&mut state);
            trained += length;
        }
        let values = (0..rows * width).map(|_| noise(&mut state)).collect();
        let groups = (0..rows as i64).map(|row| row / 8).collect();
        Self { rows, width, mask, rewards, values, groups, trained }
    }

    fn rollouts<'a>(&'a self, exec: &'a Exec<'a>) -> Rollouts<'a> {
        let rows = Offsets::even(self.rows, self.width).unwrap();
        let floats = |values: &'a [f32]| Column::Floats(Floats::F32(values.into()));
        Rollouts::packed(rows, Mask::I64(&self.mask), exec)
            .unwrap()
            .with("token_rewards", floats(&self.rewards))
            .with("values", floats(&self.values))
            .with("group_ids", Column::Keys(Keys::Ints((&self.groups[..]).into())))
    }
}

fn credit(c: &mut Criterion) {
    let batch = Batch::new(size("ROWS", 8192), size("WIDTH", 2048));
    let exec = Exec::default();
    let mut group = c.benchmark_group("credit");
    group.sample_size(10);

    let mut target = vec![0.0f32; batch.values.len()];
    group.throughput(Throughput::Bytes(8 * target.len() as u64));
    group.bench_function("copy", |b| {
        b.iter(|| black_box(&mut target).copy_from_slice(&batch.values))
    });
    drop(target);

    let mask = 8 * batch.mask.len() as u64;
    let trained = 4 * batch.trained as u64;
    let cases: [(&str, &str, Settings, u64); 4] = [
        ("gae", "gae", vec![("lam".into(), Value::Float(0.95))], mask + 4 * trained),
        ("gae_verl", "gae", vec![("remask".into(), Value::Bool(false))], 3 * mask),
        ("reinforce_pp", "reinforce_pp", vec![], mask + 3 * trained),
        ("grpo", "grpo", vec![], 2 * mask + 4 * batch.mask.len() as u64 + trained),
    ];
    for (name, method, settings, bytes) in cases {
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(name, |b| {
            b.iter(|| {
                let rollouts = batch.rollouts(&exec);
                let credit = find(method).unwrap().credit(&rollouts, None, &settings).unwrap();
                match credit.advantages {
                    Values::Tokens(_) => drop(black_box(credit)),
                    values => drop(black_box(to_tokens(&rollouts, &values, 0.0, false).unwrap())),
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, credit);
criterion_main!(benches);
