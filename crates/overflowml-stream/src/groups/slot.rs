//! What is going on in one piece of memory.

use std::sync::Arc;

use super::memory::Memory;
use crate::error::StreamError;

/// Memory, the group that is in it or on its way, and who needs it.
pub(super) struct Slot {
    pub(super) memory: Option<Arc<Memory>>,
    pub(super) group: Option<usize>,
    pub(super) kind: Kind,
    /// Times that the group is due in it before it may be given up.
    pub(super) wanted: u32,
    /// Times that the group was acquired and not released.
    pub(super) held: u32,
    /// Reads that are not begun.
    pub(super) queued: usize,
    /// Reads that are under way.
    pub(super) flying: usize,
    /// Changes when reads that are queued or under way are no longer for the group in it.
    pub(super) ticket: u64,
    /// Reading has begun.
    pub(super) begun: bool,
    pub(super) failed: Option<StreamError>,
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One group for ever.
    Resident,
    /// Any group of the order.
    Ring,
    /// One group outside the order, while it is held.
    Once,
}

impl Slot {
    pub(super) fn new(kind: Kind, memory: Arc<Memory>, group: Option<usize>) -> Self {
        Self {
            memory: Some(memory),
            group,
            kind,
            wanted: 0,
            held: 0,
            queued: 0,
            flying: 0,
            ticket: 0,
            begun: false,
            failed: None,
        }
    }

    /// Its group is there, completely.
    pub(super) fn is_ready(&self) -> bool {
        self.begun && self.queued == 0 && self.flying == 0 && self.failed.is_none()
    }

    /// Nobody needs what is in it.
    pub(super) fn is_idle(&self) -> bool {
        self.kind == Kind::Ring && self.wanted == 0 && self.held == 0
    }

    /// It can be given to another group now.
    pub(super) fn is_free(&self) -> bool {
        self.is_idle() && self.flying == 0
    }

    /// Forgets what was read or queued for it; reads that are under way end by themselves.
    pub(super) fn reset(&mut self) {
        self.ticket += 1;
        self.queued = 0;
        self.begun = false;
        self.failed = None;
    }
}
