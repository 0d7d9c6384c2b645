//! Experts of mixtures: which of them a pass needs is known only when a layer's router has spoken. What is often used
//! stays in memory; the rest is read then, by several readers at once.
//!
//! Experts lie in pieces of one slot each. A slot is a [`Buffer`] that is handed from owner to owner: the free list, a
//! reader, the finished reads, the consumer, and from there to the cache or back to the free list.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use overflowml_plan::{Block, ExpertCache};
use overflowml_types::{Bytes, PassWeight, WeightRole};

use crate::buffer::Buffer;
use crate::counters::ExpertCounters;
use crate::error::StreamError;
use crate::files::Files;
use crate::frecency::Frecency;
use crate::load::PANICKED;

/// An expert that some tokens of a pass have chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its number in its layer.
    pub expert: u32,
    /// The first of its weights in the pass's list.
    pub weight: usize,
    /// How many tokens have chosen it.
    pub tokens: u32,
}

impl Wanted {
    /// None in particular.
    pub const NONE: Self = Self { expert: u32::MAX, weight: usize::MAX, tokens: 0 };
}

/// The cache, and the threads that fill it.
pub(crate) struct Demand {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
    experts: Vec<Expert>,
    /// By first weight in the pass's list.
    by_weight: BTreeMap<usize, usize>,
    layers: Vec<Layer>,
    /// By piece: its slot, if it is in memory and not lent.
    cached: Vec<Option<Buffer>>,
    /// Pieces of the present visit that were not taken yet.
    due: VecDeque<usize>,
    failed: bool,
    counters: ExpertCounters,
}

struct Expert {
    layer: usize,
    pieces: Range<usize>,
    use_: Frecency,
    /// The present visit has not yet taken all of its pieces.
    pending: bool,
}

/// What one layer keeps.
struct Layer {
    most: usize,
    /// Pieces, in no order.
    kept: Vec<usize>,
    /// Choices of experts so far.
    clock: f64,
    /// Choices after which a choice counts half.
    half_life: f64,
}

struct Shared {
    files: Arc<Files>,
    pieces: Vec<Block>,
    state: Mutex<State>,
    /// There is something to read, or a slot became free.
    work: Condvar,
    /// A read finished.
    finished: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<Buffer>,
    /// Pieces to read, in order.
    requests: VecDeque<usize>,
    done: HashMap<usize, Result<Buffer, StreamError>>,
    /// Changes when reads that are under way are no longer wanted.
    generation: u64,
    stop: bool,
    in_flight: usize,
    busy_since: Option<Instant>,
    reading: Duration,
    reads: u64,
    read: Bytes,
}

/// A piece in its slot. Dropping it decides whether it stays.
pub(crate) struct Lent<'a> {
    demand: &'a mut Demand,
    piece: usize,
    slot: Option<Buffer>,
}

impl Demand {
    /// Allocates the slots and starts the readers.
    pub(crate) fn start(
        files: Arc<Files>,
        weights: &[PassWeight],
        plan: &ExpertCache,
        readers: usize,
    ) -> Result<Self, StreamError> {
        let slots = plan.spare + plan.kept;
        let mut free = (0..slots).map(|_| Buffer::new(plan.slot)).collect::<Result<Vec<_>, _>>()?;
        // Touched now, so that the memory is had before the first token or not at all.
        free.iter_mut().for_each(|slot| slot.fill(0));
        let pieces = plan.pieces.clone();
        let experts = experts(weights, &pieces);
        let by_weight =
            experts.iter().enumerate().map(|(index, it)| (pieces[it.pieces.start].weight, index));
        let mut demand = Self {
            by_weight: by_weight.collect(),
            layers: layers(&experts, plan),
            cached: pieces.iter().map(|_| None).collect(),
            // As many as a visit can ask for: nothing is allocated later.
            due: VecDeque::with_capacity(most_pieces(&experts)),
            failed: false,
            counters: ExpertCounters::default(),
            shared: Arc::new(Shared {
                files,
                state: Mutex::new(State {
                    free,
                    requests: VecDeque::with_capacity(most_pieces(&experts)),
                    done: HashMap::with_capacity(2 * slots),
                    ..State::default()
                }),
                pieces,
                work: Condvar::new(),
                finished: Condvar::new(),
            }),
            readers: Vec::new(),
            experts,
        };
        for reader in 0..readers.clamp(1, slots.max(1)) {
            let shared = Arc::clone(&demand.shared);
            let spawned = std::thread::Builder::new()
                .name(format!("experts {reader}"))
                .stack_size(crate::ring::READER_STACK)
                .spawn(move || shared.read_until_stopped());
            // Dropping the demand ends the readers that were started already.
            demand.readers.push(spawned.map_err(|source| StreamError::Thread { source })?);
        }
        Ok(demand)
    }

    /// Begins to read what is not in memory of `wanted`; see [`Store::want_experts`](crate::Store::want_experts).
    pub(crate) fn want(
        &mut self,
        wanted: &mut [Wanted],
        in_order: bool,
    ) -> Result<(), StreamError> {
        if self.failed || !self.due.is_empty() {
            let what = match self.failed {
                true => "a pass goes on after a failed read".to_owned(),
                false => format!("experts are wanted, but {} pieces are due", self.due.len()),
            };
            return Err(StreamError::Order { what });
        }
        for wanted in wanted.iter() {
            self.expert(wanted)?;
        }
        self.count_uses(wanted);
        if !in_order {
            wanted.sort_unstable_by_key(|it| (!self.is_cached(it.weight), it.expert));
        }
        let mut state = self.shared.lock();
        for wanted in wanted.iter() {
            let Some(expert) = self.by_weight.get(&wanted.weight) else { continue };
            let expert = &mut self.experts[*expert];
            expert.pending = true;
            for piece in expert.pieces.clone() {
                self.due.push_back(piece);
                let len = self.shared.pieces[piece].span.len;
                self.counters.used = self.counters.used.saturating_add(len);
                if self.cached[piece].is_none() {
                    self.counters.missed = self.counters.missed.saturating_add(len);
                    state.requests.push_back(piece);
                }
            }
        }
        drop(state);
        self.shared.work.notify_all();
        Ok(())
    }

    fn expert(&self, wanted: &Wanted) -> Result<&Expert, StreamError> {
        let expert = self.by_weight.get(&wanted.weight).map(|&expert| &self.experts[expert]);
        expert.ok_or_else(|| StreamError::Order {
            what: format!("weight {} begins no expert", wanted.weight),
        })
    }

    /// Notes how often each expert was chosen; all are of one layer.
    fn count_uses(&mut self, wanted: &[Wanted]) {
        let choices: f64 = wanted.iter().map(|it| f64::from(it.tokens)).sum();
        let first = wanted.first().and_then(|it| self.by_weight.get(&it.weight));
        let Some(layer) = first.map(|&expert| self.experts[expert].layer) else { return };
        let layer = &mut self.layers[layer];
        layer.clock += choices;
        for wanted in wanted {
            if let Some(&expert) = self.by_weight.get(&wanted.weight) {
                let now = layer.clock / layer.half_life;
                self.experts[expert].use_.add(f64::from(wanted.tokens), now);
            }
        }
    }

    fn is_cached(&self, weight: usize) -> bool {
        let expert = self.by_weight.get(&weight).map(|&expert| &self.experts[expert]);
        expert.is_some_and(|it| it.pieces.clone().all(|piece| self.cached[piece].is_some()))
    }

    /// Lends `piece`, which must be the next one due; waits until it is in memory.
    pub(crate) fn take(&mut self, piece: usize) -> Result<Lent<'_>, StreamError> {
        if self.due.front() != Some(&piece) {
            let due = self.due.front().map_or("none".to_owned(), ToString::to_string);
            return Err(StreamError::Order { what: format!("piece {piece}, but {due} is due") });
        }
        let slot = match self.cached[piece].take() {
            Some(slot) => slot,
            None => self.wait_for(piece)?,
        };
        self.due.pop_front();
        Ok(Lent { demand: self, piece, slot: Some(slot) })
    }

    fn wait_for(&mut self, piece: usize) -> Result<Buffer, StreamError> {
        let mut state = self.shared.lock();
        let mut waiting = None;
        let done = loop {
            if let Some(done) = state.done.remove(&piece) {
                break done;
            }
            if state.stop {
                let source = io::Error::other(PANICKED);
                break Err(StreamError::Thread { source });
            }
            waiting.get_or_insert_with(Instant::now);
            state = self.shared.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        self.counters.stall += waiting.map_or(Duration::ZERO, |since| since.elapsed());
        self.failed |= done.is_err();
        done
    }

    /// A piece was used: keeps it if it is used more often than what its layer keeps.
    fn settle(&mut self, piece: usize, slot: Buffer) {
        let block = &self.shared.pieces[piece];
        let Some(index) = self.expert_of(block.weight) else { return self.shared.free(slot) };
        if piece + 1 == self.experts[index].pieces.end {
            self.experts[index].pending = false;
        }
        let (experts, layer) = (&self.experts, &mut self.layers[self.experts[index].layer]);
        if layer.kept.contains(&piece) {
            self.cached[piece] = Some(slot);
            return;
        }
        if layer.kept.len() < layer.most {
            layer.kept.push(piece);
            self.cached[piece] = Some(slot);
            return;
        }
        let owner = |piece: usize| {
            let weight = self.shared.pieces[piece].weight;
            self.by_weight.range(..=weight).next_back().map(|(_, &expert)| &experts[expert])
        };
        let least = layer.kept.iter().enumerate().filter_map(|(place, &piece)| {
            let expert = owner(piece)?;
            (!expert.pending).then_some((place, expert.use_))
        });
        let least = least.min_by(|(_, a), (_, b)| a.cmp(*b));
        match least {
            Some((place, use_)) if use_.cmp(experts[index].use_).is_lt() => {
                let evicted = std::mem::replace(&mut layer.kept[place], piece);
                let free = self.cached[evicted].take();
                self.cached[piece] = Some(slot);
                free.into_iter().for_each(|slot| self.shared.free(slot));
            }
            _ => self.shared.free(slot),
        }
    }

    fn expert_of(&self, weight: usize) -> Option<usize> {
        self.by_weight.range(..=weight).next_back().map(|(_, &expert)| expert)
    }

    /// Forgets what the present visit has not taken.
    pub(crate) fn abandon(&mut self) {
        self.due.clear();
        self.failed = false;
        self.experts.iter_mut().for_each(|expert| expert.pending = false);
        let mut state = self.shared.lock();
        state.requests.clear();
        state.generation += 1;
        let unused: Vec<Buffer> = state.done.drain().filter_map(|(_, done)| done.ok()).collect();
        state.free.extend(unused);
    }

    /// What was used, missed and read so far.
    pub(crate) fn counters(&self) -> ExpertCounters {
        let state = self.shared.lock();
        let running = state.busy_since.map_or(Duration::ZERO, |since| since.elapsed());
        ExpertCounters {
            read: state.read,
            reads: state.reads,
            reading: state.reading + running,
            ..self.counters.clone()
        }
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for reader in self.readers.drain(..) {
            // A reader that panicked has nothing to clean up: its slot is gone with it.
            let _ = reader.join();
        }
    }
}

impl Lent<'_> {
    /// The slot; the piece begins where it begins in its aligned file span.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.slot.as_deref().unwrap_or(&[])
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.demand.settle(self.piece, slot);
        }
    }
}

impl Shared {
    /// No code that holds the lock can panic halfway through a change, so a poisoned lock is usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self, slot: Buffer) {
        self.lock().free.push(slot);
        self.work.notify_one();
    }

    fn read_until_stopped(&self) {
        let _tell = TellOnPanic(self);
        let mut state = self.lock();
        loop {
            if state.stop {
                return;
            }
            let Some((piece, mut slot)) = state.begin() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let generation = state.generation;
            drop(state);
            let read = self.fill(piece, &mut slot);
            state = self.lock();
            state.ended(&read);
            if state.generation == generation {
                if read.is_err() {
                    // Whoever waits is told; nothing more is read until the pass begins again.
                    state.requests.clear();
                }
                let done = match read {
                    Ok(_) => Ok(slot),
                    Err(error) => {
                        state.free.push(slot);
                        Err(error)
                    }
                };
                state.done.insert(piece, done);
                self.finished.notify_all();
            } else {
                state.free.push(slot);
                self.work.notify_one();
            }
        }
    }

    fn fill(&self, piece: usize, slot: &mut Buffer) -> Result<Bytes, StreamError> {
        let block = &self.pieces[piece];
        let (len, room) = (block.stored().len, slot.len());
        match len.to_usize().and_then(|len| slot.get_mut(..len)) {
            Some(buf) => self.files.fill(block.span, buf).map(|()| len),
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
    fn begin(&mut self) -> Option<(usize, Buffer)> {
        if self.requests.is_empty() {
            return None;
        }
        let slot = self.free.pop()?;
        let Some(piece) = self.requests.pop_front() else {
            self.free.push(slot);
            return None;
        };
        self.in_flight += 1;
        self.busy_since.get_or_insert_with(Instant::now);
        Some((piece, slot))
    }

    fn ended(&mut self, read: &Result<Bytes, StreamError>) {
        self.in_flight -= 1;
        if self.in_flight == 0 {
            self.reading += self.busy_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        }
        self.reads += 1;
        if let Ok(len) = read {
            self.read = self.read.saturating_add(*len);
        }
    }
}

/// The experts in the order of the pass's list.
fn experts(weights: &[PassWeight], pieces: &[Block]) -> Vec<Expert> {
    let mut experts: Vec<Expert> = Vec::new();
    let mut last = None;
    let mut layers = BTreeMap::new();
    for (index, piece) in pieces.iter().enumerate() {
        let Some(WeightRole::Expert(layer, expert, _)) =
            weights.get(piece.weight).map(|weight| weight.role)
        else {
            continue;
        };
        match experts.last_mut().filter(|_| last == Some((layer, expert))) {
            Some(same) => same.pieces.end = index + 1,
            None => {
                let next = layers.len();
                let layer = *layers.entry(layer).or_insert(next);
                let use_ = Frecency::NEVER;
                experts.push(Expert { layer, pieces: index..index + 1, use_, pending: false });
            }
        }
        last = Some((layer, expert));
    }
    experts
}

fn layers(experts: &[Expert], plan: &ExpertCache) -> Vec<Layer> {
    /// In how many rounds, in each of which every expert is chosen once on average, a choice comes to count half.
    const ROUNDS: f64 = 8.0;
    let count = experts.iter().map(|expert| expert.layer + 1).max().unwrap_or(0);
    let of = |layer: usize| {
        let most = plan.kept_in(layer);
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let half_life = ROUNDS * experts.iter().filter(|it| it.layer == layer).count() as f64;
        Layer { most, kept: Vec::with_capacity(most), clock: 0.0, half_life }
    };
    (0..count).map(of).collect()
}

/// Pieces of the layer that has most.
fn most_pieces(experts: &[Expert]) -> usize {
    let mut pieces: BTreeMap<usize, usize> = BTreeMap::new();
    for expert in experts {
        *pieces.entry(expert.layer).or_default() += expert.pieces.len();
    }
    pieces.into_values().max().unwrap_or(0)
}
