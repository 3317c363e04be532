//! Moments of values: mergeable, so that sums are taken in a fixed order. Depends on nothing.

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

    /// Of a few values, one by one; equal values have exactly no squares.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        values.fold(Self::default(), |all, x| all.merge(Self::repeated(x, 1.0)))
    }

    /// Of values and how often each stands there; equal values have exactly no squares.
    pub fn weighted(mut values: impl Iterator<Item = (f64, f64)>) -> Self {
        let Some((shift, mut count)) = values.next() else { return Self::default() };
        let (mut sum, mut squares) = (0.0, 0.0);
        for (value, weight) in values {
            let away = value - shift;
            count += weight;
            sum += away * weight;
            squares += away * away * weight;
        }
        Self::from_sums(count, sum, squares, shift)
    }

    /// Of both parts together (Chan, Golub and LeVeque 1979).
    pub fn merge(self, other: Self) -> Self {
        if self.count == 0.0 {
            return other;
        }
        if other.count == 0.0 {
            return self;
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
