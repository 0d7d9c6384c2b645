//! The threads that read, and those that wait for them.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::GroupCounters;
use super::layout::{Layout, Piece, Place};
use super::memory::{Memory, Slab};
use super::rotation::{Claim, Job, Rotation};
use crate::error::StreamError;
use crate::files::Files;
use crate::load::PANICKED;

/// Readers at work; dropping it ends them.
pub(super) struct Reading {
    shared: Arc<Shared>,
    readers: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    files: Files,
    layouts: Arc<Vec<Layout>>,
    places: Vec<Arc<[Place]>>,
    state: Mutex<State>,
    /// There may be something to read.
    work: Condvar,
    /// A read ended, or all do.
    ended: Condvar,
}

struct State {
    rotation: Rotation,
    stop: Option<Stop>,
    in_flight: usize,
    busy_since: Option<Instant>,
    counters: GroupCounters,
}

/// Why reading ended.
#[derive(Clone, Copy)]
enum Stop {
    Closed,
    Panicked,
}

/// A reader's calls are shallow.
const READER_STACK: usize = 128 << 10;

impl Reading {
    /// Starts `readers` threads that do what `rotation` asks for.
    pub(super) fn start(
        files: Files,
        layouts: Arc<Vec<Layout>>,
        rotation: Rotation,
        readers: usize,
    ) -> Result<Self, StreamError> {
        let places = layouts.iter().map(|layout| layout.places().into()).collect();
        let state = State {
            rotation,
            stop: None,
            in_flight: 0,
            busy_since: None,
            counters: GroupCounters::default(),
        };
        let shared = Arc::new(Shared {
            files,
            layouts,
            places,
            state: Mutex::new(state),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        let reading = Self { shared, readers: Mutex::new(Vec::new()) };
        for reader in 0..readers.max(1) {
            let shared = Arc::clone(&reading.shared);
            let spawned = std::thread::Builder::new()
                .name(format!("reader {reader}"))
                .stack_size(READER_STACK)
                .spawn(move || shared.read_until_stopped());
            // Dropping what there is ends the readers that were started already.
            let thread = spawned.map_err(|source| StreamError::Thread { source })?;
            reading.readers.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(reading)
    }

    /// Waits until `group` is there, and holds it.
    pub(super) fn acquire(&self, group: usize) -> Result<Slab, StreamError> {
        let shared = &*self.shared;
        let mut state = shared.lock();
        state.check_open()?;
        let position = state.rotation.turn_to(group);
        let started = Instant::now();
        let (mut state, slot) = match shared.hold(state, group) {
            Ok(held) => held,
            Err(error) => {
                shared.lock().rotation.turn_back_to(position);
                return Err(error);
            }
        };
        state.rotation.read_ahead(&shared.layouts);
        shared.work.notify_all();
        let waited;
        (state, waited) = shared.wait_for(state, slot);
        if state.rotation.slot(slot).is_ready() {
            if waited {
                state.counters.stall += started.elapsed();
            }
            return shared.slab(&state, group, slot);
        }
        let error = state.failure(slot);
        // It is held and cannot be gone; what is told is why it failed.
        let _ = state.rotation.release(group);
        state.rotation.turn_back_to(position);
        Err(error)
    }

    pub(super) fn release(&self, group: usize) -> Result<(), StreamError> {
        let mut state = self.shared.lock();
        if state.rotation.is_resident(group) {
            return Ok(());
        }
        state.rotation.release(group)?;
        state.rotation.read_ahead(&self.shared.layouts);
        self.shared.work.notify_all();
        self.shared.ended.notify_all();
        Ok(())
    }

    pub(super) fn is_resident(&self, group: usize) -> bool {
        self.shared.lock().rotation.is_resident(group)
    }

    pub(super) fn counters(&self) -> GroupCounters {
        let state = self.shared.lock();
        let running = state.busy_since.map_or(Duration::ZERO, |since| since.elapsed());
        GroupCounters {
            reading: state.counters.reading + running,
            acquired: state.rotation.acquired,
            misses: state.rotation.misses,
            host: state.rotation.host,
            host_peak: state.rotation.host_peak,
            ..state.counters.clone()
        }
    }

    pub(super) fn close(&self) {
        self.shared.stop(Stop::Closed);
        let readers =
            std::mem::take(&mut *self.readers.lock().unwrap_or_else(PoisonError::into_inner));
        for reader in readers {
            // A reader that panicked has nothing to clean up.
            let _ = reader.join();
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// No code that holds the lock can panic halfway through a change, so a poisoned lock is usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, why: Stop) {
        self.lock().stop.get_or_insert(why);
        self.work.notify_all();
        self.ended.notify_all();
    }

    /// Holds `group` in a slot, waiting for one if need be.
    fn hold<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        group: usize,
    ) -> Result<(MutexGuard<'a, State>, usize), StreamError> {
        loop {
            state.check_open()?;
            match state.rotation.claim(group, &self.layouts) {
                Claim::Held(slot) => return Ok((state, slot)),
                Claim::NoSlot => {
                    return Err(StreamError::NoSlot { group, slots: state.rotation.slots() });
                }
                Claim::Outside => {
                    let memory = Memory::new(self.layouts[group].size())?;
                    let slot = state.rotation.hold_outside(group, memory, &self.layouts);
                    return Ok((state, slot));
                }
                Claim::Wait => {
                    state.rotation.set_waiting(true);
                    state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.rotation.set_waiting(false);
                }
            }
        }
    }

    /// Waits until the group that is held in `slot` is there, or will not come. Tells whether it was waited for.
    fn wait_for<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        slot: usize,
    ) -> (MutexGuard<'a, State>, bool) {
        let mut waited = false;
        loop {
            let one = state.rotation.slot(slot);
            if one.is_ready() || one.failed.is_some() || state.stop.is_some() {
                return (state, waited);
            }
            if !one.begun && one.flying == 0 {
                // Reading failed, which somebody else was told: try again.
                state.rotation.begin_again(slot, &self.layouts);
                self.work.notify_all();
            }
            waited = true;
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn slab(&self, state: &State, group: usize, slot: usize) -> Result<Slab, StreamError> {
        let memory = state.rotation.slot(slot).memory.clone().ok_or(StreamError::Closed)?;
        let places = Arc::clone(&self.places[group]);
        Ok(Slab::new(memory, self.layouts[group].size(), places))
    }

    fn read_until_stopped(&self) {
        let _tell = TellOnPanic(self);
        let mut state = self.lock();
        while state.stop.is_none() {
            let Some((job, memory, piece)) = self.next(&mut state) else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let read = self.fill(&memory, piece);
            state = self.lock();
            state.ended(piece, read.is_ok());
            state.rotation.finish(job, read);
            state.rotation.read_ahead(&self.layouts);
            self.ended.notify_all();
        }
    }

    /// The next read, which from now on is under way.
    fn next(&self, state: &mut State) -> Option<(Job, Arc<Memory>, Piece)> {
        let job = state.rotation.next_job()?;
        let memory = state.rotation.slot(job.slot).memory.clone();
        match memory.zip(self.layouts[job.group].pieces().nth(job.piece)) {
            Some((memory, piece)) => {
                state.began();
                Some((job, memory, piece))
            }
            None => {
                state.rotation.finish(job, Err(StreamError::Closed));
                None
            }
        }
    }

    fn fill(&self, memory: &Memory, piece: Piece) -> Result<(), StreamError> {
        let range = piece.at.to_usize().zip(piece.at.saturating_add(piece.room).to_usize());
        // SAFETY: the slot counts this read as under way, and is not given to another group before it ends; the
        // pieces of a group do not overlap, and each is read once; nobody is given the group before all have ended.
        let to = range.and_then(|(start, end)| unsafe { memory.piece(start..end) });
        match to {
            Some(to) => self.files.fill(piece.span, to),
            None => Err(StreamError::Layout {
                what: format!("{} at {} of a slot of {}", piece.room, piece.at, memory.len()),
            }),
        }
    }
}

/// Lets nobody wait for a reader that is gone.
struct TellOnPanic<'a>(&'a Shared);

impl Drop for TellOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(Stop::Panicked);
        }
    }
}

impl State {
    fn check_open(&self) -> Result<(), StreamError> {
        match self.stop {
            None => Ok(()),
            Some(Stop::Closed) => Err(StreamError::Closed),
            Some(Stop::Panicked) => Err(StreamError::Thread { source: io::Error::other(PANICKED) }),
        }
    }

    /// Why the group in `slot` did not come; it may be asked for again.
    fn failure(&mut self, slot: usize) -> StreamError {
        let slot = self.rotation.slot_mut(slot);
        let failed = slot.failed.take();
        if failed.is_some() {
            slot.begun = false;
        }
        failed.or_else(|| self.check_open().err()).unwrap_or(StreamError::Closed)
    }

    fn began(&mut self) {
        self.in_flight += 1;
        self.counters.most_in_flight = self.counters.most_in_flight.max(self.in_flight);
        self.busy_since.get_or_insert_with(Instant::now);
    }

    fn ended(&mut self, piece: Piece, read: bool) {
        self.in_flight -= 1;
        if self.in_flight == 0 {
            let since = self.busy_since.take();
            self.counters.reading += since.map_or(Duration::ZERO, |since| since.elapsed());
        }
        let counters = &mut self.counters;
        counters.reads += 1;
        if read {
            counters.weights_read = counters.weights_read.saturating_add(piece.span.len);
            counters.bytes_read = counters.bytes_read.saturating_add(piece.room);
        }
    }
}
