//! The turns of one prompt compared with each other: clusters, states and actions.

use std::ops::Range;

use super::{Options, SIGNATURES, WHOLE};
use crate::cluster::{Sets, edit_distance, single_linkage};
use crate::column::Keys;
use crate::error::{Error, Result};
use crate::exec::Exec;
use crate::group::Groups;
use crate::rollouts::{Rollouts, Turns};
use crate::stats::{Centre, Normaliser, Scale, Singleton, Weights};

/// What all prompts share; one entry a turn, in turn order.
pub(super) struct Batch<'r> {
    options: &'r Options,
    exec: &'r Exec<'r>,
    /// The options' weights, made to sum to 1.
    scope_weights: Vec<f64>,
    pub(super) turns: &'r Turns,
    /// The trajectory of each turn.
    pub(super) owner: Vec<usize>,
    numbers: Vec<i64>,
    /// Outcomes; NaN in all of a trajectory in which one is absent.
    pub(super) scores: Vec<f64>,
    /// Numbered tokens of all signatures, and where each turn's start.
    tokens: Vec<u32>,
    starts: Vec<usize>,
}

/// Parts of the credit of `turns`, one entry each.
#[derive(Default)]
pub(super) struct Found {
    pub(super) turns: Vec<usize>,
    pub(super) residual: Vec<f64>,
    pub(super) state: Vec<f64>,
    pub(super) action: Vec<f64>,
    pub(super) gain: Vec<f64>,
    pub(super) support: Vec<f64>,
}

impl<'r> Batch<'r> {
    pub(super) fn new(rollouts: &'r Rollouts<'_>, options: &'r Options) -> Result<Self> {
        let turns = rollouts.turns()?;
        let owner: Vec<usize> = turns.trajectories().collect();
        let mut scores = rollouts.turn_outcomes()?;
        for t in 0..rollouts.trajectories() {
            let own = &mut scores[turns.of(t)];
            if own.iter().any(|score| score.is_nan()) {
                own.fill(f64::NAN);
            }
        }
        let (items, lists) = rollouts.lists(&SIGNATURES)?;
        let numbered = Groups::from_keys(&Keys::Texts(items.to_vec()), rollouts.exec())?;
        let (mut tokens, mut starts) = (Vec::with_capacity(items.len()), vec![0]);
        for turn in 0..owner.len() {
            let place = rollouts.turn_places().map_or(turn, |places| places[turn]);
            tokens.extend_from_slice(&numbered.ids()[lists.range(place)]);
            starts.push(tokens.len());
        }
        Ok(Self {
            options,
            exec: rollouts.exec(),
            scope_weights: scope_weights(options)?,
            turns,
            owner,
            numbers: rollouts.turn_numbers()?,
            scores,
            tokens,
            starts,
        })
    }

    /// Compares the turns of one prompt's trajectories.
    pub(super) fn compare(&self, trajectories: &[usize]) -> Result<Found> {
        let present =
            |&t: &usize| self.turns.of(t).next().is_some_and(|k| !self.scores[k].is_nan());
        let turns: Vec<usize> =
            trajectories.iter().copied().filter(present).flat_map(|t| self.turns.of(t)).collect();
        let same_number = Groups::by(turns.len(), |i| self.numbers[turns[i]]);
        let mut prompt = Prompt {
            batch: self,
            labels: vec![0; turns.len() * self.scope_weights.len()],
            found: Found {
                residual: vec![0.0; turns.len()],
                state: vec![0.0; turns.len()],
                action: vec![0.0; turns.len()],
                gain: vec![0.0; turns.len()],
                support: vec![0.0; turns.len()],
                turns,
            },
        };
        for scope in 0..self.scope_weights.len() {
            prompt.cluster(scope, &same_number)?;
        }
        for members in same_number.iter() {
            self.exec.check()?;
            prompt.states(members);
        }
        Ok(prompt.found)
    }

    /// The tokens of a turn's last `scope` turns up to itself, or of its whole trajectory.
    fn signature(&self, turn: usize, scope: i64) -> &[u32] {
        let all = self.turns.of(self.owner[turn]);
        let Range { start, end } = match usize::try_from(scope) {
            Ok(scope) => all.start.max((turn + 1).saturating_sub(scope))..turn + 1,
            Err(_) => all,
        };
        &self.tokens[self.starts[start]..self.starts[end]]
    }
}

/// Weights that sum to 1, after a check of the scopes.
fn scope_weights(options: &Options) -> Result<Vec<f64>> {
    let (scopes, weights) = (&options.scopes, &options.scope_weights);
    let bad = |option, got: String, expected: &str| {
        Err(Error::BadOption { method: "a3", option, got, expected: expected.to_owned() })
    };
    if scopes.iter().any(|&scope| scope < 1 && scope != WHOLE) {
        return bad("scopes", format!("{scopes:?}"), "numbers of turns of at least 1, or -1");
    }
    let sum: f64 = weights.iter().sum();
    if weights.len() != scopes.len() || weights.iter().any(|&w| w < 0.0) || sum <= 0.0 {
        let expected = format!("{} numbers of at least 0, not all 0", scopes.len());
        return bad("scope_weights", format!("{weights:?}"), &expected);
    }
    Ok(weights.iter().map(|w| w / sum).collect())
}

/// Distance of two signatures over the longer length; infinite where it is above `limit`.
fn distance(a: &[u32], b: &[u32], limit: f64) -> f64 {
    let longest = a.len().max(b.len()).max(1) as f64;
    // Rounded up: an edit too many costs time, one too few would lose a tie.
    let edits = edit_distance(a, b, (limit * longest).ceil() as usize);
    edits.map_or(f64::INFINITY, |edits| edits as f64 / longest)
}

/// The turns of one prompt; "local" numbers count them.
struct Prompt<'b, 'r> {
    batch: &'b Batch<'r>,
    /// Cluster of each local turn in each scope.
    labels: Vec<u32>,
    found: Found,
}

impl Prompt<'_, '_> {
    /// Clusters the trajectories at each turn number, and adds their residuals.
    fn cluster(&mut self, scope: usize, same_number: &Groups) -> Result<()> {
        let (batch, turns) = (self.batch, &self.found.turns);
        let against_others = Normaliser {
            centre: Centre::LeaveOneOut,
            scale: Scale::Nothing,
            singleton: Singleton::Zero,
            ..Normaliser::default()
        };
        let (mut present, mut clusters) = (Vec::new(), Groups::one(0));
        for members in same_number.iter() {
            batch.exec.check()?;
            let own: Vec<usize> = members.iter().map(|&i| batch.owner[turns[i]]).collect();
            // The whole trajectories are clustered again only when one has ended.
            if batch.options.scopes[scope] != WHOLE || own != present {
                let of = |&i: &usize| batch.signature(turns[i], batch.options.scopes[scope]);
                let signatures: Vec<&[u32]> = members.iter().map(of).collect();
                let wanted = (members.len() as f64 / *batch.options.tau).ceil() as usize;
                let (labels, count) = single_linkage(members.len(), wanted, |i, j, limit| {
                    distance(signatures[i], signatures[j], limit)
                });
                clusters = Groups::from_dense(labels, count);
            }
            present = own;
            let scores: Vec<f64> = members.iter().map(|&i| batch.scores[turns[i]]).collect();
            let (residuals, _) = against_others.apply(&scores, &clusters, Weights::Equal);
            for (place, &i) in members.iter().enumerate() {
                self.found.residual[i] += batch.scope_weights[scope] * residuals[place];
                self.labels[i * batch.scope_weights.len() + scope] = clusters.ids()[place];
            }
        }
        Ok(())
    }

    /// Finds the states among turns of one number.
    fn states(&mut self, members: &[usize]) {
        for state in joined(members, |a, b| self.same_history(a, b)) {
            let first = self.found.turns[state[0]] as f64;
            state.iter().for_each(|&i| self.found.state[i] = first);
            self.actions(&state);
        }
    }

    /// Finds the actions of a state, and their gains where there are several.
    fn actions(&mut self, state: &[usize]) {
        let tolerance = *self.batch.options.match_tolerance;
        let actions = joined(state, |a, b| self.apart(a, b) <= tolerance);
        let floor = *self.batch.options.support_prior + *self.batch.options.eps;
        let of_state = self.mean_score(state);
        for action in &actions {
            let first = self.found.turns[action[0]] as f64;
            let support = action.len() as f64 / (action.len() as f64 + floor);
            let gain = support * (self.mean_score(action) - of_state);
            for &i in action {
                self.found.action[i] = first;
                if actions.len() > 1 {
                    self.found.gain[i] = gain;
                    self.found.support[i] = support;
                }
            }
        }
    }

    /// Mean outcome, taken relative to the first so that equal outcomes give exactly it.
    fn mean_score(&self, locals: &[usize]) -> f64 {
        let score = |i: usize| self.batch.scores[self.found.turns[i]];
        let first = score(locals[0]);
        first + locals.iter().map(|&i| score(i) - first).sum::<f64>() / locals.len() as f64
    }

    /// Scope-weighted share of the labels in which two local turns differ.
    fn apart(&self, a: usize, b: usize) -> f64 {
        let weights = &self.batch.scope_weights;
        let labels = |i: usize| &self.labels[i * weights.len()..(i + 1) * weights.len()];
        let pairs = labels(a).iter().zip(labels(b)).zip(weights);
        pairs.filter(|((x, y), _)| x != y).map(|(_, weight)| weight).sum()
    }

    /// The local turns of a trajectory with a smaller number than this one's.
    fn earlier(&self, i: usize) -> Range<usize> {
        let (batch, turn) = (self.batch, self.found.turns[i]);
        let first = batch.turns.of(batch.owner[turn]).start;
        let numbers = &batch.numbers[first..turn];
        let start = i - numbers.len();
        start..start + numbers.partition_point(|&number| number < batch.numbers[turn])
    }

    /// Whether two local turns had the same numbers before them, and labels alike there.
    fn same_history(&self, a: usize, b: usize) -> bool {
        let (before_a, before_b) = (self.earlier(a), self.earlier(b));
        let number = |i: usize| self.batch.numbers[self.found.turns[i]];
        if !before_a.clone().map(number).eq(before_b.clone().map(number)) {
            return false;
        }
        let options = self.batch.options;
        let weights = || std::iter::successors(Some(1.0), |w| Some(w * *options.time_decay));
        let total: f64 = weights().take(before_a.len()).sum();
        let mut distance = 0.0;
        for ((i, j), weight) in before_a.zip(before_b).zip(weights()) {
            distance += weight / total * self.apart(i, j);
            if distance > *options.match_tolerance {
                return false;
            }
        }
        true
    }
}

/// Parts of `locals` that are joined by pairs, or chains of pairs, that are close.
fn joined(locals: &[usize], close: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    let mut sets = Sets::new(locals.len());
    for a in 0..locals.len() {
        for b in a + 1..locals.len() {
            if sets.find(a) != sets.find(b) && close(locals[a], locals[b]) {
                sets.join(a, b);
            }
        }
    }
    let (labels, count) = sets.labels();
    let mut parts = vec![Vec::new(); count];
    labels.iter().zip(locals).for_each(|(&label, &local)| parts[label as usize].push(local));
    parts
}
