//! `muzero`: returns scaled between parent and siblings, mctx's form.

use crate::options::{NonNegative, Positive};
use crate::tree::rules::{At, Rule};

crate::rule! {
    /// `norm(Q) + sqrt(N_parent) * (c_init + ln((N_parent + c_base + 1) / c_base)) * P / (1 + N)`.
    ///
    /// `norm` maps the range of the parent's value and the visited children's returns to
    /// 0..1; an unvisited child has 0. Schrittwieser et al. 2020; mctx
    /// `muzero_action_selection` with `qtransform_by_parent_and_siblings`.
    "muzero" {
        title: "MuZero's PUCT",
        family: Descent,
        paper: "Schrittwieser et al. 2020, arXiv:1911.08265",
        certainty: Code,
        options: {
            /// First constant of the prior's weight.
            c_init: NonNegative = 1.25,
            /// Second constant, above which visits matter.
            c_base: Positive = 19652.0,
        },
    }
}

/// Returns of children in the range of parent and siblings; unvisited ones 0.
pub fn scaled(at: &At<'_>) -> Vec<f64> {
    let own = at.tree.value(at.node);
    let (low, high) = at
        .children()
        .iter()
        .filter_map(|c| at.q(c))
        .fold((own, own), |(low, high), q| (low.min(q), high.max(q)));
    let range = (high - low).max(1e-8);
    at.children().iter().map(|c| at.q(c).map_or(0.0, |q| (q - low) / range)).collect()
}

impl Rule for Options {
    fn merges(&self) -> bool {
        true
    }

    fn choose(&self, at: &At<'_>) -> Option<u32> {
        let visits = at.visits(at.hot());
        let scale = *self.c_init + ((visits + *self.c_base + 1.0) / *self.c_base).ln();
        let scale = scale * visits.sqrt();
        let values = scaled(at);
        at.best(|i, child| values[i] + scale * f64::from(child.prior) / (at.visits(child) + 1.0))
    }
}
