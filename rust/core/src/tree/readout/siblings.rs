//! How the values of a node's children spread: mean and deviation.
//!
//! Depends on `parents`.

use crate::stats::Moments;
use crate::tree::parents::Parents;

/// Moments of the values of each node's children, absent (NaN) ones left out. Children of
/// equal values have exactly no squares.
pub fn child_moments(parents: &Parents<'_>, values: &[f64]) -> Vec<Moments> {
    let mut moments = vec![Moments::default(); parents.len()];
    for (n, &value) in values.iter().enumerate() {
        if let Some(p) = parents.of(n).filter(|_| !value.is_nan()) {
            moments[p] = moments[p].merge(Moments::repeated(value, 1.0));
        }
    }
    moments
}
