//! `gae`: generalised advantage estimation from a critic's values.

use crate::choice;
use crate::column::{Floats, TOKEN_REWARDS, VALUES};
use crate::credit::{Credit, Values};
use crate::error::Result;
use crate::options::{NonNegative, Unit};
use crate::returns::discounted;
use crate::rollouts::Rollouts;
use crate::rows::{Pair, fill, pack};
use crate::stats::{Counts, Moments};
use crate::tokens::Real;
use crate::whiten::{RowShape, Whitening, moments};
use crate::wide::wide;

choice! {
    /// What masked tokens are to the scan.
    Masked {
        /// They are stepped over: neither their reward nor their value enters, and nothing
        /// decays across them.
        Skip = "skip",
        /// Their reward and value are 0, and credit decays across them.
        Decay = "decay",
        /// Their reward is 0; their value counts.
        KeepValues = "keep_values",
        /// They are tokens like any other, padding included.
        Nothing = "none",
    }
}

crate::method! {
    /// Generalised advantage estimation: how much better each token did than a critic
    /// expected, a discounted sum of one-token surprises.
    ///
    /// # Formula
    ///
    /// `delta_t = r_t + gamma V_{t+1} - V_t` and `A_t = delta_t + gamma lam A_{t+1}` over
    /// the trained tokens of a row, `t + 1` being the next trained token, with 0 after the
    /// last. Returns are `A_t + V_t`. Advantages are then whitened over all trained tokens
    /// of the batch: `(A - mean) / sqrt(max(var, var_floor) + eps)`.
    ///
    /// # Source
    ///
    /// Schulman et al. 2015, arXiv:1506.02438, equation 16; the treatment of masked tokens
    /// as in verl, OpenRLHF and SkyRL.
    ///
    /// # Degenerate cases
    ///
    /// Equal advantages, or at most `ddof` trained tokens, whiten to exactly 0. A row
    /// without trained tokens gives 0. A row with a NaN reward is left out and gets 0.
    /// With `masked="none"` or `"keep_values"` credit depends on what stands in the padding.
    "gae" {
        title: "Generalised advantage estimation",
        granularity: Token,
        family: "critic",
        paper: "arXiv:1506.02438",
        certainty: Code,
        batch_wide: |options| options.whiten,
        needs: [TOKEN_REWARDS, VALUES],
        takes: [],
        options: {
            /// Discount of later rewards.
            gamma: Unit = 1.0,
            /// Weight of later surprises.
            lam: Unit = 1.0,
            /// What masked tokens are to the scan.
            masked: Masked = Masked::Skip,
            /// Whether advantages are whitened over the batch.
            whiten: bool = true,
            /// Degrees of freedom taken off in the variance of the whitening.
            ddof: NonNegative = 1.0,
            /// Added to the variance, inside the root.
            eps: NonNegative = 1e-8,
            /// Smallest variance of the whitening.
            var_floor: NonNegative = 0.0,
            /// Whether advantages and returns of masked tokens are set to 0. Otherwise they
            /// hold what the scan and the whitening leave there: with `masked="skip"` the
            /// advantage of the next trained token, and that plus the token's own value.
            remask: bool = true,
        },
        presets: {
            "verl" => { remask = false },
            "skyrl" => { masked = Masked::Nothing, remask = false },
            "openrlhf" => {
                masked = Masked::Decay, ddof = 0.0, eps = 0.0, var_floor = 1e-8, remask = false
            },
            "nemo_rl" => { lam = 0.95 },
            "roll" => { masked = Masked::KeepValues, whiten = false },
        },
    }
}

fn credit(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit> {
    if rollouts.floats(&TOKEN_REWARDS)?.is_double() {
        run::<f64>(rollouts, options)
    } else {
        run::<f32>(rollouts, options)
    }
}

fn run<T: Real>(rollouts: &Rollouts<'_>, options: &Options) -> Result<Credit>
where
    Floats<'static>: From<Vec<T>>,
{
    let batch = Batch {
        rollouts,
        options,
        rewards: rollouts.floats(&TOKEN_REWARDS)?,
        values: rollouts.floats(&VALUES)?,
    };
    let mut pair: Pair<T> = fill(rollouts, |scratch, row, advantages, returns| {
        batch.row(scratch, row, advantages, returns)
    })?;
    if options.whiten {
        let Options { ddof, eps, var_floor, .. } = *options;
        let rule = Whitening { ddof: *ddof, eps: *eps, var_floor: *var_floor, ..Whitening::VERL };
        pair.whiten(rollouts, &rule, options.remask)?;
    }
    let mut credit = Credit::new(Values::Tokens(pair.advantages.into()), Counts::default());
    credit.returns = Some(Values::Tokens(pair.returns.into()));
    Ok(credit)
}

struct Batch<'b, 'a> {
    rollouts: &'b Rollouts<'a>,
    options: &'b Options,
    rewards: &'b Floats<'a>,
    values: &'b Floats<'a>,
}

/// One row's tokens.
#[derive(Default)]
struct Scratch {
    mask: Vec<bool>,
    /// Rewards of the tokens that the scan goes over, then their advantages.
    rewards: Vec<f64>,
    /// Values of the same tokens.
    values: Vec<f64>,
    spare: Vec<f64>,
}

impl Batch<'_, '_> {
    fn row<T: Real>(
        &self,
        scratch: &mut Scratch,
        row: usize,
        advantages: &mut [T],
        returns: &mut [T],
    ) -> Result<(RowShape, Moments)> {
        let range = self.rollouts.rows().range(row);
        let prefix = self.rollouts.mask().prefix(range.clone());
        if let (Some(trained), Masked::Skip | Masked::Decay) = (prefix, self.options.masked) {
            let tokens = range.start..range.start + trained;
            self.rewards.read(tokens.clone(), &mut scratch.rewards);
            self.values.read(tokens, &mut scratch.values);
            scratch.scan(self.options);
            if scratch.is_finite() {
                scratch.write(advantages, returns);
                if self.options.masked == Masked::Skip && !self.options.remask {
                    self.values.read(range.start + trained..range.end, &mut scratch.spare);
                    narrow(&scratch.spare, &mut returns[trained..]);
                }
                return Ok((RowShape::Prefix(trained), moments(&advantages[..trained])));
            }
        }
        self.rollouts.mask().read(range.clone(), &mut scratch.mask)?;
        self.rewards.read(range.clone(), &mut scratch.rewards);
        self.values.read(range.clone(), &mut scratch.values);
        scratch.mask_out(self.options.masked);
        scratch.scan(self.options);
        if !scratch.is_finite() {
            let mut reader = self.rollouts.token_rewards()?;
            if !reader.read(row)? {
                return Ok((RowShape::Absent, Moments::default()));
            }
            scratch.rewards.clone_from(&reader.rewards);
            let Scratch { mask, values, .. } = &mut *scratch;
            self.rollouts.read_tokens(&VALUES, self.values, range.clone(), mask, values)?;
            scratch.mask_out(self.options.masked);
            scratch.scan(self.options);
        }
        if self.options.masked == Masked::Skip {
            self.values.read(range, &mut scratch.spare);
            scratch.spread(self.options.remask);
        }
        scratch.write(advantages, returns);
        scratch.spare.clear();
        for (t, &trained) in scratch.mask.iter().enumerate() {
            if trained {
                scratch.spare.push(advantages[t].to_f64());
            } else if self.options.remask {
                (advantages[t], returns[t]) = (T::default(), T::default());
            }
        }
        let shape =
            prefix.filter(|_| self.options.remask).map_or(RowShape::Holes, RowShape::Prefix);
        Ok((shape, moments(&scratch.spare)))
    }
}

impl Scratch {
    /// Leaves in `rewards` and `values` what the scan goes over.
    fn mask_out(&mut self, masked: Masked) {
        let clear = |values: &mut [f64], mask: &[bool]| {
            values.iter_mut().zip(mask).filter(|&(_, &m)| !m).for_each(|(x, _)| *x = 0.0);
        };
        match masked {
            Masked::Nothing => {}
            Masked::KeepValues => clear(&mut self.rewards, &self.mask),
            Masked::Decay => {
                clear(&mut self.rewards, &self.mask);
                clear(&mut self.values, &self.mask);
            }
            Masked::Skip => {
                pack(&mut self.rewards, &self.mask);
                pack(&mut self.values, &self.mask);
            }
        }
    }

    fn scan(&mut self, options: &Options) {
        surprises(&mut self.rewards, &self.values, *options.gamma);
        discounted(&mut self.rewards, *options.gamma * *options.lam);
    }

    /// Whether all that the scan went over was finite: anything else reaches the first token.
    fn is_finite(&self) -> bool {
        self.rewards.first().is_none_or(|first| first.is_finite())
    }

    /// From trained tokens to all tokens of the row, whose own values are in `spare`: masked
    /// tokens get the advantage of the next trained one.
    fn spread(&mut self, remask: bool) {
        let tokens = self.mask.len();
        let mut at = self.rewards.len();
        self.rewards.resize(tokens, 0.0);
        self.values.resize(tokens, 0.0);
        let mut next = 0.0;
        for t in (0..tokens).rev() {
            if self.mask[t] {
                at -= 1;
                next = self.rewards[at];
                self.values[t] = self.values[at];
            } else if !remask {
                self.values[t] = self.spare[t];
            }
            self.rewards[t] = next;
        }
    }

    fn write<T: Real>(&self, advantages: &mut [T], returns: &mut [T]) {
        write(&self.rewards, &self.values, advantages, returns);
    }
}

wide! {
    /// From rewards to `delta_t`, in place.
    fn surprises(rewards: &mut [f64], values: &[f64], gamma: f64) {
        for (r, pair) in rewards.iter_mut().zip(values.windows(2)) {
            *r += gamma * pair[1] - pair[0];
        }
        if let (Some(r), Some(value)) = (rewards.last_mut(), values.last()) {
            *r -= value;
        }
    }
}

wide! {
    fn write<T: Real>(sums: &[f64], values: &[f64], advantages: &mut [T], returns: &mut [T]) {
        let out = advantages.iter_mut().zip(returns);
        for ((advantage, returned), (&a, &v)) in out.zip(sums.iter().zip(values)) {
            *advantage = T::from_f64(a);
            *returned = T::from_f64(a + v);
        }
    }
}

/// Writes a critic's values as they are, but nothing that is not finite.
fn narrow<T: Real>(values: &[f64], out: &mut [T]) {
    for (out, &v) in out.iter_mut().zip(values) {
        *out = T::from_f64(if v.is_finite() { v } else { 0.0 });
    }
}
