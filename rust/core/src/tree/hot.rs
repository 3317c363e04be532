//! The record that selection reads of a node, in 24 bytes. Depends on nothing.

/// Most descents that can wait at one node.
pub const MAX_IN_FLIGHT: u16 = (1 << 12) - 1;

const CLOSED: u16 = 1 << 15;
const PROVEN: u16 = 1 << 14;
const SCATTERED: u16 = 1 << 13;
const LINKED: u16 = 1 << 12;

/// What selection reads of a node.
///
/// Statistics are kept for the edge into the node, as seen by whoever chose that edge:
/// `value_sum / visits` is the mean of `reward + gamma * value`, what a parent compares.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Hot {
    /// Sum of the returns backed up over the edge into the node.
    pub value_sum: f64,
    /// Returns backed up.
    pub visits: u32,
    /// Prior probability given by the parent's expansion.
    pub prior: f32,
    /// First child; meaningless without children.
    pub first_child: u32,
    pub(super) flags: u16,
    /// Number of children, in all blocks.
    pub children: u16,
}

impl Hot {
    pub(super) fn new(prior: f32) -> Self {
        Self { value_sum: 0.0, visits: 0, prior, first_child: u32::MAX, flags: 0, children: 0 }
    }

    /// Descents through the node that wait for an answer.
    pub fn in_flight(&self) -> u16 {
        self.flags & MAX_IN_FLIGHT
    }

    /// Whether selection must not enter the node.
    pub fn is_closed(&self) -> bool {
        self.flags & CLOSED != 0
    }

    /// Whether the node is no choice at all, rather than one that was given up.
    pub fn is_masked(&self) -> bool {
        self.is_closed() && self.prior == 0.0 && self.visits == 0
    }

    /// Whether the node's value is known exactly.
    pub fn is_proven(&self) -> bool {
        self.flags & PROVEN != 0
    }

    /// Whether children lie in more than one block.
    pub fn is_scattered(&self) -> bool {
        self.flags & SCATTERED != 0
    }

    /// Whether the node is the same state as an earlier one, which has its children.
    pub fn is_linked(&self) -> bool {
        self.flags & LINKED != 0
    }

    /// Mean return of the edge; 0 without visits.
    pub fn q(&self) -> f64 {
        if self.visits == 0 { 0.0 } else { self.value_sum / f64::from(self.visits) }
    }

    pub(super) fn close(&mut self) {
        self.flags |= CLOSED;
    }

    pub(super) fn prove(&mut self) {
        self.flags |= PROVEN;
    }

    pub(super) fn scatter(&mut self) {
        self.flags |= SCATTERED;
    }

    pub(super) fn link(&mut self) {
        self.flags |= LINKED;
    }
}

crate::state!(Hot { value_sum, visits, prior, first_child, flags, children });
