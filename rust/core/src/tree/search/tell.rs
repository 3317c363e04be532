//! Taking answers, failures and withdrawals.

use super::desk::Outcome;
use super::{Answer, Ask, Forest, Kind, Waiting};
use crate::error::{Error, Result};
use crate::options::OptionValue;
use crate::tree::answers::{Answers, Starts};
use crate::tree::arena::{ROOT, Tree};
use crate::tree::limits::OnLimit;
use crate::tree::room::Room;

impl Forest {
    /// Takes answers, on up to `threads` threads. Nothing is changed when one of them is
    /// refused. `lenient`: an answer with numbers that are none counts as failed instead.
    ///
    /// # Errors
    ///
    /// Tickets that do not wait for an answer; whatever [`Answers::lengths`] and
    /// [`Answers::numbers`] refuse; a column that the rule needs and that is not there; with
    /// [`OnLimit::Error`], an answer that goes beyond a limit.
    pub fn expand(&mut self, answers: &Answers<'_>, lenient: bool, threads: usize) -> Result<()> {
        let places = self.find(answers.tickets)?;
        let starts = answers.lengths()?;
        if !lenient {
            answers.numbers()?;
        }
        self.refuse_incomplete(answers, &starts, &places)?;
        if self.limits.on_limit == OnLimit::Error {
            self.refuse_beyond_limits(answers, &starts, &places)?;
        }
        self.make_room(answers, &places);
        self.settle(answers.tickets, &places, threads, |i| {
            if !lenient {
                return Outcome::Told(answers.row(i, &starts));
            }
            let answer = answers.row(i, &starts);
            if answer.is_sound() { Outcome::Told(answer) } else { Outcome::Failed }
        })
    }

    /// Reserves memory for the trees whose roots are answered, in one slab if it is much.
    fn make_room(&mut self, answers: &Answers<'_>, places: &[Waiting]) {
        let roots = self.trees.len();
        let wanted = |(place, &children): (&Waiting, &usize)| {
            let (tree, nodes) = (place.tree as usize, self.limits.expected_nodes(roots, children));
            let lacks = place.ask.node == ROOT && self.trees[tree].capacity() < nodes;
            lacks.then_some((tree, nodes))
        };
        let wanted: Vec<_> = places.iter().zip(answers.children).filter_map(wanted).collect();
        let room = Room::new(wanted.iter().flat_map(|&(_, nodes)| Tree::sizes(nodes)));
        for (tree, nodes) in wanted {
            self.trees[tree].reserve(nodes, &room);
        }
    }

    /// Takes requests back without a visit. A node that failed `max_failures` times is
    /// given up.
    ///
    /// # Errors
    ///
    /// Tickets that do not wait for an answer.
    pub fn fail(&mut self, tickets: &[u64]) -> Result<()> {
        let places = self.find(tickets)?;
        self.settle(tickets, &places, 1, |_| Outcome::Failed)
    }

    /// Takes requests back as if they had never been handed out.
    ///
    /// # Errors
    ///
    /// Tickets that do not wait for an answer.
    pub fn cancel(&mut self, tickets: &[u64]) -> Result<()> {
        let places = self.find(tickets)?;
        self.settle(tickets, &places, 1, |_| Outcome::Cancelled)
    }

    fn refuse_incomplete(
        &self,
        answers: &Answers<'_>,
        starts: &Starts,
        places: &[Waiting],
    ) -> Result<()> {
        if !self.rule_needs_columns() {
            return Ok(());
        }
        for (index, place) in places.iter().enumerate() {
            let answer = answers.row(index, starts);
            if let Some(column) = self.rule.missing(&place.ask, &answer) {
                let kind = place.ask.kind.show();
                let (argument, got) = (column.to_owned(), "nothing".to_owned());
                let expected = format!("it in the answer to a request of kind {kind}");
                return Err(Error::Value { argument, index, got, expected });
            }
        }
        Ok(())
    }

    /// Whether the rule would miss anything in an answer that has children and nothing else.
    fn rule_needs_columns(&self) -> bool {
        let bare = Answer { children: 1, ..Answer::default() };
        let asks = Kind::ALL.iter().map(|&kind| Ask { kind, ..Ask::expand(ROOT) });
        asks.into_iter().any(|ask| self.rule.missing(&ask, &bare).is_some())
    }

    fn refuse_beyond_limits(
        &self,
        answers: &Answers<'_>,
        starts: &Starts,
        places: &[Waiting],
    ) -> Result<()> {
        let mut added = std::collections::BTreeMap::<u32, (usize, u64, usize)>::new();
        for (i, place) in places.iter().enumerate() {
            let (tree, answer) = (&self.trees[place.tree as usize], answers.row(i, starts));
            let sum = added.entry(place.tree).or_insert_with(|| {
                let (nodes, tokens, rollouts) = self.desks[place.tree as usize].coming();
                let tokens = tree.tokens_held() + tokens as u64;
                (tree.len() + nodes, tokens, tree.rollouts.len() + rollouts)
            });
            let tokens =
                |rows: Option<super::TokenRows<'_>>| rows.map_or(0, |r| r.values.len() as u64);
            sum.0 += answer.children;
            sum.1 += tokens(answer.tokens) + tokens(answer.rollout_tokens);
            sum.2 += answer.rollouts.len();
            let limits = &self.limits;
            let depth = tree.depth(place.ask.node) as usize + usize::from(answer.children > 0);
            for (argument, what, got, limit) in [
                ("children", "depth", depth as u64, u64::from(limits.max_depth)),
                ("children", "nodes", sum.0 as u64, limits.max_nodes as u64),
                ("tokens", "tokens", sum.1, limits.max_tokens),
                ("rollouts", "rollouts", sum.2 as u64, limits.max_rollouts),
            ] {
                if got > limit {
                    let (argument, index) = (argument.to_owned(), i);
                    let got = format!("{got} {what} of tree {}", place.tree);
                    let expected = format!("at most max_{what}={limit}");
                    return Err(Error::Value { argument, index, got, expected });
                }
            }
        }
        Ok(())
    }
}
