//! Trees asked for requests, several side by side. Depends on `desk`, `step` and `rules`.
//!
//! Most of a descent's time goes into waiting for memory: each level reads children that
//! were last read long ago. So a thread goes down a few trees in turns, a level each, while
//! what the next level reads is on its way. Trees share nothing, so the order of turns
//! changes no result.

use std::ops::ControlFlow;

use super::desk::Desk;
use crate::error::Result;
use crate::exec::Exec;
use crate::tree::arena::{ROOT, Tree};
use crate::tree::limits::{Limits, TellOrder};
use crate::tree::request::Next;
use crate::tree::rules::Rule;
use crate::tree::step::Step;

/// Trees that a thread goes down side by side: as many as it takes to cover one's wait.
const LANES: usize = 8;

/// A tree to be served, and with how many requests at most.
pub(super) struct Turn<'a> {
    pub index: usize,
    pub tree: &'a mut Tree,
    pub desk: &'a mut Desk,
    pub quota: usize,
}

/// Visits without a request after which a thread looks whether to stop: a millisecond of work.
const VISITS_A_CHECK: u32 = 4096;

/// Requests of trees, up to their quotas; how many.
pub(super) fn serve(
    rule: &dyn Rule,
    limits: &Limits,
    share: usize,
    turns: Vec<Turn<'_>>,
    exec: &Exec<'_>,
) -> Result<usize> {
    let (mut found, mut visits) = (0, 0_u32);
    let mut turns = turns.into_iter();
    let mut lanes: Vec<Lane<'_>> =
        turns.by_ref().take(LANES).map(|turn| Lane::new(turn, limits, Vec::new())).collect();
    while !lanes.is_empty() {
        let mut i = 0;
        while i < lanes.len() {
            match lanes[i].advance(rule, share) {
                Advance::On => i += 1,
                Advance::Visited => {
                    (i, visits) = (i + 1, visits + 1);
                    if visits.is_multiple_of(VISITS_A_CHECK) {
                        exec.check()?;
                    }
                }
                Advance::Done => {
                    found += lanes[i].desk.found.len();
                    let path = std::mem::take(&mut lanes[i].step.path);
                    match turns.next() {
                        Some(turn) => lanes[i] = Lane::new(turn, limits, path),
                        None => drop(lanes.swap_remove(i)),
                    }
                }
            }
        }
    }
    Ok(found)
}

/// How far a tree came in its turn.
enum Advance {
    /// By a level or a request; it goes on.
    On,
    /// To the end of a descent that needed no answer; it goes on.
    Visited,
    /// It asks nothing more.
    Done,
}

/// A tree that is being served.
struct Lane<'a> {
    step: Step<'a>,
    desk: &'a mut Desk,
    quota: usize,
    /// The edge that the descent goes on from; `None` between descents.
    edge: Option<u32>,
}

impl<'a> Lane<'a> {
    fn new(turn: Turn<'a>, limits: &'a Limits, path: Vec<u32>) -> Self {
        let Turn { index, tree, desk, quota } = turn;
        tree.prefetch_top();
        Self { step: Step { tree, limits, index, path }, desk, quota, edge: None }
    }

    /// Goes on by one level or one decision.
    fn advance(&mut self, rule: &dyn Rule, share: usize) -> Advance {
        let next = if let Some(edge) = self.edge {
            match self.step.enter(edge, |at| rule.choose(at)) {
                ControlFlow::Continue(child) => {
                    self.edge = Some(child);
                    return Advance::On;
                }
                ControlFlow::Break(next) => next,
            }
        } else if self.may_ask(share) {
            self.step.path.clear();
            rule.next(&mut self.step)
        } else {
            return self.next_round(rule);
        };
        self.edge = (next == Next::Descend).then_some(ROOT);
        self.desk.note(next, &mut self.step);
        match next {
            Next::Ask(_) | Next::Descend => Advance::On,
            Next::Ended(node) => {
                rule.visit_end(&mut self.step, node);
                Advance::Visited
            }
            Next::Visited => Advance::Visited,
            Next::Wait | Next::Done => self.next_round(rule),
        }
    }

    /// Whether the tree asks once more in this round, which is over where its budget is.
    fn may_ask(&mut self, share: usize) -> bool {
        let (tree, limits, desk) = (&*self.step.tree, self.step.limits, &mut *self.desk);
        if desk.found.len() >= self.quota || !desk.may_ask(limits.tell_order, share) {
            desk.round_over |= desk.asked as usize >= share;
            return false;
        }
        let under_way = u64::from(desk.waiting);
        let spent =
            !limits.is_open(tree) || tree.simulations + under_way >= limits.simulations.max(1);
        desk.round_over |= spent;
        !spent
    }

    /// Takes in what is held, if the round that it belongs to is over.
    fn next_round(&mut self, rule: &dyn Rule) -> Advance {
        let (desk, order) = (&mut *self.desk, self.step.limits.tell_order);
        let ends = order == TellOrder::Ticket && desk.round_over;
        if ends && desk.found.is_empty() && desk.holds() && desk.is_ready(order) {
            desk.take_held(rule, &mut self.step);
            return Advance::On;
        }
        // Nothing is under way: what did not ask now never will.
        desk.done |= desk.waiting == 0;
        Advance::Done
    }
}

impl Desk {
    /// Whether a tree with this share of a batch may ask before more answers are in.
    pub(super) fn may_ask(&self, order: TellOrder, share: usize) -> bool {
        match order {
            TellOrder::Ticket => !self.round_over && (self.asked as usize) < share,
            TellOrder::Arrival => (self.waiting as usize) < share,
        }
    }

    /// Notes how a rule's turn ended.
    fn note(&mut self, next: Next, step: &mut Step<'_>) {
        match next {
            Next::Ask(ask) => {
                step.tree.requests += 1;
                let descent: &[u32] = if ask.marked { &step.path } else { &[] };
                self.found.push((ask, descent.len()));
                self.edges.extend_from_slice(descent);
                (self.waiting, self.asked) = (self.waiting + 1, self.asked + 1);
            }
            Next::Ended(_) | Next::Visited | Next::Descend => {}
            Next::Wait => self.round_over = true,
            Next::Done => (self.round_over, self.done) = (true, true),
        }
    }
}
