//! Handing out requests, tree after tree, on several threads where that is worth it.

use super::desk::Desk;
use super::{Forest, Leaf};
use crate::choice;
use crate::error::Result;
use crate::exec::Exec;
use crate::tree::arena::Tree;
use crate::tree::limits::{Limits, TellOrder};
use crate::tree::request::{Ask, Next};
use crate::tree::rules::Rule;
use crate::tree::step::Step;

/// Requests that a thread's job looks for at least: some 100 us of work.
const REQUESTS_A_JOB: usize = 256;
/// Visits without a request after which a tree looks whether to stop: a millisecond of work.
const VISITS_A_CHECK: u32 = 4096;

choice! {
    /// In which order requests are handed out.
    Order {
        /// As the trees chose them, tree after tree.
        Priority = "priority",
        /// Depth first by tree and path: neighbours share the longest prefixes.
        Prefix = "prefix",
    }
}

/// A tree to be served, and with how many requests at most.
struct Turn<'a> {
    index: usize,
    tree: &'a mut Tree,
    desk: &'a mut Desk,
    quota: usize,
}

impl Forest {
    /// Hands out up to `batch` requests, beginning after the tree served last. No tree has
    /// more than `per_tree` of them under way (0: an even share of the batch). Empty when
    /// nothing can be asked: budgets are spent, or trees wait for answers.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`](crate::error::Error::Interrupted); requests found until then
    /// are taken back.
    pub fn select(
        &mut self,
        batch: usize,
        per_tree: usize,
        order: Order,
        exec: &Exec<'_>,
    ) -> Result<Vec<Leaf>> {
        let served = match self.serve_trees(batch, per_tree, exec) {
            Ok(served) => served,
            Err(error) => {
                self.take_back();
                return Err(error);
            }
        };
        let mut leaves = Vec::with_capacity(batch.min(1 << 16));
        for index in served {
            let mut found = std::mem::take(&mut self.desks[index].found);
            let mut edges = std::mem::take(&mut self.desks[index].edges);
            let mut rest = &edges[..];
            for (ask, count) in found.drain(..) {
                let (descent, later) = rest.split_at(count);
                rest = later;
                let ticket = self.issue(index as u32, ask, descent);
                leaves.push(leaf(&self.trees[index], ticket, index as u32, ask));
            }
            edges.clear();
            let desk = &mut self.desks[index];
            (desk.found, desk.edges) = (found, edges); // their memory is used again
        }
        if order == Order::Prefix {
            self.sort_by_path(&mut leaves);
        }
        Ok(leaves)
    }

    /// Undoes a selection that was interrupted.
    fn take_back(&mut self) {
        let trees = self.trees.iter_mut().zip(&mut self.desks).enumerate();
        for (index, (tree, desk)) in trees {
            let edges = std::mem::take(&mut desk.edges);
            let mut rest = &edges[..];
            let mut step = Step::new(tree, &self.limits, index);
            if !desk.found.is_empty() {
                (desk.round_over, desk.done) = (false, false); // as it was when it asked
            }
            for (ask, count) in std::mem::take(&mut desk.found) {
                let (descent, later) = rest.split_at(count);
                rest = later;
                step.path = descent.to_vec();
                step.tree.requests -= 1;
                (desk.waiting, desk.asked) = (desk.waiting - 1, desk.asked - 1);
                step.release(&ask);
            }
        }
    }

    /// Lets trees ask until the batch is full or each was served; which were, in order.
    fn serve_trees(
        &mut self,
        batch: usize,
        per_tree: usize,
        exec: &Exec<'_>,
    ) -> Result<Vec<usize>> {
        let (start, count) = (self.next_tree, self.trees.len());
        let share = if per_tree == 0 { batch.div_ceil(count) } else { per_tree };
        let (rule, limits) = (&*self.rule, &self.limits);
        let (before, after) = self.trees.split_at_mut(start);
        let (desks_before, desks_after) = self.desks.split_at_mut(start);
        let mut trees = (start..)
            .zip(after.iter_mut().zip(desks_after))
            .chain((0..).zip(before.iter_mut().zip(desks_before)))
            .filter(|(_, (_, desk))| !desk.done && desk.may_ask(limits.tell_order, share));
        let (mut served, mut left) = (Vec::new(), batch);
        while left > 0 {
            let (jobs, indices) = plan(&mut trees, share, left);
            if jobs.is_empty() {
                break;
            }
            let found = exec.map(jobs, |job| {
                job.into_iter().map(|turn| serve(rule, limits, share, turn, exec)).sum()
            })?;
            served.extend(indices);
            left -= found.iter().sum::<usize>();
        }
        exec.check()?; // a thread that waited for the others may have been told to stop
        drop(trees);
        if let Some(&last) = served.last() {
            // A tree that the batch's end cut short goes on first.
            let cut = left == 0 && self.desks[last].may_ask(self.limits.tell_order, share);
            self.next_tree = if cut { last } else { (last + 1) % count };
        }
        Ok(served)
    }

    fn sort_by_path(&self, leaves: &mut [Leaf]) {
        leaves.sort_by_cached_key(|leaf| {
            let path = self.trees[leaf.tree as usize].path(leaf.ask.node);
            (leaf.tree, path, leaf.ticket)
        });
    }
}

/// Turns that together ask for no more than `left` requests, a few hundred in each job.
fn plan<'a>(
    trees: &mut impl Iterator<Item = (usize, (&'a mut Tree, &'a mut Desk))>,
    share: usize,
    left: usize,
) -> (Vec<Vec<Turn<'a>>>, Vec<usize>) {
    let (mut jobs, mut indices): (Vec<Vec<Turn<'_>>>, _) = (Vec::new(), Vec::new());
    let (mut planned, mut in_job) = (0, REQUESTS_A_JOB);
    while planned < left {
        let Some((index, (tree, desk))) = trees.next() else { break };
        if in_job >= REQUESTS_A_JOB {
            jobs.push(Vec::new());
            in_job = 0;
        }
        let quota = share.min(left - planned);
        (planned, in_job) = (planned + quota, in_job + quota);
        indices.push(index);
        if let Some(job) = jobs.last_mut() {
            job.push(Turn { index, tree, desk, quota });
        }
    }
    (jobs, indices)
}

impl Desk {
    /// Whether a tree with this share of a batch may ask before more answers are in.
    fn may_ask(&self, order: TellOrder, share: usize) -> bool {
        match order {
            TellOrder::Ticket => !self.round_over && (self.asked as usize) < share,
            TellOrder::Arrival => (self.waiting as usize) < share,
        }
    }
}

/// Requests of one tree, up to its quota; how many.
fn serve(
    rule: &dyn Rule,
    limits: &Limits,
    share: usize,
    turn: Turn<'_>,
    exec: &Exec<'_>,
) -> Result<usize> {
    let Turn { index, tree, desk, quota } = turn;
    let mut step = Step::new(tree, limits, index);
    loop {
        ask(rule, &mut step, desk, (share, quota), exec)?;
        let ends = limits.tell_order == TellOrder::Ticket && desk.round_over;
        if !(ends && desk.found.is_empty() && desk.holds() && desk.is_ready(limits.tell_order)) {
            break;
        }
        desk.take_held(rule, &mut step);
    }
    if desk.waiting == 0 {
        // Nothing is under way: what did not ask now never will.
        desk.done = true;
    }
    Ok(desk.found.len())
}

fn ask(
    rule: &dyn Rule,
    step: &mut Step<'_>,
    desk: &mut Desk,
    (share, quota): (usize, usize),
    exec: &Exec<'_>,
) -> Result<()> {
    let (limits, mut visits) = (step.limits, 0_u32);
    while desk.found.len() < quota && desk.may_ask(limits.tell_order, share) {
        let under_way = u64::from(desk.waiting);
        if !limits.is_open(step.tree)
            || step.tree.simulations + under_way >= limits.simulations.max(1)
        {
            desk.round_over = true;
            return Ok(());
        }
        step.path.clear();
        match rule.next(step) {
            Next::Ask(ask) => {
                step.tree.requests += 1;
                let descent: &[u32] = if ask.marked { &step.path } else { &[] };
                desk.found.push((ask, descent.len()));
                desk.edges.extend_from_slice(descent);
                (desk.waiting, desk.asked) = (desk.waiting + 1, desk.asked + 1);
            }
            Next::Visited => {
                visits += 1;
                if visits.is_multiple_of(VISITS_A_CHECK) {
                    exec.check()?;
                }
            }
            Next::Wait => {
                desk.round_over = true;
                return Ok(());
            }
            Next::Done => {
                (desk.round_over, desk.done) = (true, true);
                return Ok(());
            }
        }
    }
    desk.round_over |= desk.asked as usize >= share;
    Ok(())
}

pub(super) fn leaf(tree: &Tree, ticket: u64, index: u32, ask: Ask) -> Leaf {
    Leaf {
        ticket,
        tree: index,
        parent: tree.parent(ask.node),
        action: tree.action(ask.node),
        depth: tree.depth(ask.node),
        ask,
    }
}
