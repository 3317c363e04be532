//! What beams share: a level of nodes that are asked together and thinned out together.
//!
//! The level is the tree's `notes`: its round, its phase, and its nodes, one several times
//! where several beams stand on it; then the nodes that ended. Scores of steps are the
//! values told with children. Depends on `step` and `follow`.

use crate::choice;
use crate::error::{Error, Result};
use crate::tree::answers::Answer;
use crate::tree::arena::{End, Fact, ROOT, Tree};
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::rules::follow;
use crate::tree::step::Step;

choice! {
    /// What a path is worth, of the scores of its steps.
    Aggregate {
        /// The last step's.
        Last = "last",
        /// The smallest.
        Min = "min",
        /// Their product.
        Prod = "prod",
        /// Their mean.
        Mean = "mean",
        /// Their sum.
        Sum = "sum",
    }
}

/// Nodes that are worked on together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Rounds done.
    pub round: u64,
    /// Part of the round, for rules that have several.
    pub phase: u64,
    /// Nodes, in order.
    pub beams: Vec<u32>,
    /// Nodes that ended, in the order in which they did.
    pub ended: Vec<u32>,
}

impl Level {
    /// The level of a tree; at first, `beams` times the root.
    pub fn of(tree: &Tree, beams: usize) -> Self {
        let [round, phase, count, rest @ ..] = &*tree.notes else {
            return Self { round: 0, phase: 0, beams: vec![ROOT; beams], ended: Vec::new() };
        };
        let nodes: Vec<u32> = rest.iter().map(|&node| node as u32).collect();
        let (beams, ended) = nodes.split_at((*count as usize).min(nodes.len()));
        Self { round: *round, phase: *phase, beams: beams.to_vec(), ended: ended.to_vec() }
    }

    /// Keeps the level in its tree.
    pub fn keep(&self, tree: &mut Tree) {
        tree.notes.clear();
        tree.notes.extend([self.round, self.phase, self.beams.len() as u64]);
        tree.notes.extend(self.beams.iter().chain(&self.ended).map(|&node| u64::from(node)));
    }

    /// How many beams stand on a node.
    pub fn copies(&self, node: u32) -> usize {
        self.beams.iter().filter(|&&beam| beam == node).count()
    }
}

/// Refuses a `width` above `n`, with which no beam would go on.
pub fn check(method: &'static str, n: usize, width: usize) -> Result<()> {
    if width <= n {
        return Ok(());
    }
    let (got, expected) = (width.to_string(), format!("at most n={n}"));
    Err(Error::BadOption { method, option: "width", got, expected })
}

/// Asks for children of the next node that has none; waits for those asked. `None` when
/// each node has an answer or was given up.
pub fn ask(
    step: &mut Step<'_>,
    level: &Level,
    kind: Kind,
    want: impl Fn(u32) -> usize,
    length: usize,
) -> Option<Next> {
    let open = |tree: &Tree, node: u32| {
        let hot = &tree.hot[node as usize];
        hot.children == 0 && tree.end(node) == End::Open && !hot.is_closed()
    };
    let (mut waits, length) = (false, u32::try_from(length).unwrap_or(u32::MAX));
    for &node in &level.beams {
        if !open(step.tree, node) {
            continue;
        }
        if step.tree.is(node, Fact::Asked) {
            waits = true;
            continue;
        }
        let want = u16::try_from(want(node)).unwrap_or(u16::MAX);
        return Some(follow::marked(step, Ask { node, kind, want, length, marked: true }));
    }
    waits.then_some(Next::Wait)
}

/// Takes children; nothing is visited, for a beam compares scores, not returns.
pub fn take(step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
    follow::grow(step, ask, answer);
}

/// Children that each beam of a level gets: the first beam on a node its first child, the
/// second its second; a beam without a child falls away.
pub fn one_each(tree: &Tree, level: &Level) -> Vec<u32> {
    let mut next = Vec::with_capacity(level.beams.len());
    for (i, &node) in level.beams.iter().enumerate() {
        let before = level.beams[..i].iter().filter(|&&beam| beam == node).count();
        next.extend(tree.children(node).nth(before));
    }
    next
}

/// What the path to a node is worth; 0 at the root, which has no steps.
pub fn worth(tree: &Tree, node: u32, how: Aggregate) -> f64 {
    let path = tree.path(node);
    let scores = || path[1..].iter().map(|&n| tree.raw_value(n));
    match how {
        _ if path.len() == 1 => 0.0,
        Aggregate::Last => tree.raw_value(node),
        Aggregate::Min => scores().fold(f64::INFINITY, f64::min),
        Aggregate::Prod => scores().product(),
        Aggregate::Mean => scores().sum::<f64>() / (path.len() - 1) as f64,
        Aggregate::Sum => scores().sum(),
    }
}

/// The nodes by falling worth, equal ones in their order.
pub fn ranked(nodes: &[u32], worth: impl Fn(u32) -> f64) -> Vec<u32> {
    let mut scored: Vec<(f64, u32)> = nodes.iter().map(|&node| (worth(node), node)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().map(|(_, node)| node).collect()
}

/// Beams of which each gets `width` children and the best `keep` of all go on; nodes that
/// ended keep their place among the best. One round of such a search, or its end.
pub fn widen_and_keep(
    step: &mut Step<'_>,
    keep: usize,
    width: usize,
    rounds: usize,
    worth: impl Fn(&Tree, u32) -> f64,
) -> Next {
    let mut level = Level::of(step.tree, 1);
    if level.round >= rounds as u64 || level.beams.is_empty() {
        return Next::Done;
    }
    if let Some(next) = ask(step, &level, Kind::Expand, |_| width, 0) {
        return next;
    }
    let tree = &mut *step.tree;
    let mut found = level.ended.clone();
    found.extend(level.beams.iter().flat_map(|&node| tree.children(node)));
    let mut best = ranked(&found, |node| worth(tree, node));
    best.truncate(keep);
    let ends = |node: &u32| tree.end(*node) == End::Terminal;
    (level.ended, level.beams) = best.into_iter().partition(ends);
    level.round += 1;
    level.keep(tree);
    tree.simulations += 1;
    Next::Visited
}

/// What such a search ends with, the best first.
pub fn kept(tree: &Tree, worth: impl Fn(&Tree, u32) -> f64) -> Vec<u32> {
    let level = Level::of(tree, 0);
    let nodes: Vec<u32> = level.ended.into_iter().chain(level.beams).collect();
    ranked(&nodes, |node| worth(tree, node))
}
