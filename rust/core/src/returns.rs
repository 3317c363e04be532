//! Accumulation over time within a row: discounted, minimum form, GAE.
//!
//! Plain functions over slices, from the last element to the first. May depend
//! on `wide`.

use crate::wide::wide;

wide! {
    /// `G_t = r_t + gamma G_{t+1}`, in place.
    ///
    /// Each step of the plain loop would wait for the one before. Sums over 2, 4 and then
    /// 8 elements do not, and of those eight chains run side by side. An element's bits
    /// depend on what follows it alone.
    pub fn discounted(rewards: &mut [f64], gamma: f64) {
        let second = gamma * gamma;
        let fourth = second * second;
        for (gap, factor) in [(1, gamma), (2, second), (4, fourth)] {
            for later in gap..rewards.len() {
                rewards[later - gap] += factor * rewards[later];
            }
        }
        let eighth = fourth * fourth;
        let mut next = [0.0; 8];
        let (head, blocks) = rewards.as_rchunks_mut::<8>();
        for block in blocks.iter_mut().rev() {
            for (sum, next) in block.iter_mut().zip(&mut next) {
                *sum += eighth * *next;
                *next = *sum;
            }
        }
        for (sum, next) in head.iter_mut().rev().zip(next.iter().rev()) {
            *sum += eighth * next;
        }
    }
}

/// `G_t = min(r_t, G_{t+1})`, in place.
pub fn minimum(rewards: &mut [f64]) {
    let mut next = f64::INFINITY;
    for r in rewards.iter_mut().rev() {
        next = next.min(*r);
        *r = next;
    }
}

/// Divides the element that has `k` elements from itself to the end by `sqrt(k)`, in place.
pub fn over_root_of_rest(sums: &mut [f64]) {
    for (rest, s) in sums.iter_mut().rev().enumerate() {
        *s /= ((rest + 1) as f64).sqrt();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn discounted_of(rewards: &[f64], gamma: f64) -> Vec<f64> {
        let mut sums = rewards.to_vec();
        discounted(&mut sums, gamma);
        sums
    }

    #[test]
    fn short_rows() {
        let mut g = [1.0, 0.0, 2.0];
        discounted(&mut g, 0.5);
        assert_eq!(g, [1.5, 1.0, 2.0]);
        let mut m = [3.0, 1.0, 2.0];
        minimum(&mut m);
        assert_eq!(m, [1.0, 1.0, 2.0]);
        let mut s = [4.0, 2.0f64.sqrt(), 1.0];
        over_root_of_rest(&mut s);
        assert!((s[0] - 4.0 / 3.0f64.sqrt()).abs() < 1e-15 && (s[1] - 1.0).abs() < 1e-15);
        discounted(&mut [], 1.0);
        let long: Vec<f64> = (0..11).map(|i| f64::from(i * i % 7) - 2.0).collect();
        let mut next = 0.0;
        let plain: Vec<f64> = long
            .iter()
            .rev()
            .map(|r| {
                next = r + 0.9 * next;
                next
            })
            .collect();
        for (got, want) in discounted_of(&long, 0.9).iter().zip(plain.iter().rev()) {
            assert!((got - want).abs() < 1e-14);
        }
        assert_eq!(discounted_of(&long, 0.9)[3..], discounted_of(&long[3..], 0.9));
        minimum(&mut []);
        over_root_of_rest(&mut []);
    }

    /// The sum over the `span` elements from `t` on, a power of two: half and half.
    fn window(rewards: &[f64], gamma: f64, t: usize, span: u32) -> Option<f64> {
        if span == 1 {
            return rewards.get(t).copied();
        }
        let (half, factor) = (span / 2, (1..span / 2).fold(gamma, |product, _| product * gamma));
        let first = window(rewards, gamma, t, half)?;
        let later = window(rewards, gamma, t + half as usize, half);
        Some(later.map_or(first, |later| first + factor * later))
    }

    proptest! {
        /// Whatever vectors the processor has.
        #[test]
        fn the_bits_of_one_element_at_a_time(
            rewards in prop::collection::vec(-5.0..5.0f64, 0..70),
            gamma in prop::sample::select(vec![0.0, 0.5, 0.9375, 1.0]),
        ) {
            // Powers of these are exact, so the oracle need not multiply in the same order.
            let got = discounted_of(&rewards, gamma);
            let eighth = gamma.powi(8);
            for t in (0..rewards.len()).rev() {
                let block = window(&rewards, gamma, t, 8).unwrap_or(0.0);
                let next = got.get(t + 8).copied().unwrap_or(0.0);
                prop_assert_eq!(got[t].to_bits(), (block + eighth * next).to_bits());
            }
        }
    }
}
