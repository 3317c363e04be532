//! `omegaprm`: a pool of rollouts, each searched by halves for its first error.

use crate::choice;
use crate::options::{Count, NonNegative, Positive, Unit, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::{NONE, ROOT, Tree};
use crate::tree::request::{Ask, Next};
use crate::tree::rules::pool::{self, Bisection, Event};
use crate::tree::rules::{Rule, follow};
use crate::tree::spans::Rollout;
use crate::tree::step::Step;

choice! {
    /// Whose reading of the paper.
    Compat {
        /// The paper's: exact scores over all states, each rollout searched once.
        Paper = "paper",
        /// OpenR's: scores of the time when a rollout was put into the pool.
        OpenR = "openr",
    }
}

crate::rule! {
    /// Choose the wrong rollout `r` of a state `s`, `0 < MC(s) < 1`, of the highest
    /// `alpha^(1 - MC(s)) * beta^(len(r) / length_scale) + c_puct * sqrt(sum N) / (1 + N(s))`;
    /// halve it until its first error is known to `min_span` tokens.
    ///
    /// `MC(s)` is the share of right ones among `rollouts` from `s`; right means a reward
    /// above 0. A prefix with `MC > 0` sends the search to its right, one with `MC = 0` to
    /// its left; every probed prefix becomes a state whose rollouts join the pool. `N(s)`
    /// counts searches of rollouts of `s`; a rollout is searched once; equal prefixes are
    /// estimated once. A search counts as a simulation. Requests are `rollout` at the root and
    /// `probe` elsewhere, one at a time in a tree; answers tell `rollouts` and
    /// `rollout_tokens`; a rollout without tokens is not searched. A root with nothing but right or wrong rollouts
    /// ends its tree. Ties go to the first state, then to its first rollout.
    ///
    /// `compat="openr"` follows `data/omegaPRM_v2/omegaprm.py`: `N(s)` is 1 once estimated;
    /// a score is computed when a rollout enters the pool and again only for the state that
    /// was just searched, whose rollouts stay in the pool; equal prefixes are estimated again;
    /// halving goes on to single steps, also behind an error at the front.
    "omegaprm" {
        title: "OmegaPRM",
        family: Pool,
        paper: "Luo et al. 2024, arXiv:2406.06592",
        certainty: Code,
        options: {
            /// Base of the estimate's factor.
            alpha: Unit = 0.5,
            /// Base of the length's factor.
            beta: Unit = 0.9,
            /// Tokens that count as one power of `beta`.
            length_scale: Positive = 500.0,
            /// Weight of the exploration term.
            c_puct: NonNegative = 0.125,
            /// Rollouts from each state.
            rollouts: Width = 8,
            /// Rollouts from the root, which show whether the tree is worth a search; `None`:
            /// `rollouts`. The paper drops questions by 32.
            screening: Option<Width> = None,
            /// Rollouts of a tree after which no further search begins; `None`: no limit.
            rollout_budget: Option<Count> = None,
            /// Tokens below which a span is not halved; `None`: a sixteenth of the mean length
            /// of the root's right rollouts.
            min_span: Option<usize> = None,
            /// The token that ends a step, after which alone rollouts are cut; `None`: any.
            step_token: Option<usize> = None,
            /// Whose reading of the paper.
            compat: Compat = Compat::Paper,
        },
    }
}

impl Options {
    fn is_openr(&self) -> bool {
        self.compat == Compat::OpenR
    }

    fn score(&self, tree: &Tree, rollout: &Rollout, total: f64, visits: f64) -> f64 {
        let mc = pool::estimate(tree, rollout.node).unwrap_or(0.0);
        let length = f64::from(rollout.length);
        pool::quality(mc, length, *self.alpha, *self.beta, *self.length_scale)
            + pool::urgency(total, visits, *self.c_puct)
    }

    /// The best rollout by scores of now.
    fn best_now(&self, tree: &Tree) -> Option<u32> {
        let worth = |r: &Rollout, total: f64, visits: f64| self.score(tree, r, total, visits);
        pool::best(tree, |rollout| rollout.reward <= 0.0, worth)
    }

    /// The best rollout by the scores that it had when it was last put into the pool.
    fn best_then(&self, tree: &Tree) -> Option<u32> {
        let mut entries: Vec<Option<(f64, usize)>> = vec![None; tree.rollouts.len()];
        for (order, event) in pool::events(tree).enumerate() {
            match event {
                Event::Push(rollout, priority) => {
                    entries[rollout as usize] = Some((priority, order));
                }
                Event::Select(rollout) => entries[rollout as usize] = None,
                Event::Good(_) | Event::Bad(_) => {}
            }
        }
        let live = entries.iter().zip(0_u32..).filter_map(|(e, r)| e.map(|(p, o)| (p, o, r)));
        live.reduce(|a, b| if b.0 > a.0 || b.0 == a.0 && b.1 < a.1 { b } else { a }).map(|s| s.2)
    }

    /// Puts a state's wrong rollouts into OpenR's pool, equal ones once.
    fn push(&self, tree: &mut Tree, node: u32) {
        if !pool::is_mixed(tree, node) {
            return;
        }
        let total = tree.hot.iter().filter(|hot| hot.visits > 0).count() as f64;
        let own: Vec<usize> = (0..tree.rollouts.len())
            .filter(|&r| tree.rollouts[r].node == node && tree.rollouts[r].reward <= 0.0)
            .collect();
        for (i, &rollout) in own.iter().enumerate() {
            let tokens = tree.rollout_tokens.get(rollout);
            let again = own[..i].iter().any(|&r| tree.rollout_tokens.get(r) == tokens);
            if !again && !tokens.is_empty() {
                let priority = self.score(tree, &tree.rollouts[rollout], total, 1.0);
                pool::log(tree, Event::Push(rollout as u32, priority));
            }
        }
    }

    fn span(&self, tree: &Tree) -> usize {
        let root = |r: &&Rollout| r.node == ROOT && r.reward > 0.0;
        self.min_span.unwrap_or_else(|| {
            let right = tree.rollouts.iter().filter(root);
            let (sum, count) = right.fold((0, 0), |(s, n), r| (s + r.length as usize, n + 1));
            sum / (16 * count.max(1))
        })
    }

    /// The position to be probed next; `None` when the error is found.
    fn halve(&self, tree: &Tree, at: &Bisection, cuts: &[usize]) -> Option<usize> {
        if self.is_openr() {
            return (at.low < at.high).then(|| (at.low + at.high - 1) / 2 + 1);
        }
        let wide = cuts[at.high] - cuts[at.low] >= self.span(tree);
        (at.high - at.low >= 2 && wide).then(|| at.low + (at.high - at.low) / 2)
    }

    /// Takes over what a probed state is worth.
    fn learn(&self, step: &mut Step<'_>, at: Bisection, position: usize, node: u32) {
        let Some(mc) = pool::estimate(step.tree, node) else { return }; // no room for rollouts
        let next = if mc > 0.0 {
            pool::log(step.tree, Event::Good(node));
            Bisection { low: position, good: node, probe: NONE, ..at }
        } else {
            pool::log(step.tree, Event::Bad(node));
            let high = position - usize::from(self.is_openr());
            Bisection { high, bad: node, probe: NONE, ..at }
        };
        pool::set(step.tree, Some(next));
    }

    /// One step of the search that goes on.
    fn go_on(&self, step: &mut Step<'_>, at: Bisection) -> Next {
        if at.probe != NONE {
            if step.tree.hot[at.probe as usize].is_closed() {
                pool::set(step.tree, None); // it failed too often: the rollout is given up
                step.tree.simulations += 1;
                return Next::Visited;
            }
            return pool::ask(step, at.probe, *self.rollouts);
        }
        let cuts = pool::cuts(step.tree, at.rollout, self.step_token);
        let start = cuts[at.low];
        let Some(position) = self.halve(step.tree, &at, &cuts) else {
            if self.is_openr() {
                pool::set(step.tree, None);
                self.push(step.tree, step.tree.rollouts[at.rollout as usize].node);
                step.tree.simulations += 1;
            } else {
                pool::finish(step, &at, start, cuts[cuts.len() - 1]);
            }
            return Next::Visited;
        };
        if !self.is_openr() {
            let state = step.tree.rollouts[at.rollout as usize].node;
            let mut tokens = pool::prefix(step.tree, state);
            let own = step.tree.rollout_tokens.get(at.rollout as usize);
            tokens.extend(&own[..cuts[position]]);
            if let Some(node) = pool::known(step.tree, &tokens) {
                self.learn(step, at, position, node);
                return Next::Visited;
            }
        }
        let Some(node) = pool::state(step, &at, start, cuts[position]) else { return Next::Done };
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
            return pool::ask(step, ROOT, *self.screening.unwrap_or(self.rollouts));
        }
        let spent = |budget: Count| step.tree.rollouts.len() >= *budget;
        if self.rollout_budget.is_some_and(spent) {
            return Next::Done;
        }
        let best =
            if self.is_openr() { self.best_then(step.tree) } else { self.best_now(step.tree) };
        let Some(rollout) = best else { return Next::Done };
        pool::begin(step, rollout, self.step_token);
        Next::Visited
    }

    fn missing(&self, _: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        follow::without_rollouts(answer)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        pool::take(step, ask, answer);
        if self.is_openr() {
            self.push(step.tree, ask.node);
        }
        if let Some(at) = pool::current(step.tree).filter(|at| at.probe == ask.node) {
            let cuts = pool::cuts(step.tree, at.rollout, self.step_token);
            let position = self.halve(step.tree, &at, &cuts).unwrap_or(at.high);
            self.learn(step, at, position, ask.node);
        }
    }
}
