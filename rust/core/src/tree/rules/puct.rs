//! `puct`: mean return plus prior, AlphaZero's form.

use crate::choice;
use crate::options::{NonNegative, Positive};
use crate::tree::arena::Hot;
use crate::tree::rules::{At, Rule};

choice! {
    /// What an unvisited child is worth (first-play urgency).
    FirstPlay {
        /// 0.
        Zero = "zero",
        /// Its parent's mean value.
        Parent = "parent",
        /// Its parent's mean value less `first_play_reduction * sqrt(sum of visited priors)`.
        Reduced = "reduced",
        /// The value that came with the expansion, as a process reward model gives it.
        Value = "value",
        /// More than any visited child.
        Infinite = "infinite",
    }
}

crate::rule! {
    /// `Q + C * P * sqrt(N_parent) / (1 + N)`, with `C = c_puct` or, given `c_base`,
    /// `C = c_puct + ln((N_parent + c_base + 1) / c_base)`.
    ///
    /// Silver et al. 2018. OpenSpiel `SearchNode.puct_value` with `proven_exact`; OpenR with
    /// `c_puct` 1.25, `c_base` 19652 and `first_play="value"`; Leela Chess Zero's first play
    /// is `"reduced"` with 0.33. Ties go to the first child; without visits below a node the
    /// prior term is 0 for all, so that `first_play` alone decides.
    "puct" {
        title: "PUCT",
        family: Descent,
        paper: "Silver et al. 2018, AlphaZero",
        certainty: Code,
        options: {
            /// Weight of the prior term.
            c_puct: NonNegative = 1.25,
            /// Visits above which the weight grows; `None` keeps it constant.
            c_base: Option<Positive> = None,
            /// What an unvisited child is worth.
            first_play: FirstPlay = FirstPlay::Zero,
            /// Reduction of `first_play="reduced"`.
            first_play_reduction: NonNegative = 0.33,
            /// Score children whose value is known by that value alone.
            proven_exact: bool = false,
        },
    }
}

impl Options {
    #[inline]
    fn unvisited(&self, at: &At<'_>) -> f64 {
        match self.first_play {
            FirstPlay::Zero | FirstPlay::Value => 0.0,
            FirstPlay::Infinite => f64::INFINITY,
            FirstPlay::Parent => at.tree.value(at.node),
            FirstPlay::Reduced => {
                let visited = at.children().iter().filter(|c| at.visits(c) > 0.0);
                let seen: f64 = visited.map(|c| f64::from(c.prior)).sum();
                at.tree.value(at.node) - *self.first_play_reduction * seen.sqrt()
            }
        }
    }

    /// Weight of the prior term.
    fn scale(&self, at: &At<'_>) -> f64 {
        let visits = at.visits(at.hot());
        let growth = self.c_base.map_or(0.0, |base| ((visits + *base + 1.0) / *base).ln());
        (*self.c_puct + growth) * visits.sqrt()
    }

    fn score<'a>(&'a self, at: &'a At<'a>) -> impl Fn(usize, &Hot) -> f64 + 'a {
        let (scale, unvisited) = (self.scale(at), self.unvisited(at));
        move |i, child| {
            if self.proven_exact && child.is_proven() {
                return at.tree.proven_return(at.child(i));
            }
            let q = at.q(child).unwrap_or_else(|| match self.first_play {
                FirstPlay::Value => {
                    let node = at.child(i);
                    at.tree.edge_return(node, at.tree.raw_value(node))
                }
                _ => unvisited,
            });
            q + scale * f64::from(child.prior) / (1.0 + at.visits(child))
        }
    }
}

impl Rule for Options {
    fn merges(&self) -> bool {
        true
    }

    fn choose(&self, at: &At<'_>) -> Option<u32> {
        if self.proven_exact || self.first_play == FirstPlay::Value {
            return at.best(self.score(at));
        }
        at.best_by_prior(self.scale(at), self.unvisited(at))
    }

    fn child_scores(&self, at: &At<'_>) -> Vec<f64> {
        at.each(self.score(at))
    }
}
