//! Tree search over many trees at once, and credit read from trees.
//!
//! [`arena`] holds a tree's nodes, [`rules`] choose among children, [`search`] asks for
//! leaves and takes answers, [`parents`] is a batch of trees that came from elsewhere,
//! [`readout`] what credit from either is made of, [`persist`] keeps a search on disk.
//! Nothing here recurses, and nothing here knows what a node stands for: text, states and
//! models are the caller's. Nothing reads a clock either: a search is a function of the
//! calls that are made to it. Depends on `error`, `exec` and `options`.

pub mod answers;
pub mod arena;
pub mod at;
mod backup;
pub mod hot;
pub mod labels;
pub mod limits;
mod merge;
mod noise;
pub mod parents;
pub mod persist;
mod prefetch;
pub mod random;
pub mod readout;
pub mod request;
pub mod room;
pub mod rules;
pub mod scan;
pub mod search;
mod slab;
mod solve;
pub mod spans;
pub mod states;
pub mod step;
