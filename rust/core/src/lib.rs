//! Credit assignment for reinforcement learning of language models: the engine.
//!
//! Data flows one way, and the modules read in that order: [`rollouts`] (a batch
//! of episodes), [`group`] (what is compared with what), [`credit`] (the
//! methods), [`spread`] (credit written over tokens). No Python here: the crate
//! compiles, tests and documents alone.

pub mod cluster;
pub mod column;
pub mod credit;
pub mod error;
pub mod exec;
pub mod gains;
pub mod group;
pub mod key_mask;
pub mod matching;
pub mod memory;
pub mod nodes;
pub mod option_set;
pub mod options;
pub mod ragged;
pub mod returns;
pub mod reward;
pub mod reward_matrix;
pub mod rollouts;
pub mod row_op;
pub mod rows;
#[cfg(feature = "shell")]
pub mod shell;
pub mod similarity;
pub mod spread;
pub mod stats;
pub mod steps;
pub mod token_baseline;
pub mod tokens;
pub mod tool_calls;
pub mod tree;
pub mod whiten;
mod wide;
