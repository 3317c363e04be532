//! Accumulation over time within a row: discounted, minimum form, GAE.
//!
//! Plain functions over slices, from the last element to the first. May depend
//! on nothing else in the crate.

/// `G_t = r_t + gamma G_{t+1}`, in place.
///
/// Four elements are summed among themselves before what follows them is added: each
/// step of the plain loop would wait for the one before, and take four times as long.
pub fn discounted(rewards: &mut [f64], gamma: f64) {
    let (second, fourth) = (gamma * gamma, gamma * gamma * (gamma * gamma));
    let block = |r: [f64; 4], next: f64| {
        let c = r[2] + gamma * r[3];
        let b = r[1] + gamma * c;
        let a = r[0] + gamma * b;
        [a + fourth * next, b + second * gamma * next, c + second * next, r[3] + gamma * next]
    };
    let mut next = 0.0;
    let (head, blocks) = rewards.as_rchunks_mut::<4>();
    for r in blocks.iter_mut().rev() {
        *r = block(*r, next);
        next = r[0];
    }
    // The rest goes the same way, so that an element's bits depend on what follows it alone.
    let mut last = [0.0; 4];
    last[4 - head.len()..].copy_from_slice(head);
    head.copy_from_slice(&block(last, next)[4 - head.len()..]);
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
}
