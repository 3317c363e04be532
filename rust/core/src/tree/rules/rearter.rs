//! `rearter`: OmegaPRM over list items, with right rollouts in the pool too.

use crate::options::{NonNegative, Positive, Unit, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::{NONE, ROOT, Tree};
use crate::tree::request::{Ask, Next};
use crate::tree::rules::pool::{self, Bisection, Event};
use crate::tree::rules::{Rule, follow};
use crate::tree::spans::Rollout;
use crate::tree::step::Step;

crate::rule! {
    /// Choose the rollout `r` of a state `s`, `0 < MC(s) < 1`, of the highest
    /// `alpha^(1 - MC(s)) * beta^(len(r) / length_scale) + c_puct * sqrt(sum N) / (1 + N(s))`,
    /// right or wrong, not searched before; halve it to single steps.
    ///
    /// As `omegaprm`, but a search ends as soon as a prefix has `MC = 1`, equal prefixes are
    /// estimated again, and states with `MC = 0` or 1 add nothing to the pool. Steps end with
    /// `step_token`; without it every token is a step. `length_scale` is in tokens; in the
    /// release rollouts are lists of steps. ReARTeR `PRM_Data/module.py`. Ties go to the first
    /// state, then to its first rollout.
    "rearter" {
        title: "ReARTeR's pool",
        family: Pool,
        paper: "ReARTeR, github.com/Jeryi-Sun/ReARTeR",
        certainty: Code,
        options: {
            /// Base of the estimate's factor.
            alpha: Unit = 0.5,
            /// Base of the length's factor.
            beta: Unit = 0.9,
            /// Tokens that count as one power of `beta`.
            length_scale: Positive = 6.0,
            /// Weight of the exploration term.
            c_puct: NonNegative = 0.125,
            /// Rollouts from each state.
            rollouts: Width = 5,
            /// The token that ends a step, after which alone rollouts are cut; `None`: any.
            step_token: Option<usize> = None,
        },
    }
}

impl Options {
    fn best(&self, tree: &Tree) -> Option<u32> {
        let worth = |rollout: &Rollout, total: f64, visits: f64| {
            let (mc, length) = (tree.hot[rollout.node as usize].q(), f64::from(rollout.length));
            pool::quality(mc, length, *self.alpha, *self.beta, *self.length_scale)
                + pool::urgency(total, visits, *self.c_puct)
        };
        pool::best(tree, |_| true, worth)
    }

    fn go_on(&self, step: &mut Step<'_>, at: Bisection) -> Next {
        if at.probe != NONE && !step.tree.hot[at.probe as usize].is_closed() {
            return pool::ask(step, at.probe, *self.rollouts);
        }
        let cuts = pool::cuts(step.tree, at.rollout, self.step_token);
        if at.probe != NONE || at.high - at.low < 2 {
            pool::set(step.tree, None);
            step.tree.simulations += 1;
            return Next::Visited;
        }
        let end = cuts[at.low + (at.high - at.low) / 2];
        let Some(node) = pool::state(step, &at, cuts[at.low], end) else { return Next::Done };
        pool::set(step.tree, Some(Bisection { probe: node, ..at }));
        pool::ask(step, node, *self.rollouts)
    }
}

impl Rule for Options {
    fn next(&self, step: &mut Step<'_>) -> Next {
        if let Some(at) = pool::current(step.tree) {
            return self.go_on(step, at);
        }
        if step.tree.hot[ROOT as usize].visits == 0 {
            return pool::ask(step, ROOT, *self.rollouts);
        }
        let Some(rollout) = self.best(step.tree) else { return Next::Done };
        pool::begin(step, rollout, self.step_token);
        Next::Visited
    }

    fn missing(&self, _: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        follow::without_rollouts(answer)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        pool::take(step, ask, answer);
        let Some(at) = pool::current(step.tree).filter(|at| at.probe == ask.node) else { return };
        let middle = at.low + (at.high - at.low) / 2;
        let Some(mc) = pool::estimate(step.tree, ask.node) else { return }; // no room for any
        let next = if mc >= 1.0 {
            Bisection { low: middle, high: middle, probe: NONE, ..at }
        } else if mc > 0.0 {
            pool::log(step.tree, Event::Good(ask.node));
            Bisection { low: middle, good: ask.node, probe: NONE, ..at }
        } else {
            pool::log(step.tree, Event::Bad(ask.node));
            Bisection { high: middle, bad: ask.node, probe: NONE, ..at }
        };
        pool::set(step.tree, Some(next));
    }
}
