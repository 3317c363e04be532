//! Simulations that go on after an expansion: from some of the new children.
//!
//! A rule puts children in line with [`later`]; [`next`] asks for what is in line before
//! anything else. The line is the tree's `notes`, so a snapshot keeps it. A node stays in
//! its place until the rule takes the answer and calls [`leave`]: what failed or was
//! cancelled is asked again in its turn, unless it was given up, when its simulation ends
//! without a visit. Depends on `step`.

use std::ops::Range;

use crate::tree::answers::Answer;
use crate::tree::arena::{End, Fact, MAX_IN_FLIGHT, ROOT, Tree};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::step::Step;

/// A request at a node, its descent marked until the answer is in.
pub fn marked(step: &mut Step<'_>, ask: Ask) -> Next {
    if step.tree.is(ask.node, Fact::Asked)
        || step.tree.hot[ROOT as usize].in_flight() == MAX_IN_FLIGHT
    {
        return Next::Wait;
    }
    step.tree.set(ask.node, Fact::Asked, true);
    step.tree.mark(ask.node);
    Next::Ask(Ask { marked: true, ..ask })
}

/// Puts a node in line.
pub fn later(step: &mut Step<'_>, node: u32) {
    step.tree.notes.push(u64::from(node));
}

/// Asks for the first node in line that is not under way; `None` when there is none.
pub fn next(step: &mut Step<'_>, kind: Kind, want: u16) -> Option<Next> {
    let i = first(step, 0, 1)?;
    let node = step.tree.notes[i] as u32;
    Some(marked(step, Ask { node, kind, want, length: 0, marked: true }))
}

/// The answer for a node is in: it leaves the line if it is there.
pub fn leave(step: &mut Step<'_>, node: u32) {
    leave_line(step, node, 0, 1);
}

/// Where in the notes, from `start` on, in entries of `words` that begin with their node,
/// the first is that may be asked: those under way stand before it. Nodes that were given
/// up leave the line.
pub fn first(step: &mut Step<'_>, start: usize, words: usize) -> Option<usize> {
    let mut i = start;
    while i < step.tree.notes.len() {
        let node = step.tree.notes[i] as u32;
        let mut before = step.tree.notes[start..i].iter().step_by(words);
        if step.is_given_up(node) {
            step.tree.notes.drain(i..i + words);
        } else if step.tree.is(node, Fact::Asked) && before.all(|&n| n != u64::from(node)) {
            i += words;
        } else {
            return Some(i);
        }
    }
    None
}

/// Takes the first entry of a node out of such a line.
pub fn leave_line(step: &mut Step<'_>, node: u32, start: usize, words: usize) {
    let line = step.tree.notes.get(start..).unwrap_or(&[]);
    if let Some(i) = line.iter().step_by(words).position(|&n| n == u64::from(node)) {
        let at = start + i * words;
        step.tree.notes.drain(at..at + words);
    }
}

/// Takes the answer to an expansion without a visit; the new children. A node that gets
/// none is an end, whatever it is called: it is visited with its value, and nothing follows.
pub fn expand(step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) -> Option<Range<u32>> {
    let deep = step.tree.depth(ask.node) >= step.limits.max_depth;
    if answer.terminal || answer.children == 0 || deep {
        step.take(ask, answer);
        return None;
    }
    grow(step, ask, answer)
}

/// Takes the answer to an expansion and visits nothing, not even a node that gets no
/// children; the new children.
pub fn grow(step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) -> Option<Range<u32>> {
    let first = step.tree.len() as u32;
    step.release(ask);
    step.record(ask.node, answer);
    if ask.node != ROOT {
        step.tree.set_reward(ask.node, answer.reward);
    }
    let widens = step.tree.hot[ask.node as usize].children > 0;
    if answer.terminal && !widens {
        step.tree.set(ask.node, Fact::Terminal, true);
        return None;
    }
    if !step.attach(ask.node, answer) {
        let fact = if widens { Fact::Exhausted } else { Fact::Barren };
        step.tree.set(ask.node, fact, true);
        if widens && step.tree.is_spent(ask.node) {
            step.tree.close(ask.node);
        }
        return None;
    }
    Some(first..step.tree.len() as u32)
}

/// Ends a simulation at a node without children, which is visited once: its value is backed
/// up already.
pub fn close(step: &mut Step<'_>, node: u32, value: f64) {
    step.tree.simulations += 1;
    if step.tree.end(node) == End::Terminal {
        step.tree.outcomes.add(value);
    }
    step.tree.close(node);
}

/// Keeps the rollouts of an answer; one told by its value alone is an outcome too.
pub fn keep(step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
    step.release(ask);
    step.record(ask.node, answer);
    if answer.rollouts.is_empty() {
        step.tree.outcomes.add(answer.value);
    }
}

/// Takes the answer to a rollout: what it was worth is backed up from its node.
pub fn visit(step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
    keep(step, ask, answer);
    step.tree.back_up(ask.node, answer.value);
    step.tree.simulations += 1;
}

/// Takes an answer as most searches do, then visits those new children that are ends, each
/// with the value that came with it, and closes them. The node's raw value becomes that of
/// its first end: in the codes that do so it is the first value ever backed up through it.
pub fn take_with_ends(step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
    let first = step.tree.len() as u32;
    step.take(ask, answer);
    let is_end = |tree: &Tree, child: &u32| tree.end(*child) == End::Terminal;
    let ends: Vec<u32> =
        (first..step.tree.len() as u32).filter(|child| is_end(step.tree, child)).collect();
    if let Some(&end) = ends.first() {
        let value = step.tree.raw_value(end);
        step.tree.set_value(ask.node, value);
    }
    for child in ends {
        let value = step.tree.raw_value(child);
        step.tree.back_up(child, value);
        step.tree.outcomes.add(value);
        step.tree.close(child);
    }
}

/// Visits a child that is an end, with the value that came with it.
pub fn end(step: &mut Step<'_>, child: u32) {
    let value = step.tree.raw_value(child);
    step.tree.back_up(child, value);
    step.finish(child);
}

/// `child_values` where an answer gives a node children without them.
pub fn without_values(answer: &Answer<'_>) -> Option<&'static str> {
    let bare = answer.children > 0 && answer.child_values.is_none();
    bare.then_some("child_values")
}

/// `rollouts`, or `rollout_tokens`, where an answer is without them.
pub fn without_rollouts(answer: &Answer<'_>) -> Option<&'static str> {
    if answer.rollouts.is_empty() {
        return Some("rollouts");
    }
    answer.rollout_tokens.is_none().then_some("rollout_tokens")
}
