//! Centre and scale of groups: every rule by name, none by habit.
//!
//! Trainers differ in every one of these rules (which mean, which divisor, where
//! the epsilon stands, what a group of one gives), so each is a field of
//! [`Normaliser`]. May depend on `group`, `options` and `exec`.

use crate::choice;
use crate::group::Groups;

choice! {
    /// What is subtracted from each value of a group.
    Centre {
        /// Arithmetic mean, weighted where weights are given.
        Mean = "mean",
        /// Median; the mean of the two middle values for an even count.
        Median = "median",
        /// The lower of the two middle values for an even count.
        LowerMedian = "lower_median",
        /// Mean of the other members.
        LeaveOneOut = "leave_one_out",
        /// Nothing is subtracted.
        Nothing = "none",
    }
}

choice! {
    /// By what the centred values are divided.
    Scale {
        /// By nothing.
        Nothing = "none",
        /// By the standard deviation.
        Std = "std",
        /// By the standard deviation of the other members.
        LeaveOneOutStd = "leave_one_out_std",
        /// By 1.4826 times the median absolute deviation from the median.
        Mad = "mad",
    }
}

choice! {
    /// What a group with one member gives.
    Singleton {
        /// Its value as it is: centre 0, scale 1.
        Raw = "raw",
        /// 0.
        Zero = "zero",
    }
}

choice! {
    /// What a group without spread gives when it is to be divided.
    ZeroSpread {
        /// 0, the limit of the numerator.
        Zero = "zero",
        /// The centred value, divided by nothing.
        Undivided = "undivided",
    }
}

/// How much each value counts.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// All the same.
    Equal,
    /// As if it stood there so many times: a rollout of three rows counts as three.
    Counts(&'a [f64]),
    /// In the mean, but without changing how many members there are.
    Lengths(&'a [f64]),
}

impl Weights<'_> {
    fn of(&self, item: usize) -> f64 {
        match self {
            Self::Equal => 1.0,
            Self::Counts(w) | Self::Lengths(w) => w[item],
        }
    }
}

/// `(x - centre) / (max(sqrt(max(var, var_floor) + var_eps), floor) + eps)`, group by group.
#[derive(Clone, Copy, Debug)]
pub struct Normaliser {
    /// What is subtracted.
    pub centre: Centre,
    /// By what is divided.
    pub scale: Scale,
    /// Degrees of freedom taken from the count in the variance.
    pub ddof: f64,
    /// Added to the scale.
    pub eps: f64,
    /// Added to the variance, inside the root.
    pub var_eps: f64,
    /// Smallest variance.
    pub var_floor: f64,
    /// Smallest scale, before `eps`.
    pub floor: f64,
    /// What a group of one gives.
    pub singleton: Singleton,
    /// What a group without spread gives.
    pub zero_spread: ZeroSpread,
    /// A scale of at most this counts as no spread. With 0, only equal values do.
    pub spread_tolerance: f64,
}

impl Default for Normaliser {
    /// GRPO's: mean, Bessel's standard deviation, eps 1e-6, singletons raw.
    fn default() -> Self {
        Self {
            centre: Centre::Mean,
            scale: Scale::Std,
            ddof: 1.0,
            eps: 1e-6,
            var_eps: 0.0,
            var_floor: 0.0,
            floor: 0.0,
            singleton: Singleton::Raw,
            zero_spread: ZeroSpread::Zero,
            spread_tolerance: 0.0,
        }
    }
}

/// What a user should know about the groups that were normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Groups with at least one present value.
    pub groups: usize,
    /// Groups with exactly one.
    pub singletons: usize,
    /// Groups of several equal values.
    pub zero_spread: usize,
    /// Values that were NaN, and so absent.
    pub absent: usize,
}

impl Normaliser {
    /// Normalises `values` within `groups`. NaN means absent: it enters no
    /// statistic and its result is 0. Equal values give exactly 0, which a
    /// rounded mean over a small epsilon would not.
    pub fn apply(
        &self,
        values: &[f64],
        groups: &Groups,
        weights: Weights<'_>,
    ) -> (Vec<f64>, Counts) {
        let mut out = vec![0.0; values.len()];
        let mut counts = Counts::default();
        let mut present = Vec::new();
        for members in groups.iter() {
            present.clear();
            present.extend(members.iter().copied().filter(|&i| !values[i].is_nan()));
            counts.absent += members.len() - present.len();
            if present.is_empty() {
                continue;
            }
            counts.groups += 1;
            let sample = Sample { values, weights, members: &present };
            if sample.is_single() {
                counts.singletons += 1;
                if self.singleton == Singleton::Raw {
                    let eps = if self.scale == Scale::Nothing { 0.0 } else { self.eps };
                    present.iter().for_each(|&i| out[i] = values[i] / (1.0 + eps));
                }
                continue;
            }
            if sample.is_constant() {
                counts.zero_spread += 1;
                if self.centre != Centre::Nothing {
                    continue;
                }
            }
            self.group(&sample, &mut out);
        }
        (out, counts)
    }

    fn group(&self, sample: &Sample<'_>, out: &mut [f64]) {
        let shared = self.centre_of(sample, None);
        let shared_scale = self.scale_of(sample, None);
        for &i in sample.members {
            let centre = if self.centre == Centre::LeaveOneOut {
                self.centre_of(sample, Some(i))
            } else {
                shared
            };
            let scale = if self.scale == Scale::LeaveOneOutStd {
                self.scale_of(sample, Some(i))
            } else {
                shared_scale
            };
            out[i] = self.divide(sample.values[i] - centre, scale);
        }
    }

    fn divide(&self, centred: f64, scale: Option<f64>) -> f64 {
        match scale {
            None => centred,
            Some(scale) if scale > self.spread_tolerance => {
                centred / (scale.max(self.floor) + self.eps)
            }
            Some(_) if self.zero_spread == ZeroSpread::Undivided => centred,
            Some(scale) if self.floor > 0.0 => centred / (scale.max(self.floor) + self.eps),
            Some(_) => 0.0,
        }
    }

    fn centre_of(&self, sample: &Sample<'_>, without: Option<usize>) -> f64 {
        match self.centre {
            Centre::Nothing => 0.0,
            Centre::Mean | Centre::LeaveOneOut => sample.mean(without),
            Centre::Median => sample.median(),
            Centre::LowerMedian => sample.lower_median(),
        }
    }

    /// `None`: do not divide.
    fn scale_of(&self, sample: &Sample<'_>, without: Option<usize>) -> Option<f64> {
        let root = |var: f64| (var.max(self.var_floor) + self.var_eps).sqrt();
        match self.scale {
            Scale::Nothing => None,
            Scale::Std | Scale::LeaveOneOutStd => Some(root(sample.variance(self.ddof, without))),
            Scale::Mad => Some(1.4826 * sample.mad(self.centre)),
        }
    }
}

/// The present members of one group.
struct Sample<'a> {
    values: &'a [f64],
    weights: Weights<'a>,
    members: &'a [usize],
}

impl Sample<'_> {
    fn is_single(&self) -> bool {
        match self.weights {
            Weights::Counts(_) => {
                self.members.iter().map(|&i| self.weights.of(i)).sum::<f64>() <= 1.0
            }
            _ => self.members.len() == 1,
        }
    }

    fn is_constant(&self) -> bool {
        let first = self.values[self.members[0]];
        self.members.iter().all(|&i| self.values[i] == first)
    }

    /// `(weight, value)` of the members, without one of them where asked.
    fn pairs(&self, without: Option<usize>) -> impl Iterator<Item = (f64, f64)> + '_ {
        let kept = move |&&i: &&usize| Some(i) != without;
        self.members.iter().filter(kept).map(|&i| (self.weights.of(i), self.values[i]))
    }

    /// Weighted mean; 0 where all weights are 0.
    fn mean(&self, without: Option<usize>) -> f64 {
        let (weight, sum) =
            self.pairs(without).fold((0.0, 0.0), |(n, s), (w, x)| (n + w, s + w * x));
        if weight > 0.0 { sum / weight } else { 0.0 }
    }

    /// Two passes, so that a common offset costs no digits. 0 where too few are left.
    fn variance(&self, ddof: f64, without: Option<usize>) -> f64 {
        let mean = self.mean(without);
        let (weight, squares) = self
            .pairs(without)
            .fold((0.0, 0.0), |(n, s), (w, x)| (n + w, s + w * (x - mean) * (x - mean)));
        match self.weights {
            Weights::Lengths(_) if weight > 0.0 => {
                let n = (self.members.len() - usize::from(without.is_some())) as f64;
                if n > ddof { squares / weight * n / (n - ddof) } else { 0.0 }
            }
            _ if weight > ddof => squares / (weight - ddof),
            _ => 0.0,
        }
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted: Vec<f64> = self.members.iter().map(|&i| self.values[i]).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn lower_median(&self) -> f64 {
        self.sorted()[(self.members.len() - 1) / 2]
    }

    fn median(&self) -> f64 {
        middle(&self.sorted())
    }

    /// Median absolute deviation, from the median that the centre uses.
    fn mad(&self, centre: Centre) -> f64 {
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

/// Count, mean and sum of squared deviations, mergeable in a fixed order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// How many values.
    pub count: f64,
    /// Their mean.
    pub mean: f64,
    /// Sum of squared deviations from the mean.
    pub squares: f64,
}

impl Moments {
    /// Of values summed relative to `shift`, which keeps digits when it is near the mean.
    pub fn from_sums(count: f64, sum: f64, sum_of_squares: f64, shift: f64) -> Self {
        if count == 0.0 {
            return Self::default();
        }
        let mean = sum / count;
        Self { count, mean: mean + shift, squares: (sum_of_squares - sum * mean).max(0.0) }
    }

    /// Of one value that stands there so many times, e.g. on every token of a row.
    pub fn repeated(value: f64, count: f64) -> Self {
        Self { count, mean: value, squares: 0.0 }
    }

    /// Of both parts together (Chan, Golub and LeVeque 1979).
    pub fn merge(self, other: Self) -> Self {
        if self.count == 0.0 {
            return other;
        }
        let count = self.count + other.count;
        let gap = other.mean - self.mean;
        let share = other.count / count;
        Self {
            count,
            mean: self.mean + gap * share,
            squares: self.squares + other.squares + gap * gap * self.count * share,
        }
    }

    /// Variance with `ddof` degrees of freedom taken off; 0 where too few values are there.
    pub fn variance(&self, ddof: f64) -> f64 {
        if self.count > ddof { self.squares / (self.count - ddof) } else { 0.0 }
    }
}
