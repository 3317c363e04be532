//! The statistics of one group's present members, under each rule. Depends on `moments`.

use super::{Centre, Moments, Weights};

/// The present members of one group.
pub(super) struct Sample<'a> {
    pub(super) values: &'a [f64],
    pub(super) weights: Weights<'a>,
    pub(super) members: &'a [usize],
}

impl Sample<'_> {
    pub(super) fn weight(&self) -> f64 {
        self.members.iter().map(|&i| self.weights.of(i)).sum()
    }

    pub(super) fn is_single(&self) -> bool {
        match self.weights {
            Weights::Counts(_) => self.weight() <= 1.0,
            _ => self.members.len() == 1,
        }
    }

    pub(super) fn is_constant(&self) -> bool {
        let first = self.values[self.members[0]];
        self.members.iter().all(|&i| self.values[i] == first)
    }

    /// `(weight, value)` of the members.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.members.iter().map(|&i| (self.weights.of(i), self.values[i]))
    }

    /// Weighted mean; 0 where all weights are 0.
    pub(super) fn mean(&self) -> f64 {
        let (weight, sum) = self.pairs().fold((0.0, 0.0), |(n, s), (w, x)| (n + w, s + w * x));
        if weight > 0.0 { sum / weight } else { 0.0 }
    }

    /// Two passes, so that a common offset costs no digits. 0 where too few are left.
    pub(super) fn variance(&self, ddof: f64) -> f64 {
        let mean = self.mean();
        let (count, squares) = self
            .pairs()
            .fold((0.0, 0.0), |(n, s), (w, x)| (n + w, s + w * (x - mean) * (x - mean)));
        self.unbiased(&Moments { count, mean, squares }, self.members.len(), ddof)
    }

    /// Moments of the others of each member, in the members' order. Put together
    /// from those before and those after, because taking one value out of a sum
    /// of squares loses digits when that value is the large one.
    pub(super) fn others(&self) -> Vec<Moments> {
        let single = |i: usize, count: f64| Moments::repeated(self.values[i], count);
        let whole = |i: usize| single(i, self.weights.of(i));
        let mut after = vec![Moments::default(); self.members.len() + 1];
        for (place, &i) in self.members.iter().enumerate().rev() {
            after[place] = whole(i).merge(after[place + 1]);
        }
        let mut before = Moments::default();
        let mut others = Vec::with_capacity(self.members.len());
        for (place, &i) in self.members.iter().enumerate() {
            let rest = before.merge(after[place + 1]);
            // A value that stands there three times has two of its own among the others.
            others.push(match self.weights {
                Weights::Counts(count) => rest.merge(single(i, (count[i] - 1.0).max(0.0))),
                _ => rest,
            });
            before = before.merge(whole(i));
        }
        others
    }

    pub(super) fn others_variance(&self, others: &Moments, ddof: f64) -> f64 {
        self.unbiased(others, self.members.len() - 1, ddof)
    }

    /// Variance of `members` values, in which lengths are no degrees of freedom.
    pub(super) fn unbiased(&self, moments: &Moments, members: usize, ddof: f64) -> f64 {
        let n = members as f64;
        match self.weights {
            Weights::Lengths(_) if moments.count > 0.0 && n > ddof => {
                moments.squares / moments.count * n / (n - ddof)
            }
            Weights::Lengths(_) => 0.0,
            _ => moments.variance(ddof),
        }
    }

    pub(super) fn sorted(&self) -> Vec<f64> {
        let mut sorted: Vec<f64> = self.members.iter().map(|&i| self.values[i]).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    pub(super) fn lower_median(&self) -> f64 {
        self.sorted()[(self.members.len() - 1) / 2]
    }

    pub(super) fn median(&self) -> f64 {
        middle(&self.sorted())
    }

    /// Median absolute deviation, from the median that the centre uses.
    pub(super) fn mad(&self, centre: Centre) -> f64 {
        let lower = centre == Centre::LowerMedian;
        let median = if lower { self.lower_median() } else { self.median() };
        let mut away: Vec<f64> =
            self.members.iter().map(|&i| (self.values[i] - median).abs()).collect();
        away.sort_by(f64::total_cmp);
        if lower { away[(away.len() - 1) / 2] } else { middle(&away) }
    }
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}
