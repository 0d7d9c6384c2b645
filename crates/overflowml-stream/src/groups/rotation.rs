//! Which group goes into which slot, and when: the decisions, without threads or reads.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use overflowml_types::Bytes;

use super::layout::Layout;
use super::memory::Memory;
use super::slot::{Kind, Slot};
use crate::error::StreamError;

/// The slots, what is in them, and where in the order its user is.
///
/// Positions count through the passes: the group at position `n` is `order[n % order.len()]`.
pub(super) struct Rotation {
    order: Vec<usize>,
    cyclic: bool,
    slots: Vec<Slot>,
    /// The slot of each group that is in one or on its way to one.
    at: HashMap<usize, usize>,
    /// The position that is expected to be acquired next.
    due: u64,
    /// The first position that no slot was found for yet; never before `due`.
    ahead: u64,
    /// Groups that somebody waits for without a slot: reading ahead must not take it.
    waiting: usize,
    /// Reads to begin, the most urgent first.
    queue: VecDeque<Job>,
    scheduled: HashSet<usize>,
    pub(super) acquired: u64,
    pub(super) misses: u64,
    pub(super) host: Bytes,
    pub(super) host_peak: Bytes,
}

/// A read to do: piece `piece` of `group` into `slot`, unless the slot's ticket has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) slot: usize,
    pub(super) group: usize,
    pub(super) piece: usize,
    ticket: u64,
}

/// What an attempt to get at a group came to.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is being held in this slot, there or on its way.
    Held(usize),
    /// A slot will become free when a read ends.
    Wait,
    /// All are held.
    NoSlot,
    /// It is not in the order: it needs memory of its own.
    Outside,
}

impl Rotation {
    /// Allocates memory for what stays and the slots.
    pub(super) fn new(
        layouts: &[Layout],
        resident: &[usize],
        order: Vec<usize>,
        slots: usize,
        cyclic: bool,
    ) -> Result<Self, StreamError> {
        let scheduled: HashSet<usize> = order.iter().copied().collect();
        let slot_size = scheduled.iter().map(|&group| layouts[group].size()).max();
        let mut all = Vec::new();
        for &group in resident {
            all.push(Slot::new(Kind::Resident, Memory::new(layouts[group].size())?, Some(group)));
        }
        // More slots than groups would stay empty.
        for _ in 0..slots.min(scheduled.len()) {
            all.push(Slot::new(Kind::Ring, Memory::new(slot_size.unwrap_or(Bytes::ZERO))?, None));
        }
        let at = resident.iter().enumerate().map(|(slot, &group)| (group, slot)).collect();
        let host = all.iter().filter_map(|slot| slot.memory.as_ref()).map(|one| one.len()).sum();
        let mut rotation = Self {
            order,
            cyclic,
            slots: all,
            at,
            due: 0,
            ahead: 0,
            waiting: 0,
            queue: VecDeque::new(),
            scheduled,
            acquired: 0,
            misses: 0,
            host,
            host_peak: host,
        };
        for slot in 0..resident.len() {
            rotation.begin(slot, layouts, false);
        }
        rotation.read_ahead(layouts);
        Ok(rotation)
    }

    pub(super) fn slot(&self, slot: usize) -> &Slot {
        &self.slots[slot]
    }

    pub(super) fn slot_mut(&mut self, slot: usize) -> &mut Slot {
        &mut self.slots[slot]
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.kind == Kind::Ring).count()
    }

    /// Gives the groups that come next to slots that are free.
    pub(super) fn read_ahead(&mut self, layouts: &[Layout]) {
        let length = self.order.len() as u64;
        if self.waiting > 0 || length == 0 {
            return;
        }
        let end = if self.cyclic {
            u64::MAX
        } else {
            // Of the pass that was begun last.
            (self.due.saturating_sub(1) / length + 1) * length
        };
        while self.ahead < end.min(self.due.saturating_add(length)) {
            let group = self.group_at(self.ahead);
            let slot = match self.at.get(&group) {
                Some(&slot) => slot,
                None => match self.free_slot() {
                    Some(slot) => {
                        self.give(slot, group, layouts, false);
                        slot
                    }
                    None => return,
                },
            };
            self.slots[slot].wanted += 1;
            self.ahead += 1;
        }
    }

    /// Moves the schedule to `group`, and returns its position; `None` if it is not in the order.
    ///
    /// What was read ahead for positions before it is given up.
    pub(super) fn turn_to(&mut self, group: usize) -> Option<u64> {
        self.acquired += 1;
        if !self.scheduled.contains(&group) {
            return None;
        }
        let length = self.order.len() as u64;
        let position =
            (self.due..self.due + length).find(|&position| self.group_at(position) == group)?;
        self.misses += u64::from(position != self.due);
        for passed in self.due..position.min(self.ahead) {
            self.unwant(self.group_at(passed));
        }
        if position < self.ahead {
            self.unwant_but_keep(group);
        }
        self.due = position + 1;
        self.ahead = self.ahead.max(self.due);
        Some(position)
    }

    /// The group at `position` was not had: it is due again.
    pub(super) fn turn_back_to(&mut self, position: Option<u64>) {
        if let Some(position) = position.filter(|position| position + 1 == self.due) {
            self.due = position;
        }
    }

    /// Holds `group` in its slot, or in one that can be had for it.
    pub(super) fn claim(&mut self, group: usize, layouts: &[Layout]) -> Claim {
        if let Some(&slot) = self.at.get(&group) {
            self.slots[slot].held += 1;
            return Claim::Held(slot);
        }
        if !self.scheduled.contains(&group) {
            return Claim::Outside;
        }
        // What comes last is given up first.
        while !self.slots.iter().any(Slot::is_idle) && self.ahead > self.due {
            self.ahead -= 1;
            self.unwant(self.group_at(self.ahead));
        }
        match self.free_slot() {
            Some(slot) => {
                self.give(slot, group, layouts, true);
                self.slots[slot].held = 1;
                Claim::Held(slot)
            }
            None if self.slots.iter().any(Slot::is_idle) => Claim::Wait,
            None => Claim::NoSlot,
        }
    }

    /// Reads the group in `slot` once more, after reading it failed.
    pub(super) fn begin_again(&mut self, slot: usize, layouts: &[Layout]) {
        self.begin(slot, layouts, true);
    }

    pub(super) fn is_resident(&self, group: usize) -> bool {
        self.at.get(&group).is_some_and(|&slot| self.slots[slot].kind == Kind::Resident)
    }

    /// Somebody waits for a slot, or no longer does.
    pub(super) fn set_waiting(&mut self, waits: bool) {
        self.waiting = if waits { self.waiting + 1 } else { self.waiting - 1 };
    }

    /// Holds `group`, which is outside the order, in memory of its own.
    pub(super) fn hold_outside(
        &mut self,
        group: usize,
        memory: Arc<Memory>,
        layouts: &[Layout],
    ) -> usize {
        self.host = self.host.saturating_add(memory.len());
        self.host_peak = self.host_peak.max(self.host);
        let mut fresh = Slot::new(Kind::Once, memory, Some(group));
        fresh.held = 1;
        // Its place in the list may be that of one that is gone; reads for that one know it by its ticket.
        let gone =
            |slot: &Slot| slot.kind == Kind::Once && slot.memory.is_none() && slot.flying == 0;
        let slot = match self.slots.iter().position(gone) {
            Some(slot) => {
                fresh.ticket = self.slots[slot].ticket + 1;
                self.slots[slot] = fresh;
                slot
            }
            None => {
                self.slots.push(fresh);
                self.slots.len() - 1
            }
        };
        self.at.insert(group, slot);
        self.begin(slot, layouts, true);
        slot
    }

    /// Gives back one hold on `group`.
    pub(super) fn release(&mut self, group: usize) -> Result<(), StreamError> {
        let held = self.at.get(&group).copied().filter(|&slot| self.slots[slot].held > 0);
        let Some(slot) = held else {
            return Err(StreamError::Order {
                what: format!("group {group} is released, but not held"),
            });
        };
        self.slots[slot].held -= 1;
        self.tidy(slot);
        Ok(())
    }

    /// The next read to begin.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        while let Some(job) = self.queue.pop_front() {
            let slot = &mut self.slots[job.slot];
            if slot.ticket == job.ticket {
                slot.queued -= 1;
                slot.flying += 1;
                return Some(job);
            }
        }
        None
    }

    /// A read ended.
    pub(super) fn finish(&mut self, job: Job, read: Result<(), StreamError>) {
        let slot = &mut self.slots[job.slot];
        slot.flying -= 1;
        if let (Err(error), true) = (read, slot.ticket == job.ticket) {
            slot.reset();
            slot.failed = Some(error);
        }
        self.tidy(job.slot);
    }

    fn group_at(&self, position: u64) -> usize {
        self.order[(position % self.order.len() as u64) as usize]
    }

    /// The slot that another group can have: an empty one, else the one whose group is due last.
    fn free_slot(&self) -> Option<usize> {
        let free = (0..self.slots.len()).filter(|&slot| self.slots[slot].is_free());
        free.max_by_key(|&slot| self.slots[slot].group.map_or(u64::MAX, |group| self.until(group)))
    }

    /// Positions before `group` is due.
    fn until(&self, group: usize) -> u64 {
        let length = self.order.len() as u64;
        (0..length).find(|&ahead| self.group_at(self.due + ahead) == group).unwrap_or(length)
    }

    /// Gives `slot` to `group` and begins to read it.
    fn give(&mut self, slot: usize, group: usize, layouts: &[Layout], urgent: bool) {
        if let Some(before) = self.slots[slot].group.replace(group) {
            self.at.remove(&before);
        }
        self.at.insert(group, slot);
        self.begin(slot, layouts, urgent);
    }

    fn begin(&mut self, slot: usize, layouts: &[Layout], urgent: bool) {
        self.slots[slot].reset();
        let Some(group) = self.slots[slot].group else { return };
        let count = layouts[group].pieces().count();
        self.slots[slot].queued = count;
        self.slots[slot].begun = true;
        let ticket = self.slots[slot].ticket;
        let jobs = (0..count).map(|piece| Job { slot, group, piece, ticket });
        if urgent {
            jobs.rev().for_each(|job| self.queue.push_front(job));
        } else {
            self.queue.extend(jobs);
        }
    }

    /// One position fewer needs `group`.
    fn unwant(&mut self, group: usize) {
        self.unwant_but_keep(group);
        if let Some(&slot) = self.at.get(&group) {
            self.tidy(slot);
        }
    }

    fn unwant_but_keep(&mut self, group: usize) {
        if let Some(&slot) = self.at.get(&group) {
            self.slots[slot].wanted = self.slots[slot].wanted.saturating_sub(1);
        }
    }

    /// Takes what nobody needs out of a slot, unless all of it is there and may be used again.
    fn tidy(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let gone = match slot.kind {
            Kind::Resident => false,
            Kind::Ring => slot.is_idle() && !slot.is_ready(),
            Kind::Once => slot.held == 0,
        };
        if !gone {
            return;
        }
        slot.reset();
        if let Some(group) = slot.group.take() {
            self.at.remove(&group);
        }
        if slot.kind == Kind::Once
            && let Some(memory) = slot.memory.take()
        {
            self.host = self.host.left_after(memory.len());
        }
    }
}
