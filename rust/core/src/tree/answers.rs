//! Answers to requests, as columns and one by one. Depends on `error`.

use crate::error::{Error, Result};

/// Rows of tokens, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct TokenRows<'a> {
    /// All tokens.
    pub tokens: &'a [u32],
    /// Length of each row.
    pub lengths: &'a [usize],
}

/// Answers to requests, leaf after leaf; the children of leaf after leaf in those columns
/// that have one entry a child, and the rollouts likewise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers<'a> {
    /// Which requests.
    pub tickets: &'a [u64],
    /// Value of each leaf, from the side of whoever moves there; where absent, the mean of
    /// its rollouts' rewards.
    pub values: Option<&'a [f64]>,
    /// Reward of the edge into each leaf; 0 where absent.
    pub rewards: Option<&'a [f64]>,
    /// Leaves that are ends, whose value is exact.
    pub terminal: Option<&'a [bool]>,
    /// Number of children of each leaf.
    pub children: &'a [usize],
    /// Priors of children; equal ones where absent.
    pub priors: Option<&'a [f64]>,
    /// Children that are no choice: they are there but never entered.
    pub masked: Option<&'a [bool]>,
    /// Values of children, where the evaluator gives them already.
    pub child_values: Option<&'a [f64]>,
    /// Children that are ends.
    pub child_terminal: Option<&'a [bool]>,
    /// Keys of children's states: equal keys, equal states.
    pub keys: Option<&'a [u64]>,
    /// Tokens of the edges into children.
    pub tokens: Option<TokenRows<'a>>,
    /// Number of rollouts of each leaf; none where absent.
    pub rollouts: Option<&'a [usize]>,
    /// What each rollout earned.
    pub rollout_rewards: &'a [f64],
    /// Tokens of rollouts.
    pub rollout_tokens: Option<TokenRows<'a>>,
    /// Log-prob of each of those tokens.
    pub rollout_log_probs: Option<&'a [f64]>,
}

/// The answer to one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer<'a> {
    /// The leaf's value.
    pub value: f64,
    /// Reward of the edge into it.
    pub reward: f64,
    /// Whether it is an end.
    pub terminal: bool,
    /// Number of its children.
    pub children: usize,
    /// Their priors.
    pub priors: Option<&'a [f64]>,
    /// Which of them are no choice.
    pub masked: Option<&'a [bool]>,
    /// Their values.
    pub child_values: Option<&'a [f64]>,
    /// Which of them are ends.
    pub child_terminal: Option<&'a [bool]>,
    /// Keys of their states.
    pub keys: Option<&'a [u64]>,
    /// Tokens of the edges into them.
    pub tokens: Option<TokenRows<'a>>,
    /// What each rollout earned.
    pub rollouts: &'a [f64],
    /// Tokens of the rollouts.
    pub rollout_tokens: Option<TokenRows<'a>>,
    /// Log-prob of each of those tokens.
    pub rollout_log_probs: Option<&'a [f64]>,
}

/// Where the parts of each answer begin, one entry more than there are answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starts {
    children: Vec<usize>,
    tokens: Vec<usize>,
    rollouts: Vec<usize>,
    rollout_tokens: Vec<usize>,
}

impl<'a> TokenRows<'a> {
    fn part(&self, rows: std::ops::Range<usize>, tokens: std::ops::Range<usize>) -> Self {
        Self { tokens: &self.tokens[tokens], lengths: &self.lengths[rows] }
    }

    /// Each row.
    pub fn rows(&self) -> impl Iterator<Item = &'a [u32]> {
        let (tokens, mut start) = (self.tokens, 0);
        self.lengths.iter().map(move |length| {
            start += length;
            &tokens[start - length..start]
        })
    }
}

impl<'a> Answers<'a> {
    /// Answer number `i`.
    pub fn row(&self, i: usize, starts: &Starts) -> Answer<'a> {
        let at = starts.children[i]..starts.children[i + 1];
        let rollouts = part(&starts.rollouts, i);
        let rewards = &self.rollout_rewards[rollouts.clone()];
        let mean = || rewards.iter().sum::<f64>() / rewards.len().max(1) as f64;
        Answer {
            value: self.values.map_or_else(mean, |v| v[i]),
            reward: self.rewards.map_or(0.0, |r| r[i]),
            terminal: self.terminal.is_some_and(|t| t[i]),
            children: at.len(),
            priors: self.priors.map(|p| &p[at.clone()]),
            masked: self.masked.map(|m| &m[at.clone()]),
            child_values: self.child_values.map(|v| &v[at.clone()]),
            child_terminal: self.child_terminal.map(|t| &t[at.clone()]),
            keys: self.keys.map(|k| &k[at.clone()]),
            tokens: self.tokens.map(|t| t.part(at.clone(), part(&starts.tokens, i))),
            rollouts: rewards,
            rollout_tokens: self
                .rollout_tokens
                .map(|t| t.part(rollouts.clone(), part(&starts.rollout_tokens, i))),
            rollout_log_probs: self.rollout_log_probs.map(|l| &l[part(&starts.rollout_tokens, i)]),
        }
    }

    /// Checks lengths; where each answer's parts begin.
    ///
    /// # Errors
    ///
    /// Lengths that differ; more than 65535 children; a leaf with neither value nor rollouts.
    pub fn lengths(&self) -> Result<Starts> {
        let count = self.tickets.len();
        let given = |argument: &str, got: Option<usize>, expected: usize, of: &'static str| {
            let argument = argument.to_owned();
            match got {
                Some(got) if got != expected => Err(Error::Length { argument, got, expected, of }),
                _ => Ok(()),
            }
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
        let rollouts = starts(self.rollouts.unwrap_or(&[]));
        let ran = rollouts[rollouts.len() - 1];
        given("rollouts", Some(self.rollout_rewards.len()), ran, "rollouts")?;
        given("rollout_tokens", self.rollout_tokens.map(|t| t.lengths.len()), ran, "rollouts")?;
        let tokens = token_starts("tokens", self.tokens, &children)?;
        let rollout_tokens = token_starts("rollout_tokens", self.rollout_tokens, &rollouts)?;
        let of_rollouts = rollout_tokens[rollout_tokens.len() - 1];
        let log_probs = self.rollout_log_probs.map(<[_]>::len);
        given("rollout_log_probs", log_probs, of_rollouts, "tokens of rollouts")?;
        let fits = |l: f64| l.is_finite() && l <= 0.0;
        check(
            "rollout_log_probs",
            self.rollout_log_probs.unwrap_or(&[]),
            "a finite number of at most 0",
            fits,
        )?;
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
            _ => Ok(Starts { children, tokens, rollouts, rollout_tokens }),
        }
    }

    /// Checks numbers.
    ///
    /// # Errors
    ///
    /// Values or rewards that are not finite; priors that are not finite or negative.
    pub fn numbers(&self) -> Result<()> {
        check("values", self.values.unwrap_or(&[]), "a finite number", f64::is_finite)?;
        check("rewards", self.rewards.unwrap_or(&[]), "a finite number", f64::is_finite)?;
        check("child_values", self.child_values.unwrap_or(&[]), "a finite number", f64::is_finite)?;
        check("rollouts", self.rollout_rewards, "a finite number", f64::is_finite)?;
        let expected = "a finite number of at least 0";
        check("priors", self.priors.unwrap_or(&[]), expected, is_prior)
    }
}

impl Answer<'_> {
    /// Whether [`Answers::numbers`] would have nothing against this answer.
    pub fn is_sound(&self) -> bool {
        let finite = |numbers: &[f64]| numbers.iter().all(|n| n.is_finite());
        self.value.is_finite()
            && self.reward.is_finite()
            && finite(self.rollouts)
            && self.child_values.is_none_or(finite)
            && self.priors.is_none_or(|priors| priors.iter().copied().all(is_prior))
    }
}

fn is_prior(number: f64) -> bool {
    number >= 0.0 && number <= f64::from(f32::MAX)
}

/// Range of part `i`; empty where the column is absent.
fn part(starts: &[usize], i: usize) -> std::ops::Range<usize> {
    if i + 1 < starts.len() { starts[i]..starts[i + 1] } else { 0..0 }
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

/// Where the tokens of each answer begin, rows lying in answers as `rows` says.
fn token_starts(
    argument: &str,
    given: Option<TokenRows<'_>>,
    rows: &[usize],
) -> Result<Vec<usize>> {
    let Some(given) = given else { return Ok(vec![0]) };
    let ends = starts(given.lengths);
    let (got, expected) = (given.tokens.len(), ends[ends.len() - 1]);
    if got != expected {
        let argument = argument.to_owned();
        return Err(Error::Length { argument, got, expected, of: "tokens in all rows" });
    }
    Ok(rows.iter().map(|&row| ends[row]).collect())
}

fn bad<T>(argument: &str, index: usize, got: String, expected: String) -> Result<T> {
    Err(Error::Value { argument: argument.to_owned(), index, got, expected })
}

fn check(argument: &str, values: &[f64], expected: &str, fits: impl Fn(f64) -> bool) -> Result<()> {
    match values.iter().position(|&v| !fits(v)) {
        None => Ok(()),
        Some(index) => bad(argument, index, format!("{:?}", values[index]), expected.to_owned()),
    }
}
