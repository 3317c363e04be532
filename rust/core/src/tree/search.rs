//! Ask and tell: leaves of many trees out, answers in, in any order.
//!
//! A tree is owned by one thread at a time and chooses by its own statistics and
//! by randomness keyed to it, so the number of threads changes nothing. Answers of
//! one call are applied in the order in which their leaves were handed out.
//! Depends on `arena`, `rules`, `exec` and `error`.

use std::collections::VecDeque;

use crate::choice;
use crate::error::{Error, Result};
use crate::exec::Exec;
use crate::tree::arena::{End, MAX_IN_FLIGHT, NONE, ROOT, Tree};
use crate::tree::rules::{At, Context, Rule};

/// Trees that one job of a thread serves.
const TREES_A_JOB: usize = 32;

choice! {
    /// What a root's own evaluation counts as.
    RootVisit {
        /// A visit with its value.
        Value = "value",
        /// A visit of value 0 (LightZero).
        Zero = "zero",
        /// Nothing.
        None = "none",
    }
}

/// Budgets and ways of a search; each budget is a tree's.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Nodes; an expansion that does not fit is dropped and ends the tree.
    pub max_nodes: usize,
    /// Simulations, the root's own evaluation not among them.
    pub simulations: u64,
    /// Depth at which nodes get no children.
    pub max_depth: u32,
    /// Failures after which a node is given up.
    pub max_failures: u8,
    /// Discount of a child's value; not 0, and -1 for two players in turns.
    pub gamma: f64,
    /// What a root's own evaluation counts as.
    pub root_visit: RootVisit,
    /// Prove nodes from terminal ones, this being the best value there is.
    pub solve: Option<f64>,
    /// Key of all randomness.
    pub seed: u64,
    /// Loss that a descent in flight is counted as; `None` counts visits alone.
    pub virtual_loss: Option<f64>,
}

/// A node to be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// By which the answer is known.
    pub ticket: u64,
    /// Its tree.
    pub tree: u32,
    /// The node.
    pub node: u32,
}

/// Answers to leaves: one value each, and the children that it has.
#[derive(Clone, Copy, Debug)]
pub struct Answers<'a> {
    /// Which leaves.
    pub tickets: &'a [u64],
    /// Value of each leaf, from the side of whoever moves there.
    pub values: &'a [f64],
    /// Reward of the edge into each leaf; 0 where absent.
    pub rewards: Option<&'a [f64]>,
    /// Leaves that are ends, whose value is exact.
    pub terminal: Option<&'a [bool]>,
    /// Number of children of each leaf.
    pub children: &'a [usize],
    /// Priors of the children of leaf after leaf; equal ones where absent.
    pub priors: Option<&'a [f64]>,
    /// Children that are no choice, as `priors`: they are there but never entered.
    pub masked: Option<&'a [bool]>,
}

/// Many trees under one rule.
pub struct Forest {
    trees: Vec<Tree>,
    rule: Box<dyn Rule>,
    limits: Limits,
    context: Context,
    /// Leaves that wait, from ticket `first_ticket` on; [`NONE`] as tree where answered.
    waiting: VecDeque<(u32, u32)>,
    first_ticket: u64,
    next_tree: usize,
}

/// How a descent ended.
enum Descent {
    Leaf(u32),
    Finished,
    Blocked,
}

impl Forest {
    /// `roots` trees of one node.
    ///
    /// # Errors
    ///
    /// No roots or more than 2^28; a discount of 0 or outside -1..1; no room for a root.
    pub fn new(roots: usize, rule: Box<dyn Rule>, limits: Limits) -> Result<Self> {
        let bad = |option, got: String, expected: &str| {
            Err(Error::BadOption { method: "search", option, got, expected: expected.to_owned() })
        };
        if roots == 0 || roots > 1 << 28 {
            return bad("num_roots", roots.to_string(), "an integer from 1 to 2**28");
        }
        if limits.gamma == 0.0 || limits.gamma.is_nan() || limits.gamma.abs() > 1.0 {
            return bad("gamma", format!("{:?}", limits.gamma), "a number in [-1, 1] other than 0");
        }
        if limits.max_nodes == 0 || limits.max_nodes >= NONE as usize {
            return bad(
                "max_nodes",
                limits.max_nodes.to_string(),
                "an integer from 1 to 2**32 - 2",
            );
        }
        if limits.max_failures == 0 {
            return bad("max_failures", "0".to_owned(), "an integer from 1 to 255");
        }
        if limits.virtual_loss.is_some_and(|loss| !loss.is_finite()) {
            return bad("virtual_loss", format!("{:?}", limits.virtual_loss), "a finite number");
        }
        let context = Context {
            seed: limits.seed,
            simulations: limits.simulations,
            virtual_loss: limits.virtual_loss,
        };
        Ok(Self {
            trees: (0..roots).map(|_| Tree::new(limits.gamma)).collect(),
            rule,
            limits,
            context,
            waiting: VecDeque::new(),
            first_ticket: 0,
            next_tree: 0,
        })
    }

    /// The trees.
    pub fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// Leaves that wait for an answer.
    pub fn in_flight(&self) -> u64 {
        self.trees.iter().map(|t| u64::from(t.waiting)).sum()
    }

    /// A node for the rule to look at.
    pub fn at(&self, index: usize, node: u32) -> At<'_> {
        At { tree: &self.trees[index], node, context: &self.context, index }
    }

    /// The rule.
    pub fn rule(&self) -> &dyn Rule {
        &*self.rule
    }

    /// Hands out up to `batch` leaves, up to `per_tree` of one tree (0: an even share),
    /// beginning after the tree served last. Empty when nothing can be asked: budgets are
    /// spent, or every best leaf waits for an answer already.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`]; leaves found until then are taken back.
    pub fn select(&mut self, batch: usize, per_tree: usize, exec: &Exec<'_>) -> Result<Vec<Leaf>> {
        let result = self.serve_trees(batch, per_tree, exec);
        let served = match result {
            Ok(served) => served,
            Err(error) => {
                for tree in &mut self.trees {
                    for node in std::mem::take(&mut tree.asked) {
                        tree.unmark(node);
                    }
                }
                return Err(error);
            }
        };
        let mut leaves = Vec::new();
        for index in served {
            for node in std::mem::take(&mut self.trees[index].asked) {
                leaves.push(self.issue(index as u32, node));
            }
        }
        Ok(leaves)
    }

    /// Lets trees ask until the batch is full or each was served; which were, in order.
    fn serve_trees(
        &mut self,
        batch: usize,
        per_tree: usize,
        exec: &Exec<'_>,
    ) -> Result<Vec<usize>> {
        let (start, count, limits) = (self.next_tree, self.trees.len(), &self.limits);
        let open = self.trees.iter().filter(|t| is_open(limits, t)).count();
        let share = if per_tree == 0 { batch.div_ceil(open.max(1)) } else { per_tree };
        let (rule, context) = (&*self.rule, &self.context);
        let (before, after) = self.trees.split_at_mut(start);
        let mut trees = (start..).zip(after).chain((0..).zip(before));
        let (mut served, mut left) = (Vec::new(), batch);
        while left > 0 {
            let mut planned = left;
            let mut jobs: Vec<Vec<(usize, &mut Tree, usize)>> = Vec::new();
            for (index, tree) in trees.by_ref().filter(|(_, tree)| is_open(limits, tree)) {
                let quota = share.min(planned);
                planned -= quota;
                served.push(index);
                match jobs.last_mut() {
                    Some(job) if job.len() < TREES_A_JOB => job.push((index, tree, quota)),
                    _ => jobs.push(vec![(index, tree, quota)]),
                }
                if planned == 0 {
                    break;
                }
            }
            if jobs.is_empty() {
                break;
            }
            let found = exec.map(jobs, |job| {
                let serve = |(index, tree, quota)| serve(rule, context, limits, index, tree, quota);
                Ok(job.into_iter().map(serve).sum::<usize>())
            })?;
            left -= found.iter().sum::<usize>();
        }
        self.next_tree = served.last().map_or(start, |last| (last + 1) % count);
        Ok(served)
    }

    fn issue(&mut self, tree: u32, node: u32) -> Leaf {
        let ticket = self.first_ticket + self.waiting.len() as u64;
        self.waiting.push_back((tree, node));
        Leaf { ticket, tree, node }
    }

    /// Where each ticket's leaf is.
    ///
    /// # Errors
    ///
    /// A ticket that was never handed out, was answered, or is there twice.
    pub fn find(&self, tickets: &[u64]) -> Result<Vec<(u32, u32)>> {
        let bad = |index: usize, got: String, expected: &str| {
            let (argument, expected) = ("tickets".to_owned(), expected.to_owned());
            Err(Error::Value { argument, index, got, expected })
        };
        let mut seen: Vec<(u64, usize)> = tickets.iter().copied().zip(0..).collect();
        seen.sort_unstable();
        if let Some(pair) = seen.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let (ticket, index) = pair[1];
            return bad(index, format!("{ticket} again"), "each ticket once");
        }
        let mut places = Vec::with_capacity(tickets.len());
        for (index, &ticket) in tickets.iter().enumerate() {
            let place = ticket.checked_sub(self.first_ticket).map(|i| self.waiting.get(i as usize));
            match place {
                Some(None) => {
                    return bad(index, format!("unknown ticket {ticket}"), "one from select");
                }
                None | Some(Some(&(NONE, _))) => {
                    let got = format!("ticket {ticket}, answered already");
                    return bad(index, got, "one that waits for an answer");
                }
                Some(Some(&place)) => places.push(place),
            }
        }
        Ok(places)
    }

    fn retire(&mut self, ticket: u64) {
        self.waiting[(ticket - self.first_ticket) as usize].0 = NONE;
        while self.waiting.front().is_some_and(|&(tree, _)| tree == NONE) {
            self.waiting.pop_front();
            self.first_ticket += 1;
        }
    }

    /// Takes answers. Nothing is changed when one of them is refused.
    ///
    /// # Errors
    ///
    /// Tickets as in [`find`](Self::find); lengths that differ; values or rewards that are
    /// not finite; priors that are not finite or negative; sizes beyond the arena's.
    pub fn expand(&mut self, answers: &Answers<'_>) -> Result<()> {
        let places = self.find(answers.tickets)?;
        let starts = answers.validate()?;
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_unstable_by_key(|&i| answers.tickets[i]);
        for i in order {
            self.answer(places[i], answers, i, starts[i])?;
            self.retire(answers.tickets[i]);
        }
        Ok(())
    }

    fn answer(
        &mut self,
        (index, node): (u32, u32),
        answers: &Answers<'_>,
        i: usize,
        start: usize,
    ) -> Result<()> {
        let (limits, tree, n) = (&self.limits, &mut self.trees[index as usize], node as usize);
        let (value, first) = (answers.values[i], tree.len() as u32);
        let count = answers.children[i];
        let terminal = answers.terminal.is_some_and(|t| t[i]);
        let fits = tree.len() + count <= limits.max_nodes;
        tree.full |= !fits && !terminal && tree.depth[n] < limits.max_depth;
        if terminal {
            tree.end[n] = End::Terminal;
        } else if count == 0 || !fits || tree.depth[n] >= limits.max_depth {
            tree.end[n] = End::Barren;
        } else {
            let masked = |c: usize| answers.masked.is_some_and(|m| m[start + c]);
            let even = 1.0 / (0..count).filter(|&c| !masked(c)).count().max(1) as f32;
            let prior = |c: usize| answers.priors.map_or(even, |p| p[start + c] as f32);
            tree.expand(node, (0..count).map(|c| if masked(c) { 0.0 } else { prior(c) }))?;
            for child in tree.children(node).filter(|child| masked((child - first) as usize)) {
                tree.close(child);
            }
        }
        tree.unmark(node);
        tree.raw_value[n] = value;
        if node != ROOT {
            tree.reward[n] = answers.rewards.map_or(0.0, |r| r[i]);
        }
        match limits.root_visit {
            RootVisit::Zero if node == ROOT => tree.hot[n].visits += 1,
            RootVisit::None if node == ROOT => {}
            _ => tree.back_up(node, value),
        }
        tree.simulations += u64::from(node != ROOT);
        if terminal {
            tree.prove(node, value);
            if let Some(best) = limits.solve {
                tree.solve_up(node, best);
            }
        }
        Ok(())
    }

    /// Takes leaves back without a visit. A node that failed `max_failures` times is closed.
    ///
    /// # Errors
    ///
    /// Tickets as in [`find`](Self::find).
    pub fn fail(&mut self, tickets: &[u64]) -> Result<()> {
        for ((index, node), &ticket) in self.find(tickets)?.into_iter().zip(tickets) {
            let tree = &mut self.trees[index as usize];
            tree.unmark(node);
            let failures = &mut tree.failures[node as usize];
            *failures = failures.saturating_add(1);
            if *failures >= self.limits.max_failures {
                tree.close(node);
            }
            self.retire(ticket);
        }
        Ok(())
    }
}

/// Whether a tree may still hand out leaves once what waits is answered.
fn is_open(limits: &Limits, tree: &Tree) -> bool {
    let root = &tree.hot[ROOT as usize];
    !(root.is_closed()
        || root.is_proven()
        || tree.full
        || tree.end[ROOT as usize] != End::Open
        || tree.simulations >= limits.simulations && root.children > 0)
}

/// Leaves of one tree, up to its quota; how many.
fn serve(
    rule: &dyn Rule,
    context: &Context,
    limits: &Limits,
    index: usize,
    tree: &mut Tree,
    quota: usize,
) -> usize {
    let mut found = 0;
    while found < quota && tree.simulations + u64::from(tree.waiting) < limits.simulations.max(1) {
        match descend(rule, context, index, tree) {
            Descent::Leaf(node) => {
                tree.mark(node);
                tree.asked.push(node);
                found += 1;
            }
            Descent::Finished => tree.simulations += 1,
            Descent::Blocked => break,
        }
    }
    found
}

/// One way down. A leaf that has no children and never will is visited once more, with
/// the value that it has.
fn descend(rule: &dyn Rule, context: &Context, index: usize, tree: &mut Tree) -> Descent {
    let mut node = ROOT;
    while tree.hot[node as usize].children > 0 {
        match rule.choose(&At { tree, node, context, index }) {
            Some(child) => node = child,
            None => return Descent::Blocked,
        }
    }
    if tree.end[node as usize] != End::Open {
        tree.back_up(node, tree.raw_value[node as usize]);
        return Descent::Finished;
    }
    let root = &tree.hot[ROOT as usize];
    if tree.hot[node as usize].in_flight() > 0 || root.in_flight() == MAX_IN_FLIGHT {
        return Descent::Blocked;
    }
    Descent::Leaf(node)
}

impl Answers<'_> {
    /// Checks lengths and numbers; where each leaf's priors begin.
    fn validate(&self) -> Result<Vec<usize>> {
        let count = self.tickets.len();
        let length = |argument: &str, got: usize, expected: usize, of: &'static str| {
            let argument = argument.to_owned();
            if got == expected {
                Ok(())
            } else {
                Err(Error::Length { argument, got, expected, of })
            }
        };
        length("values", self.values.len(), count, "leaves")?;
        length("children", self.children.len(), count, "leaves")?;
        length("rewards", self.rewards.map_or(count, <[f64]>::len), count, "leaves")?;
        length("terminal", self.terminal.map_or(count, <[bool]>::len), count, "leaves")?;
        let mut starts = vec![0];
        for (index, &children) in self.children.iter().enumerate() {
            if children > usize::from(u16::MAX) {
                return Err(Error::Value {
                    argument: "children".to_owned(),
                    index,
                    got: children.to_string(),
                    expected: format!("at most {}", u16::MAX),
                });
            }
            starts.push(starts[index] + children);
        }
        let total = starts[count];
        length("priors", self.priors.map_or(total, <[f64]>::len), total, "children")?;
        length("masked", self.masked.map_or(total, <[bool]>::len), total, "children")?;
        check("values", self.values, "a finite number", f64::is_finite)?;
        check("rewards", self.rewards.unwrap_or(&[]), "a finite number", f64::is_finite)?;
        let fits = |p: f64| p >= 0.0 && p <= f64::from(f32::MAX);
        check("priors", self.priors.unwrap_or(&[]), "a finite number of at least 0", fits)?;
        Ok(starts)
    }
}

fn check(argument: &str, values: &[f64], expected: &str, fits: impl Fn(f64) -> bool) -> Result<()> {
    match values.iter().position(|&v| !fits(v)) {
        None => Ok(()),
        Some(index) => Err(Error::Value {
            argument: argument.to_owned(),
            index,
            got: format!("{:?}", values[index]),
            expected: expected.to_owned(),
        }),
    }
}
