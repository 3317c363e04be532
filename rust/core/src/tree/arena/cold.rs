//! The record beside the one that selection reads. Depends on nothing.

/// Greatest depth of a node.
pub const MAX_DEPTH: u32 = (1 << DEPTH_BITS) - 1;
const DEPTH_BITS: u32 = 27;

/// Why a node has no children and never will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It may be expanded.
    Open,
    /// An end of the problem: its value is exact.
    Terminal,
    /// It was answered without children, at the depth limit or with the tree full.
    Barren,
}

/// Things that are true of a node, kept above its depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fact {
    /// An end of the problem.
    Terminal = 1 << DEPTH_BITS,
    /// Without children for good, though no end.
    Barren = 1 << (DEPTH_BITS + 1),
    /// Its expansion has been asked for and not been answered.
    Asked = 1 << (DEPTH_BITS + 2),
    /// `raw_value` is known.
    Valued = 1 << (DEPTH_BITS + 3),
    /// Widening brought nothing more.
    Exhausted = 1 << (DEPTH_BITS + 4),
}

/// What is known of a node beside its [`Hot`](crate::tree::hot::Hot) record.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(in crate::tree) struct Cold {
    pub raw_value: f64,
    pub parent: u32,
    depth_and_facts: u32,
}

impl Cold {
    pub fn new(parent: u32, depth: u32) -> Self {
        Self { raw_value: 0.0, parent, depth_and_facts: depth }
    }

    pub fn depth(&self) -> u32 {
        self.depth_and_facts & MAX_DEPTH
    }

    pub fn is(&self, fact: Fact) -> bool {
        self.depth_and_facts & fact as u32 != 0
    }

    pub fn set(&mut self, fact: Fact, truth: bool) {
        let facts = &mut self.depth_and_facts;
        *facts = if truth { *facts | fact as u32 } else { *facts & !(fact as u32) };
    }

    pub fn end(&self) -> End {
        if self.is(Fact::Terminal) {
            End::Terminal
        } else if self.is(Fact::Barren) {
            End::Barren
        } else {
            End::Open
        }
    }
}

crate::state!(Cold { raw_value, parent, depth_and_facts });
