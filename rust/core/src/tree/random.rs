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

    /// A standard normal number (Box and Muller 1958).
    pub fn normal(self, index: u64) -> f64 {
        let radius = (-2.0 * self.uniform(2 * index).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(2 * index + 1)).cos()
    }

    /// A gamma number of the given shape and scale 1 (Marsaglia and Tsang 2000; below 1 by
    /// `gamma(shape + 1) * uniform^(1 / shape)`).
    pub fn gamma(self, index: u64, shape: f64) -> f64 {
        let tries = Self(self.bits(index));
        let boost = if shape < 1.0 { tries.uniform(u64::MAX).powf(1.0 / shape) } else { 1.0 };
        let d = if shape < 1.0 { shape + 1.0 } else { shape } - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        let mut attempt = 0;
        loop {
            let (x, u) = (tries.normal(2 * attempt), tries.uniform(4 * attempt + 2));
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && u.ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
                return boost * d * v;
            }
            attempt += 1;
        }
    }
}
