//! `uct`: mean return plus a confidence bound, in the forms that are in use.

use crate::choice;
use crate::options::NonNegative;
use crate::tree::arena::Hot;
use crate::tree::rules::{At, Rule};

choice! {
    /// What an unvisited child scores.
    Unvisited {
        /// More than any other.
        Infinite = "infinite",
        /// 0, with no bonus.
        Zero = "zero",
    }
}

crate::rule! {
    /// `Q + c * sqrt(factor * ln N_parent / N)`.
    ///
    /// Kocsis and Szepesvari 2006. OpenSpiel `SearchNode.uct_value` with `proven_exact`
    /// (`c` 2, `factor` 1). Ties go to the first child.
    "uct" {
        title: "UCT",
        family: Descent,
        paper: "Kocsis and Szepesvari 2006",
        certainty: Code,
        options: {
            /// Weight of the bound.
            c: NonNegative = std::f64::consts::SQRT_2,
            /// Factor inside the root.
            factor: NonNegative = 1.0,
            /// What an unvisited child scores.
            unvisited: Unvisited = Unvisited::Infinite,
            /// Score children whose value is known by that value alone.
            proven_exact: bool = false,
        },
    }
}

impl Options {
    fn score<'a>(&'a self, at: &'a At<'a>) -> impl Fn(usize, &Hot) -> f64 + 'a {
        let log = *self.factor * at.visits(at.hot()).max(1.0).ln();
        move |i, child| {
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
        }
    }
}

impl Rule for Options {
    by_score!();

    fn merges(&self) -> bool {
        true
    }
}
