//! What pools of rollouts share: Monte Carlo estimates of states, and the search of one
//! rollout for its first error.
//!
//! A state is a node: `visits` counts the rollouts from it, `value_sum` the right ones, so
//! its mean is `MC(s)`. Rollouts are the tree's records; `mark` counts how often one was
//! searched. The search that goes on, and a log of all, are the tree's `notes`.
//! Depends on `step` and `follow`.

use crate::tree::answers::Answer;
use crate::tree::arena::{Fact, NONE, ROOT, Tree};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::follow;
use crate::tree::spans::Rollout;
use crate::tree::step::Step;

/// Words of the search that goes on, before the log.
const HEAD: usize = 6;

/// Something that happened, in the order of the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A rollout was put into the pool with a priority.
    Push(u32, f64),
    /// A rollout was chosen to be searched.
    Select(u32),
    /// A prefix of it was found to be good: its state.
    Good(u32),
    /// The first error lies before the end of this state.
    Bad(u32),
}

/// A search of one rollout. Positions count places where it may be cut: 0 is its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bisection {
    /// The rollout.
    pub rollout: u32,
    /// Position up to which it is good.
    pub low: usize,
    /// Position from which it is not.
    pub high: usize,
    /// The last good state.
    pub good: u32,
    /// The state that is being probed; [`NONE`] before the next is chosen.
    pub probe: u32,
    /// The state at `high`; [`NONE`] while that is the rollout's end.
    pub bad: u32,
}

/// The search that goes on.
pub fn current(tree: &Tree) -> Option<Bisection> {
    let [rollout, low, high, good, probe, bad] = *tree.notes.first_chunk::<HEAD>()?;
    (rollout != u64::from(NONE)).then_some(Bisection {
        rollout: rollout as u32,
        low: low as usize,
        high: high as usize,
        good: good as u32,
        probe: probe as u32,
        bad: bad as u32,
    })
}

/// Sets or ends the search that goes on.
pub fn set(tree: &mut Tree, bisection: Option<Bisection>) {
    let none = u64::from(NONE);
    let head = bisection.map_or([none; HEAD], |b| {
        let (low, high) = (b.low as u64, b.high as u64);
        [b.rollout.into(), low, high, b.good.into(), b.probe.into(), b.bad.into()]
    });
    if tree.notes.is_empty() {
        tree.notes.resize(HEAD, none);
    }
    tree.notes[..HEAD].copy_from_slice(&head);
}

/// Adds to the log.
pub fn log(tree: &mut Tree, event: Event) {
    if tree.notes.is_empty() {
        set(tree, None);
    }
    let (kind, about, priority) = match event {
        Event::Push(rollout, priority) => (0, rollout, priority),
        Event::Select(rollout) => (1, rollout, 0.0),
        Event::Good(node) => (2, node, 0.0),
        Event::Bad(node) => (3, node, 0.0),
    };
    tree.notes.extend([kind << 32 | u64::from(about), priority.to_bits()]);
}

/// The log.
pub fn events(tree: &Tree) -> impl Iterator<Item = Event> + '_ {
    tree.notes.get(HEAD..).unwrap_or(&[]).chunks_exact(2).map(|words| {
        let about = words[0] as u32;
        match words[0] >> 32 {
            0 => Event::Push(about, f64::from_bits(words[1])),
            1 => Event::Select(about),
            2 => Event::Good(about),
            _ => Event::Bad(about),
        }
    })
}

/// Where a rollout may be cut, in tokens from its start: after each `step_token`, or after
/// every token; always at 0 and at its end.
pub fn cuts(tree: &Tree, rollout: u32, step_token: Option<usize>) -> Vec<usize> {
    let tokens = tree.rollout_tokens.get(rollout as usize);
    let ends = |t: &u32| step_token.is_none_or(|step| *t as usize == step);
    let mut cuts = vec![0];
    cuts.extend(tokens.iter().zip(1..).filter(|(t, _)| ends(t)).map(|(_, end)| end));
    if cuts[cuts.len() - 1] != tokens.len() {
        cuts.push(tokens.len());
    }
    cuts
}

/// Share of right rollouts from a state; `None` before any.
pub fn estimate(tree: &Tree, node: u32) -> Option<f64> {
    let hot = &tree.hot[node as usize];
    (hot.visits > 0).then(|| hot.q())
}

/// Whether a state has right and wrong rollouts.
pub fn is_mixed(tree: &Tree, node: u32) -> bool {
    estimate(tree, node).is_some_and(|mc| mc > 0.0 && mc < 1.0)
}

/// `alpha^(1 - MC) * beta^(length / scale)`.
pub fn quality(mc: f64, length: f64, alpha: f64, beta: f64, scale: f64) -> f64 {
    alpha.powf(1.0 - mc) * beta.powf(length / scale)
}

/// `c * sqrt(sum N) / (1 + N(s))`.
pub fn urgency(total: f64, visits: f64, c: f64) -> f64 {
    c * total.sqrt() / (1.0 + visits)
}

/// The rollout that was not searched yet and `fits`, of a state with right and wrong ones, of
/// the highest `worth(rollout, sum N, N(s))`; the first state's first of equals.
pub fn best(
    tree: &Tree,
    fits: impl Fn(&Rollout) -> bool,
    worth: impl Fn(&Rollout, f64, f64) -> f64,
) -> Option<u32> {
    let mut visits = vec![0_u32; tree.len()];
    for rollout in &tree.rollouts {
        visits[rollout.node as usize] += rollout.mark;
    }
    let total = visits.iter().map(|&n| f64::from(n)).sum();
    let fresh = |r: &Rollout| r.mark == 0 && r.length > 0 && is_mixed(tree, r.node) && fits(r);
    let scored = tree
        .rollouts
        .iter()
        .zip(0_u32..)
        .filter(|(r, _)| fresh(r))
        .map(|(r, index)| (worth(r, total, f64::from(visits[r.node as usize])), r.node, index));
    scored.reduce(|a, b| if b.0 > a.0 || b.0 == a.0 && b.1 < a.1 { b } else { a }).map(|s| s.2)
}

/// Asks for rollouts from a state.
pub fn ask(step: &mut Step<'_>, node: u32, rollouts: usize) -> Next {
    let kind = if node == ROOT { Kind::Rollout } else { Kind::Probe };
    let want = u16::try_from(rollouts).unwrap_or(u16::MAX);
    follow::marked(step, Ask { node, kind, want, length: 0, marked: true })
}

/// Takes the rollouts from a state.
pub fn take(step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
    step.release(ask);
    step.record(ask.node, answer);
    for &reward in answer.rollouts {
        step.tree.add_return(ask.node, f64::from(u8::from(reward > 0.0)));
    }
}

/// Begins the search of a rollout, which may be cut as [`cuts`] says.
pub fn begin(step: &mut Step<'_>, rollout: u32, step_token: Option<usize>) {
    let positions = cuts(step.tree, rollout, step_token).len() - 1;
    step.tree.rollouts[rollout as usize].mark += 1;
    log(step.tree, Event::Select(rollout));
    let good = step.tree.rollouts[rollout as usize].node;
    let (low, high) = (0, positions);
    set(step.tree, Some(Bisection { rollout, low, high, good, probe: NONE, bad: NONE }));
}

/// A state for the prefix of a rollout that ends after `end` tokens, `start` of them being
/// those of `good`. `None` when the tree has no room.
pub fn state(step: &mut Step<'_>, at: &Bisection, start: usize, end: usize) -> Option<u32> {
    let tree = &mut *step.tree;
    let tokens = tree.rollout_tokens.get(at.rollout as usize)[start..end].to_vec();
    let log_probs = tree.rollout_log_probs.get(at.rollout as usize);
    let log_probs = log_probs.get(start..end).unwrap_or(&[]).to_vec();
    let fits = tree.len() < step.limits.max_nodes
        && tree.depth(at.good) < step.limits.max_depth
        && tree.hot[at.good as usize].children < u16::MAX
        && tree.tokens_held() + tokens.len() as u64 <= step.limits.max_tokens;
    if !fits {
        tree.full = true;
        return None;
    }
    let node = tree.len() as u32;
    tree.expand(at.good, [1.0].into_iter());
    tree.tokens.push(node as usize, &tokens);
    tree.token_log_probs.push(node as usize, &log_probs);
    Some(node)
}

/// Tokens from the root to a node.
pub fn prefix(tree: &Tree, node: u32) -> Vec<u32> {
    tree.path(node).iter().flat_map(|&n| tree.tokens.get(n as usize)).copied().collect()
}

/// A state with these tokens that was estimated already.
pub fn known(tree: &Tree, tokens: &[u32]) -> Option<u32> {
    let estimated = |&node: &u32| tree.hot[node as usize].visits > 0;
    (0..tree.len() as u32).filter(estimated).find(|&node| prefix(tree, node) == tokens)
}

/// Ends the search that goes on; a wrong rollout of which no part was bad ends in an error.
pub fn finish(step: &mut Step<'_>, at: &Bisection, start: usize, end: usize) {
    let ends = at.bad == NONE;
    if let Some(node) = ends.then(|| state(step, at, start, end)).flatten() {
        step.tree.set(node, Fact::Terminal, true);
        step.tree.hot[node as usize].visits = 1;
        log(step.tree, Event::Bad(node));
    }
    set(step.tree, None);
    step.tree.simulations += 1;
}
