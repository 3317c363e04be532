//! Dirichlet noise in a root's priors. Depends on `arena`, `limits` and `random`.

use crate::tree::arena::{ROOT, Tree};
use crate::tree::limits::Limits;
use crate::tree::random::Draw;

/// `P <- (1 - fraction) * P + fraction * eta`, `eta ~ Dirichlet(alpha)` over the root's
/// children from `first` on that are choices (Silver et al. 2017). Drawn from the seed.
pub fn mix(tree: &mut Tree, first: u32, limits: &Limits, index: usize) {
    let (fraction, alpha) = limits.noise;
    let draws = Draw::new(limits.seed, index, ROOT, "root noise");
    let open: Vec<u32> =
        (first..tree.len() as u32).filter(|&c| !tree.hot[c as usize].is_masked()).collect();
    let gammas: Vec<f64> = open.iter().map(|&c| draws.gamma(u64::from(c), alpha)).collect();
    let total: f64 = gammas.iter().sum();
    if total <= 0.0 {
        return; // all underflowed, with an alpha near 0
    }
    for (&child, gamma) in open.iter().zip(gammas) {
        let prior = &mut tree.hot[child as usize].prior;
        *prior = ((1.0 - fraction) * f64::from(*prior) + fraction * gamma / total) as f32;
    }
}
