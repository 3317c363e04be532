//! Labels from values of nodes: pairs of siblings, and the first step that went wrong.
//!
//! Depends on `parents`.

use crate::choice;
use crate::tree::parents::Parents;

choice! {
    /// Which siblings make pairs.
    PairsOf {
        /// The best and the worst.
        Extremes = "extremes",
        /// Every two.
        All = "all",
    }
}

/// Pairs of siblings of which one is worth more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    /// The parent of both.
    pub parents: Vec<i64>,
    /// The one of the larger value.
    pub chosen: Vec<i64>,
    /// The other.
    pub rejected: Vec<i64>,
    /// By how much.
    pub margins: Vec<f64>,
}

/// Pairs of siblings whose values differ by more than `margin`, by parent. Nodes whose
/// value is NaN make none; of equal values the earlier sibling is taken.
pub fn pairs(parents: &Parents<'_>, values: &[f64], margin: f64, of: PairsOf) -> Pairs {
    let mut order: Vec<(usize, usize)> = (0..parents.len())
        .filter(|&n| !values[n].is_nan())
        .filter_map(|n| Some((parents.of(n)?, n)))
        .collect();
    order.sort_unstable();
    let mut out = Pairs::default();
    let mut add = |p: usize, a: usize, b: usize| {
        let (chosen, rejected) = if values[b] > values[a] { (b, a) } else { (a, b) };
        let gap = values[chosen] - values[rejected];
        if gap > margin {
            out.parents.push(p as i64);
            out.chosen.push(chosen as i64);
            out.rejected.push(rejected as i64);
            out.margins.push(gap);
        }
    };
    for siblings in order.chunk_by(|a, b| a.0 == b.0) {
        let p = siblings[0].0;
        match of {
            PairsOf::All => {
                for (i, &(_, a)) in siblings.iter().enumerate() {
                    siblings[i + 1..].iter().for_each(|&(_, b)| add(p, a, b));
                }
            }
            PairsOf::Extremes => {
                let (mut best, mut worst) = (siblings[0].1, siblings[0].1);
                for &(_, n) in siblings {
                    best = if values[n] > values[best] { n } else { best };
                    worst = if values[n] < values[worst] { n } else { worst };
                }
                add(p, best, worst);
            }
        }
    }
    out
}

/// For each node the first on the way to it, below the root, whose value is at most
/// `threshold`, and how many steps are before that; -1 twice where there is none. A value
/// that is NaN is no error.
pub fn first_errors(parents: &Parents<'_>, values: &[f64], threshold: f64) -> (Vec<i64>, Vec<i64>) {
    let nodes = parents.len();
    let (mut errors, mut steps, mut depth) = (vec![-1; nodes], vec![-1; nodes], vec![0; nodes]);
    for n in 0..nodes {
        let Some(p) = parents.of(n) else { continue };
        depth[n] = depth[p] + 1;
        (errors[n], steps[n]) = match errors[p] {
            -1 if values[n] <= threshold => (n as i64, depth[p]),
            found => (found, steps[p]),
        };
    }
    (errors, steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;

    #[test]
    fn siblings_and_errors() -> Result<()> {
        let given = [-1, 0, 0, 0, 1, 1];
        let parents = Parents::new(&given)?;
        let values = [0.5, 0.75, 0.0, f64::NAN, 1.0, 0.5];
        let found = pairs(&parents, &values, 0.0, PairsOf::Extremes);
        assert_eq!((&found.chosen[..], &found.rejected[..]), (&[1, 4][..], &[2, 5][..]));
        assert_eq!(found.margins, [0.75, 0.5]);
        assert_eq!(pairs(&parents, &values, 0.5, PairsOf::All).parents, [0]);
        let (errors, steps) = first_errors(&parents, &values, 0.5);
        assert_eq!(errors, [-1, -1, 2, -1, -1, 5]);
        assert_eq!(steps, [-1, -1, 0, -1, -1, 1]);
        Ok(())
    }
}
