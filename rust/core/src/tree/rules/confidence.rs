//! `confidence`: Monte Carlo values of the steps of solutions, the next rollouts going to the
//! step whose value is least certain.

use crate::options::{NonNegative, Width};
use crate::stats::Moments;
use crate::tree::answers::Answer;
use crate::tree::arena::{Fact, NONE, ROOT, Tree};
use crate::tree::limits::Z95;
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::pool::{self, Bisection};
use crate::tree::rules::segments;
use crate::tree::rules::{Rule, follow};
use crate::tree::step::Step;

crate::rule! {
    /// `solutions` rollouts from the root, whose prefixes of whole steps are the states; then,
    /// `rollouts` at a time, further ones from the state whose value has the widest interval,
    /// until no interval is wider than `width`.
    ///
    /// A state's value is the mean reward of the rollouts from it, not of those that pass
    /// through it. Its interval is `2 * 1.96 * sqrt(v / m)` wide, `v` the variance (divisor
    /// `m`) of `m = n + 4` rewards: those of its `n` rollouts, two of `low` and two of `high`.
    /// For rewards of `low` and `high` alone this is the interval of Agresti and Coull 1998;
    /// the four keep a few equal rewards from passing as certain, and a state with one
    /// rollout or without any has a width too. With a fixed number of rollouts a state (VinePPO,
    /// Math-Shepherd) as many go to steps that always succeed as to those on which the answer
    /// hangs.
    ///
    /// A caller that has solutions answers the root's first request with them. Answers tell
    /// `rollouts`, the root's `rollout_tokens` too. Equal prefixes are one state; the end of a
    /// solution is none, its reward being known, nor are steps beyond the search's `max_depth`.
    /// Requests are `rollout` at the root and `probe` elsewhere; a state is asked again only
    /// once its answer is in, and of several that are wanted at a time each goes to the widest
    /// left. An answer counts as a simulation. Ties go to the first state: with equal rewards
    /// everywhere all states get equally many. With `low` equal to `high` nothing but the
    /// solutions is asked before rewards differ. Our own design, of no paper. Credit: the
    /// read-out `vineppo`.
    "confidence" {
        title: "Rollouts by confidence",
        family: Pool,
        paper: "own design; interval of Agresti and Coull 1998, doi:10.2307/2685469",
        certainty: Own,
        options: {
            /// Rollouts from the root whose steps are valued.
            solutions: Width = 4,
            /// Rollouts from a state at a time.
            rollouts: Width = 4,
            /// Width of a state's 95 % interval at which it is known well enough; 0: never.
            width: NonNegative = 0.4,
            /// The lowest reward.
            low: f64 = 0.0,
            /// The highest reward.
            high: f64 = 1.0,
            /// The token that ends a step, after which alone there are states; `None`: any.
            step_token: Option<usize> = None,
        },
    }
}

impl Options {
    /// How wide the interval of each node's value is.
    fn widths(&self, tree: &Tree) -> Vec<f64> {
        // Count, sum and squares above `low`: of usual rewards exact, so that ties are ties.
        let span = self.high - self.low;
        let mut sums = vec![(4.0, 2.0 * span, 2.0 * span * span); tree.len()];
        for rollout in &tree.rollouts {
            let (count, sum, squares) = &mut sums[rollout.node as usize];
            let away = rollout.reward - self.low;
            (*count, *sum, *squares) = (*count + 1.0, *sum + away, *squares + away * away);
        }
        let width = |(count, sum, squares)| {
            let variance = Moments::from_sums(count, sum, squares, 0.0).variance(0.0);
            2.0 * Z95 * (variance / count).sqrt()
        };
        sums.into_iter().map(width).collect()
    }

    /// The open state of the widest interval above `width` that waits for no answer.
    fn widest(&self, tree: &Tree) -> Option<u32> {
        let open = |&(node, width): &(u32, f64)| {
            width > *self.width
                && !tree.is(node, Fact::Asked)
                && !tree.hot[node as usize].is_closed()
        };
        let widths = (0..).zip(self.widths(tree)).filter(open);
        widths.reduce(|a, b| if b.1 > a.1 { b } else { a }).map(|(node, _)| node)
    }

    /// Makes states of the prefixes of a solution. `false` when the tree has no room.
    fn add_states(&self, step: &mut Step<'_>, solution: u32) -> bool {
        let cuts = pool::cuts(step.tree, solution, self.step_token);
        let mut parent = ROOT;
        // The last part leads to the end, which is no state.
        let states = cuts.len().saturating_sub(2).min(step.limits.max_depth as usize);
        for ends in cuts.windows(2).take(states) {
            let (tree, span) = (&*step.tree, ends[0]..ends[1]);
            let tokens = &tree.rollout_tokens.get(solution as usize)[span];
            let known = tree.children(parent).find(|&c| tree.tokens.get(c as usize) == tokens);
            let whole = Bisection {
                rollout: solution,
                low: 0,
                high: cuts.len() - 1,
                good: parent,
                probe: NONE,
                bad: NONE,
            };
            let state = known.or_else(|| pool::state(step, &whole, ends[0], ends[1]));
            let Some(state) = state else { return false };
            parent = state;
        }
        true
    }
}

/// A tree's notes are one number once it has its states.
impl Rule for Options {
    fn next(&self, step: &mut Step<'_>) -> Next {
        if step.tree.notes.is_empty() {
            return pool::ask(step, ROOT, *self.solutions);
        }
        match self.widest(step.tree) {
            Some(node) => pool::ask(step, node, *self.rollouts),
            None => segments::rest(step),
        }
    }

    fn missing(&self, ask: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        let needs_tokens = ask.kind == Kind::Rollout;
        follow::without_rollouts(answer).filter(|&name| needs_tokens || name == "rollouts")
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        step.release(ask);
        step.record(ask.node, answer);
        for &reward in answer.rollouts {
            step.tree.visit(ask.node, reward);
        }
        if step.tree.notes.is_empty() {
            step.tree.notes.push(1);
            let solutions = 0..step.tree.rollouts.len() as u32;
            let _all_fit = solutions.into_iter().all(|one| self.add_states(step, one));
        }
        step.tree.simulations += 1;
    }
}
