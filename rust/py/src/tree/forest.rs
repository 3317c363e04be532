//! The class that a search holds: the core's forest behind a lock.

use apportion_core::error::Error;
use apportion_core::options::{OptionValue, Value};
use apportion_core::tree::arena::{ROOT, Tree};
use apportion_core::tree::rules::pool::{self, Event};
use apportion_core::tree::rules::{self, At};
use apportion_core::tree::search::{Answers, Forest as CoreForest, Order};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::columns::{self, Given, offsets, unsigned};
use super::lock::Lock;
use super::{Ints, ints, options};
use crate::guard::{raise, to_py};

/// Many trees under one rule.
#[pyclass(frozen, module = "apportion._core")]
pub struct Forest {
    inner: Lock,
}

#[pymethods]
impl Forest {
    #[new]
    fn new(
        py: Python<'_>,
        rule: &str,
        given: &Bound<'_, PyDict>,
        limits: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let rule = rules::make(rule, &options::settings(given)?).map_err(|e| to_py(py, &e))?;
        let roots = options::read(limits, "num_roots")?;
        let inner = CoreForest::new(roots, rule, options::limits(limits)?);
        Ok(Self { inner: Lock::new(inner.map_err(|e| to_py(py, &e))?) })
    }

    fn select<'py>(
        &self,
        py: Python<'py>,
        batch: usize,
        per_tree: usize,
        order: &str,
        threads: usize,
    ) -> PyResult<Bound<'py, PyDict>> {
        let order = Order::parse(&Value::Text(order.to_owned())).ok_or_else(|| {
            let (got, expected) = (format!("{order:?}"), Order::expected());
            to_py(py, &Error::BadOption { method: "select", option: "order", got, expected })
        })?;
        let leaves =
            self.inner.detached(py, threads, |f, exec| f.select(batch, per_tree, order, exec))?;
        columns::leaves(py, &leaves)
    }

    /// Nodes from the root to each node, and where each node's path begins.
    fn paths<'py>(
        &self,
        py: Python<'py>,
        trees: PyReadonlyArray1<'py, i64>,
        nodes: PyReadonlyArray1<'py, i64>,
    ) -> PyResult<(Ints<'py>, Ints<'py>)> {
        let forest = self.inner.attached(py)?;
        let mut flat = Vec::new();
        let mut lengths = Vec::new();
        for (tree, node) in places(py, &forest, &trees, &nodes)? {
            let path = tree.path(node);
            lengths.push(path.len());
            flat.extend(path.into_iter().map(i64::from));
        }
        let offsets = offsets(lengths.into_iter());
        Ok((PyArray1::from_vec(py, flat), PyArray1::from_vec(py, offsets)))
    }

    /// Tokens from the root to each node, and where each node's begin.
    fn path_tokens<'py>(
        &self,
        py: Python<'py>,
        trees: PyReadonlyArray1<'py, i64>,
        nodes: PyReadonlyArray1<'py, i64>,
    ) -> PyResult<(Ints<'py>, Ints<'py>)> {
        let forest = self.inner.attached(py)?;
        let mut flat = Vec::new();
        let mut lengths = Vec::new();
        for (tree, node) in places(py, &forest, &trees, &nodes)? {
            let start = flat.len();
            for edge in tree.path(node) {
                flat.extend(tree.tokens.get(edge as usize).iter().map(|&t| i64::from(t)));
            }
            lengths.push(flat.len() - start);
        }
        let offsets = offsets(lengths.into_iter());
        Ok((PyArray1::from_vec(py, flat), PyArray1::from_vec(py, offsets)))
    }

    /// Takes answers: numbers of children, and other columns by name. `lenient`: a leaf whose
    /// numbers are not finite counts as failed. How many children there were in all.
    fn expand<'py>(
        &self,
        py: Python<'py>,
        tickets: PyReadonlyArray1<'py, i64>,
        children: PyReadonlyArray1<'py, i64>,
        columns: &Bound<'py, PyDict>,
        lenient: bool,
        threads: usize,
    ) -> PyResult<usize> {
        let given = Given::new(&tickets, &children, columns)?;
        let answers = given.view()?;
        self.inner.detached(py, threads, |f, exec| f.expand(&answers, lenient, exec.threads()))?;
        Ok(answers.children.iter().sum())
    }

    /// Searches to the end, every leaf answered alike: the core's share of a search, for the
    /// benchmark of what crossing into Python adds to it.
    fn _run_alone(
        &self,
        py: Python<'_>,
        batch: usize,
        per_tree: usize,
        value: f64,
        priors: Vec<f64>,
    ) -> PyResult<()> {
        let (values, children) = (vec![value; batch], vec![priors.len(); batch]);
        let (width, priors) = (priors.len(), priors.repeat(batch));
        self.inner.detached(py, 1, |forest, exec| {
            loop {
                let leaves = forest.select(batch, per_tree, Order::Priority, exec)?;
                let count = leaves.len();
                if count == 0 {
                    return Ok(());
                }
                let tickets: Vec<u64> = leaves.iter().map(|leaf| leaf.ticket).collect();
                let answers = Answers {
                    tickets: &tickets,
                    values: Some(&values[..count]),
                    children: &children[..count],
                    priors: Some(&priors[..count * width]),
                    ..Answers::default()
                };
                forest.expand(&answers, false, 1)?;
            }
        })
    }

    fn fail(&self, py: Python<'_>, tickets: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        let tickets = unsigned(&tickets)?;
        self.inner.detached(py, 1, |forest, _| forest.fail(&tickets))
    }

    fn cancel(&self, py: Python<'_>, tickets: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        let tickets = unsigned(&tickets)?;
        self.inner.detached(py, 1, |forest, _| forest.cancel(&tickets))
    }

    /// Which tickets wait for an answer.
    fn is_waiting<'py>(
        &self,
        py: Python<'py>,
        tickets: PyReadonlyArray1<'py, i64>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let forest = self.inner.attached(py)?;
        let waits = unsigned(&tickets)?.into_iter().map(|t| forest.is_waiting(t));
        Ok(PyArray1::from_vec(py, waits.collect()))
    }

    /// Requests that wait for an answer, as `select` gave them, by ticket.
    fn unanswered<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        columns::leaves(py, &self.inner.attached(py)?.unanswered())
    }

    /// Everything that calls have changed, for `load` of a forest made alike.
    fn save<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.inner.detached(py, 1, |forest, _| Ok(forest.save()))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn load(&self, py: Python<'_>, state: &[u8]) -> PyResult<()> {
        let loaded = self.inner.detached(py, 1, |forest, _| Ok(forest.load(state)))?;
        loaded.map_err(|error| raise(py, "FileFormatError", error.to_string()))
    }

    fn in_flight(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.inner.attached(py)?.in_flight())
    }

    /// Simulations finished, tree by tree.
    fn simulations<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        let forest = self.inner.attached(py)?;
        Ok(ints(py, forest.trees().iter().map(|t| t.simulations as i64)))
    }

    /// Requests handed out, tree by tree.
    fn requests<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        let forest = self.inner.attached(py)?;
        Ok(ints(py, forest.trees().iter().map(|t| t.requests as i64)))
    }

    /// Trees and nodes that failed so often that they are not asked for again.
    fn given_up<'py>(&self, py: Python<'py>) -> PyResult<(Ints<'py>, Ints<'py>)> {
        let forest = self.inner.attached(py)?;
        let (trees, nodes): (Vec<_>, Vec<_>) =
            forest.given_up().map(|(tree, node)| (tree as i64, i64::from(node))).unzip();
        Ok((PyArray1::from_vec(py, trees), PyArray1::from_vec(py, nodes)))
    }

    /// Bytes that nodes take, and those of tokens and rollouts.
    fn bytes(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        let forest = self.inner.attached(py)?;
        let sizes = forest.trees().iter().map(Tree::bytes);
        Ok(sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1)))
    }

    /// All nodes, tree after tree, as columns.
    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        columns::nodes(py, self.inner.attached(py)?.trees())
    }

    /// All rollouts, tree after tree, as columns.
    fn rollouts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        columns::rollouts(py, self.inner.attached(py)?.trees())
    }

    /// Tokens of the edge into each node, tree after tree, and where each begins.
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<(Ints<'py>, Ints<'py>)> {
        let forest = self.inner.attached(py)?;
        let spans = || {
            let of = |t: &Tree, n: usize| t.tokens.get(n).to_vec();
            forest.trees().iter().flat_map(move |t| (0..t.len()).map(move |n| of(t, n)))
        };
        let offsets = offsets(spans().map(|span| span.len()));
        Ok((ints(py, spans().flatten().map(i64::from)), PyArray1::from_vec(py, offsets)))
    }

    /// Log-prob of each of those tokens; NaN where it was not told.
    fn log_probs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let forest = self.inner.attached(py)?;
        let of = |t: &Tree| columns::beside(&t.tokens, &t.token_log_probs, t.len());
        Ok(PyArray1::from_vec(py, forest.trees().iter().flat_map(of).collect()))
    }

    /// Scores that each node's value was made of when its parent was evaluated, tree after
    /// tree, and where each node's begin.
    fn child_scores<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyArray1<f64>>, Ints<'py>)> {
        let forest = self.inner.attached(py)?;
        let of = |t: &Tree, n: usize| t.child_scores.get(n).to_vec();
        let spans = || forest.trees().iter().flat_map(move |t| (0..t.len()).map(move |n| of(t, n)));
        let offsets = offsets(spans().map(|span| span.len()));
        Ok((PyArray1::from_vec(py, spans().flatten().collect()), PyArray1::from_vec(py, offsets)))
    }

    /// Values of a node's children as a rule compares them.
    fn child_values<'py>(
        &self,
        py: Python<'py>,
        tree: usize,
        node: u32,
        how: &str,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let forest = self.inner.attached(py)?;
        let at = one(py, &forest, tree, node)?;
        let values = match how {
            "mean" => at.children().iter().map(|c| at.q(c).unwrap_or(0.0)).collect(),
            "scaled" => rules::muzero::scaled(&at),
            "completed" => rules::gumbel::Options::default().completed(&at),
            "score" => forest.rule().child_scores(&at),
            _ => {
                let got = format!("{how:?}");
                let expected = "\"mean\", \"scaled\", \"completed\" or \"score\"".to_owned();
                let (method, option) = ("child_values", "how");
                return Err(to_py(py, &Error::BadOption { method, option, got, expected }));
            }
        };
        Ok(PyArray1::from_vec(py, values))
    }

    /// Nodes that a tree's search ends with, in the rule's order.
    fn finals<'py>(&self, py: Python<'py>, tree: usize) -> PyResult<Ints<'py>> {
        let forest = self.inner.attached(py)?;
        let at = one(py, &forest, tree, ROOT)?;
        Ok(ints(py, forest.rule().finals(at.tree).into_iter().map(i64::from)))
    }

    /// Whether the rule compares children by values that come with them.
    fn judges_children(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.inner.attached(py)?.rule().judges_children())
    }

    /// What a pool's log says of a tree: kind of event, and what it is about.
    fn pool_log<'py>(&self, py: Python<'py>, tree: usize) -> PyResult<(Ints<'py>, Ints<'py>)> {
        let forest = self.inner.attached(py)?;
        let at = one(py, &forest, tree, ROOT)?;
        let event = |event| match event {
            Event::Push(rollout, _) => (0, i64::from(rollout)),
            Event::Select(rollout) => (1, i64::from(rollout)),
            Event::Good(node) => (2, i64::from(node)),
            Event::Bad(node) => (3, i64::from(node)),
        };
        let events: Vec<(i64, i64)> = pool::events(at.tree).map(event).collect();
        let (kinds, about): (Vec<_>, Vec<_>) = events.into_iter().unzip();
        Ok((PyArray1::from_vec(py, kinds), PyArray1::from_vec(py, about)))
    }

    /// Each root's recommended child and its children's recommended probabilities.
    #[allow(clippy::type_complexity)] // an array of actions and one array a tree
    fn policy<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Ints<'py>, Vec<Bound<'py, PyArray1<f64>>>)> {
        let forest = self.inner.attached(py)?;
        let roots = (0..forest.trees().len()).map(|i| forest.at(i, ROOT));
        let actions = ints(py, roots.clone().map(|at| i64::from(forest.rule().action(&at))));
        let shares = roots.map(|at| PyArray1::from_vec(py, forest.rule().policy(&at))).collect();
        Ok((actions, shares))
    }
}

/// One node by its numbers.
fn one<'a>(py: Python<'_>, forest: &'a CoreForest, tree: usize, node: u32) -> PyResult<At<'a>> {
    let count = forest.trees().get(tree).map(Tree::len);
    if count.is_some_and(|count| (node as usize) < count) {
        return Ok(forest.at(tree, node));
    }
    let argument = if count.is_some() { "node" } else { "tree" }.to_owned();
    let got = if count.is_some() { node.to_string() } else { tree.to_string() };
    let expected = "one of the search".to_owned();
    Err(to_py(py, &Error::Value { argument, index: 0, got, expected }))
}

/// Trees and nodes by their numbers.
fn places<'a>(
    py: Python<'_>,
    forest: &'a CoreForest,
    trees: &PyReadonlyArray1<'_, i64>,
    nodes: &PyReadonlyArray1<'_, i64>,
) -> PyResult<Vec<(&'a Tree, u32)>> {
    let place = |(index, (&tree, &node)): (usize, (&i64, &i64))| {
        let found = usize::try_from(tree).ok().and_then(|t| forest.trees().get(t));
        match found {
            Some(found) if (0..found.len() as i64).contains(&node) => Ok((found, node as u32)),
            _ => {
                let argument = if found.is_some() { "node" } else { "tree" }.to_owned();
                let got = if found.is_some() { node } else { tree }.to_string();
                let expected = "one of the search".to_owned();
                Err(to_py(py, &Error::Value { argument, index, got, expected }))
            }
        }
    };
    trees.as_slice()?.iter().zip(nodes.as_slice()?).enumerate().map(place).collect()
}
