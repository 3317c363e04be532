//! Answers to requests, as columns and one by one. Depends on `error`.

mod check;

/// Rows of values, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    /// All values.
    pub values: &'a [T],
    /// Length of each row.
    pub lengths: &'a [usize],
}

/// Rows of tokens.
pub type TokenRows<'a> = Rows<'a, u32>;
/// Rows of numbers.
pub type NumberRows<'a> = Rows<'a, f64>;

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
    /// Log-prob of each of those tokens; an empty row where they are not known.
    pub token_log_probs: Option<NumberRows<'a>>,
    /// Scores that children's values are made of, kept for who reads the tree.
    pub child_scores: Option<NumberRows<'a>>,
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
    /// Log-prob of each of those tokens; an empty row where they are not known.
    pub token_log_probs: Option<NumberRows<'a>>,
    /// Scores that their values are made of.
    pub child_scores: Option<NumberRows<'a>>,
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
    token_log_probs: Vec<usize>,
    child_scores: Vec<usize>,
    rollouts: Vec<usize>,
    rollout_tokens: Vec<usize>,
}

impl<'a, T> Rows<'a, T> {
    fn part(&self, rows: std::ops::Range<usize>, values: std::ops::Range<usize>) -> Self {
        Self { values: &self.values[values], lengths: &self.lengths[rows] }
    }

    /// Each row.
    pub fn rows(&self) -> impl Iterator<Item = &'a [T]> {
        let (values, mut start) = (self.values, 0);
        self.lengths.iter().map(move |length| {
            start += length;
            &values[start - length..start]
        })
    }
}

impl<'a> Answers<'a> {
    /// Answer number `i`.
    #[inline]
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
            token_log_probs: self
                .token_log_probs
                .map(|l| l.part(at.clone(), part(&starts.token_log_probs, i))),
            child_scores: self
                .child_scores
                .map(|s| s.part(at.clone(), part(&starts.child_scores, i))),
            rollouts: rewards,
            rollout_tokens: self
                .rollout_tokens
                .map(|t| t.part(rollouts.clone(), part(&starts.rollout_tokens, i))),
            rollout_log_probs: self.rollout_log_probs.map(|l| &l[part(&starts.rollout_tokens, i)]),
        }
    }
}

impl Answer<'_> {
    /// This answer with its first rollouts: no more than `most`, of no more than `tokens`
    /// tokens together. The value stays that of all of them.
    pub fn cut_rollouts(&self, most: u64, tokens: u64) -> Self {
        let lengths = self.rollout_tokens.map_or(&[][..], |rows| rows.lengths);
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.rollouts.len());
        let (mut count, mut held) = (0, 0);
        while count < most {
            let length = lengths.get(count).copied().unwrap_or(0);
            if (held + length) as u64 > tokens {
                break;
            }
            (count, held) = (count + 1, held + length);
        }
        Self {
            rollouts: &self.rollouts[..count],
            rollout_tokens: self.rollout_tokens.map(|rows| rows.part(0..count, 0..held)),
            rollout_log_probs: self.rollout_log_probs.map(|log_probs| &log_probs[..held]),
            ..*self
        }
    }
}

/// Range of part `i`; empty where the column is absent.
fn part(starts: &[usize], i: usize) -> std::ops::Range<usize> {
    if i + 1 < starts.len() { starts[i]..starts[i + 1] } else { 0..0 }
}
