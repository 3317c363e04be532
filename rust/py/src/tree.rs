//! Tree search: arrays in, arrays out.

use std::sync::{Mutex, PoisonError};

use apportion_core::error::Error;
use apportion_core::options::{OptionValue, Settings, Value};
use apportion_core::tree::arena::{NONE, ROOT, Tree};
use apportion_core::tree::rules::{self, RULES};
use apportion_core::tree::search::{Answers, Forest as CoreForest, Leaf, Limits};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::guard::{detached, to_py};
use crate::methods::value;

/// Ctrl-C while a thread holds the forest must not leave it locked for ever.
fn locked<T>(forest: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    forest.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T: OptionValue>(
    py: Python<'_>,
    given: &Bound<'_, PyDict>,
    option: &'static str,
) -> PyResult<T> {
    let item = match given.get_item(option)? {
        Some(item) => value(option, &item)?,
        None => Value::Nothing,
    };
    T::parse(&item).ok_or_else(|| {
        let (got, expected) = (item.to_string(), T::expected());
        to_py(py, &Error::BadOption { method: "search", option, got, expected })
    })
}

/// Many trees under one rule.
#[pyclass(frozen, module = "apportion._core")]
pub struct Forest {
    inner: Mutex<CoreForest>,
}

type Ints<'py> = Bound<'py, PyArray1<i64>>;

fn ints<'py>(py: Python<'py>, values: impl Iterator<Item = i64>) -> Ints<'py> {
    PyArray1::from_vec(py, values.collect())
}

fn columns<'py>(py: Python<'py>, trees: &[Tree], leaves: &[Leaf]) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    let tree = |leaf: &Leaf| &trees[leaf.tree as usize];
    out.set_item("ticket", ints(py, leaves.iter().map(|l| l.ticket as i64)))?;
    out.set_item("tree", ints(py, leaves.iter().map(|l| i64::from(l.tree))))?;
    out.set_item("node", ints(py, leaves.iter().map(|l| i64::from(l.node))))?;
    let parent = |l: &Leaf| match tree(l).parent[l.node as usize] {
        NONE => -1,
        parent => i64::from(parent),
    };
    out.set_item("parent", ints(py, leaves.iter().map(parent)))?;
    let action = |l: &Leaf| if l.node == ROOT { -1 } else { i64::from(tree(l).action(l.node)) };
    out.set_item("action", ints(py, leaves.iter().map(action)))?;
    let depth = |l: &Leaf| i64::from(tree(l).depth[l.node as usize]);
    out.set_item("depth", ints(py, leaves.iter().map(depth)))?;
    Ok(out)
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
        let mut settings = Settings::new();
        for (name, item) in given.iter() {
            let name: String = name.extract()?;
            let item = value(&name, &item)?;
            settings.push((name, item));
        }
        let rule = rules::make(rule, &settings).map_err(|e| to_py(py, &e))?;
        let depth: usize = read(py, limits, "max_depth")?;
        let failures: usize = read(py, limits, "max_failures")?;
        let simulations: usize = read(py, limits, "num_simulations")?;
        let seed: usize = read(py, limits, "seed")?;
        let chosen = Limits {
            max_nodes: read(py, limits, "max_nodes")?,
            simulations: simulations as u64,
            max_depth: u32::try_from(depth).unwrap_or(u32::MAX),
            max_failures: u8::try_from(failures).unwrap_or(u8::MAX),
            gamma: read(py, limits, "gamma")?,
            root_visit: read(py, limits, "root_visit")?,
            solve: read(py, limits, "solve")?,
            seed: seed as u64,
            virtual_loss: read(py, limits, "virtual_loss")?,
        };
        let roots = read(py, limits, "num_roots")?;
        let inner = CoreForest::new(roots, rule, chosen).map_err(|e| to_py(py, &e))?;
        Ok(Self { inner: Mutex::new(inner) })
    }

    fn select<'py>(
        &self,
        py: Python<'py>,
        batch: usize,
        per_tree: usize,
        threads: usize,
    ) -> PyResult<Bound<'py, PyDict>> {
        let leaves =
            detached(py, threads, |exec| locked(&self.inner).select(batch, per_tree, exec))?;
        columns(py, locked(&self.inner).trees(), &leaves)
    }

    /// Nodes from the root to each node, and where each node's path begins.
    fn paths<'py>(
        &self,
        py: Python<'py>,
        trees: PyReadonlyArray1<'py, i64>,
        nodes: PyReadonlyArray1<'py, i64>,
    ) -> PyResult<(Ints<'py>, Ints<'py>)> {
        let (trees, nodes) = (trees.as_slice()?, nodes.as_slice()?);
        let forest = locked(&self.inner);
        let (mut flat, mut offsets) = (Vec::new(), vec![0]);
        for (&index, &node) in trees.iter().zip(nodes) {
            let tree = &forest.trees()[index as usize];
            let start = flat.len();
            let mut at = node as u32;
            while at != NONE {
                flat.push(i64::from(at));
                at = tree.parent[at as usize];
            }
            flat[start..].reverse();
            offsets.push(flat.len() as i64);
        }
        Ok((PyArray1::from_vec(py, flat), PyArray1::from_vec(py, offsets)))
    }

    #[pyo3(signature = (tickets, values, children, priors, masked, rewards, terminal))]
    #[allow(clippy::too_many_arguments)] // one array a column
    fn expand<'py>(
        &self,
        py: Python<'py>,
        tickets: PyReadonlyArray1<'py, i64>,
        values: PyReadonlyArray1<'py, f64>,
        children: PyReadonlyArray1<'py, i64>,
        priors: Option<PyReadonlyArray1<'py, f64>>,
        masked: Option<PyReadonlyArray1<'py, bool>>,
        rewards: Option<PyReadonlyArray1<'py, f64>>,
        terminal: Option<PyReadonlyArray1<'py, bool>>,
    ) -> PyResult<()> {
        let tickets: Vec<u64> = tickets.as_slice()?.iter().map(|&t| t as u64).collect();
        let children: Vec<usize> = children
            .as_slice()?
            .iter()
            .map(|&c| usize::try_from(c).unwrap_or(usize::MAX))
            .collect();
        let answers = Answers {
            tickets: &tickets,
            values: values.as_slice()?,
            rewards: rewards.as_ref().map(|r| r.as_slice()).transpose()?,
            terminal: terminal.as_ref().map(|t| t.as_slice()).transpose()?,
            children: &children,
            priors: priors.as_ref().map(|p| p.as_slice()).transpose()?,
            masked: masked.as_ref().map(|m| m.as_slice()).transpose()?,
        };
        detached(py, 1, |_| locked(&self.inner).expand(&answers))
    }

    fn fail(&self, py: Python<'_>, tickets: PyReadonlyArray1<'_, i64>) -> PyResult<()> {
        let tickets: Vec<u64> = tickets.as_slice()?.iter().map(|&t| t as u64).collect();
        detached(py, 1, |_| locked(&self.inner).fail(&tickets))
    }

    fn in_flight(&self) -> u64 {
        locked(&self.inner).in_flight()
    }

    /// Simulations finished, tree by tree.
    fn simulations<'py>(&self, py: Python<'py>) -> Ints<'py> {
        ints(py, locked(&self.inner).trees().iter().map(|t| t.simulations as i64))
    }

    /// All nodes, tree after tree, as columns.
    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let forest = locked(&self.inner);
        let trees = forest.trees();
        let out = PyDict::new(py);
        let mut offsets = vec![0];
        for tree in trees {
            offsets.push(offsets[offsets.len() - 1] + tree.len() as i64);
        }
        out.set_item("offsets", PyArray1::from_vec(py, offsets))?;
        let nodes = || trees.iter().flat_map(|t| (0..t.len() as u32).map(move |n| (t, n)));
        macro_rules! column {
            ($name:literal, $of:expr) => {
                let of = $of;
                let values: Vec<_> = nodes().map(|(t, n)| of(t, n)).collect();
                out.set_item($name, PyArray1::from_vec(py, values))?;
            };
        }
        column!("parent", |t: &Tree, n: u32| match t.parent[n as usize] {
            NONE => -1,
            parent => i64::from(parent),
        });
        column!("depth", |t: &Tree, n: u32| i64::from(t.depth[n as usize]));
        column!("first_child", |t: &Tree, n: u32| {
            let hot = &t.hot[n as usize];
            if hot.children == 0 { -1 } else { i64::from(hot.first_child) }
        });
        column!("children", |t: &Tree, n: u32| i64::from(t.hot[n as usize].children));
        column!("visits", |t: &Tree, n: u32| i64::from(t.hot[n as usize].visits));
        column!("q", |t: &Tree, n: u32| t.hot[n as usize].q());
        column!("value", |t: &Tree, n: u32| t.value(n));
        column!("raw_value", |t: &Tree, n: u32| t.raw_value[n as usize]);
        column!("reward", |t: &Tree, n: u32| t.reward[n as usize]);
        column!("prior", |t: &Tree, n: u32| f64::from(t.hot[n as usize].prior));
        column!("proven", |t: &Tree, n: u32| t.hot[n as usize].is_proven());
        column!("failures", |t: &Tree, n: u32| i64::from(t.failures[n as usize]));
        Ok(out)
    }

    /// Values of a node's children as a rule compares them.
    fn child_values<'py>(
        &self,
        py: Python<'py>,
        tree: usize,
        node: u32,
        how: &str,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let forest = locked(&self.inner);
        let unknown = |option, got: String, expected: &str| {
            let expected = expected.to_owned();
            Err(to_py(py, &Error::BadOption { method: "child_values", option, got, expected }))
        };
        if tree >= forest.trees().len() {
            return unknown("tree", tree.to_string(), "a tree's number");
        }
        if node as usize >= forest.trees()[tree].len() {
            return unknown("node", node.to_string(), "a node of the tree");
        }
        let at = forest.at(tree, node);
        let values = match how {
            "mean" => at.children().iter().map(|c| at.q(c).unwrap_or(0.0)).collect(),
            "scaled" => rules::muzero::scaled(&at),
            "completed" => rules::gumbel::Options::default().completed(&at),
            _ => {
                return unknown("how", format!("{how:?}"), "\"mean\", \"scaled\" or \"completed\"");
            }
        };
        Ok(PyArray1::from_vec(py, values))
    }

    /// Each root's recommended child and its children's recommended probabilities.
    #[allow(clippy::type_complexity)] // an array of actions and one array a tree
    fn policy<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Ints<'py>, Vec<Bound<'py, PyArray1<f64>>>)> {
        let forest = locked(&self.inner);
        let roots = (0..forest.trees().len()).map(|i| forest.at(i, ROOT));
        let actions = ints(py, roots.clone().map(|at| i64::from(forest.rule().action(&at))));
        let shares = roots.map(|at| PyArray1::from_vec(py, forest.rule().policy(&at))).collect();
        Ok((actions, shares))
    }
}

/// The list of rules, with their options.
#[pyfunction]
pub fn search_rules(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let out = PyList::empty(py);
    for card in RULES {
        let options = PyDict::new(py);
        for option in (card.options)() {
            options
                .set_item(option.name, (option.default.to_string(), option.expected, option.doc))?;
        }
        let rule = PyDict::new(py);
        rule.set_item("name", card.name)?;
        rule.set_item("doc", card.doc)?;
        rule.set_item("options", options)?;
        out.append(rule)?;
    }
    Ok(out)
}

/// Visits that sequential halving wants of the child chosen at each simulation.
#[pyfunction]
pub fn considered_visits(py: Python<'_>, considered: usize, simulations: usize) -> Ints<'_> {
    let visits = |i| rules::gumbel::considered_visits(considered, simulations, i) as i64;
    ints(py, (0..simulations).map(visits))
}

/// Adds the classes and functions of this file.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Forest>()?;
    module.add_function(wrap_pyfunction!(considered_visits, module)?)?;
    module.add_function(wrap_pyfunction!(search_rules, module)?)
}
