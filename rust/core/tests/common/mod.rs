//! Reading reference cases (`tests/golden/<folder>/case_*.json`) and comparing with them.

#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::panic)]

pub mod steps;

use std::fs;
use std::path::PathBuf;

use apportion_core::column::{Column, Floats, Keys, Mask};
use apportion_core::credit::{self, Credit, Values};
use apportion_core::error::Result;
use apportion_core::exec::Exec;
use apportion_core::options::{Settings, Value};
use apportion_core::ragged::Offsets;
use apportion_core::rollouts::Rollouts;
use apportion_core::spread::to_tokens;
use serde_json::Value as Json;

/// One reference case.
pub struct Case {
    pub name: String,
    json: Json,
}

/// Every case of a folder, in order of name, from `tests/golden/` and the folder that
/// `APPORTION_GOLDEN` names.
pub fn cases(folder: &str) -> Vec<Case> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let further = std::env::var_os("APPORTION_GOLDEN").map(PathBuf::from);
    let mut files: Vec<_> = [Some(own), further]
        .into_iter()
        .flatten()
        .filter_map(|root| fs::read_dir(root.join(folder)).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no cases of {folder}");
    files
        .into_iter()
        .map(|path| Case {
            name: format!("{folder}/{}", path.file_stem().unwrap().to_string_lossy()),
            json: serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap(),
        })
        .collect()
}

fn number(value: &Json) -> f64 {
    match value {
        Json::Bool(b) => f64::from(u8::from(*b)),
        Json::String(s) => s.parse().unwrap(),
        Json::Null => f64::NAN,
        other => other.as_f64().unwrap(),
    }
}

impl Case {
    pub fn input(&self, name: &str) -> &Json {
        &self.json["inputs"][name]
    }

    pub fn output(&self, name: &str) -> &Json {
        &self.json["outputs"][name]
    }

    pub fn has_output(&self, name: &str) -> bool {
        self.json["outputs"].get(name).is_some()
    }

    pub fn hyper(&self, name: &str) -> &Json {
        &self.json["meta"]["hyperparameters"][name]
    }

    pub fn meta(&self, name: &str) -> &Json {
        &self.json["meta"][name]
    }

    /// Numbers of an input, row after row.
    pub fn flat(&self, name: &str) -> Vec<f64> {
        flatten(self.input(name))
    }

    /// Rows and width of a rectangular input.
    pub fn shape(&self, name: &str) -> (usize, usize) {
        let rows = self.input(name).as_array().unwrap();
        (rows.len(), rows.first().map_or(0, |r| r.as_array().unwrap().len()))
    }

    /// An input of ids as strings.
    pub fn ids(&self, name: &str) -> Vec<String> {
        let text = |v: &Json| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        self.input(name).as_array().unwrap().iter().map(text).collect()
    }

    /// The case's relative tolerance; float32 cases allow 2e-5.
    pub fn rtol(&self) -> f64 {
        let double = self.json["meta"]["dtype"] == "float64";
        self.json["meta"]["rtol"].as_f64().unwrap_or(if double { 1e-9 } else { 2e-5 })
    }

    /// Compares an output field; NaN equals NaN.
    pub fn check(&self, field: &str, got: &[f64]) {
        self.check_within(field, got, self.rtol());
    }

    /// As [`check`](Self::check), at a relative tolerance of the caller's.
    pub fn check_within(&self, field: &str, got: &[f64], rtol: f64) {
        let want = flatten(self.output(field));
        assert_eq!(got.len(), want.len(), "{}: length of {field}", self.name);
        let atol = rtol / 10.0;
        for (i, (&g, &w)) in got.iter().zip(&want).enumerate() {
            let close =
                g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= atol + rtol * w.abs();
            assert!(close, "{}: {field}[{i}]: got {g}, expected {w}", self.name);
        }
    }
}

/// All numbers of nested lists, in order.
pub fn flatten(value: &Json) -> Vec<f64> {
    match value {
        Json::Array(items) => items.iter().flat_map(flatten).collect(),
        other => vec![number(other)],
    }
}

/// A padded batch as the trainers' functions take it, and a method to run on it.
pub struct Batch {
    pub rows: usize,
    pub width: usize,
    pub mask: Vec<f64>,
    pub ids: Vec<String>,
    pub columns: Vec<(&'static str, Vec<f64>)>,
}

impl Batch {
    /// Runs a method and hands the result, and a way to tokens, to `then`.
    pub fn run<T>(
        &self,
        method: &str,
        settings: &[(&str, Value)],
        then: impl FnOnce(&Rollouts<'_>, Credit) -> T,
    ) -> Result<T> {
        let exec = Exec::default();
        let rows = Offsets::even(self.rows, self.width)?;
        let mut rollouts = Rollouts::packed(rows, Mask::F64(&self.mask), &exec)?;
        if !self.ids.is_empty() {
            let keys = Keys::Texts(self.ids.iter().map(String::as_str).collect());
            rollouts = rollouts.with("group_ids", Column::Keys(keys));
        }
        for (name, values) in &self.columns {
            let floats = Floats::F64((&values[..]).into());
            let column = if *name == "reward_matrix" {
                Column::Matrix { values: floats, width: values.len() / self.rows }
            } else {
                Column::Floats(floats)
            };
            rollouts = rollouts.with(name, column);
        }
        let settings: Settings =
            settings.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let credit = credit::find(method)?.credit(&rollouts, None, &settings)?;
        Ok(then(&rollouts, credit))
    }
}

/// Values over tokens in double precision, 0 elsewhere.
pub fn tokens(rollouts: &Rollouts<'_>, values: &Values) -> Vec<f64> {
    to_tokens(rollouts, values, 0.0, true).unwrap().to_vec()
}
