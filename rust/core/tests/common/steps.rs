//! Batches of step rows, as GiGPO's reference takes them.

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::credit::{self, Credit, Values};
use apportion_core::exec::Exec;
use apportion_core::options::{Settings, Value};
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use apportion_core::spread::scatter;

use super::Case;

pub fn text(value: &str) -> Value {
    Value::Text(value.into())
}

/// Step rows as the reference takes them.
pub struct Steps {
    pub width: usize,
    pub mask: Vec<f64>,
    pub token_rewards: Vec<f64>,
    pub turn_rewards: Vec<f64>,
    pub groups: Vec<String>,
    pub trajectories: Vec<String>,
    pub anchors: Vec<String>,
}

impl Steps {
    pub fn of(case: &Case) -> Self {
        Self {
            width: case.shape("response_mask").1,
            mask: case.flat("response_mask"),
            token_rewards: case.flat("token_level_rewards"),
            turn_rewards: case.flat("step_rewards_raw"),
            groups: case.ids("uid"),
            trajectories: case.ids("traj_uid"),
            anchors: case.ids("anchor_obs"),
        }
    }

    pub fn run<T>(
        &self,
        like: Option<&str>,
        settings: &Settings,
        threads: usize,
        then: impl FnOnce(&Rollouts<'_>, &Credit) -> T,
    ) -> T {
        let exec = Exec::new(threads, None);
        let rows = Offsets::even(self.groups.len(), self.width).unwrap();
        let rollouts = Rollouts::packed(rows, Mask::F64(&self.mask), &exec)
            .unwrap()
            .with("group_ids", Column::Keys(texts(&self.groups)))
            .with("anchors", Column::Keys(texts(&self.anchors)))
            .with("token_rewards", floats(&self.token_rewards))
            .with("turn_rewards", floats(&self.turn_rewards))
            .with_trajectories(&texts(&self.trajectories), None)
            .unwrap();
        let credit = credit::find("gigpo").unwrap().credit(&rollouts, like, settings).unwrap();
        then(&rollouts, &credit)
    }
}

pub fn floats(values: &[f64]) -> Column<'_> {
    Column::Floats(Floats::F64(values.into()))
}

pub fn texts(ids: &[String]) -> Keys<'_> {
    Keys::Texts(ids.iter().map(String::as_str).collect())
}

pub fn extra<'c>(credit: &'c Credit, name: &str) -> &'c Values {
    &credit.extras.iter().find(|(extra, _)| *extra == name).unwrap().1
}

pub fn by_row(rollouts: &Rollouts<'_>, values: &Values) -> Vec<f64> {
    let Values::Turns(values) = values else { panic!("one value a turn") };
    scatter(values, rollouts.turn_places().unwrap())
}
