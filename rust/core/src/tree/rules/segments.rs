//! What trees of segments share: each open node is asked for its children, whenever it is
//! there. Depends on `step` and `follow`.

use crate::tree::answers::Answer;
use crate::tree::arena::{End, Fact, ROOT, Tree};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::follow;
use crate::tree::step::Step;

/// Nodes without children that may get some, in order of creation.
pub fn open(tree: &Tree) -> impl Iterator<Item = u32> + '_ {
    (0..tree.len() as u32).filter(|&node| {
        let hot = &tree.hot[node as usize];
        hot.children == 0 && tree.end(node) == End::Open && !hot.is_closed()
    })
}

/// Asks for `want` segments of at most `length` tokens (0: to the end) after a node.
pub fn ask(step: &mut Step<'_>, node: u32, want: usize, length: usize) -> Next {
    let (kind, length) = match u32::try_from(length).unwrap_or(u32::MAX) {
        0 => (Kind::Expand, 0),
        length => (Kind::Partial, length),
    };
    let want = u16::try_from(want).unwrap_or(u16::MAX);
    follow::marked(step, Ask { node, kind, want, length, marked: true })
}

/// Nothing to ask now: whether answers are waited for.
pub fn rest(step: &Step<'_>) -> Next {
    if step.tree.hot[ROOT as usize].in_flight() > 0 { Next::Wait } else { Next::Done }
}

/// Takes segments; those that end the answer are leaves, backed up with the value that came
/// with them.
pub fn take(step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
    if let Some(children) = follow::grow(step, ask, answer) {
        for child in children {
            if step.tree.end(child) == End::Terminal {
                leaf(step, child);
            }
        }
    } else if step.tree.is(ask.node, Fact::Terminal) {
        step.tree.set_value(ask.node, answer.value);
        leaf(step, ask.node);
    }
    step.tree.simulations += 1;
}

fn leaf(step: &mut Step<'_>, node: u32) {
    let value = step.tree.raw_value(node);
    step.tree.back_up(node, value);
    step.tree.outcomes.add(value);
}
