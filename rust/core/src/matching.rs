//! Pairing rows with columns of a score matrix: greedy, optimal, and soft.
//!
//! Plain functions over [`Scores`]. May depend on `error` and `exec`, by which the
//! long loops are stopped.

use crate::error::{Error, Result};
use crate::exec::Exec;

/// A matrix of finite scores, row after row; higher is better.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    values: Vec<f64>,
    rows: usize,
    columns: usize,
}

impl Scores {
    /// Checks the length and that every score is finite.
    pub fn new(values: Vec<f64>, rows: usize, columns: usize) -> Result<Self> {
        if rows.checked_mul(columns) != Some(values.len()) {
            return Err(Error::Length {
                argument: "scores".to_owned(),
                got: values.len(),
                expected: rows.saturating_mul(columns),
                of: "rows times columns",
            });
        }
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(Self { values, rows, columns }),
            Some(index) => Err(Error::Value {
                argument: "scores".to_owned(),
                index,
                got: values[index].to_string(),
                expected: "a finite number".to_owned(),
            }),
        }
    }

    /// One score.
    pub fn get(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.columns + column]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    fn transposed(&self) -> Self {
        let flipped = (0..self.columns).flat_map(|c| (0..self.rows).map(move |r| self.get(r, c)));
        Self { values: flipped.collect(), rows: self.columns, columns: self.rows }
    }
}

/// The column of each row when pairs are taken by descending score, ties in row-major
/// order, and only scores above 0.
pub fn greedy(scores: &Scores) -> Vec<Option<usize>> {
    let mut pairs: Vec<usize> = (0..scores.values.len()).collect();
    pairs.retain(|&pair| scores.values[pair] > 0.0);
    // The sort is stable, so that equal scores stay in row-major order.
    pairs.sort_by(|&a, &b| scores.values[b].total_cmp(&scores.values[a]));
    let mut of_row = vec![None; scores.rows];
    let mut taken = vec![false; scores.columns];
    for pair in pairs {
        let (row, column) = (pair / scores.columns, pair % scores.columns);
        if of_row[row].is_none() && !taken[column] {
            of_row[row] = Some(column);
            taken[column] = true;
        }
    }
    of_row
}

/// The column of each row in a one-to-one pairing with the highest total score. With more
/// rows than columns some rows have none, with fewer every row has one.
///
/// Shortest augmenting paths with dual prices (Jonker and Volgenant 1987, Computing 38;
/// for rectangles Crouse 2016, IEEE TAES 52): `O(n^2 m)` with `n` the shorter side.
pub fn optimal(scores: &Scores, exec: &Exec<'_>) -> Result<Vec<Option<usize>>> {
    if scores.rows <= scores.columns {
        return augmented(scores, exec);
    }
    let mut of_row = vec![None; scores.rows];
    for (column, row) in augmented(&scores.transposed(), exec)?.into_iter().enumerate() {
        if let Some(row) = row {
            of_row[row] = Some(column);
        }
    }
    Ok(of_row)
}

/// The column of each row, for at least as many columns as rows.
fn augmented(scores: &Scores, exec: &Exec<'_>) -> Result<Vec<Option<usize>>> {
    let mut of_row = vec![None; scores.rows];
    let mut row_price = vec![0.0; scores.rows];
    let mut column_price = vec![0.0; scores.columns];
    let mut owner: Vec<Option<usize>> = vec![None; scores.columns];
    for start in 0..scores.rows {
        // Dijkstra from the new row to the nearest free column, over reduced costs.
        let mut distance = vec![f64::INFINITY; scores.columns];
        let mut before = vec![start; scores.columns];
        let mut done = vec![false; scores.columns];
        let (mut row, mut reached, mut path) = (start, 0.0, Vec::new());
        let free = loop {
            exec.check()?;
            let mut nearest = None;
            for column in (0..scores.columns).filter(|&c| !done[c]) {
                let cost = -scores.get(row, column) - row_price[row] - column_price[column];
                if reached + cost < distance[column] {
                    distance[column] = reached + cost;
                    before[column] = row;
                }
                if nearest.is_none_or(|n: usize| distance[column] < distance[n]) {
                    nearest = Some(column);
                }
            }
            // A free column is left, because there are at least as many columns as rows.
            let Some(column) = nearest else { return Ok(of_row) };
            done[column] = true;
            reached = distance[column];
            match owner[column] {
                None => break column,
                Some(next) => {
                    path.push((column, next));
                    row = next;
                }
            }
        };
        row_price[start] += reached;
        for (column, owner) in path {
            row_price[owner] += reached - distance[column];
            column_price[column] -= reached - distance[column];
        }
        let mut column = free;
        loop {
            let row = before[column];
            owner[column] = Some(row);
            match of_row[row].replace(column) {
                None => break,
                Some(left) => column = left,
            }
        }
    }
    Ok(of_row)
}

/// How many rounds [`sinkhorn`] goes at most.
const ROUNDS: usize = 1000;
/// Rounds from one test for convergence to the next.
const TEST_EVERY: usize = 10;
/// Norm of the column sums' error at which [`sinkhorn`] stops.
const TOLERANCE: f64 = 1e-9;

/// Entropic transport plan, row after row: the matrix `T` with row sums `1 / rows` and
/// column sums `1 / columns` that maximises `sum(T S) + reg H(T)`.
///
/// Sinkhorn's rounds (Cuturi 2013, arXiv:1306.0895), columns first and row scales
/// starting at `1 / rows`, on logarithms, so that a small `reg` does not overflow. Stops
/// when the norm of the column sums' error, tested each tenth round from the first on, is
/// under 1e-9, at the latest after 1000 rounds. No rows or no columns: empty.
pub fn sinkhorn(scores: &Scores, reg: f64, exec: &Exec<'_>) -> Result<Vec<f64>> {
    let (rows, columns) = (scores.rows, scores.columns);
    let log_row = -(rows as f64).ln();
    let log_column = -(columns as f64).ln();
    let across = Scores { values: scores.values.iter().map(|s| s / reg).collect(), ..*scores };
    let down = across.transposed();
    let mut row_scale = vec![log_row; rows];
    let mut column_scale = vec![0.0; columns];
    for round in 0..ROUNDS {
        for (column, scale) in column_scale.iter_mut().enumerate() {
            exec.check()?;
            *scale = log_column - down.log_sum(column, &row_scale);
        }
        for (row, scale) in row_scale.iter_mut().enumerate() {
            exec.check()?;
            *scale = log_row - across.log_sum(row, &column_scale);
        }
        if round % TEST_EVERY == 0 {
            let error = |column: usize| {
                let sum = (column_scale[column] + down.log_sum(column, &row_scale)).exp();
                (sum - log_column.exp()).powi(2)
            };
            if (0..columns).map(error).sum::<f64>().sqrt() < TOLERANCE {
                break;
            }
        }
    }
    let plan = |row: usize, column: usize| {
        (row_scale[row] + across.get(row, column) + column_scale[column]).exp()
    };
    Ok((0..rows).flat_map(|row| (0..columns).map(move |column| plan(row, column))).collect())
}

impl Scores {
    /// `ln(sum over columns of exp(score + shift))` of a row.
    fn log_sum(&self, row: usize, shifts: &[f64]) -> f64 {
        let own = &self.values[row * self.columns..(row + 1) * self.columns];
        let terms = || own.iter().zip(shifts).map(|(score, shift)| score + shift);
        let largest = terms().fold(f64::NEG_INFINITY, f64::max);
        largest + terms().map(|term| (term - largest).exp()).sum::<f64>().ln()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small matrices with many ties.
    fn matrices() -> impl Strategy<Value = Scores> {
        (0usize..6, 0usize..6).prop_flat_map(|(rows, columns)| {
            prop::collection::vec(-2i32..6, rows * columns).prop_map(move |values| {
                let values = values.iter().map(|&v| f64::from(v) / 4.0).collect();
                Scores::new(values, rows, columns).unwrap()
            })
        })
    }

    fn total(scores: &Scores, pairing: &[Option<usize>]) -> f64 {
        pairing.iter().enumerate().filter_map(|(r, c)| c.map(|c| scores.get(r, c))).sum()
    }

    /// Highest total over all pairings of the shorter side, from `row` on.
    fn brute(scores: &Scores, row: usize, taken: &mut Vec<bool>) -> f64 {
        if row == scores.rows() {
            return 0.0;
        }
        let mut best = f64::NEG_INFINITY;
        for column in 0..scores.columns() {
            if !taken[column] {
                taken[column] = true;
                best = best.max(scores.get(row, column) + brute(scores, row + 1, taken));
                taken[column] = false;
            }
        }
        best
    }

    fn assert_one_to_one(scores: &Scores, pairing: &[Option<usize>]) {
        let mut columns: Vec<_> = pairing.iter().flatten().collect();
        let pairs = columns.len();
        columns.sort();
        columns.dedup();
        assert_eq!((pairing.len(), columns.len()), (scores.rows(), pairs));
    }

    proptest! {
        #[test]
        fn optimal_reaches_the_best_total(scores in matrices()) {
            let pairing = optimal(&scores, &Exec::default()).unwrap();
            assert_one_to_one(&scores, &pairing);
            prop_assert_eq!(pairing.iter().flatten().count(), scores.rows().min(scores.columns()));
            let flat = if scores.rows() <= scores.columns() { scores.clone() } else { scores.transposed() };
            let best = brute(&flat, 0, &mut vec![false; flat.columns()]);
            prop_assert!((total(&scores, &pairing) - best).abs() < 1e-12);
        }

        #[test]
        fn greedy_takes_the_first_best_pair_left(scores in matrices()) {
            let pairing = greedy(&scores);
            let mut naive = vec![None; scores.rows()];
            loop {
                let open = |r: usize, c: usize| naive[r].is_none() && !naive.contains(&Some(c));
                let mut best = None;
                for r in 0..scores.rows() {
                    for c in (0..scores.columns()).filter(|&c| open(r, c)) {
                        if scores.get(r, c) > best.map_or(0.0, |(r, c)| scores.get(r, c)) {
                            best = Some((r, c));
                        }
                    }
                }
                let Some((r, c)) = best else { break };
                naive[r] = Some(c);
            }
            prop_assert_eq!(pairing, naive);
        }

        #[test]
        fn sinkhorn_has_its_marginals(scores in matrices(), reg in 0.5..2.0) {
            let plan = sinkhorn(&scores, reg, &Exec::default()).unwrap();
            let (rows, columns) = (scores.rows(), scores.columns());
            prop_assert_eq!(plan.len(), rows * columns);
            if !plan.is_empty() {
                for row in plan.chunks(columns) {
                    prop_assert!((row.iter().sum::<f64>() - 1.0 / rows as f64).abs() < 1e-12);
                }
                for c in 0..columns {
                    let sum: f64 = plan.iter().skip(c).step_by(columns).sum();
                    prop_assert!((sum - 1.0 / columns as f64).abs() < 1e-8);
                }
            }
        }
    }

    #[test]
    fn a_small_reg_does_not_overflow_and_nears_the_optimum() {
        let scores = Scores::new(vec![0.9, 0.1, 0.2, 0.8], 2, 2).unwrap();
        let plan = sinkhorn(&scores, 1e-4, &Exec::default()).unwrap();
        for (got, want) in plan.iter().zip([0.5, 0.0, 0.0, 0.5]) {
            assert!((got - want).abs() < 1e-6, "{plan:?}");
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        assert_eq!(
            Scores::new(vec![0.0, f64::NAN], 1, 2).unwrap_err().to_string(),
            "scores[1]: got NaN, expected a finite number"
        );
        assert!(Scores::new(vec![0.0], 1, 2).is_err());
    }
}
