//! `gigpo`: outcome against the prompt, return against the same state.

use crate::choice;
use crate::column::{
    ANCHORS, Column, GROUP_IDS, Keys, Kind, OUTCOME_REWARDS, TOKEN_REWARDS, TURN_REWARDS,
};
use crate::credit::{Credit, Values};
use crate::error::{Error, Result};
use crate::exec::Exec;
use crate::group::Groups;
use crate::key_mask::KeyMask;
use crate::options::{NonNegative, Unit};
use crate::returns::discounted;
use crate::rollouts::Rollouts;
use crate::similarity::{Similar, Similarity, first_fit};
use crate::spread::scatter;
use crate::stats::{Normaliser, Scale, Singleton, Weights};

choice! {
    /// What the statistics of the episode part count.
    StatsOver {
        /// Turns: a long trajectory counts once a turn.
        Rows = "rows",
        /// Trajectories: each counts once, by its first turn.
        Trajectories = "trajectories",
    }
}

choice! {
    /// Where equal states are looked for.
    StatesWithin {
        /// Among the trajectories of a group.
        Group = "group",
        /// In the whole batch.
        Batch = "batch",
    }
}

crate::method! {
    /// Group-in-group policy optimisation: how much better the whole episode went than
    /// others of its group, plus how much better it went on from this state than whenever
    /// the group was in the same state.
    ///
    /// # Formula
    ///
    /// `A_k = A^E_k + step_weight A^S_k` for turn `k`, on each of its trained tokens.
    /// `A^E_k = S_k - mean(S)`: `S_k` the outcome, the mean over the turns of the group.
    /// `A^S_k = G_k - mean(G)`: `G_k = r_k + gamma G_{k+1}` the discounted sum of the turn
    /// rewards from turn `k` to the trajectory's end, the mean over the turns of the group
    /// with the same anchor. With `scale="std"` both are divided by the standard deviation
    /// plus `eps`.
    ///
    /// # Anchors
    ///
    /// By default two turns are in the same state if their anchors are equal. With
    /// `similarity_threshold` they need only be alike, by first fit: turns in the order of
    /// the rows, each compared with the first turn of every state so far, joining the first
    /// with `ratio(anchor, first) >= similarity_threshold`. `similarity="indel"` is the
    /// default then; `"difflib"` reproduces the authors' groups, which for anchors of 200
    /// characters or more are often not what one would expect.
    /// Either option alone sets the other to its default. Anchors must be strings for that.
    /// `anchor_mask` masks clocks and numbers before anchors are compared.
    ///
    /// # Extras
    ///
    /// A number a turn: `step_returns` (`G`), `step_group_id` (the state, numbered by first
    /// appearance in the rows), `episode_advantage` (`A^E`), `step_advantage` (`A^S`).
    ///
    /// # Source
    ///
    /// Feng et al. 2025, arXiv:2505.10978, equations of episode and step advantage; the
    /// authors' code counts turns, not trajectories, in the episode part (`stats_over`).
    /// `like="roll"` takes its rules of normalisation: equal anchors of different groups
    /// are one state there, and a spread of at most 1e-6 gives 0.
    ///
    /// # Degenerate cases
    ///
    /// A group of one turn keeps its outcome (`episode_singleton="raw"`); a state seen once
    /// has step part 0 (`step_singleton="zero"`). Equal values give exactly 0. A turn whose
    /// outcome is NaN has episode part 0, one whose return is NaN (a NaN turn reward there
    /// or later) step part 0; neither enters the statistics. A trajectory without turns
    /// enters none. The counts reported are those of the episode part.
    "gigpo" {
        title: "Group-in-group policy optimisation",
        granularity: Turn,
        family: "group baseline",
        paper: "arXiv:2505.10978",
        certainty: Code,
        batch_wide: |options| {
            options.states_within == StatesWithin::Batch || options.scale == Scale::Batch
        },
        needs: [OUTCOME_REWARDS, TURN_REWARDS, ANCHORS, GROUP_IDS],
        takes: [TOKEN_REWARDS],
        options: {
            /// Discount a turn.
            gamma: Unit = 0.95,
            /// Weight of the step part.
            step_weight: NonNegative = 1.0,
            /// Divide both parts by the standard deviation, or by nothing.
            scale: Scale = Scale::Nothing,
            /// Degrees of freedom taken off in the variance.
            ddof: NonNegative = 1.0,
            /// Added to the standard deviation.
            eps: NonNegative = 1e-6,
            /// A scale of at most this counts as no spread, which gives 0.
            spread_tolerance: NonNegative = 0.0,
            /// What the statistics of the episode part count.
            stats_over: StatsOver = StatsOver::Rows,
            /// What a group of one gives in the episode part.
            episode_singleton: Singleton = Singleton::Raw,
            /// What a state seen once gives in the step part.
            step_singleton: Singleton = Singleton::Zero,
            /// Where equal states are looked for.
            states_within: StatesWithin = StatesWithin::Group,
            /// How like anchors have to be to count as one state; 0.95 where only similarity is given.
            similarity_threshold: Option<Unit> = None,
            /// How likeness is measured; "indel" where only similarity_threshold is given.
            similarity: Option<Similarity> = None,
            /// Parts of an anchor that are masked: any of uuid, iso_time, hex, digits, with commas between.
            anchor_mask: Option<KeyMask> = None,
        },
        presets: {
            "roll" => {
                scale = Scale::Std,
                spread_tolerance = 1e-6,
                episode_singleton = Singleton::Zero,
                states_within = StatesWithin::Batch,
            },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    let rule = Normaliser {
        scale: options.scale,
        ddof: *options.ddof,
        eps: *options.eps,
        spread_tolerance: *options.spread_tolerance,
        singleton: options.step_singleton,
        ..Normaliser::default()
    };
    let turns = rollouts.turns()?;
    let groups = rollouts.groups()?;
    let prompts: Vec<u32> = turns.trajectories().map(|t| groups.ids()[t]).collect();

    let outcomes = rollouts.turn_outcomes()?;
    let first;
    let weights = match options.stats_over {
        StatsOver::Rows => Weights::Equal,
        StatsOver::Trajectories => {
            first = first_turns(&turns.offsets, &outcomes);
            Weights::Counts(&first)
        }
    };
    let rule_of_episodes = Normaliser { singleton: options.episode_singleton, ..rule };
    let by_prompt = Groups::from_dense(prompts.clone(), groups.count());
    let (episode, counts) = rule_of_episodes.apply(&outcomes, &by_prompt, weights);

    let mut returns = rollouts.turn_rewards()?;
    for bounds in turns.offsets.windows(2) {
        discounted(&mut returns[bounds[0]..bounds[1]], *options.gamma);
    }
    let states = states(rollouts, prompts, options)?;
    let (step, _) = rule.apply(&returns, &states, Weights::Equal);

    let both = episode.iter().zip(&step).map(|(e, s)| e + *options.step_weight * s).collect();
    let numbers = states.ids().iter().map(|&id| f64::from(id)).collect();
    Ok(Credit::new(Values::Turns(both), counts)
        .with("step_returns", Values::Turns(returns))
        .with("step_group_id", Values::Turns(numbers))
        .with("episode_advantage", Values::Turns(episode))
        .with("step_advantage", Values::Turns(step)))
}

/// 1 for the first turn of each trajectory that has an outcome, 0 for the others.
fn first_turns(offsets: &[usize], outcomes: &[f64]) -> Vec<f64> {
    let mut first = vec![0.0; outcomes.len()];
    for bounds in offsets.windows(2) {
        if let Some(turn) = (bounds[0]..bounds[1]).find(|&turn| !outcomes[turn].is_nan()) {
            first[turn] = 1.0;
        }
    }
    first
}

/// The state of each turn, in turn order; found and numbered in the order of the rows.
fn states(rollouts: &Rollouts<'_>, prompts: Vec<u32>, options: &Options) -> Result<Groups> {
    let anchors = rollouts.keys(&ANCHORS)?;
    let places = rollouts.turn_places();
    let within = match (options.states_within, places) {
        (StatesWithin::Batch, _) => vec![0; anchors.len()],
        (StatesWithin::Group, None) => prompts,
        (StatesWithin::Group, Some(places)) => scatter(&prompts, places),
    };
    let masked;
    let anchors = match options.anchor_mask {
        None => anchors,
        Some(mask) => {
            let texts = texts(anchors)?;
            masked = mask_all(texts, mask, rollouts.exec())?;
            &Keys::Texts(masked.iter().map(String::as_str).collect())
        }
    };
    let keys = Groups::from_keys(anchors, rollouts.exec())?;
    let equal = Groups::by(anchors.len(), |i| (within[i], keys.ids()[i]));
    let states = match similar(options) {
        None => equal,
        Some(rule) => {
            let first = merge(&equal, &within, texts(anchors)?, rule, rollouts.exec())?;
            Groups::by(anchors.len(), |i| first[equal.ids()[i] as usize])
        }
    };
    Ok(match places {
        None => states,
        Some(places) => {
            let ids = places.iter().map(|&row| states.ids()[row]).collect();
            Groups::from_dense(ids, states.count())
        }
    })
}

fn similar(options: &Options) -> Option<Similar> {
    if options.similarity.is_none() && options.similarity_threshold.is_none() {
        return None;
    }
    Some(Similar {
        similarity: options.similarity.unwrap_or(Similarity::Indel),
        threshold: options.similarity_threshold.map_or(0.95, |threshold| *threshold),
    })
}

fn texts<'k, 'a>(anchors: &'k Keys<'a>) -> Result<&'k [&'a str]> {
    match anchors {
        Keys::Texts(texts) => Ok(texts),
        other => Err(Error::WrongKind {
            column: ANCHORS.name.to_owned(),
            got: Column::Keys(other.clone()).describe(),
            expected: Kind::Text.name(),
        }),
    }
}

fn mask_all(texts: &[&str], mask: KeyMask, exec: &Exec<'_>) -> Result<Vec<String>> {
    let parts = exec.ranges(texts.len(), 1 << 10, |range| {
        Ok(texts[range].iter().map(|text| mask.apply(text)).collect::<Vec<_>>())
    })?;
    Ok(parts.concat())
}

/// For each group of equal anchors, the first group of its cluster of like anchors. A
/// later equal anchor meets the same clusters in the same order, so one try is enough.
fn merge(
    equal: &Groups,
    within: &[u32],
    texts: &[&str],
    rule: Similar,
    exec: &Exec<'_>,
) -> Result<Vec<usize>> {
    let firsts: Vec<usize> = equal.iter().map(|members| members[0]).collect();
    let by_prompt = Groups::by(firsts.len(), |group| within[firsts[group]]);
    let found = exec.map(by_prompt.iter().collect(), |groups: &[usize]| {
        let distinct: Vec<&str> = groups.iter().map(|&group| texts[firsts[group]]).collect();
        first_fit(&distinct, rule, exec)
    })?;
    let mut out = vec![0; firsts.len()];
    for (groups, clusters) in by_prompt.iter().zip(found) {
        for (&group, cluster) in groups.iter().zip(clusters) {
            out[group] = groups[cluster];
        }
    }
    Ok(out)
}
