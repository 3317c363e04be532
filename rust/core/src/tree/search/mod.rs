//! Ask and tell: leaves of many trees out, answers in, in any order.
//!
//! A tree is owned by one thread at a time and chooses by its own statistics and by
//! randomness keyed to it, so the number of threads changes nothing. [`select`] hands
//! requests out, [`tell`] takes answers, [`settle`] brings them to their trees; a [`desk`]
//! stands between those and a tree.
//! Depends on `rules`, `step`, `limits`, `exec` and `error`.

pub mod desk;
mod saved;
mod select;
mod serve;
mod settle;
mod tell;

use std::collections::VecDeque;

pub use crate::tree::answers::{Answer, Answers, NumberRows, TokenRows};
pub use crate::tree::limits::{Limits, OnLimit, RootVisit, Stop, TellOrder};
pub use crate::tree::request::{Ask, Kind, Leaf};
pub use select::Order;

use crate::error::{Error, Result};
use crate::memory;
use crate::tree::arena::{NONE, Tree};
use crate::tree::rules::{At, Rule};
use crate::tree::states::Merged;
use desk::Desk;

/// Many trees under one rule.
pub struct Forest {
    trees: Vec<Tree>,
    desks: Vec<Desk>,
    rule: Box<dyn Rule>,
    limits: Limits,
    /// Requests that wait, from ticket `first_ticket` on.
    waiting: VecDeque<Waiting>,
    first_ticket: u64,
    /// Descents of those that wait, one after the other; the first that is kept is number
    /// `first_edge` of all that were ever.
    edges: VecDeque<u32>,
    first_edge: u64,
    next_tree: usize,
}

/// A request without its ticket; [`NONE`] as tree once it is answered.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    tree: u32,
    ask: Ask,
    /// Number of its descent's first edge, and how many there are.
    descent: (u64, u32),
}

impl Forest {
    /// `roots` trees of one node.
    ///
    /// # Errors
    ///
    /// No roots or more than 2^28, or than there is memory for; a limit out of its range;
    /// merging under a rule that cannot.
    pub fn new(roots: usize, rule: Box<dyn Rule>, limits: Limits) -> Result<Self> {
        if roots == 0 || roots > 1 << 28 {
            return Err(Error::BadOption {
                method: "search",
                option: "num_roots",
                got: roots.to_string(),
                expected: "an integer from 1 to 2**28".to_owned(),
            });
        }
        limits.validate()?;
        if limits.merge && !rule.merges() {
            return Err(Error::BadOption {
                method: "search",
                option: "merge",
                got: "True".to_owned(),
                expected: "False with this rule, whose simulations are not single descents"
                    .to_owned(),
            });
        }
        let mut tree = Tree::new(limits.gamma, limits.keeps(rule.reads_bounds()));
        tree.outcomes.threshold = limits.stop.threshold;
        tree.merged = limits.merge.then(|| Box::new(Merged::default()));
        let (mut trees, mut desks) = (Vec::new(), Vec::new());
        memory::reserve(&mut trees, roots)?;
        memory::reserve(&mut desks, roots)?;
        trees.resize(roots, tree);
        desks.resize(roots, Desk::default());
        Ok(Self {
            trees,
            desks,
            rule,
            limits,
            waiting: VecDeque::new(),
            first_ticket: 0,
            edges: VecDeque::new(),
            first_edge: 0,
            next_tree: 0,
        })
    }

    /// The trees.
    pub fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// What the search was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Requests that wait for an answer.
    pub fn in_flight(&self) -> u64 {
        self.desks.iter().map(|desk| u64::from(desk.in_flight())).sum()
    }

    /// Trees and nodes that failed so often that they are not asked for again.
    pub fn given_up(&self) -> impl Iterator<Item = (usize, u32)> {
        self.trees.iter().enumerate().flat_map(|(index, tree)| {
            let failed =
                tree.failed().filter(|&(n, failures)| failures >= self.limits.failures_of(n));
            failed.map(move |(node, _)| (index, node))
        })
    }

    /// A node for the rule to look at.
    pub fn at(&self, index: usize, node: u32) -> At<'_> {
        At::new(&self.trees[index], node, &self.limits, index)
    }

    /// The rule.
    pub fn rule(&self) -> &dyn Rule {
        &*self.rule
    }

    /// Where each ticket's request is.
    ///
    /// # Errors
    ///
    /// A ticket that was never handed out, was answered or taken back, or is there twice.
    fn find(&self, tickets: &[u64]) -> Result<Vec<Waiting>> {
        let bad = |index: usize, got: String, expected: &str| {
            let (argument, expected) = ("tickets".to_owned(), expected.to_owned());
            Err(Error::Value { argument, index, got, expected })
        };
        if let Some((ticket, index)) = repeated(tickets) {
            return bad(index, format!("{ticket} again"), "each ticket once");
        }
        let mut places = Vec::with_capacity(tickets.len());
        for (index, &ticket) in tickets.iter().enumerate() {
            let place = ticket.checked_sub(self.first_ticket).map(|i| self.waiting.get(i as usize));
            match place {
                Some(None) => {
                    return bad(index, format!("unknown ticket {ticket}"), "one from select");
                }
                None | Some(Some(&Waiting { tree: NONE, .. })) => {
                    let got = format!("ticket {ticket}, answered, failed or cancelled already");
                    return bad(index, got, "one that waits for an answer");
                }
                Some(Some(&place)) => places.push(place),
            }
        }
        Ok(places)
    }

    /// Which of these tickets wait for an answer.
    pub fn is_waiting(&self, ticket: u64) -> bool {
        let place = ticket.checked_sub(self.first_ticket).map(|i| self.waiting.get(i as usize));
        matches!(place, Some(Some(waiting)) if waiting.tree != NONE)
    }

    /// Forgets requests, and the memory of those at the front that are all answered.
    fn retire(&mut self, tickets: &[u64]) {
        for &ticket in tickets {
            self.waiting[(ticket - self.first_ticket) as usize].tree = NONE;
        }
        let answered = self.waiting.iter().take_while(|waiting| waiting.tree == NONE).count();
        let Some(last) = answered.checked_sub(1) else { return };
        let (first, count) = self.waiting[last].descent;
        let end = first + u64::from(count);
        self.waiting.drain(..answered);
        self.first_ticket += answered as u64;
        self.edges.drain(..(end - self.first_edge) as usize);
        self.first_edge = end;
    }
}

/// The first ticket that is there for the second time, and where.
fn repeated(tickets: &[u64]) -> Option<(u64, usize)> {
    if tickets.windows(2).all(|pair| pair[0] < pair[1]) {
        return None;
    }
    let mut seen: Vec<(u64, usize)> = tickets.iter().copied().zip(0..).collect();
    seen.sort_unstable();
    seen.windows(2).find(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1])
}
