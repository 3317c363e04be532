//! Methods: what each turns rewards into, by name.
//!
//! **To add a method**: write `credit/<name>.rs` with one [`method!`](crate::method)
//! block and one function `credit`, and add its name to the list at the end of
//! this file. Options, presets, columns and documentation reach Python from the
//! block; nothing else has to change.
//!
//! A method may depend on everything above [`spread`](crate::spread) in the crate, but not
//! on another method: what two share is a module of its own (`gains`, `steps`, ...).

mod card;

use crate::column::Floats;
use crate::error::{Error, Result};
use crate::options::Settings;
use crate::rollouts::Rollouts;
use crate::stats::Counts;

pub use crate::option_set::OptionSpec;
pub use card::{Card, Certainty, Granularity, Preset, same_type};

/// A method: its card and its function.
pub struct Method {
    /// What is known of it.
    pub card: Card,
    /// Runs it with settings that are already merged.
    pub run: fn(&Rollouts<'_>, &Settings) -> Result<Credit>,
    /// Whether, with settings that are already merged, credit depends on other groups.
    pub crosses_groups: fn(&Settings) -> Result<bool>,
}

impl Method {
    /// Checks columns and settings, then runs. `like` names a trainer whose
    /// settings are taken first; `settings` override them.
    pub fn credit(
        &self,
        rollouts: &Rollouts<'_>,
        like: Option<&str>,
        settings: &Settings,
    ) -> Result<Credit> {
        let merged = self.merge(like, settings)?;
        for spec in self.card.needs {
            let there = |name: &str| rollouts.present().iter().any(|have| have == name);
            if !there(spec.name) && !spec.derived_from.iter().any(|name| there(name)) {
                return Err(Error::MissingColumn {
                    method: self.card.name,
                    column: spec.name,
                    level: spec.level.name(),
                    present: rollouts.present(),
                    instead: spec.derived_from,
                });
            }
        }
        let mut credit = (self.run)(rollouts, &merged)?;
        credit.counts.absent = rollouts.absent();
        Ok(credit)
    }

    /// Whether a trajectory's credit depends on other groups than its own, as with a
    /// batch-wide mean. If not, a batch may be computed group by group.
    pub fn batch_wide(&self, like: Option<&str>, settings: &Settings) -> Result<bool> {
        (self.crosses_groups)(&self.merge(like, settings)?)
    }

    fn merge(&self, like: Option<&str>, settings: &Settings) -> Result<Settings> {
        let mut merged = like.map_or_else(|| Ok(Settings::new()), |name| self.preset(name))?;
        merged.extend(settings.iter().cloned());
        Ok(merged)
    }

    fn preset(&self, name: &str) -> Result<Settings> {
        let found = self.card.presets.iter().find(|(trainer, _)| *trainer == name);
        found.map(|(_, settings)| settings()).ok_or_else(|| Error::UnknownPreset {
            method: self.card.name,
            preset: name.to_owned(),
            valid: self.card.presets.iter().map(|(trainer, _)| *trainer).collect(),
        })
    }
}

/// One number for each trajectory, turn or token.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// One a trajectory.
    Trajectories(Vec<f64>),
    /// One a turn, in turn order.
    Turns(Vec<f64>),
    /// One a token.
    Tokens(Floats<'static>),
}

/// What a method returns.
#[derive(Debug)]
pub struct Credit {
    /// How much better than expected each unit did.
    pub advantages: Values,
    /// The return of each unit where it differs from the advantage.
    pub returns: Option<Values>,
    /// Factor on the clip bounds.
    pub clip_scale: Option<Values>,
    /// Replaces the mask in the loss where the method drops tokens: 0 or 1.
    pub loss_mask: Option<Values>,
    /// Parts of the result worth looking at, by name.
    pub extras: Vec<(&'static str, Values)>,
    /// What a user should know of the groups.
    pub counts: Counts,
}

impl Credit {
    /// Credit with nothing beside the advantages.
    pub fn new(advantages: Values, counts: Counts) -> Self {
        Self {
            advantages,
            returns: None,
            clip_scale: None,
            loss_mask: None,
            extras: Vec::new(),
            counts,
        }
    }

    /// Adds a named part.
    pub fn with(mut self, name: &'static str, values: Values) -> Self {
        self.extras.push((name, values));
        self
    }
}

/// Finds a method by name.
pub fn find(name: &str) -> Result<&'static Method> {
    METHODS.iter().copied().find(|method| method.card.name == name).ok_or_else(|| {
        Error::UnknownMethod {
            name: name.to_owned(),
            valid: METHODS.iter().map(|method| method.card.name).collect(),
        }
    })
}

macro_rules! methods {
    ($($name:ident),* $(,)?) => {
        $(pub mod $name;)*

        /// Every method, in the order of the list below.
        pub static METHODS: &[&Method] = &[$(&$name::METHOD),*];
    };
}

methods! {
    gae,
    reinforce_pp,
    otb,
    tir_otb,
    grpo_process,
    pure,
    grpo,
    grpo_passk,
    rloo,
    opo,
    gpg,
    maxrl,
    igpo,
    a2tgpo,
    gdpo,
    reinforce_pp_baseline,
    matchtir,
    gigpo,
    remax,
    a3,
    treerl,
    tree_grpo,
    treepo,
    spo,
    vineppo,
    tree_ps_rag,
}
