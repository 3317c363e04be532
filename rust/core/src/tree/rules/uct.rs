//! `uct`: mean return plus a confidence bound, in the forms that are in use.

use crate::choice;
use crate::options::NonNegative;
use crate::tree::rules::{At, Rule};

choice! {
    /// What an unvisited child scores.
    Unvisited {
        /// More than any other.
        Infinite = "infinite",
        /// 0, with no bonus (rStar-Math).
        Zero = "zero",
    }
}

crate::rule! {
    /// `Q + c * sqrt(factor * ln N_parent / N)`.
    ///
    /// Kocsis and Szepesvari 2006. OpenSpiel `SearchNode.uct_value` with `proven_exact`
    /// (`c` 2, `factor` 1); PROPA `factor` 2; rStar-Math `c` 2, `unvisited="zero"`.
    "uct" {
        /// Weight of the bound.
        c: NonNegative = std::f64::consts::SQRT_2,
        /// Factor inside the root.
        factor: NonNegative = 1.0,
        /// What an unvisited child scores.
        unvisited: Unvisited = Unvisited::Infinite,
        /// Score children whose value is known by that value alone.
        proven_exact: bool = false,
    }
}

impl Rule for Options {
    fn choose(&self, at: &At<'_>) -> Option<u32> {
        let log = *self.factor * at.visits(at.hot()).max(1.0).ln();
        at.best(|i, child| {
            if self.proven_exact && child.is_proven() {
                return at.tree.proven_return(at.child(i));
            }
            let visits = at.visits(child);
            if visits == 0.0 {
                return match self.unvisited {
                    Unvisited::Infinite => f64::INFINITY,
                    Unvisited::Zero => 0.0,
                };
            }
            at.q(child).unwrap_or(0.0) + *self.c * (log / visits).sqrt()
        })
    }
}
