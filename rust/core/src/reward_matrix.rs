//! Scores by several reward functions: one row a trajectory, one column a function.
//!
//! NaN means that a function does not apply to a trajectory. May depend on `error` alone.

use crate::error::{Error, Result};

/// A matrix of rewards, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardMatrix {
    /// Row after row.
    pub values: Vec<f64>,
    /// Numbers in a row: reward functions.
    pub width: usize,
}

impl RewardMatrix {
    /// One score a row, as if by a single function.
    pub fn single(values: Vec<f64>) -> Self {
        Self { values, width: 1 }
    }

    /// The scores by one function.
    pub fn column(&self, function: usize) -> Vec<f64> {
        self.values.chunks_exact(self.width).map(|row| row[function]).collect()
    }

    /// The rows at the given places, in that order.
    pub fn pick(&self, places: &[usize]) -> Self {
        let row = |&place: &usize| &self.values[place * self.width..(place + 1) * self.width];
        Self { values: places.iter().flat_map(row).copied().collect(), width: self.width }
    }

    /// Weighted sum of each row over the functions that apply; NaN where none does.
    pub fn sums(&self, weights: &[f64]) -> Vec<f64> {
        let sum = |row: &[f64]| {
            let terms = row.iter().zip(weights).filter(|(x, _)| !x.is_nan()).map(|(x, w)| x * w);
            terms.fold(f64::NAN, |sum, term| if sum.is_nan() { term } else { sum + term })
        };
        self.values.chunks_exact(self.width).map(sum).collect()
    }

    /// Weights as given, one a function; none given means 1 each.
    pub fn weights(&self, given: &[f64]) -> Result<Vec<f64>> {
        match given.len() {
            0 => Ok(vec![1.0; self.width]),
            n if n == self.width => Ok(given.to_vec()),
            n => Err(Error::Length {
                argument: "reward_weights".to_owned(),
                got: n,
                expected: self.width,
                of: "columns of reward_matrix",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_scores_are_left_out_of_sums() {
        let matrix =
            RewardMatrix { values: vec![1.0, 2.0, f64::NAN, 4.0, f64::NAN, f64::NAN], width: 2 };
        let sums = matrix.sums(&[1.0, 0.5]);
        assert_eq!(sums[..2], [2.0, 2.0]);
        assert!(sums[2].is_nan());
        assert_eq!(matrix.pick(&[1, 0]).column(1), [4.0, 2.0]);
    }

    #[test]
    fn weights_must_match_the_columns() {
        let matrix = RewardMatrix { values: vec![1.0, 2.0], width: 2 };
        assert_eq!(matrix.weights(&[]), Ok(vec![1.0, 1.0]));
        let error = matrix.weights(&[1.0]).unwrap_err().to_string();
        assert!(error.contains("reward_weights") && error.contains('2'), "{error}");
    }
}
