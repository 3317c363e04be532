//! `reinforce_pp`: discounted token returns, whitened over the batch.

use crate::choice;
use crate::column::{Floats, TOKEN_REWARDS};
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
    /// What a masked token does to the return of the tokens before it.
    AtMask {
        /// It passes on undecayed, without the masked token's reward.
        Carry = "carry",
        /// It decays, without the masked token's reward.
        Decay = "decay",
        /// It starts anew: neither the masked token's reward nor anything after it reaches
        /// the tokens before it.
        Reset = "reset",
    }
}

crate::method! {
    /// REINFORCE++: the discounted reward from each token on, whitened over all tokens of
    /// the batch instead of compared within a group.
    ///
    /// # Formula
    ///
    /// `G_t = r_t + gamma G_{t+1}` over the trained tokens of a row, `t + 1` being the next
    /// trained token; `A = (G - mean) / sqrt(max(var, var_floor) + eps)` over all trained
    /// tokens of the batch. Returns are `G`.
    ///
    /// # Source
    ///
    /// Hu et al. 2025, arXiv:2501.03262. verl 0.9 carries returns across masked tokens;
    /// older versions and SkyRL start anew there (`at_mask="reset"`), so that tool output
    /// cuts credit off. OpenRLHF's `reinforce` decays across them.
    ///
    /// # Degenerate cases
    ///
    /// Equal returns, or at most `ddof` trained tokens, whiten to exactly 0. A row with a
    /// NaN reward is left out and gets 0.
    "reinforce_pp" {
        title: "REINFORCE++",
        granularity: Token,
        family: "batch baseline",
        paper: "arXiv:2501.03262",
        certainty: Code,
        batch_wide: |_| true,
        needs: [TOKEN_REWARDS],
        takes: [],
        options: {
            /// Discount of later rewards.
            gamma: Unit = 1.0,
            /// What a masked token does to the return of the tokens before it.
            at_mask: AtMask = AtMask::Carry,
            /// Degrees of freedom taken off in the variance of the whitening.
            ddof: NonNegative = 1.0,
            /// Added to the variance, inside the root.
            eps: NonNegative = 1e-8,
            /// Smallest variance of the whitening.
            var_floor: NonNegative = 0.0,
            /// Whether returns of masked tokens are set to 0. Otherwise those of
            /// `at_mask="reset"` and `"decay"` stay. Advantages of masked tokens are 0.
            remask: bool = true,
        },
        presets: {
            "verl" => {},
            "skyrl" => { at_mask = AtMask::Reset, remask = false },
            "openrlhf" => {
                at_mask = AtMask::Decay, ddof = 0.0, eps = 0.0, var_floor = 1e-8, remask = false
            },
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
    let rewards = rollouts.floats(&TOKEN_REWARDS)?;
    let batch = Batch { rollouts, options, rewards };
    let mut pair: Pair<T> =
        fill(rollouts, |scratch, row, _, returns| batch.row(scratch, row, returns))?;
    let Options { ddof, eps, var_floor, .. } = *options;
    let rule = Whitening { ddof: *ddof, eps: *eps, var_floor: *var_floor, ..Whitening::VERL };
    pair.whiten_returns(rollouts, &rule)?;
    let mut credit = Credit::new(Values::Tokens(pair.advantages.into()), Counts::default());
    credit.returns = Some(Values::Tokens(pair.returns.into()));
    Ok(credit)
}

struct Batch<'b, 'a> {
    rollouts: &'b Rollouts<'a>,
    options: &'b Options,
    rewards: &'b Floats<'a>,
}

/// One row's tokens.
#[derive(Default)]
struct Scratch {
    mask: Vec<bool>,
    /// Rewards, then returns.
    rewards: Vec<f64>,
}

impl Batch<'_, '_> {
    fn row<T: Real>(
        &self,
        scratch: &mut Scratch,
        row: usize,
        returns: &mut [T],
    ) -> Result<(RowShape, Moments)> {
        let range = self.rollouts.rows().range(row);
        let padding_stays_zero = self.options.remask || self.options.at_mask != AtMask::Reset;
        let prefix = self.rollouts.mask().prefix(range.clone()).filter(|_| padding_stays_zero);
        if let Some(trained) = prefix {
            self.rewards.read(range.start..range.start + trained, &mut scratch.rewards);
            discounted(&mut scratch.rewards, *self.options.gamma);
            if scratch.is_finite() {
                narrow(&scratch.rewards, returns);
                return Ok((RowShape::Prefix(trained), moments(&returns[..trained])));
            }
        }
        self.rollouts.mask().read(range.clone(), &mut scratch.mask)?;
        self.rewards.read(range, &mut scratch.rewards);
        scratch.accumulate(self.options);
        if !scratch.is_finite() {
            let mut reader = self.rollouts.token_rewards()?;
            if !reader.read(row)? {
                return Ok((RowShape::Absent, Moments::default()));
            }
            scratch.rewards.clone_from(&reader.rewards);
            scratch.accumulate(self.options);
        }
        scratch.write(self.options, returns);
        Ok((RowShape::Holes, moments(&scratch.rewards)))
    }
}

impl Scratch {
    /// From rewards to returns: of trained tokens alone with `Carry`, else of all.
    fn accumulate(&mut self, options: &Options) {
        match options.at_mask {
            AtMask::Carry => {
                pack(&mut self.rewards, &self.mask);
                discounted(&mut self.rewards, *options.gamma);
            }
            AtMask::Decay => {
                let masked = self.rewards.iter_mut().zip(&self.mask).filter(|&(_, &m)| !m);
                masked.for_each(|(r, _)| *r = 0.0);
                discounted(&mut self.rewards, *options.gamma);
            }
            AtMask::Reset => {
                let mut later = 0.0;
                for (r, &trained) in self.rewards.iter_mut().zip(&self.mask).rev() {
                    *r += *options.gamma * later;
                    later = if trained { *r } else { 0.0 };
                }
            }
        }
    }

    /// Whether the rewards were. What starts anew at masked tokens hides them from the first.
    fn is_finite(&self) -> bool {
        self.rewards.iter().fold(true, |all, r| all & r.is_finite())
    }

    /// Writes the returns, and leaves those of trained tokens as they were written.
    fn write<T: Real>(&mut self, options: &Options, returns: &mut [T]) {
        let packed = options.at_mask == AtMask::Carry;
        let mut at = 0;
        for (t, &trained) in self.mask.iter().enumerate() {
            let value = T::from_f64(if packed {
                *self.rewards.get(at).unwrap_or(&0.0)
            } else {
                self.rewards[t]
            });
            if trained {
                returns[t] = value;
                self.rewards[at] = value.to_f64();
                at += 1;
            } else if !options.remask && !packed {
                returns[t] = value;
            }
        }
        self.rewards.truncate(at);
    }
}

wide! {
    fn narrow<T: Real>(values: &[f64], out: &mut [T]) {
        for (out, &x) in out.iter_mut().zip(values) {
            *out = T::from_f64(x);
        }
    }
}
