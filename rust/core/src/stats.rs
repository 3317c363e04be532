//! Centre and scale of groups: every rule by name, none by habit.
//!
//! Trainers differ in every one of these rules (which mean, which divisor, where
//! the epsilon stands, what a group of one gives), so each is a field of
//! [`Normaliser`]. May depend on `group`, `options` and `exec`.

mod moments;
mod sample;

use crate::choice;
use crate::group::Groups;

pub use moments::Moments;
use sample::Sample;

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
        /// By the standard deviation of all values of the batch.
        Batch = "batch",
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

choice! {
    /// What counts once in a statistic.
    Weighting {
        /// Each trajectory.
        Trajectory = "trajectory",
        /// Each row of tokens: a trajectory of three step rows counts three times.
        Row = "row",
        /// Each trained token: long trajectories weigh more, and count once as members.
        Token = "token",
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
    /// rounded mean over a small epsilon would not. A group whose members all weigh
    /// nothing gives 0.
    pub fn apply(
        &self,
        values: &[f64],
        groups: &Groups,
        weights: Weights<'_>,
    ) -> (Vec<f64>, Counts) {
        let mut out = vec![0.0; values.len()];
        let mut counts = Counts::default();
        let mut present = Vec::new();
        let batch = (self.scale == Scale::Batch).then(|| self.batch_scale(values, weights));
        for members in groups.iter() {
            present.clear();
            present.extend(members.iter().copied().filter(|&i| !values[i].is_nan()));
            counts.absent += members.len() - present.len();
            if present.is_empty() {
                continue;
            }
            counts.groups += 1;
            let sample = Sample { values, weights, members: &present };
            if sample.weight() == 0.0 {
                continue;
            }
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
            self.group(&sample, batch, &mut out);
        }
        (out, counts)
    }

    fn group(&self, sample: &Sample<'_>, batch: Option<f64>, out: &mut [f64]) {
        let centre = self.centre_of(sample);
        let scale = batch.or_else(|| self.scale_of(sample));
        let leaves_out = self.centre == Centre::LeaveOneOut || self.scale == Scale::LeaveOneOutStd;
        let others = if leaves_out { sample.others() } else { Vec::new() };
        for (place, &i) in sample.members.iter().enumerate() {
            let centre = match self.centre {
                Centre::LeaveOneOut => others[place].mean,
                _ => centre,
            };
            let scale = match self.scale {
                Scale::LeaveOneOutStd => {
                    Some(self.root(sample.others_variance(&others[place], self.ddof)))
                }
                _ => scale,
            };
            out[i] = self.divide(sample.values[i] - centre, scale);
        }
    }

    fn batch_scale(&self, values: &[f64], weights: Weights<'_>) -> f64 {
        let members: Vec<usize> = (0..values.len()).filter(|&i| !values[i].is_nan()).collect();
        self.root(Sample { values, weights, members: &members }.variance(self.ddof))
    }

    fn root(&self, variance: f64) -> f64 {
        (variance.max(self.var_floor) + self.var_eps).sqrt()
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

    fn centre_of(&self, sample: &Sample<'_>) -> f64 {
        match self.centre {
            Centre::Nothing | Centre::LeaveOneOut => 0.0,
            Centre::Mean => sample.mean(),
            Centre::Median => sample.median(),
            Centre::LowerMedian => sample.lower_median(),
        }
    }

    /// `None`: do not divide.
    fn scale_of(&self, sample: &Sample<'_>) -> Option<f64> {
        match self.scale {
            Scale::Nothing | Scale::LeaveOneOutStd | Scale::Batch => None,
            Scale::Std => Some(self.root(sample.variance(self.ddof))),
            Scale::Mad => Some(1.4826 * sample.mad(self.centre)),
        }
    }
}
