//! Handing out requests, tree after tree, on several threads where that is worth it.

use super::desk::Desk;
use super::serve::{Turn, serve};
use super::{Forest, Leaf, Waiting};
use crate::choice;
use crate::error::Result;
use crate::exec::Exec;
use crate::tree::arena::Tree;
use crate::tree::request::Ask;
use crate::tree::step::Step;

/// Requests that a thread's job looks for at least: some 100 us of work.
const REQUESTS_A_JOB: usize = 256;
choice! {
    /// In which order requests are handed out.
    Order {
        /// As the trees chose them, tree after tree.
        Priority = "priority",
        /// Depth first by tree and path: neighbours share the longest prefixes.
        Prefix = "prefix",
    }
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
        let Self { trees, desks, waiting, edges, .. } = self;
        for index in served {
            let (tree, desk, number) = (&trees[index], &mut desks[index], index as u32);
            let mut rest = &desk.edges[..];
            for (ask, count) in desk.found.drain(..) {
                let (own, later) = rest.split_at(count);
                rest = later;
                let ticket = self.first_ticket + waiting.len() as u64;
                let descent = (self.first_edge + edges.len() as u64, count as u32);
                waiting.push_back(Waiting { tree: number, ask, descent });
                edges.extend(own);
                leaves.push(leaf(tree, ticket, number, ask));
            }
            desk.edges.clear();
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
            let found = exec.map(jobs, |job| serve(rule, limits, share, job, exec))?;
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
