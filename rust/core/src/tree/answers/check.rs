//! What must hold of answers before they are taken. Depends on `answers` and `error`.

use super::{Answer, Answers, Rows, Starts, part};
use crate::error::{Error, Result};

impl Answers<'_> {
    /// Checks lengths; where each answer's parts begin.
    ///
    /// # Errors
    ///
    /// Lengths that differ; more than 65535 children; a leaf with neither value nor rollouts.
    pub fn lengths(&self) -> Result<Starts> {
        let count = self.tickets.len();
        let given =
            |argument: &str, got: Option<usize>, expected: usize, of: &'static str| match got {
                Some(got) if got != expected => {
                    Err(Error::Length { argument: argument.to_owned(), got, expected, of })
                }
                _ => Ok(()),
            };
        given("values", self.values.map(<[_]>::len), count, "leaves")?;
        given("children", Some(self.children.len()), count, "leaves")?;
        given("rewards", self.rewards.map(<[_]>::len), count, "leaves")?;
        given("terminal", self.terminal.map(<[_]>::len), count, "leaves")?;
        given("rollouts", self.rollouts.map(<[_]>::len), count, "leaves")?;
        if let Some(index) = self.children.iter().position(|&c| c > usize::from(u16::MAX)) {
            let expected = format!("at most {}", u16::MAX);
            return bad("children", index, self.children[index].to_string(), expected);
        }
        let children = starts(self.children);
        let total = children[count];
        given("priors", self.priors.map(<[_]>::len), total, "children")?;
        given("masked", self.masked.map(<[_]>::len), total, "children")?;
        given("child_values", self.child_values.map(<[_]>::len), total, "children")?;
        given("child_terminal", self.child_terminal.map(<[_]>::len), total, "children")?;
        given("keys", self.keys.map(<[_]>::len), total, "children")?;
        given("tokens", self.tokens.map(|t| t.lengths.len()), total, "children")?;
        let rows = self.token_log_probs.map(|l| l.lengths.len());
        given("token_log_probs", rows, total, "children")?;
        let rows = self.child_scores.map(|s| s.lengths.len());
        given("child_scores", rows, total, "children")?;
        let rollouts = starts(self.rollouts.unwrap_or(&[]));
        let ran = rollouts[rollouts.len() - 1];
        given("rollouts", Some(self.rollout_rewards.len()), ran, "rollouts")?;
        given("rollout_tokens", self.rollout_tokens.map(|t| t.lengths.len()), ran, "rollouts")?;
        let tokens = row_starts("tokens", self.tokens, &children)?;
        let token_log_probs = row_starts("token_log_probs", self.token_log_probs, &children)?;
        self.fit_log_probs()?;
        let child_scores = row_starts("child_scores", self.child_scores, &children)?;
        let rollout_tokens = row_starts("rollout_tokens", self.rollout_tokens, &rollouts)?;
        let of_rollouts = rollout_tokens[rollout_tokens.len() - 1];
        let log_probs = self.rollout_log_probs.map(<[_]>::len);
        given("rollout_log_probs", log_probs, of_rollouts, "tokens of rollouts")?;
        let empty = |i: &usize| part(&rollouts, *i).is_empty();
        if self.child_terminal.is_some() && self.child_values.is_none() {
            let expected = "values of children where some are ends".to_owned();
            return bad("child_values", 0, "nothing".to_owned(), expected);
        }
        match (0..count).find(empty) {
            Some(index) if self.values.is_none() => {
                let expected = "a value, or rollouts to take the mean of".to_owned();
                bad("values", index, "nothing".to_owned(), expected)
            }
            _ => Ok(Starts {
                children,
                tokens,
                token_log_probs,
                child_scores,
                rollouts,
                rollout_tokens,
            }),
        }
    }

    /// Checks that each row of log-probs is empty or as long as its row of tokens.
    fn fit_log_probs(&self) -> Result<()> {
        let Some(log_probs) = self.token_log_probs else { return Ok(()) };
        let tokens = self.tokens.map_or(&[][..], |t| t.lengths);
        for (index, &got) in log_probs.lengths.iter().enumerate().filter(|&(_, &got)| got > 0) {
            let expected = tokens.get(index).copied().unwrap_or(0);
            if got != expected {
                let got = format!("{got} log-probs");
                let expected = format!("{expected}, one for each token of the edge, or none");
                return bad("token_log_probs", index, got, expected);
            }
        }
        Ok(())
    }

    /// Checks numbers.
    ///
    /// # Errors
    ///
    /// Values, rewards or scores that are not finite, or so large that sums of many are not;
    /// priors that are not finite or negative; log-probs that are not finite or above 0.
    pub fn numbers(&self) -> Result<()> {
        let child_scores = self.child_scores.map_or(&[][..], |s| s.values);
        for (argument, numbers) in [
            ("values", self.values.unwrap_or(&[])),
            ("rewards", self.rewards.unwrap_or(&[])),
            ("child_values", self.child_values.unwrap_or(&[])),
            ("child_scores", child_scores),
            ("rollouts", self.rollout_rewards),
        ] {
            check(argument, numbers, "a finite number of at most 1e100 in size", is_value)?;
        }
        let (of_edges, of_rollouts) = (self.token_log_probs, self.rollout_log_probs);
        let expected = "a finite number of at most 0";
        check("token_log_probs", of_edges.map_or(&[], |l| l.values), expected, is_log_prob)?;
        check("rollout_log_probs", of_rollouts.unwrap_or(&[]), expected, is_log_prob)?;
        let expected = "a finite number of at least 0";
        check("priors", self.priors.unwrap_or(&[]), expected, is_prior)
    }
}

impl Answer<'_> {
    /// Whether [`Answers::numbers`] would have nothing against this answer.
    pub fn is_sound(&self) -> bool {
        let finite = |numbers: &[f64]| numbers.iter().copied().all(is_value);
        is_value(self.value)
            && is_value(self.reward)
            && finite(self.rollouts)
            && self.child_values.is_none_or(finite)
            && self.child_scores.is_none_or(|s| finite(s.values))
            && self.token_log_probs.is_none_or(|l| l.values.iter().copied().all(is_log_prob))
            && self.rollout_log_probs.is_none_or(|l| l.iter().copied().all(is_log_prob))
            && self.priors.is_none_or(|priors| priors.iter().copied().all(is_prior))
    }
}

/// Of such numbers all sums and squares are finite, whatever the search.
fn is_value(number: f64) -> bool {
    number.abs() <= 1e100
}

fn is_prior(number: f64) -> bool {
    number >= 0.0 && number <= f64::from(f32::MAX)
}

fn is_log_prob(number: f64) -> bool {
    number <= 0.0 && number >= f64::from(f32::MIN)
}

fn starts(lengths: &[usize]) -> Vec<usize> {
    let mut starts = Vec::with_capacity(lengths.len() + 1);
    let mut at = 0;
    starts.push(0);
    starts.extend(lengths.iter().map(|length| {
        at += length;
        at
    }));
    starts
}

/// Where the values of each answer begin, rows lying in answers as `rows` says.
fn row_starts<T>(argument: &str, given: Option<Rows<'_, T>>, rows: &[usize]) -> Result<Vec<usize>> {
    let Some(given) = given else { return Ok(vec![0]) };
    let ends = starts(given.lengths);
    let (got, expected) = (given.values.len(), ends[ends.len() - 1]);
    if got != expected {
        let argument = argument.to_owned();
        return Err(Error::Length { argument, got, expected, of: "values in all rows" });
    }
    Ok(rows.iter().map(|&row| ends[row]).collect())
}

fn bad<T>(argument: &str, index: usize, got: String, expected: String) -> Result<T> {
    Err(Error::Value { argument: argument.to_owned(), index, got, expected })
}

fn check(argument: &str, values: &[f64], expected: &str, fits: impl Fn(f64) -> bool) -> Result<()> {
    // A fold instead of `any`: without an early exit it is vector instructions.
    if values.iter().fold(true, |all, &v| all & fits(v)) {
        return Ok(());
    }
    let index = values.iter().position(|&v| !fits(v)).unwrap_or(0);
    bad(argument, index, format!("{:?}", values[index]), expected.to_owned())
}
