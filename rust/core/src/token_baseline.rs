//! The optimal token baseline: what `otb` and `tir_otb` share.
//!
//! They differ in which tokens of a group's rows are compared: those at the same
//! position, or those with as many trained tokens before them. May depend on
//! `credit`, `rollouts` and below.

use crate::column::{ColumnSpec, Floats, GROUP_IDS, Kind, Level, OLD_LOG_PROBS, TOKEN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::exec::cut;
use crate::group::Groups;
use crate::memory::zeroed;
use crate::returns::discounted;
use crate::rollouts::Rollouts;
use crate::stats::Counts;
use crate::tokens::Real;

/// Sum of squared probabilities.
pub const SUM_PI_SQUARED: ColumnSpec = ColumnSpec::new(
    "sum_pi_squared",
    Level::Token,
    Kind::Float,
    "Sum over the vocabulary of the squared probabilities from which a token was sampled.",
);
/// Importance weights.
pub const ROLLOUT_IS_WEIGHTS: ColumnSpec = ColumnSpec::new(
    "rollout_is_weights",
    Level::Token,
    Kind::Float,
    "Importance weight of a token between the policy that sampled it and the trained one.",
);

/// What the baseline depends on besides the columns.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Compare tokens with as many trained tokens before them, instead of positions.
    pub packed: bool,
    /// No baseline where one row is longer than all others.
    pub zero_tail: bool,
    /// Added to the sum of weights.
    pub eps: f64,
}

/// Advantages and returns under the baseline. Every row of tokens is a member of its group.
pub fn credit(rollouts: &Rollouts<'_>, rule: Rule) -> Result<Credit> {
    if rollouts.floats(&TOKEN_REWARDS)?.is_double() {
        run::<f64>(rollouts, rule)
    } else {
        run::<f32>(rollouts, rule)
    }
}

fn run<T: Real>(rollouts: &Rollouts<'_>, rule: Rule) -> Result<Credit>
where
    Floats<'static>: From<Vec<T>>,
{
    let rows = rollouts.rows();
    let groups = Groups::from_keys(rollouts.keys(&GROUP_IDS)?, rollouts.exec())?;
    let weights = rollouts.has(&ROLLOUT_IS_WEIGHTS).then_some(&ROLLOUT_IS_WEIGHTS);
    let batch = Batch {
        rollouts,
        rule,
        old_log_probs: rollouts.floats(&OLD_LOG_PROBS)?,
        sum_pi_squared: rollouts.floats(&SUM_PI_SQUARED)?,
        weights: weights.map(|spec| rollouts.floats(spec)).transpose()?,
    };
    let mut advantages: Vec<T> = zeroed(rows.total())?;
    let mut returns: Vec<T> = zeroed(rows.total())?;
    let lengths = || rows.ranges().map(|range| range.len());
    let both = cut(&mut advantages, lengths()).into_iter().zip(cut(&mut returns, lengths()));
    let mut jobs: Vec<Vec<Member<'_, T>>> = groups.iter().map(|_| Vec::new()).collect();
    for (row, (advantages, returns)) in both.enumerate() {
        let member = Member { row, length: 0, advantages, returns };
        jobs[groups.ids()[row] as usize].push(member);
    }
    let counts = rollouts.exec().map(jobs, |members| batch.group(members))?;
    let counts = Counts {
        groups: counts.iter().filter(|&&members| members > 0).count(),
        singletons: counts.iter().filter(|&&members| members == 1).count(),
        ..Counts::default()
    };
    let mut credit = Credit::new(Values::Tokens(advantages.into()), counts);
    credit.returns = Some(Values::Tokens(returns.into()));
    Ok(credit)
}

/// A row of a group, and where its results go.
struct Member<'o, T> {
    row: usize,
    /// Trained tokens.
    length: usize,
    advantages: &'o mut [T],
    returns: &'o mut [T],
}

struct Batch<'b, 'a> {
    rollouts: &'b Rollouts<'a>,
    rule: Rule,
    old_log_probs: &'b Floats<'a>,
    sum_pi_squared: &'b Floats<'a>,
    weights: Option<&'b Floats<'a>>,
}

/// One row's columns.
#[derive(Default)]
struct Scratch {
    old_log_probs: Vec<f64>,
    sum_pi_squared: Vec<f64>,
    weights: Vec<f64>,
}

/// The sums over a group that make up the baseline, by place.
#[derive(Default)]
struct Sums {
    weighted: Vec<f64>,
    weights: Vec<f64>,
}

impl Batch<'_, '_> {
    /// Fills a group's results and says how many members it has.
    fn group<T: Real>(&self, mut members: Vec<Member<'_, T>>) -> Result<usize> {
        let (mut sums, mut scratch) = (Sums::default(), Scratch::default());
        let mut present = Vec::with_capacity(members.len());
        for mut member in members.drain(..) {
            self.rollouts.exec().check()?;
            if self.collect(&mut member, &mut scratch, &mut sums)?
                && (member.length > 0 || !self.rule.packed)
            {
                present.push(member);
            }
        }
        let mut lengths: Vec<usize> = present.iter().map(|member| member.length).collect();
        lengths.sort_unstable();
        // A group of one has no baseline.
        let [.., second, longest] = lengths[..] else {
            for member in &mut present {
                self.subtract(member, &[], usize::MAX)?;
            }
            return Ok(present.len());
        };
        let pairs = sums.weighted.iter().zip(&sums.weights);
        let baseline: Vec<f64> = pairs.map(|(g, w)| g / (w + self.rule.eps)).collect();
        for member in &mut present {
            let alone = self.rule.zero_tail && member.length == longest && longest > second;
            self.subtract(member, &baseline, if alone { second } else { usize::MAX })?;
        }
        Ok(present.len())
    }

    /// Writes a row's returns and adds it to the group's sums. `false`: a reward is absent.
    fn collect<T: Real>(
        &self,
        member: &mut Member<'_, T>,
        scratch: &mut Scratch,
        sums: &mut Sums,
    ) -> Result<bool> {
        let range = self.rollouts.rows().range(member.row);
        let mut reader = self.rollouts.token_rewards()?;
        if !reader.read(member.row)? {
            return Ok(false);
        }
        let (mask, mut returns) = (reader.mask, reader.rewards);
        returns.iter_mut().zip(&mask).filter(|&(_, &m)| !m).for_each(|(r, _)| *r = 0.0);
        discounted(&mut returns, 1.0);
        let read = |spec, column: &Floats<'_>, into: &mut Vec<f64>| {
            self.rollouts.read_tokens(spec, column, range.clone(), &mask, into)
        };
        read(&OLD_LOG_PROBS, self.old_log_probs, &mut scratch.old_log_probs)?;
        read(&SUM_PI_SQUARED, self.sum_pi_squared, &mut scratch.sum_pi_squared)?;
        if let Some(column) = self.weights {
            read(&ROLLOUT_IS_WEIGHTS, column, &mut scratch.weights)?;
        }
        sums.weighted.resize(sums.weighted.len().max(mask.len()), 0.0);
        sums.weights.resize(sums.weighted.len(), 0.0);
        let mut weight = 0.0;
        for (t, &trained) in mask.iter().enumerate() {
            member.returns[t] = T::from_f64(returns[t]);
            if trained {
                let energy = 1.0 - 2.0 * scratch.old_log_probs[t].exp() + scratch.sum_pi_squared[t];
                let importance = if self.weights.is_some() { scratch.weights[t] } else { 1.0 };
                weight += energy * importance * importance;
                let place = if self.rule.packed { member.length } else { t };
                sums.weighted[place] += returns[t] * weight;
                sums.weights[place] += weight;
                member.length += 1;
            }
        }
        Ok(true)
    }

    /// Writes a row's advantages; from place `tail` on there is no baseline.
    fn subtract<T: Real>(
        &self,
        member: &mut Member<'_, T>,
        baseline: &[f64],
        tail: usize,
    ) -> Result<()> {
        let mut mask = Vec::new();
        self.rollouts.mask().read(self.rollouts.rows().range(member.row), &mut mask)?;
        let trained = mask.iter().enumerate().filter(|&(_, &m)| m);
        for (count, (t, _)) in trained.enumerate() {
            let place = if self.rule.packed { count } else { t };
            let own = baseline.get(place).filter(|_| place < tail).copied().unwrap_or(0.0);
            member.advantages[t] = T::from_f64(member.returns[t].to_f64() - own);
        }
        Ok(())
    }
}
