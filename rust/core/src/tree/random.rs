//! Randomness without state: a number is a function of what it is for.
//!
//! Keyed by seed, tree, node and purpose, so that neither threads nor the order of
//! answers can change it. Depends on nothing.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A stream of draws for one purpose at one node.
#[derive(Clone, Copy, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The stream of this key.
    pub fn new(seed: u64, tree: usize, node: u32, purpose: &str) -> Self {
        let mut key = [0; 12];
        key[..8].copy_from_slice(&(tree as u64).to_le_bytes());
        key[8..].copy_from_slice(&node.to_le_bytes());
        Self(xxh3_64_with_seed(&key, xxh3_64_with_seed(purpose.as_bytes(), seed)))
    }

    /// Draw number `index`, 64 random bits.
    pub fn bits(self, index: u64) -> u64 {
        xxh3_64_with_seed(&index.to_le_bytes(), self.0)
    }

    /// A number in the open interval 0..1.
    pub fn uniform(self, index: u64) -> f64 {
        ((self.bits(index) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    /// A standard Gumbel number.
    pub fn gumbel(self, index: u64) -> f64 {
        -(-self.uniform(index).ln()).ln()
    }
}
