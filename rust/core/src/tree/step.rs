//! One turn at one tree: a descent to a leaf, an answer taken in. Rules may do either in
//! their own way; what they share is here. Depends on `at`, `arena`, `limits` and `request`.

use std::ops::ControlFlow;

use crate::tree::answers::Answer;
use crate::tree::arena::{End, Fact, MAX_IN_FLIGHT, ROOT, Tree};
use crate::tree::at::At;
use crate::tree::limits::{Limits, RootVisit};
use crate::tree::noise;
use crate::tree::request::{Ask, Kind, Next};
use crate::tree::spans::Rollout;

/// A tree on its turn.
pub struct Step<'a> {
    /// The tree.
    pub tree: &'a mut Tree,
    /// The search that it is part of.
    pub limits: &'a Limits,
    /// The tree's number.
    pub index: usize,
    /// Edges from the root to the node of the request, where a descent found it. Walking
    /// them touches the records that selection has just read, and no others.
    pub path: Vec<u32>,
}

impl<'a> Step<'a> {
    /// A tree before it asks.
    pub fn new(tree: &'a mut Tree, limits: &'a Limits, index: usize) -> Self {
        Self { tree, limits, index, path: Vec::new() }
    }

    /// A node for the rule to look at.
    pub fn at(&self, node: u32) -> At<'_> {
        At::new(self.tree, node, self.limits, self.index)
    }

    /// One way down, each child chosen by `choose`, to a node that is to be expanded.
    ///
    /// A node that has no children and never will ends it. A node that waits for its children
    /// already blocks the tree.
    pub fn descend(&mut self, choose: impl Fn(&At<'_>) -> Option<u32>) -> Next {
        self.path.clear();
        let mut edge = ROOT;
        loop {
            match self.enter(edge, &choose) {
                ControlFlow::Continue(child) => edge = child,
                ControlFlow::Break(next) => return next,
            }
        }
    }

    /// One level of a descent: the edge that goes on from the node that an edge leads to, or
    /// how the descent ends there. What the next level reads is on its way from memory when
    /// this returns, so that other trees' levels fill the time that it takes.
    #[inline]
    pub fn enter(
        &mut self,
        edge: u32,
        choose: impl Fn(&At<'_>) -> Option<u32>,
    ) -> ControlFlow<Next, u32> {
        self.path.push(edge);
        let node = self.tree.home(edge);
        if self.tree.hot[node as usize].children == 0 || self.may_widen(node) {
            return ControlFlow::Break(self.arrive(node));
        }
        match choose(&self.at(node)) {
            Some(child) => {
                self.tree.prefetch(child);
                ControlFlow::Continue(child)
            }
            None if self.tree.may_grow(node) => ControlFlow::Break(self.arrive(node)),
            None => ControlFlow::Break(Next::Wait),
        }
    }

    /// What a descent that ends at a node asks.
    fn arrive(&mut self, node: u32) -> Next {
        if self.tree.end(node) != End::Open {
            return Next::Ended(node);
        }
        let root = &self.tree.hot[ROOT as usize];
        if self.tree.is(node, Fact::Asked) || root.in_flight() == MAX_IN_FLIGHT {
            return Next::Wait;
        }
        self.tree.set(node, Fact::Asked, true);
        self.tree.mark_path(&self.path);
        Next::Ask(Ask { marked: true, ..Ask::expand(node) })
    }

    /// Whether a node with children may get more of them now.
    fn may_widen(&self, node: u32) -> bool {
        if !self.tree.may_grow(node) || self.tree.is(node, Fact::Asked) {
            return false;
        }
        let hot = &self.tree.hot[node as usize];
        let visits = f64::from(hot.visits + u32::from(hot.in_flight()));
        f64::from(hot.children) < self.limits.allowed_children(visits).floor()
    }

    /// Backs a node's own value up, along the descent that found it if there was one.
    pub fn back_up(&mut self, node: u32, value: f64) {
        if self.path.is_empty() {
            self.tree.back_up(node, value);
        } else if self.tree.merged.is_some() {
            self.tree.back_up_states(&self.path, value);
        } else {
            self.tree.back_up_path(&self.path, value);
        }
    }

    /// Whether a node failed so often that it is not asked for again.
    pub fn is_given_up(&self, node: u32) -> bool {
        self.tree.failures(node) >= self.limits.failures_of(node)
    }

    /// Takes back the marks of a request.
    pub fn release(&mut self, ask: &Ask) {
        if !ask.marked {
            return;
        }
        self.tree.set(ask.node, Fact::Asked, false);
        if self.path.is_empty() {
            self.tree.unmark(ask.node);
        } else {
            self.tree.unmark_path(&self.path);
        }
    }

    /// Takes an answer as most searches do: rollouts are recorded, children attached, the
    /// value backed up as one visit. Further children of a node are no visit of it.
    pub fn take(&mut self, ask: &Ask, answer: &Answer<'_>) {
        self.release(ask);
        let node = ask.node;
        self.record(node, answer);
        let widens = self.tree.hot[node as usize].children > 0 && ask.kind == Kind::Expand;
        if answer.terminal && !widens {
            self.tree.set(node, Fact::Terminal, true);
        } else if !self.attach(node, answer) && ask.kind == Kind::Expand {
            let fact = if widens { Fact::Exhausted } else { Fact::Barren };
            self.tree.set(node, fact, true);
        }
        if widens {
            if self.tree.is_spent(node) {
                self.tree.close(node);
            }
            return;
        }
        self.tree.set_value(node, answer.value);
        if node != ROOT {
            self.tree.set_reward(node, answer.reward);
        }
        match self.limits.root_visit {
            RootVisit::Zero if node == ROOT => self.tree.hot[ROOT as usize].visits += 1,
            RootVisit::None if node == ROOT => {}
            _ => self.back_up(node, answer.value),
        }
        self.tree.simulations += u64::from(node != ROOT);
        self.finish(node);
    }

    /// One simulation that needs no answer: a node is visited with the value that it has.
    pub fn visit_end(&mut self, node: u32) {
        let value = self.tree.raw_value(node);
        self.back_up(node, value);
        self.tree.simulations += 1;
        self.finish(node);
    }

    /// Counts, proves and closes what follows from a visit to a terminal node.
    pub fn finish(&mut self, node: u32) {
        if self.tree.end(node) != End::Terminal {
            return;
        }
        if !self.tree.hot[node as usize].is_proven() {
            let value = self.tree.raw_value(node);
            self.tree.outcomes.add(value);
            self.tree.prove(node, value);
            if let Some(best) = self.limits.solve {
                self.tree.solve_up(node, best);
            }
        }
        if self.limits.close_terminal && !self.tree.hot[node as usize].is_closed() {
            self.tree.close(node);
        }
    }

    /// An answer with those of its rollouts that the limits have room for. If that is not
    /// all of them, the tree is full.
    pub fn fitting<'b>(&mut self, answer: &Answer<'b>) -> Answer<'b> {
        let (limits, tree) = (self.limits, &mut *self.tree);
        let rollouts = limits.max_rollouts.saturating_sub(tree.rollouts.len() as u64);
        let tokens = limits.max_tokens.saturating_sub(tree.tokens_held());
        let fitting = answer.cut_rollouts(rollouts, tokens);
        tree.full |= fitting.rollouts.len() < answer.rollouts.len();
        fitting
    }

    /// Keeps the rollouts of an answer.
    pub fn record(&mut self, node: u32, answer: &Answer<'_>) {
        if answer.rollouts.is_empty() {
            return;
        }
        let first = self.tree.rollouts.len();
        for &reward in answer.rollouts {
            self.tree.rollouts.push(Rollout { node, length: 0, reward, mark: 0 });
            self.tree.outcomes.add(reward);
        }
        let mut told = 0;
        for (i, row) in answer.rollout_tokens.iter().flat_map(|t| t.rows()).enumerate() {
            self.tree.rollouts[first + i].length = row.len() as u32;
            self.tree.rollout_tokens.push(first + i, row);
            if let Some(log_probs) = answer.rollout_log_probs {
                let own = &log_probs[told..told + row.len()];
                self.tree.rollout_log_probs.push(first + i, &as_f32(own));
            }
            told += row.len();
        }
    }

    /// Gives a node the children of an answer. `false` if it has none, is too deep, or the
    /// tree has no room, in which case the tree is full.
    pub fn attach(&mut self, node: u32, answer: &Answer<'_>) -> bool {
        let tree = &mut *self.tree;
        let count = answer.children;
        let tokens = answer.tokens.map_or(0, |t| t.values.len());
        if count == 0 || tree.depth(node) >= self.limits.max_depth {
            return false;
        }
        let fits = tree.len() + count <= self.limits.max_nodes
            && tree.tokens_held() + tokens as u64 <= self.limits.max_tokens
            && usize::from(tree.hot[node as usize].children) + count <= usize::from(u16::MAX);
        if !fits {
            tree.full = true;
            return false;
        }
        let first = tree.len() as u32;
        match (answer.priors, answer.masked) {
            (Some(priors), None) => tree.expand(node, priors.iter().map(|&p| p as f32)),
            (priors, masked) => {
                let masked = |c: usize| masked.is_some_and(|m| m[c]);
                let even = 1.0 / (0..count).filter(|&c| !masked(c)).count().max(1) as f32;
                let prior = |c: usize| priors.map_or(even, |p| p[c] as f32);
                tree.expand(node, (0..count).map(|c| if masked(c) { 0.0 } else { prior(c) }));
                (0..count).filter(|&c| masked(c)).for_each(|c| tree.mask(first + c as u32));
            }
        }
        for (i, row) in answer.tokens.iter().flat_map(|t| t.rows()).enumerate() {
            tree.tokens.push(first as usize + i, row);
        }
        for (i, row) in answer.token_log_probs.iter().flat_map(|l| l.rows()).enumerate() {
            tree.token_log_probs.push(first as usize + i, &as_f32(row));
        }
        for (i, row) in answer.child_scores.iter().flat_map(|s| s.rows()).enumerate() {
            tree.child_scores.push(first as usize + i, row);
        }
        for (i, &value) in answer.child_values.iter().flat_map(|v| v.iter()).enumerate() {
            tree.set_value(first + i as u32, value);
        }
        let ends = answer.child_terminal.iter().flat_map(|t| t.iter());
        for (i, _) in ends.enumerate().filter(|&(_, &end)| end) {
            tree.set(first + i as u32, Fact::Terminal, true);
        }
        if tree.merged.is_some() {
            tree.merge(node, first..first + count as u32, answer.keys);
        }
        if node == ROOT && self.limits.noise.0 > 0.0 {
            noise::mix(tree, first, self.limits, self.index);
        }
        if answer.masked.is_some() && tree.is_spent(node) {
            tree.close(node);
        }
        true
    }
}

fn as_f32(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&number| number as f32).collect()
}
