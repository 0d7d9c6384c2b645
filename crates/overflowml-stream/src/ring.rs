//! Readers that run ahead of use: streamed blocks, in order, pass after pass, into slots that rotate.
//!
//! A slot is a [`Buffer`] that is handed from owner to owner: the free list, a reader, the finished
//! reads, the consumer, the free list. Nobody can see a slot that is being written.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use overflowml_plan::{Block, Ring as RingPlan};
use overflowml_types::Bytes;

use crate::buffer::Buffer;
use crate::counters::Counters;
use crate::error::StreamError;
use crate::files::Files;
use crate::load::PANICKED;

/// The slots and the threads that fill them.
pub(crate) struct Ring {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

struct Shared {
    files: Arc<Files>,
    /// What streams, in order of use.
    blocks: Vec<Block>,
    state: Mutex<State>,
    /// A slot became free, or more reads are wanted.
    work: Condvar,
    /// A read finished.
    finished: Condvar,
}

/// Reads are numbered: block `n % blocks` of pass `n / blocks`.
#[derive(Default)]
struct State {
    free: Vec<Buffer>,
    done: HashMap<u64, Result<Buffer, StreamError>>,
    /// The next read to begin.
    next: u64,
    /// The first read that is not wanted.
    end: u64,
    /// Changes when reads that are under way are no longer wanted.
    generation: u64,
    stop: bool,
    in_flight: usize,
    busy_since: Option<Instant>,
    streamed: Bytes,
    reads: u64,
    reading: Duration,
    most_in_flight: usize,
}

/// A block in its slot. Dropping it frees the slot.
pub(crate) struct Filled<'a> {
    ring: &'a Ring,
    slot: Option<Buffer>,
}

impl Ring {
    /// Allocates the slots and starts reading `blocks`, which must not be empty.
    pub(crate) fn start(
        files: Arc<Files>,
        blocks: Vec<Block>,
        plan: RingPlan,
        readers: usize,
    ) -> Result<Self, StreamError> {
        let mut free =
            (0..plan.slots).map(|_| Buffer::new(plan.slot)).collect::<Result<Vec<_>, _>>()?;
        // Touched now, so that the memory is had before the first token or not at all.
        free.iter_mut().for_each(|slot| slot.fill(0));
        let state = State { free, end: u64::MAX, ..State::default() };
        let shared = Arc::new(Shared {
            files,
            blocks,
            state: Mutex::new(state),
            work: Condvar::new(),
            finished: Condvar::new(),
        });
        let mut ring = Self { shared, readers: Vec::new() };
        for reader in 0..readers.clamp(1, plan.slots.max(1)) {
            let shared = Arc::clone(&ring.shared);
            let spawned = std::thread::Builder::new()
                .name(format!("reader {reader}"))
                .stack_size(READER_STACK)
                .spawn(move || shared.read_until_stopped());
            // Dropping the ring ends the readers that were started already.
            ring.readers.push(spawned.map_err(|source| StreamError::Thread { source })?);
        }
        Ok(ring)
    }

    /// Waits for read number `number`. Returns the block's slot and how long it was waited for.
    ///
    /// Reads must be taken in order, each once.
    pub(crate) fn take(&self, number: u64) -> (Result<Filled<'_>, StreamError>, Duration) {
        let mut state = self.shared.lock();
        if let Some(done) = state.done.remove(&number) {
            return (self.filled(done), Duration::ZERO);
        }
        let waiting = Instant::now();
        if state.end <= number {
            // Wanted after all.
            state.end = number + 1;
            self.shared.work.notify_all();
        }
        loop {
            if state.stop {
                let source = io::Error::other(PANICKED);
                return (Err(StreamError::Thread { source }), waiting.elapsed());
            }
            state = self.shared.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
            if let Some(done) = state.done.remove(&number) {
                return (self.filled(done), waiting.elapsed());
            }
        }
    }

    fn filled(&self, done: Result<Buffer, StreamError>) -> Result<Filled<'_>, StreamError> {
        done.map(|slot| Filled { ring: self, slot: Some(slot) })
    }

    /// Reads from number `end` on are not wanted for now.
    pub(crate) fn read_until(&self, end: u64) {
        self.shared.lock().end = end;
        self.shared.work.notify_all();
    }

    /// Forgets what was read, and begins again with number 0. No [`Filled`] may be held.
    pub(crate) fn restart(&self) {
        let mut state = self.shared.lock();
        let unused: Vec<Buffer> = state.done.drain().filter_map(|(_, done)| done.ok()).collect();
        state.free.extend(unused);
        state.generation += 1;
        state.next = 0;
        self.shared.work.notify_all();
    }

    /// Adds this ring's counts to `counters`.
    pub(crate) fn count(&self, counters: &mut Counters) {
        let state = self.shared.lock();
        counters.streamed = state.streamed;
        counters.reads = state.reads;
        counters.most_in_flight = state.most_in_flight;
        let running = state.busy_since.map_or(Duration::ZERO, |since| since.elapsed());
        counters.reading = state.reading + running;
    }
}

/// A reader's calls are shallow; the default of 2 MiB would only be address space, but counts where
/// stacks are populated at once.
pub(crate) const READER_STACK: usize = 128 << 10;

impl Shared {
    /// No code that holds the lock can panic halfway through a change, so a poisoned lock is usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_until_stopped(&self) {
        let _tell = TellOnPanic(self);
        let mut state = self.lock();
        loop {
            if state.stop {
                return;
            }
            let Some((number, mut slot)) = state.begin() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let generation = state.generation;
            drop(state);
            let read = self.fill(number, &mut slot);
            state = self.lock();
            state.ended();
            if state.generation == generation {
                state.finish(number, slot, read);
                self.finished.notify_all();
            } else {
                state.free.push(slot);
            }
        }
    }

    fn fill(&self, number: u64, slot: &mut Buffer) -> Result<Bytes, StreamError> {
        let index = (number % self.blocks.len() as u64) as usize;
        let span = self.blocks[index].span;
        let len = self.blocks[index].stored().len;
        let room = slot.len();
        match len.to_usize().and_then(|len| slot.get_mut(..len)) {
            Some(buf) => self.files.fill(span, buf).map(|()| len),
            None => Err(StreamError::Order { what: format!("{len} for a slot of {room} bytes") }),
        }
    }
}

/// Lets nobody wait for a reader that is gone.
struct TellOnPanic<'a>(&'a Shared);

impl Drop for TellOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().stop = true;
            self.0.finished.notify_all();
        }
    }
}

impl State {
    /// Takes the next read and a slot for it, if both are there.
    fn begin(&mut self) -> Option<(u64, Buffer)> {
        if self.next >= self.end {
            return None;
        }
        let slot = self.free.pop()?;
        let number = self.next;
        self.next += 1;
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
        self.busy_since.get_or_insert_with(Instant::now);
        Some((number, slot))
    }

    fn ended(&mut self) {
        self.in_flight -= 1;
        if self.in_flight == 0 {
            self.reading += self.busy_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        }
    }

    fn finish(&mut self, number: u64, slot: Buffer, read: Result<Bytes, StreamError>) {
        self.reads += 1;
        match read {
            Ok(len) => {
                self.streamed = self.streamed.saturating_add(len);
                self.done.insert(number, Ok(slot));
            }
            Err(error) => {
                // Whoever waits is told; nothing more is read until the pass begins again.
                self.free.push(slot);
                self.end = self.next;
                self.done.insert(number, Err(error));
            }
        }
    }
}

impl Filled<'_> {
    /// The slot; the block begins where it begins in its aligned file span.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.slot.as_deref().unwrap_or(&[])
    }
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        self.ring.shared.lock().free.extend(self.slot.take());
        self.ring.shared.work.notify_one();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for reader in self.readers.drain(..) {
            // A reader that panicked has nothing to clean up: its slot is gone with it.
            let _ = reader.join();
        }
    }
}
