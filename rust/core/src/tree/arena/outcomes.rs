//! How terminal nodes and rollouts ended. Depends on nothing.

/// How terminal nodes and rollouts ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcomes {
    /// Values above it are positive, values below it negative.
    pub threshold: f64,
    /// How many had a positive value.
    pub positive: u32,
    /// How many had a negative value.
    pub negative: u32,
    /// The highest value.
    pub best: f64,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self { threshold: 0.0, positive: 0, negative: 0, best: f64::NEG_INFINITY }
    }
}

impl Outcomes {
    /// One more.
    pub fn add(&mut self, value: f64) {
        self.positive += u32::from(value > self.threshold);
        self.negative += u32::from(value < self.threshold);
        self.best = self.best.max(value);
    }
}

crate::state!(Outcomes { threshold, positive, negative, best });
