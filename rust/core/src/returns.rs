//! Accumulation over time within a row: discounted, minimum form, GAE.
//!
//! Plain functions over slices, from the last element to the first. May depend
//! on nothing else in the crate.

/// `G_t = r_t + gamma G_{t+1}`, in place.
pub fn discounted(rewards: &mut [f64], gamma: f64) {
    let mut next = 0.0;
    for r in rewards.iter_mut().rev() {
        next = *r + gamma * next;
        *r = next;
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
    use super::*;

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
        minimum(&mut []);
        over_root_of_rest(&mut []);
    }
}
