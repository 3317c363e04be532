//! `pure`: process rewards whose return is their minimum, not their sum.

use crate::choice;
use crate::column::{Floats, GROUP_IDS, OUTCOME_REWARDS, TOKEN_REWARDS, TURN_REWARDS};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::memory::zeroed;
use crate::options::{NonNegative, Positive};
use crate::returns::{discounted, minimum};
use crate::rollouts::Rollouts;
use crate::stats::Counts;
use crate::steps::{self, Trajectory};
use crate::tokens::Real;
use crate::whiten::{Whitening, whiten_tokens};

choice! {
    /// What is made of the step rewards of a trajectory before they are accumulated.
    Transform {
        /// `p softmax(-p / temperature)`: their sums are close to their minimum.
        Softmax = "softmax",
        /// `p / steps`.
        Uniform = "uniform",
        /// Nothing.
        Nothing = "none",
    }
}

choice! {
    /// How rewards from a token on become its return.
    Form {
        /// Their sum.
        Sum = "sum",
        /// Their minimum.
        Min = "min",
    }
}

choice! {
    /// Over which tokens the minimum is taken.
    MinOver {
        /// Over ends of steps; 0 after the last.
        Steps = "steps",
        /// Over all tokens of the row, whose rewards but for ends of steps are 0, so that
        /// it is never above 0 before padding.
        All = "all",
    }
}

choice! {
    /// What the other trajectories of the group are compared by.
    Baseline {
        /// Their returns: the mean over the others of summed returns, for each token.
        Returns = "returns",
        /// Their rewards for each token, times the tokens of the step.
        Token = "token",
        /// Their rewards for each step.
        Step = "step",
    }
}

choice! {
    /// By which length summed returns are divided.
    BaselineLen {
        /// The most trained tokens of any trajectory.
        Longest = "longest",
        /// The padded length, on which credit then depends.
        Padded = "padded",
    }
}

choice! {
    /// What a trajectory without others in its group gets.
    Alone {
        /// 0.
        Zero = "zero",
        /// NaN, and after whitening NaN everywhere.
        Nan = "nan",
    }
}

crate::method! {
    /// PURE: credit from process rewards of reasoning steps, given as turns, in which a
    /// trajectory is worth as much as its worst step, so that good steps do not pay for
    /// a bad one.
    ///
    /// # Formula
    ///
    /// `p` are a trajectory's step rewards, for a reward model with two classes
    /// `softmax(logits)[1] - softmax(logits)[0]`. They are transformed (`transform`) to
    /// `p* = p softmax(-p / temperature)`, stand on the last trained token of their step,
    /// and `outcome_coef` times the outcome on the trajectory's last. The return `G_t` is
    /// the sum (or with `form="min"` the minimum) of what stands at `t` or later.
    /// `baseline="returns"`: with `Q = sum_t G_t` and `L` as `baseline_len` says,
    /// `A_t = G_t - sum(Q of the others) / ((n - 1) L)`, whitened over the batch.
    /// `"token"`: before accumulating, a step loses `sum(p* of the others) / sum(tokens of
    /// the others)` times its tokens; `"step"`: it loses the mean over the others of
    /// `sum(p*) / steps`; an outcome loses the mean of the others'. Then `A = G`.
    ///
    /// # Source
    ///
    /// Cheng et al. 2025, arXiv:2504.15275; the authors' code: preset "verl" is its verl
    /// branch, "openrlhf" its main branch. Their KL terms are left to the loss.
    ///
    /// # Degenerate cases
    ///
    /// A group of one gives 0, or NaN as the authors' code (`singleton="nan"`; padding
    /// too, and after whitening the whole batch). A NaN step reward is left out. A
    /// trajectory without steps has rewards 0, and with `"step"` it is left out of the
    /// others' mean. Without outcomes only process rewards count. Extras:
    /// `step_rewards` are `p*` and `process_rewards` their sums; `agrees` is 1 where that
    /// sum and the outcome are both above 0 or both not, and NaN without an outcome;
    /// `shaped_rewards` is what was accumulated.
    "pure" {
        title: "PURE: min-form credit",
        granularity: Token,
        family: "process reward",
        paper: "arXiv:2504.15275",
        certainty: Code,
        batch_wide: |options| {
            options.whiten
                || (options.baseline, options.baseline_len)
                    == (Baseline::Returns, BaselineLen::Longest)
        },
        needs: [TURN_REWARDS, GROUP_IDS],
        takes: [TOKEN_REWARDS, OUTCOME_REWARDS],
        options: {
            /// What is made of the step rewards before they are accumulated.
            transform: Transform = Transform::Softmax,
            /// Of the softmax; the lower, the closer sums come to the minimum.
            temperature: Positive = 0.1,
            /// How rewards from a token on become its return.
            form: Form = Form::Sum,
            /// Over which tokens the minimum is taken.
            min_over: MinOver = MinOver::Steps,
            /// Weight of the outcome.
            outcome_coef: NonNegative = 1.0,
            /// What the other trajectories of the group are compared by.
            baseline: Baseline = Baseline::Returns,
            /// By which length summed returns are divided.
            baseline_len: BaselineLen = BaselineLen::Longest,
            /// Whether advantages are whitened over the batch.
            whiten: bool = true,
            /// Whether the last token of each step, its separator, gets no advantage.
            mask_step_ends: bool = false,
            /// What a trajectory without others in its group gets.
            singleton: Alone = Alone::Zero,
        },
        presets: {
            "verl" => {
                min_over = MinOver::All, baseline_len = BaselineLen::Padded,
                singleton = Alone::Nan
            },
            "openrlhf" => {
                baseline = Baseline::Token, whiten = false, mask_step_ends = true,
                singleton = Alone::Nan
            },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let given = [TURN_REWARDS, TOKEN_REWARDS].into_iter().find(|spec| rollouts.has(spec));
    match given.map(|spec| rollouts.floats(&spec)).transpose()? {
        Some(Floats::F64(_)) => run::<f64>(rollouts, options),
        _ => run::<f32>(rollouts, options),
    }
}

fn run<T: Real>(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit>
where
    Floats<'static>: From<Vec<T>>,
{
    let mut trajectories = steps::read(rollouts)?;
    trajectories.iter_mut().for_each(|trajectory| options.transform(trajectory));
    let mut step_rewards = vec![0.0; rollouts.turns()?.spans.len()];
    for step in trajectories.iter().flat_map(|trajectory| &trajectory.steps) {
        step_rewards[step.turn] = step.reward;
    }
    let process: Vec<f64> = trajectories.iter().map(Trajectory::process).collect();
    let agrees = trajectories.iter().zip(&process).map(|(trajectory, &sum)| {
        trajectory.outcome.map_or(f64::NAN, |v| f64::from(u8::from((sum > 0.0) == (v > 0.0))))
    });
    let agrees: Vec<f64> = agrees.collect();

    let groups = rollouts.groups()?;
    if options.baseline != Baseline::Returns {
        groups.iter().for_each(|members| options.shape(members, &mut trajectories));
    }
    let accumulated = rollouts.exec().ranges(trajectories.len(), 64, |range| {
        Ok(trajectories[range].iter().map(|one| options.accumulate(one)).collect::<Vec<_>>())
    })?;
    let accumulated: Vec<Accumulated> = accumulated.into_iter().flatten().collect();
    let length = match options.baseline_len {
        BaselineLen::Longest => trajectories.iter().map(Trajectory::trained).fold(0.0, f64::max),
        BaselineLen::Padded => rollouts.rows().longest() as f64,
    };
    let mut baselines = vec![None; trajectories.len()];
    for members in groups.iter().filter(|members| members.len() > 1) {
        let total: f64 = members.iter().map(|&i| accumulated[i].total()).sum();
        for &i in members {
            let others = (total - accumulated[i].total()) / ((members.len() - 1) as f64 * length);
            baselines[i] = Some(if options.baseline == Baseline::Returns { others } else { 0.0 });
        }
    }

    let size = rollouts.rows().total();
    let (mut shaped, mut returns): (Vec<T>, Vec<T>) = (zeroed(size)?, zeroed(size)?);
    let mut ends = Vec::new();
    for (i, trajectory) in trajectories.iter().enumerate() {
        let baseline = match (baselines[i], options.singleton) {
            (None, Alone::Nan) => {
                trajectory.tokens().for_each(|t| returns[t] = T::from_f64(f64::NAN));
                continue;
            }
            (None, Alone::Zero) => continue,
            (Some(baseline), _) => baseline,
        };
        let mut end = trajectory.steps.iter().map(|step| step.end).peekable();
        for (k, t) in trajectory.tokens().enumerate() {
            shaped[t] = T::from_f64(accumulated[i].rewards[k]);
            if trajectory.mask[k] {
                returns[t] = T::from_f64(accumulated[i].returns[k] - baseline);
            }
            if end.next_if_eq(&k).is_some() {
                ends.push(t);
            }
        }
    }
    let mut advantages = returns.clone();
    if options.whiten {
        let present = present(rollouts, &baselines)?;
        whiten_tokens(rollouts, &mut advantages, &Whitening::VERL, true, |row| present[row])?;
        if options.singleton == Alone::Nan && baselines.contains(&None) {
            advantages.fill(T::from_f64(f64::NAN));
        }
    }
    if options.mask_step_ends {
        ends.into_iter().for_each(|t| advantages[t] = T::default());
    }
    let counts = Counts {
        groups: groups.count(),
        singletons: groups.iter().filter(|members| members.len() == 1).count(),
        ..Counts::default()
    };
    let mut credit = Credit::new(Values::Tokens(advantages.into()), counts)
        .with("step_rewards", Values::Turns(step_rewards))
        .with("process_rewards", Values::Trajectories(process))
        .with("shaped_rewards", Values::Tokens(shaped.into()))
        .with("agrees", Values::Trajectories(agrees));
    credit.returns = Some(Values::Tokens(returns.into()));
    Ok(credit)
}

/// Rows of the trajectories that have a baseline.
fn present(rollouts: &Rollouts<'_>, baselines: &[Option<f64>]) -> Result<Vec<bool>> {
    Ok(match rollouts.turn_places() {
        None => baselines.iter().map(Option::is_some).collect(),
        Some(places) => {
            let mut present = vec![false; places.len()];
            for (&row, trajectory) in places.iter().zip(rollouts.turns()?.trajectories()) {
                present[row] = baselines[trajectory].is_some();
            }
            present
        }
    })
}

/// What stands on each token of a trajectory, and what follows from it.
struct Accumulated {
    rewards: Vec<f64>,
    returns: Vec<f64>,
}

impl Accumulated {
    fn total(&self) -> f64 {
        self.returns.iter().sum()
    }
}

impl Options {
    fn transform(&self, trajectory: &mut Trajectory) {
        let steps = &mut trajectory.steps;
        let count = steps.len() as f64;
        let low = steps.iter().map(|step| step.reward).fold(f64::INFINITY, f64::min);
        let weight = |reward: f64| ((low - reward) / *self.temperature).exp();
        let sum: f64 = steps.iter().map(|step| weight(step.reward)).sum();
        for step in steps {
            step.reward *= match self.transform {
                Transform::Softmax => weight(step.reward) / sum,
                Transform::Uniform => 1.0 / count,
                Transform::Nothing => 1.0,
            };
        }
    }

    /// Takes from each trajectory's rewards those of the others in its group.
    fn shape(&self, members: &[usize], trajectories: &mut [Trajectory]) {
        let before: Vec<Trajectory> = members.iter().map(|&i| trajectories[i].clone()).collect();
        let mean = |own: usize, top: &dyn Fn(&Trajectory) -> Option<(f64, f64)>| {
            let others = before.iter().enumerate().filter(|&(k, _)| k != own);
            let sums = others.filter_map(|(_, other)| top(other));
            let (sum, count) = sums.fold((0.0, 0.0), |(s, n), (x, c)| (s + x, n + c));
            if count > 0.0 { sum / count } else { 0.0 }
        };
        for (own, &i) in members.iter().enumerate() {
            let share = mean(own, &|other| match self.baseline {
                Baseline::Token => Some((other.process(), other.trained())),
                _ if other.steps.is_empty() => None,
                _ => Some((other.process() / other.steps.len() as f64, 1.0)),
            });
            for step in &mut trajectories[i].steps {
                step.reward -=
                    if self.baseline == Baseline::Token { share * step.tokens } else { share };
            }
            if let Some(outcome) = &mut trajectories[i].outcome {
                *outcome -= mean(own, &|other| other.outcome.map(|v| (v, 1.0)));
            }
        }
    }

    fn accumulate(&self, trajectory: &Trajectory) -> Accumulated {
        let tokens = trajectory.mask.len();
        let mut rewards = vec![0.0; tokens];
        trajectory.steps.iter().for_each(|step| rewards[step.end] += step.reward);
        let last = trajectory.mask.iter().rposition(|&m| m);
        let verdict = trajectory.outcome.zip(last);
        if let Some((outcome, last)) = verdict {
            rewards[last] += *self.outcome_coef * outcome;
        }
        let mut returns = rewards.clone();
        match (self.form, self.min_over) {
            (Form::Sum, _) => discounted(&mut returns, 1.0),
            (Form::Min, MinOver::All) => minimum(&mut returns),
            (Form::Min, MinOver::Steps) => {
                let ends = trajectory.steps.iter().map(|step| step.end);
                let mut ends: Vec<usize> = ends.chain(verdict.map(|(_, last)| last)).collect();
                ends.dedup();
                let mut worst: Vec<f64> = ends.iter().map(|&end| rewards[end]).collect();
                minimum(&mut worst);
                returns.fill(0.0);
                let mut from = 0;
                for (end, worst) in ends.into_iter().zip(worst) {
                    returns[from..=end].fill(worst);
                    from = end + 1;
                }
            }
        }
        Accumulated { rewards, returns }
    }
}
