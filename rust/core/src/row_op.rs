//! Log-probability and entropy of rows of logits on the processor, and their gradient.
//!
//! A row is read once, block by block; sums are `f32` or `f64` within a block, as the
//! logits are, and `f64` across blocks. A row's bits depend on that row alone. May depend
//! on `exec`, `error`, `memory` and `wide`.

mod backward;
mod float;
mod forward;
mod lanes;
mod logit;
mod rows;
#[cfg(test)]
mod tests;

pub use backward::{Pulls, grad};
pub use forward::{RowStats, stats};
pub use logit::Logit;
pub use rows::Rows;
