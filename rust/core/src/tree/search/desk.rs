//! What of a tree's requests is under way. Depends on `answers`, `step` and `rules`.
//!
//! In ticket order a tree works in rounds. It asks until it has its share or must wait;
//! then it takes all answers of the round at once, in the order of their tickets. What came
//! early is held. So the answers known at each choice do not depend on when they came.

use crate::tree::answers::{Answer, Rows};
use crate::tree::arena::Fact;
use crate::tree::limits::TellOrder;
use crate::tree::persist::Result;
use crate::tree::persist::state::{Source, State};
use crate::tree::request::Ask;
use crate::tree::rules::Rule;
use crate::tree::step::Step;

/// A tree's trays.
#[derive(Clone, Debug, Default)]
pub struct Desk {
    /// Requests of the selection that is going on, not yet handed out, each with the number
    /// of its descent's edges.
    pub(super) found: Vec<(Ask, usize)>,
    /// Those edges, one descent after the other.
    pub(super) edges: Vec<u32>,
    /// Requests that are not taken in, whether answered or not.
    pub(super) waiting: u32,
    /// How many of them are answered and held.
    pub(super) arrived: u32,
    /// Requests of this round.
    pub(super) asked: u32,
    /// Whether the round asks nothing more.
    pub(super) round_over: bool,
    /// Whether the tree will never ask again.
    pub(super) done: bool,
    held: Vec<(u64, Ask, Box<[u32]>, Held)>,
}

/// What became of a request.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one at a time, on the stack
pub enum Outcome<'a> {
    /// An answer.
    Told(Answer<'a>),
    /// It failed, which counts against the node.
    Failed,
    /// It was taken back, as if it had never been handed out.
    Cancelled,
}

#[derive(Clone, Debug)]
enum Held {
    Told(Box<Owned>),
    Failed,
    Cancelled,
}

/// An answer that keeps its own columns.
#[derive(Clone, Debug, Default)]
struct Owned {
    value: f64,
    reward: f64,
    terminal: bool,
    children: usize,
    priors: Option<Vec<f64>>,
    masked: Option<Vec<bool>>,
    child_values: Option<Vec<f64>>,
    child_terminal: Option<Vec<bool>>,
    keys: Option<Vec<u64>>,
    tokens: Option<OwnedRows<u32>>,
    token_log_probs: Option<OwnedRows<f64>>,
    child_scores: Option<OwnedRows<f64>>,
    rollouts: Vec<f64>,
    rollout_tokens: Option<OwnedRows<u32>>,
    rollout_log_probs: Option<Vec<f64>>,
}

/// Values of all rows, and the length of each.
type OwnedRows<T> = (Vec<T>, Vec<usize>);

impl From<&Answer<'_>> for Owned {
    fn from(answer: &Answer<'_>) -> Self {
        fn rows<T: Copy>(rows: Rows<'_, T>) -> OwnedRows<T> {
            (rows.values.to_vec(), rows.lengths.to_vec())
        }
        Self {
            value: answer.value,
            reward: answer.reward,
            terminal: answer.terminal,
            children: answer.children,
            priors: answer.priors.map(<[_]>::to_vec),
            masked: answer.masked.map(<[_]>::to_vec),
            child_values: answer.child_values.map(<[_]>::to_vec),
            child_terminal: answer.child_terminal.map(<[_]>::to_vec),
            keys: answer.keys.map(<[_]>::to_vec),
            tokens: answer.tokens.map(rows),
            token_log_probs: answer.token_log_probs.map(rows),
            child_scores: answer.child_scores.map(rows),
            rollouts: answer.rollouts.to_vec(),
            rollout_tokens: answer.rollout_tokens.map(rows),
            rollout_log_probs: answer.rollout_log_probs.map(<[_]>::to_vec),
        }
    }
}

impl Owned {
    fn view(&self) -> Answer<'_> {
        fn rows<T>((values, lengths): &OwnedRows<T>) -> Rows<'_, T> {
            Rows { values, lengths }
        }
        Answer {
            value: self.value,
            reward: self.reward,
            terminal: self.terminal,
            children: self.children,
            priors: self.priors.as_deref(),
            masked: self.masked.as_deref(),
            child_values: self.child_values.as_deref(),
            child_terminal: self.child_terminal.as_deref(),
            keys: self.keys.as_deref(),
            tokens: self.tokens.as_ref().map(rows),
            token_log_probs: self.token_log_probs.as_ref().map(rows),
            child_scores: self.child_scores.as_ref().map(rows),
            rollouts: &self.rollouts,
            rollout_tokens: self.rollout_tokens.as_ref().map(rows),
            rollout_log_probs: self.rollout_log_probs.as_deref(),
        }
    }
}

impl Desk {
    /// Requests that wait for an answer.
    pub fn in_flight(&self) -> u32 {
        self.waiting - self.arrived
    }

    /// Whether what arrived may be taken in.
    pub(super) fn is_ready(&self, order: TellOrder) -> bool {
        order == TellOrder::Arrival || self.round_over && self.arrived == self.waiting
    }

    /// Whether counts and nodes can be those of a tree with so many nodes.
    pub(super) fn is_sound(&self, nodes: usize) -> bool {
        let there = |&node: &u32| (node as usize) < nodes;
        let mut held = self.held.iter();
        let held = held.all(|(_, ask, descent, _)| descent.iter().chain([&ask.node]).all(there));
        held && self.found.is_empty() && self.edges.is_empty() && self.arrived <= self.waiting
    }

    /// Whether answers are held back.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Nodes, tokens and rollouts that held answers will add.
    pub(super) fn coming(&self) -> (usize, usize, usize) {
        let count = |rows: &Option<OwnedRows<u32>>| rows.as_ref().map_or(0, |t| t.0.len());
        self.held.iter().fold((0, 0, 0), |(nodes, tokens, rollouts), (.., held)| match held {
            Held::Told(owned) => (
                nodes + owned.children,
                tokens + count(&owned.tokens) + count(&owned.rollout_tokens),
                rollouts + owned.rollouts.len(),
            ),
            _ => (nodes, tokens, rollouts),
        })
    }

    /// Holds an outcome until the round is over.
    pub(super) fn hold(&mut self, ticket: u64, ask: Ask, path: &[u32], outcome: &Outcome<'_>) {
        let held = match outcome {
            Outcome::Told(answer) => Held::Told(Box::new(answer.into())),
            Outcome::Failed => Held::Failed,
            Outcome::Cancelled => Held::Cancelled,
        };
        self.held.push((ticket, ask, path.into(), held));
    }

    /// Takes in what is held, in the order of the tickets.
    pub(super) fn take_held(&mut self, rule: &dyn Rule, step: &mut Step<'_>) {
        let mut held = std::mem::take(&mut self.held);
        held.sort_unstable_by_key(|&(ticket, ..)| ticket);
        for (_, ask, path, held) in &held {
            let outcome = match held {
                Held::Told(owned) => Outcome::Told(owned.view()),
                Held::Failed => Outcome::Failed,
                Held::Cancelled => Outcome::Cancelled,
            };
            step.path.clear();
            step.path.extend_from_slice(path);
            self.take(rule, step, ask, &outcome);
        }
    }

    /// Takes in one outcome; the last of a round begins the next.
    pub(super) fn take(
        &mut self,
        rule: &dyn Rule,
        step: &mut Step<'_>,
        ask: &Ask,
        outcome: &Outcome<'_>,
    ) {
        match outcome {
            Outcome::Told(answer) if answer.rollouts.is_empty() => rule.told(step, ask, answer),
            Outcome::Told(answer) => {
                let fitting = step.fitting(answer);
                rule.told(step, ask, &fitting);
            }
            Outcome::Failed => fail(step, ask),
            Outcome::Cancelled => {
                step.release(ask);
                step.tree.requests -= 1;
            }
        }
        self.waiting -= 1;
        self.arrived -= 1;
        if self.waiting == 0 {
            (self.asked, self.round_over) = (0, false);
        }
    }
}

/// A node that failed too often is given up; one that has children gets no more of them.
fn fail(step: &mut Step<'_>, ask: &Ask) {
    step.release(ask);
    step.tree.add_failure(ask.node);
    if !step.is_given_up(ask.node) {
        return;
    }
    if step.tree.hot[ask.node as usize].children == 0 {
        step.tree.close(ask.node);
    } else {
        step.tree.set(ask.node, Fact::Exhausted, true);
        if step.tree.is_spent(ask.node) {
            step.tree.close(ask.node);
        }
    }
}

crate::state!(Owned {
    value,
    reward,
    terminal,
    children,
    priors,
    masked,
    child_values,
    child_terminal,
    keys,
    tokens,
    token_log_probs,
    child_scores,
    rollouts,
    rollout_tokens,
    rollout_log_probs,
});
crate::state!(Desk { found, edges, waiting, arrived, asked, round_over, done, held });

impl State for Held {
    fn save(&self, out: &mut Vec<u8>) {
        match self {
            Self::Told(owned) => {
                out.push(0);
                owned.save(out);
            }
            Self::Failed => out.push(1),
            Self::Cancelled => out.push(2),
        }
    }

    fn load(source: &mut Source<'_>) -> Result<Self> {
        match u8::load(source)? {
            0 => Ok(Self::Told(State::load(source)?)),
            1 => Ok(Self::Failed),
            2 => Ok(Self::Cancelled),
            _ => source.refuse("an outcome that there is not"),
        }
    }
}
