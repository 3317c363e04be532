//! What every credit from trees is made of: values of nodes, spreads of siblings, segments.
//!
//! Depends on `parents`; serves the arena's trees and those from elsewhere alike.

pub mod pack;
pub mod pairs;
pub mod segments;
pub mod siblings;
pub mod values;
