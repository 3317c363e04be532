//! What trees of rollouts share: a rollout that is cut in two, and requests in line.
//!
//! A rollout is a leaf below the node that it began at. To branch from its middle, its
//! first part becomes a node, and what is left of it a rollout of that node; the record of
//! the whole is marked [`CUT`] and no longer counts. Depends on `step` and `follow`.

use crate::tree::answers::Answer;
use crate::tree::arena::{ROOT, Tree};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::{follow, pool};
use crate::tree::spans::Rollout;
use crate::tree::step::Step;

/// Mark of a rollout that was cut in two.
pub const CUT: u32 = u32::MAX;

/// Rollouts that are leaves of the tree.
pub fn leaves(tree: &Tree) -> impl Iterator<Item = u32> + '_ {
    (0..tree.rollouts.len() as u32).filter(|&r| tree.rollouts[r as usize].mark != CUT)
}

/// Cuts a rollout after `at` tokens, at least 1 and fewer than all: the new node and the
/// rollout that is left. `None` when the tree has no room.
pub fn cut(step: &mut Step<'_>, rollout: u32, at: usize) -> Option<(u32, u32)> {
    let whole = step.tree.rollouts[rollout as usize];
    let tokens = u64::from(whole.length);
    let fits = (step.tree.rollouts.len() as u64) < step.limits.max_rollouts
        && step.tree.tokens_held() + tokens <= step.limits.max_tokens;
    if !fits {
        step.tree.full = true;
        return None;
    }
    let from =
        pool::Bisection { rollout, low: 0, high: at, good: whole.node, probe: ROOT, bad: ROOT };
    let node = pool::state(step, &from, 0, at)?;
    let tree = &mut *step.tree;
    // The rollout passes through the node now: its return is one of the node's.
    let edge = tree.edge_return(node, whole.reward);
    tree.hot[node as usize].value_sum += edge;
    tree.hot[node as usize].visits += 1;
    let index = tree.rollouts.len();
    let tokens = tree.rollout_tokens.get(rollout as usize)[at..].to_vec();
    let log_probs = tree.rollout_log_probs.get(rollout as usize);
    let log_probs = log_probs.get(at..).unwrap_or(&[]).to_vec();
    tree.rollout_tokens.push(index, &tokens);
    tree.rollout_log_probs.push(index, &log_probs);
    tree.rollouts.push(Rollout { node, length: tokens.len() as u32, mark: 0, ..whole });
    tree.rollouts[rollout as usize].mark = CUT;
    Some((node, index as u32))
}

/// Cuts rollouts at `(rollout, tokens)`, in order and each place once; the nodes in the
/// order of the places given.
pub fn cut_all(step: &mut Step<'_>, places: &[(u32, usize)]) -> Vec<u32> {
    let mut sorted = places.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let (mut nodes, mut last) = (Vec::new(), None);
    for &(rollout, at) in &sorted {
        let (part, done) = match last {
            Some((whole, part, done)) if whole == rollout => (part, done),
            _ => (rollout, 0),
        };
        let Some((node, rest)) = cut(step, part, at - done) else { break };
        nodes.push(node);
        last = Some((rollout, rest, at));
    }
    let place = |place| sorted.iter().position(|p| p == place);
    places.iter().filter_map(|p| nodes.get(place(p)?).copied()).collect()
}

/// Where in a tree's notes the line begins.
const LINE: usize = 1;

/// A tree's rounds, kept in its notes: rounds begun, then nodes in line for rollouts, each
/// until its answer is in.
pub fn rounds(tree: &Tree) -> u64 {
    tree.notes.first().copied().unwrap_or(0)
}

/// Begins a round in which rollouts are asked from these nodes, one request for each entry.
pub fn begin(tree: &mut Tree, nodes: &[u32]) {
    let round = rounds(tree) + 1;
    tree.notes.clear();
    tree.notes.push(round);
    tree.notes.extend(nodes.iter().map(|&node| u64::from(node)));
}

/// Asks for rollouts from the next node in line. `None` when the round is over.
pub fn ask(step: &mut Step<'_>, want: usize) -> Option<Next> {
    if let Some(i) = follow::first(step, LINE, 1) {
        let want = u16::try_from(want).unwrap_or(u16::MAX);
        let (node, kind) = (step.tree.notes[i] as u32, Kind::Rollout);
        return Some(follow::marked(step, Ask { node, kind, want, length: 0, marked: true }));
    }
    (step.tree.hot[ROOT as usize].in_flight() > 0).then_some(Next::Wait)
}

/// Takes rollouts: leaves of the tree, each backed up from its node.
pub fn take(step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
    step.release(ask);
    follow::leave_line(step, ask.node, LINE, 1);
    step.record(ask.node, answer);
    for &reward in answer.rollouts {
        step.tree.back_up(ask.node, reward);
    }
    step.tree.simulations += 1;
}
