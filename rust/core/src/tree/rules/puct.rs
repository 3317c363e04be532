//! `puct`: mean return plus prior, AlphaZero's form.

use crate::choice;
use crate::options::NonNegative;
use crate::tree::rules::{At, Rule};

choice! {
    /// What an unvisited child is worth.
    FirstPlay {
        /// 0.
        Zero = "zero",
        /// Its parent's mean value.
        Parent = "parent",
    }
}

crate::rule! {
    /// `Q + c_puct * P * sqrt(N_parent) / (1 + N)`.
    ///
    /// Silver et al. 2018 (AlphaZero). OpenSpiel `SearchNode.puct_value` with
    /// `proven_exact`; ProRAG with equal priors and `c_puct` 2.5; AlphaMath with 1.5.
    "puct" {
        /// Weight of the prior term.
        c_puct: NonNegative = 1.25,
        /// What an unvisited child is worth.
        first_play: FirstPlay = FirstPlay::Zero,
        /// Score children whose value is known by that value alone.
        proven_exact: bool = false,
    }
}

impl Rule for Options {
    fn choose(&self, at: &At<'_>) -> Option<u32> {
        let scale = *self.c_puct * at.visits(at.hot()).sqrt();
        let unvisited = match self.first_play {
            FirstPlay::Zero => 0.0,
            FirstPlay::Parent => at.tree.value(at.node),
        };
        at.best(|i, child| {
            if self.proven_exact && child.is_proven() {
                return at.tree.proven_return(at.child(i));
            }
            let q = at.q(child).unwrap_or(unvisited);
            q + scale * f64::from(child.prior) / (1.0 + at.visits(child))
        })
    }
}
