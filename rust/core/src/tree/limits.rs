//! How long a tree is searched, and in which way. Depends on `error` and `arena`.

use crate::choice;
use crate::error::{Error, Result};
use crate::tree::arena::{End, Keeps, MAX_DEPTH, MAX_NODES, ROOT, Tree};
use crate::tree::spans::Spans;

choice! {
    /// What a root's own evaluation counts as.
    RootVisit {
        /// A visit with its value.
        Value = "value",
        /// A visit of value 0 (LightZero).
        Zero = "zero",
        /// Nothing.
        None = "none",
    }
}

choice! {
    /// In which order a tree takes answers.
    TellOrder {
        /// That of the tickets, in rounds: a tree asks for its share, waits for all of it,
        /// and takes the answers in order. Results do not depend on when answers come.
        Ticket = "ticket",
        /// As they come.
        Arrival = "arrival",
    }
}

choice! {
    /// What an answer does that goes beyond a limit.
    OnLimit {
        /// What does not fit is dropped, and the tree is not searched further.
        Stop = "stop",
        /// It is refused with an error.
        Error = "error",
    }
}

/// Budgets and ways of a search; each budget is a tree's.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Nodes.
    pub max_nodes: usize,
    /// Depth at which nodes get no children.
    pub max_depth: u32,
    /// Tokens of edges and rollouts.
    pub max_tokens: u64,
    /// Rollouts.
    pub max_rollouts: u64,
    /// Requests handed out.
    pub max_requests: u64,
    /// Simulations, the root's own evaluation not among them.
    pub simulations: u64,
    /// What an answer does that goes beyond a limit.
    pub on_limit: OnLimit,
    /// Failures after which a node is given up; see [`failures_of`](Self::failures_of).
    pub max_failures: u8,
    /// Discount of a child's value; not 0, and -1 for two players in turns.
    pub gamma: f64,
    /// What a root's own evaluation counts as.
    pub root_visit: RootVisit,
    /// Prove nodes from terminal ones, this being the best value there is.
    pub solve: Option<f64>,
    /// Close terminal nodes once visited, and nodes of which no child is left.
    pub close_terminal: bool,
    /// Key of all randomness.
    pub seed: u64,
    /// Loss that a descent in flight is counted as; `None` counts visits alone.
    pub virtual_loss: Option<f64>,
    /// In which order a tree takes answers.
    pub tell_order: TellOrder,
    /// When a tree is known well enough.
    pub stop: Stop,
    /// A node with `n` visits may have `factor * n^power` children, `(factor, power)`.
    pub widening: Option<(f64, f64)>,
    /// Share of Dirichlet noise in a root's priors, and its concentration.
    pub noise: (f64, f64),
    /// Merge equal states.
    pub merge: bool,
    /// Keep each edge's variance.
    pub variance: bool,
}

/// When a tree is known well enough; whichever is met first.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Simulations before which nothing is looked at.
    pub after: u64,
    /// The root's best child leads the second by so much in mean return.
    pub gap: Option<f64>,
    /// The 95 % interval of the root's value is at most so wide, from end to end.
    pub width: Option<f64>,
    /// A terminal node or a rollout of at least this value was found.
    pub value: Option<f64>,
    /// So many terminal nodes and rollouts of positive value.
    pub positives: Option<usize>,
    /// So many of negative value; with `positives`, both are waited for.
    pub negatives: Option<usize>,
    /// What is above is positive, what is below negative; what is equal is neither.
    pub threshold: f64,
}

/// Failures of a root that are borne at least. Where half of all evaluations fail, a tree is
/// lost once in 65,536 times.
pub const ROOT_FAILURES: u8 = 16;

/// Half widths of a 95 % interval in standard errors.
pub const Z95: f64 = 1.959_963_984_540_054;

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
            max_tokens: Spans::MOST as u64,
            max_rollouts: u64::from(u32::MAX),
            max_requests: u64::MAX,
            simulations: u64::from(u32::MAX) - 1,
            on_limit: OnLimit::Stop,
            max_failures: 3,
            gamma: 1.0,
            root_visit: RootVisit::Value,
            solve: None,
            close_terminal: false,
            seed: 0,
            virtual_loss: None,
            tell_order: TellOrder::Ticket,
            stop: Stop::default(),
            widening: None,
            noise: (0.0, 1.0),
            merge: false,
            variance: false,
        }
    }
}

impl Limits {
    /// Checks ranges.
    ///
    /// # Errors
    ///
    /// [`Error::BadOption`] naming the first option that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let check = |fits: bool, option: &'static str, got: String, expected: &str| {
            let expected = expected.to_owned();
            if fits {
                Ok(())
            } else {
                Err(Error::BadOption { method: "search", option, got, expected })
            }
        };
        let (gamma, (fraction, alpha)) = (self.gamma, self.noise);
        let discounts = gamma != 0.0 && gamma.abs() <= 1.0;
        let nodes = 1..=MAX_NODES;
        let visits = u64::from(u32::MAX) - 1;
        let (factor, power) = self.widening.unwrap_or((1.0, 0.0));
        let number = "a number in [-1, 1] other than 0";
        check(discounts, "gamma", format!("{gamma:?}"), number)?;
        let got = self.max_nodes.to_string();
        check(nodes.contains(&self.max_nodes), "max_nodes", got, "an integer from 1 to 2**32 - 2")?;
        let got = self.max_depth.to_string();
        check(self.max_depth <= MAX_DEPTH, "max_depth", got, "an integer from 0 to 2**27 - 1")?;
        let got = self.simulations.to_string();
        check(self.simulations <= visits, "num_simulations", got, "an integer below 2**32 - 1")?;
        let got = self.max_tokens.to_string();
        let fits = self.max_tokens <= Spans::MOST as u64;
        check(fits, "max_tokens", got, "an integer from 0 to 2**32 - 1")?;
        let got = self.max_rollouts.to_string();
        let fits = self.max_rollouts <= u64::from(u32::MAX);
        check(fits, "max_rollouts", got, "an integer from 0 to 2**32 - 1")?;
        let got = self.max_failures.to_string();
        check(self.max_failures > 0, "max_failures", got, "an integer from 1 to 255")?;
        let loss = self.virtual_loss.unwrap_or(0.0);
        let (got, fits) = (format!("{loss:?}"), loss.abs() <= 1e100);
        check(fits, "virtual_loss", got, "a finite number of at most 1e100 in size")?;
        for (option, least) in [("stop_gap", self.stop.gap), ("stop_width", self.stop.width)] {
            let least = least.unwrap_or(0.0);
            check(least >= 0.0, option, format!("{least:?}"), "a number of at least 0")?;
        }
        let threshold = self.stop.threshold;
        let fits = threshold.is_finite();
        check(fits, "stop_threshold", format!("{threshold:?}"), "a finite number")?;
        let fits = (0.0..=1.0).contains(&fraction);
        check(fits, "noise_fraction", format!("{fraction:?}"), "a number from 0 to 1")?;
        let fits = alpha > 0.0 && alpha.is_finite();
        check(fits, "noise_alpha", format!("{alpha:?}"), "a finite number above 0")?;
        let fits = factor > 0.0 && factor.is_finite();
        check(fits, "widen_factor", format!("{factor:?}"), "a finite number above 0")?;
        let fits = (0.0..=1.0).contains(&power);
        check(fits, "widen_power", format!("{power:?}"), "a number from 0 to 1")
    }

    /// What a tree has to keep for this search; `bounds` where the rule reads them.
    pub fn keeps(&self, bounds: bool) -> Keeps {
        let variance = self.variance || self.stop.width.is_some();
        Keeps { variance, bounds, widening: self.widening.is_some() }
    }

    /// Nodes to make room for in each of `roots` trees, if expansions have `children`: what
    /// the simulations need, but no more than half a GiB in all, which the system gives page
    /// by page as it is used.
    pub fn expected_nodes(&self, roots: usize, children: usize) -> usize {
        const ALL: usize = (1 << 29) / 40;
        let simulations = usize::try_from(self.simulations).unwrap_or(usize::MAX);
        let need = simulations.saturating_add(1).saturating_mul(children).saturating_add(1);
        need.min(self.max_nodes).min(ALL / roots)
    }

    /// Failures after which a node is given up. With a root its whole tree ends, so a root is
    /// asked for more often than others.
    pub fn failures_of(&self, node: u32) -> u8 {
        if node == ROOT { self.max_failures.max(ROOT_FAILURES) } else { self.max_failures }
    }

    /// Children that a node with `visits` visits may have.
    pub fn allowed_children(&self, visits: f64) -> f64 {
        let Some((factor, power)) = self.widening else { return 0.0 };
        (factor * visits.powf(power)).min(f64::from(u16::MAX))
    }

    /// Whether a tree may still hand out requests once what waits is answered.
    pub fn is_open(&self, tree: &Tree) -> bool {
        let root = &tree.hot[ROOT as usize];
        let spent = root.is_closed()
            || root.is_proven()
            || tree.full
            || tree.end(ROOT) != End::Open
            || tree.simulations >= self.simulations && root.children > 0
            || tree.requests >= self.max_requests
            || tree.rollouts.len() as u64 >= self.max_rollouts
            || tree.tokens_held() >= self.max_tokens;
        !(spent || self.stop.is_met(tree))
    }
}

impl Stop {
    fn is_met(&self, tree: &Tree) -> bool {
        if tree.simulations < self.after {
            return false;
        }
        let outcomes = &tree.outcomes;
        let reached = |want: Option<usize>, got: u32| want.is_none_or(|want| got as usize >= want);
        self.value.is_some_and(|value| outcomes.best >= value)
            || (self.positives.is_some() || self.negatives.is_some())
                && reached(self.positives, outcomes.positive)
                && reached(self.negatives, outcomes.negative)
            || self.width.is_some_and(|width| 2.0 * tree.half_width(ROOT, Z95) <= width)
            || self.gap.is_some_and(|gap| lead(tree).is_some_and(|lead| lead >= gap))
    }
}

/// By how much the root's best child leads the second; `None` before all are visited.
fn lead(tree: &Tree) -> Option<f64> {
    let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for child in tree.children(ROOT) {
        let hot = &tree.hot[child as usize];
        if hot.visits == 0 && !hot.is_closed() {
            return None;
        }
        if hot.visits > 0 {
            (first, second) = (first.max(hot.q()), second.max(first.min(hot.q())));
        }
    }
    second.is_finite().then_some(first - second)
}
