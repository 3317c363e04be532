//! Token rewards made from a score: placed on the last trained token, clipped, less KL.
//!
//! Plain functions over one row. May depend on nothing else in the crate.

/// Adds a score to a row's last trained token, where a row has one.
pub fn place(score: f64, mask: &[bool], rewards: &mut [f64]) {
    if let Some(last) = mask.iter().rposition(|&m| m) {
        rewards[last] += score;
    }
}

/// How a score becomes token rewards: `r_t = [t is last] clip(s) - kl_coef kl_t` on trained
/// tokens and 0 elsewhere. The KL penalty of Ouyang et al. 2022, arXiv:2203.02155, as
/// OpenRLHF's `compute_reward` does it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shaping {
    /// The score is held between these.
    pub clip: Option<(f64, f64)>,
    /// Weight of the divergence from the reference policy; not above 0 means without.
    pub kl_coef: f64,
}

impl Shaping {
    /// Rewards of one row. `kl` holds an estimate a token; what stands outside the mask is
    /// never read, not even as NaN. A row without trained tokens gives zeros.
    pub fn apply(&self, score: f64, kl: &[f64], mask: &[bool]) -> Vec<f64> {
        let penalised = |(&kl, &m): (&f64, &bool)| match m {
            true if self.kl_coef > 0.0 => -self.kl_coef * kl,
            _ => 0.0,
        };
        let mut rewards: Vec<f64> = kl.iter().zip(mask).map(penalised).collect();
        let clipped = self.clip.map_or(score, |(low, high)| score.max(low).min(high));
        place(clipped, mask, &mut rewards);
        rewards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_tokens_get_nothing() {
        let shaping = Shaping { clip: None, kl_coef: 0.5 };
        let kl = [1.0, f64::NAN, 2.0, f64::NAN];
        assert_eq!(shaping.apply(3.0, &kl, &[true, false, true, false]), [-0.5, 0.0, 2.0, 0.0]);
        assert_eq!(shaping.apply(3.0, &kl, &[false; 4]), [0.0; 4]);
        let without = Shaping { clip: Some((-1.0, 1.0)), kl_coef: -1.0 };
        assert_eq!(without.apply(3.0, &[9.0, 9.0], &[true, true]), [0.0, 1.0]);
    }
}
