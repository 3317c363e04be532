//! Outcomes brought to their trees, on several threads where that is worth it. Depends on
//! `desk`, `step`, `rules` and `exec`.

use std::collections::{VecDeque, vec_deque};

use super::desk::{Desk, Outcome};
use super::{Forest, Waiting};
use crate::error::Result;
use crate::exec::Exec;
use crate::tree::arena::{NONE, Tree};
use crate::tree::limits::Limits;
use crate::tree::rules::Rule;
use crate::tree::step::Step;

/// Outcomes that a thread's job takes in at least: some 60 us of work.
const OUTCOMES_A_JOB: usize = 512;

/// How many outcomes ahead memory is asked for: what one changes takes about as long to come
/// as a few take.
const AHEAD: usize = 8;

impl Forest {
    /// Brings the outcome of each row to its tree, those of a tree in the order of their
    /// tickets. Trees share nothing, so threads change no result.
    pub(super) fn settle<'a>(
        &mut self,
        tickets: &[u64],
        places: &[Waiting],
        threads: usize,
        outcome: impl Fn(usize) -> Outcome<'a> + Sync,
    ) -> Result<()> {
        for place in places {
            self.desks[place.tree as usize].arrived += 1;
        }
        let mut rows: Vec<usize> = (0..tickets.len()).collect();
        rows.sort_by_key(|&row| (places[row].tree, tickets[row])); // often they are already
        let told = Told {
            tickets,
            places,
            outcome,
            edges: &self.edges,
            first_edge: self.first_edge,
            rule: &*self.rule,
            limits: &self.limits,
        };
        let jobs = share_out(&mut self.trees, &mut self.desks, &rows, places);
        // Nothing interrupts it: half of the answers taken in would be lost to whoever logs.
        Exec::new(threads, None).map(jobs, |job| {
            job.settle(&told);
            Ok(())
        })?;
        self.retire(tickets);
        Ok(())
    }
}

/// Trees side by side, from number `first` on, and the rows of their outcomes.
struct Job<'a> {
    first: usize,
    trees: &'a mut [Tree],
    desks: &'a mut [Desk],
    rows: &'a [usize],
}

/// Jobs of whole trees, from rows in the order of their trees.
fn share_out<'a>(
    mut trees: &'a mut [Tree],
    mut desks: &'a mut [Desk],
    mut rows: &'a [usize],
    places: &[Waiting],
) -> Vec<Job<'a>> {
    let tree = |row: usize| places[row].tree as usize;
    let (mut jobs, mut first) = (Vec::new(), 0);
    while !rows.is_empty() {
        let most = rows.len().min(OUTCOMES_A_JOB);
        let last = tree(rows[most - 1]);
        let count = most + rows[most..].iter().take_while(|&&row| tree(row) == last).count();
        let (own, later) = rows.split_at(count);
        let (own_trees, later_trees) = trees.split_at_mut(last + 1 - first);
        let (own_desks, later_desks) = desks.split_at_mut(last + 1 - first);
        jobs.push(Job { first, trees: own_trees, desks: own_desks, rows: own });
        (rows, trees, desks, first) = (later, later_trees, later_desks, last + 1);
    }
    jobs
}

/// Outcomes, and what jobs read beside their trees.
struct Told<'a, F> {
    tickets: &'a [u64],
    places: &'a [Waiting],
    outcome: F,
    edges: &'a VecDeque<u32>,
    first_edge: u64,
    rule: &'a dyn Rule,
    limits: &'a Limits,
}

impl<F> Told<'_, F> {
    /// The edges of a descent.
    fn edges_of(&self, place: &Waiting) -> vec_deque::Iter<'_, u32> {
        let (first, count) = place.descent;
        let start = (first - self.first_edge) as usize;
        self.edges.range(start..start + count as usize)
    }
}

impl Job<'_> {
    fn settle<'a, F: Fn(usize) -> Outcome<'a>>(mut self, told: &Told<'_, F>) {
        let (mut path, mut holds) = (Vec::new(), false);
        let (mut tree_ahead, mut before) = (NONE, 0);
        for (at, &row) in self.rows.iter().enumerate() {
            if let Some(later) = self.rows.get(at + AHEAD).map(|&later| &told.places[later]) {
                before = if later.tree == tree_ahead { before + 1 } else { 0 };
                tree_ahead = later.tree;
                let tree = &self.trees[later.tree as usize - self.first];
                tree.prefetch_path(told.edges_of(later), before);
            }
            let place = &told.places[row];
            path.clear();
            path.extend(told.edges_of(place));
            let (mut step, desk) = self.at(place, told.limits);
            if desk.is_ready(told.limits.tell_order) && !desk.holds() {
                step.path = path;
                desk.take(told.rule, &mut step, &place.ask, &(told.outcome)(row));
                path = step.path;
            } else {
                desk.hold(told.tickets[row], place.ask, &path, &(told.outcome)(row));
                holds = true;
            }
        }
        if holds {
            self.end_rounds(told);
        }
    }

    /// Takes in what trees hold whose round is over now.
    fn end_rounds<F>(&mut self, told: &Told<'_, F>) {
        for &row in self.rows {
            let (mut step, desk) = self.at(&told.places[row], told.limits);
            if desk.holds() && desk.is_ready(told.limits.tell_order) {
                desk.take_held(told.rule, &mut step);
            }
        }
    }

    /// The tree of a request, and its desk.
    fn at<'a>(&'a mut self, place: &Waiting, limits: &'a Limits) -> (Step<'a>, &'a mut Desk) {
        let (index, own) = (place.tree as usize, place.tree as usize - self.first);
        (Step::new(&mut self.trees[own], limits, index), &mut self.desks[own])
    }
}
