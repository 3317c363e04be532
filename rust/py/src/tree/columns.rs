//! Answers from arrays, requests and nodes into arrays.

use apportion_core::tree::answers::{Answers, Rows};
use apportion_core::tree::arena::{End, Fact, NONE, ROOT, Tree};
use apportion_core::tree::request::Leaf;
use apportion_core::tree::spans::Spans;
use numpy::{Element, PyArray1, PyReadonlyArray1};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::ints;
use crate::guard::raise;

/// Requests as columns.
pub fn leaves<'py>(py: Python<'py>, leaves: &[Leaf]) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    let root = |l: &Leaf| l.ask.node == ROOT;
    let less = |l: &Leaf, value: u32| if root(l) { -1 } else { i64::from(value) };
    out.set_item(intern!(py, "ticket"), ints(py, leaves.iter().map(|l| l.ticket as i64)))?;
    out.set_item(intern!(py, "tree"), ints(py, leaves.iter().map(|l| i64::from(l.tree))))?;
    out.set_item(intern!(py, "node"), ints(py, leaves.iter().map(|l| i64::from(l.ask.node))))?;
    out.set_item(intern!(py, "parent"), ints(py, leaves.iter().map(|l| less(l, l.parent))))?;
    out.set_item(intern!(py, "action"), ints(py, leaves.iter().map(|l| less(l, l.action))))?;
    out.set_item(intern!(py, "depth"), ints(py, leaves.iter().map(|l| i64::from(l.depth))))?;
    out.set_item(intern!(py, "kind"), ints(py, leaves.iter().map(|l| l.ask.kind as i64)))?;
    out.set_item(intern!(py, "want"), ints(py, leaves.iter().map(|l| i64::from(l.ask.want))))?;
    out.set_item(intern!(py, "length"), ints(py, leaves.iter().map(|l| i64::from(l.ask.length))))?;
    Ok(out)
}

/// Columns of answers as Python holds them, kept while the core reads them.
#[derive(Default)]
pub struct Given<'py> {
    tickets: Vec<u64>,
    values: Option<PyReadonlyArray1<'py, f64>>,
    rewards: Option<PyReadonlyArray1<'py, f64>>,
    terminal: Option<PyReadonlyArray1<'py, bool>>,
    children: Vec<usize>,
    priors: Option<PyReadonlyArray1<'py, f64>>,
    masked: Option<PyReadonlyArray1<'py, bool>>,
    child_values: Option<PyReadonlyArray1<'py, f64>>,
    child_terminal: Option<PyReadonlyArray1<'py, bool>>,
    keys: Option<Vec<u64>>,
    tokens: Option<(Vec<u32>, Vec<usize>)>,
    token_log_probs: Option<Numbers<'py>>,
    child_scores: Option<Numbers<'py>>,
    rollouts: Option<Vec<usize>>,
    rollout_rewards: Option<PyReadonlyArray1<'py, f64>>,
    rollout_tokens: Option<(Vec<u32>, Vec<usize>)>,
    rollout_log_probs: Option<PyReadonlyArray1<'py, f64>>,
}

/// Numbers of all rows, and the length of each.
type Numbers<'py> = (PyReadonlyArray1<'py, f64>, Vec<usize>);

impl<'py> Given<'py> {
    /// Tickets, numbers of children and whatever else is there.
    pub fn new(
        tickets: &PyReadonlyArray1<'py, i64>,
        children: &PyReadonlyArray1<'py, i64>,
        columns: &Bound<'py, PyDict>,
    ) -> PyResult<Self> {
        let mut given =
            Self { tickets: unsigned(tickets)?, children: counts(children)?, ..Self::default() };
        for (name, item) in columns.iter() {
            match name.extract::<&str>()? {
                "values" => given.values = Some(item.extract()?),
                "rewards" => given.rewards = Some(item.extract()?),
                "terminal" => given.terminal = Some(item.extract()?),
                "priors" => given.priors = Some(item.extract()?),
                "masked" => given.masked = Some(item.extract()?),
                "child_values" => given.child_values = Some(item.extract()?),
                "child_terminal" => given.child_terminal = Some(item.extract()?),
                "keys" => given.keys = Some(unsigned(&item.extract()?)?),
                "tokens" => given.tokens = Some(tokens("tokens", &item)?),
                "token_log_probs" => given.token_log_probs = Some(numbers(&item)?),
                "child_scores" => given.child_scores = Some(numbers(&item)?),
                "rollouts" => given.rollouts = Some(counts(&item.extract()?)?),
                "rollout_rewards" => given.rollout_rewards = Some(item.extract()?),
                "rollout_tokens" => given.rollout_tokens = Some(tokens("rollout_tokens", &item)?),
                "rollout_log_probs" => given.rollout_log_probs = Some(item.extract()?),
                other => {
                    let message = format!("expand: unknown column {other:?}");
                    return Err(raise(columns.py(), "InputError", message));
                }
            }
        }
        Ok(given)
    }

    /// As the core reads them.
    pub fn view(&self) -> PyResult<Answers<'_>> {
        fn rows((values, lengths): &(Vec<u32>, Vec<usize>)) -> Rows<'_, u32> {
            Rows { values, lengths }
        }
        fn numbers<'a>(given: &'a Option<Numbers<'_>>) -> PyResult<Option<Rows<'a, f64>>> {
            let Some((values, lengths)) = given else { return Ok(None) };
            Ok(Some(Rows { values: values.as_slice()?, lengths }))
        }
        Ok(Answers {
            tickets: &self.tickets,
            values: slice(&self.values)?,
            rewards: slice(&self.rewards)?,
            terminal: slice(&self.terminal)?,
            children: &self.children,
            priors: slice(&self.priors)?,
            masked: slice(&self.masked)?,
            child_values: slice(&self.child_values)?,
            child_terminal: slice(&self.child_terminal)?,
            keys: self.keys.as_deref(),
            tokens: self.tokens.as_ref().map(rows),
            token_log_probs: numbers(&self.token_log_probs)?,
            child_scores: numbers(&self.child_scores)?,
            rollouts: self.rollouts.as_deref(),
            rollout_rewards: slice(&self.rollout_rewards)?.unwrap_or(&[]),
            rollout_tokens: self.rollout_tokens.as_ref().map(rows),
            rollout_log_probs: slice(&self.rollout_log_probs)?,
        })
    }
}

fn slice<'a, T: Element>(array: &'a Option<PyReadonlyArray1<'_, T>>) -> PyResult<Option<&'a [T]>> {
    Ok(array.as_ref().map(|a| a.as_slice()).transpose()?)
}

/// Tickets and keys, whose bits are kept.
pub fn unsigned(array: &PyReadonlyArray1<'_, i64>) -> PyResult<Vec<u64>> {
    Ok(array.as_slice()?.iter().map(|&t| t as u64).collect())
}

/// Numbers that Python has seen to be at least 0.
fn counts(array: &PyReadonlyArray1<'_, i64>) -> PyResult<Vec<usize>> {
    let count = |&c: &i64| usize::try_from(c).unwrap_or(usize::MAX);
    Ok(array.as_slice()?.iter().map(count).collect())
}

fn numbers<'py>(item: &Bound<'py, PyAny>) -> PyResult<Numbers<'py>> {
    let (flat, lengths): (PyReadonlyArray1<'_, f64>, PyReadonlyArray1<'_, i64>) = item.extract()?;
    Ok((flat, counts(&lengths)?))
}

fn tokens(name: &str, item: &Bound<'_, PyAny>) -> PyResult<(Vec<u32>, Vec<usize>)> {
    let (flat, lengths): (PyReadonlyArray1<'_, i64>, PyReadonlyArray1<'_, i64>) = item.extract()?;
    let flat = flat.as_slice()?;
    let fits = flat.iter().map(|&t| u32::try_from(t)).collect::<Result<Vec<_>, _>>();
    let tokens = fits.map_err(|_| {
        let index = flat.iter().position(|&t| u32::try_from(t).is_err()).unwrap_or(0);
        let got = flat[index];
        let message =
            format!("{name}[{index}]: got {got}, expected an integer from 0 to 2**32 - 1");
        raise(item.py(), "InputError", message)
    })?;
    Ok((tokens, counts(&lengths)?))
}

/// All nodes, tree after tree, as columns.
pub fn nodes<'py>(py: Python<'py>, trees: &[Tree]) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    out.set_item("offsets", PyArray1::from_vec(py, offsets(trees.iter().map(Tree::len))))?;
    let nodes = || trees.iter().flat_map(|t| (0..t.len() as u32).map(move |n| (t, n)));
    macro_rules! column {
        ($name:literal, $of:expr) => {
            let of = $of;
            let values: Vec<_> = nodes().map(|(t, n)| of(t, n)).collect();
            out.set_item($name, PyArray1::from_vec(py, values))?;
        };
    }
    column!("parent", |t: &Tree, n: u32| match t.parent(n) {
        NONE => -1,
        parent => i64::from(parent),
    });
    column!("depth", |t: &Tree, n: u32| i64::from(t.depth(n)));
    column!("first_child", |t: &Tree, n: u32| {
        let hot = &t.hot[n as usize];
        if hot.children == 0 { -1 } else { i64::from(hot.first_child) }
    });
    column!("children", |t: &Tree, n: u32| i64::from(t.hot[n as usize].children));
    column!("visits", |t: &Tree, n: u32| i64::from(t.hot[n as usize].visits));
    column!("value_sum", |t: &Tree, n: u32| t.hot[n as usize].value_sum);
    column!("q", |t: &Tree, n: u32| t.hot[n as usize].q());
    column!("value", |t: &Tree, n: u32| t.value(n));
    column!("raw_value", |t: &Tree, n: u32| t.raw_value(n));
    column!("valued", |t: &Tree, n: u32| t.is(n, Fact::Valued));
    column!("reward", |t: &Tree, n: u32| t.reward(n));
    column!("prior", |t: &Tree, n: u32| f64::from(t.hot[n as usize].prior));
    column!("variance", |t: &Tree, n: u32| t.variance(n));
    column!("terminal", |t: &Tree, n: u32| t.end(n) == End::Terminal);
    column!("closed", |t: &Tree, n: u32| t.hot[n as usize].is_closed());
    column!("proven", |t: &Tree, n: u32| t.hot[n as usize].is_proven());
    column!("failures", |t: &Tree, n: u32| i64::from(t.failures(n)));
    column!("state", |t: &Tree, n: u32| i64::from(t.home(n)));
    Ok(out)
}

/// All rollouts, tree after tree, as columns.
pub fn rollouts<'py>(py: Python<'py>, trees: &[Tree]) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    let count = |t: &Tree| t.rollouts.len();
    out.set_item("offsets", PyArray1::from_vec(py, offsets(trees.iter().map(count))))?;
    let all = || trees.iter().flat_map(|t| &t.rollouts);
    out.set_item("node", ints(py, all().map(|r| i64::from(r.node))))?;
    let rewards: Vec<f64> = all().map(|r| r.reward).collect();
    out.set_item("reward", PyArray1::from_vec(py, rewards))?;
    out.set_item("mark", ints(py, all().map(|r| i64::from(r.mark))))?;
    let spans = || trees.iter().flat_map(|t| (0..count(t)).map(|i| t.rollout_tokens.get(i)));
    out.set_item("token_offsets", PyArray1::from_vec(py, offsets(spans().map(<[u32]>::len))))?;
    out.set_item("tokens", ints(py, spans().flatten().map(|&t| i64::from(t))))?;
    let told = |t: &Tree| beside(&t.rollout_tokens, &t.rollout_log_probs, count(t));
    let log_probs: Vec<f32> = trees.iter().flat_map(told).collect();
    out.set_item("log_probs", PyArray1::from_vec(py, log_probs))?;
    Ok(out)
}

/// The log-prob of each token of so many spans; NaN where it was not told.
pub fn beside(tokens: &Spans, log_probs: &Spans<f32>, spans: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(tokens.total());
    for i in 0..spans {
        out.extend_from_slice(log_probs.get(i));
        // A span has all of its log-probs or none.
        let missing = tokens.get(i).len() - log_probs.get(i).len();
        out.resize(out.len() + missing, f32::NAN);
    }
    out
}

/// Where parts of these lengths begin and end.
pub fn offsets(lengths: impl Iterator<Item = usize>) -> Vec<i64> {
    let mut offsets = vec![0];
    let mut at = 0;
    offsets.extend(lengths.map(|length| {
        at += length as i64;
        at
    }));
    offsets
}
