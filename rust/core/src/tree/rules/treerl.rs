//! `treerl`: chains that branch where the policy was least sure.

use crate::options::{Count, Width};
use crate::tree::answers::Answer;
use crate::tree::arena::{ROOT, Tree};
use crate::tree::request::{Ask, Next};
use crate::tree::rules::{Rule, branch, follow};
use crate::tree::step::Step;

crate::rule! {
    /// `chains` rollouts from the root; then, `rounds` times, `branches` new rollouts from
    /// before each of the `tokens` tokens of the tree with the lowest log-prob.
    ///
    /// Answers tell `rollouts`, `rollout_tokens` and `rollout_log_probs`. A rollout's first token is never
    /// branched at; neither is one of log-prob 0, which is how a caller masks tokens (the
    /// release masks what follows "answer" or "conclusion"). A tree without such tokens gets
    /// no further rollouts. Ties go to the first rollout and its first token. TreeRL
    /// `parallel_mcts.py`. Credit: the read-out `treerl`.
    "treerl" {
        title: "TreeRL's entropy-guided tree",
        family: Branching,
        paper: "Hou et al. 2025, arXiv:2506.11902",
        certainty: Paper,
        options: {
            /// Rollouts from the root (M).
            chains: Width = 6,
            /// Tokens of the tree that are branched at in a round (N).
            tokens: Count = 2,
            /// New rollouts from each (T).
            branches: Width = 2,
            /// Rounds after the first (L).
            rounds: usize = 1,
        },
    }
}

impl Options {
    /// Places before the least likely tokens, the least likely first.
    fn places(&self, tree: &Tree) -> Vec<(u32, usize)> {
        let mut found: Vec<(f32, u32, usize)> = Vec::new();
        for rollout in branch::leaves(tree) {
            let log_probs = tree.rollout_log_probs.get(rollout as usize).iter().copied();
            found.extend(
                log_probs.zip(0..).skip(1).filter(|s| s.0 < 0.0).map(|(s, at)| (s, rollout, at)),
            );
        }
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        found.iter().take(*self.tokens).map(|&(_, rollout, at)| (rollout, at)).collect()
    }
}

impl Rule for Options {
    fn next(&self, step: &mut Step<'_>) -> Next {
        let round = branch::rounds(step.tree);
        let want = if round <= 1 { *self.chains } else { *self.branches };
        if let Some(next) = branch::ask(step, want) {
            return next;
        }
        let nodes = match round {
            0 => vec![ROOT],
            round if round > self.rounds as u64 => return Next::Done,
            _ => {
                let places = self.places(step.tree);
                branch::cut_all(step, &places)
            }
        };
        if nodes.is_empty() {
            return Next::Done;
        }
        branch::begin(step.tree, &nodes);
        Next::Visited
    }

    fn missing(&self, _: &Ask, answer: &Answer<'_>) -> Option<&'static str> {
        let unsure = answer.rollout_log_probs.is_none().then_some("rollout_log_probs");
        follow::without_rollouts(answer).or(unsure)
    }

    fn told(&self, step: &mut Step<'_>, ask: &Ask, answer: &Answer<'_>) {
        branch::take(step, ask, answer);
    }
}
