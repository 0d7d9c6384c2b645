//! The weights of a model being run: what stays, what streams, and what is looked up.

use std::sync::Arc;
use std::time::Instant;

use overflowml_plan::{Block, Home, Plan, Run};
use overflowml_types::{Access, Bytes, FileSpan, ModelFile, PassWeight};

use overflowml_plan::ALIGNMENT;

use crate::buffer::Buffer;
use crate::counters::Counters;
use crate::demand::{Demand, Lent, Wanted};
use crate::error::StreamError;
use crate::files::{DirectIo, Files, Source, SystemFiles};
use crate::load::load;
use crate::ring::{Filled, Ring};

/// How a store reads.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Reads that are under way at once.
    pub readers: usize,
    /// Whether to read past the page cache.
    pub direct: DirectIo,
    /// Whether to keep what stays from being swapped out, where that is allowed.
    pub lock_pages: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { readers: 4, direct: DirectIo::Auto, lock_pages: true }
    }
}

/// A model's weights, as its plan places them.
///
/// A pass takes the parts of every matrix, in the order of the pass's list; meanwhile readers fetch
/// what comes next, around the end of the pass.
pub struct Store {
    files: Arc<Files>,
    /// Per weight.
    weights: Vec<Entry>,
    /// The runs that stay, sorted by place in their files, for looking rows up.
    by_place: Vec<(FileSpan, Bytes)>,
    arena: Buffer,
    ring: Option<Ring>,
    experts: Option<Demand>,
    /// Blocks that stream in one pass.
    streamed: u64,
    /// The number of the next read to take, from the last restart on.
    position: u64,
    /// A read has failed since the last restart.
    failed: bool,
    /// One row of the embedding, with its aligned surroundings.
    row: Buffer,
    counters: Counters,
}

#[derive(Default)]
struct Entry {
    span: Option<FileSpan>,
    row_len: u64,
    kept: Vec<u8>,
    pieces: Vec<Piece>,
}

/// Consecutive rows of one matrix that are in one place.
#[derive(Clone, Copy, Debug)]
struct Piece {
    first_row: u64,
    rows: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Bytes of the arena.
    Arena { start: usize, len: usize },
    /// Bytes of a slot that holds the pass's `index`th streamed block.
    Slot { index: u64, start: usize, len: usize },
    /// Bytes of a slot that holds the `index`th piece of an expert.
    Expert { index: usize, start: usize, len: usize },
}

impl Store {
    /// Allocates everything, reads what stays, and starts reading what streams.
    ///
    /// `weights` is the list that `plan` was made for. `progress` is told bytes read and bytes to read,
    /// on the calling thread.
    ///
    /// # Errors
    /// If memory or threads cannot be had, or reading fails.
    pub fn open(
        files: &[ModelFile],
        weights: &[PassWeight],
        plan: &Plan,
        options: &StoreOptions,
        progress: &mut dyn FnMut(Bytes, Bytes),
    ) -> Result<Self, StreamError> {
        let system = SystemFiles::open(files, options.direct)?;
        let buffered_because = system.buffered_because();
        let mut store =
            Self::from_source(files, Box::new(system), weights, plan, options, progress)?;
        store.counters.buffered_because = buffered_because;
        Ok(store)
    }

    /// [`Self::open`], reading from anything.
    pub(crate) fn from_source(
        files: &[ModelFile],
        source: Box<dyn Source>,
        weights: &[PassWeight],
        plan: &Plan,
        options: &StoreOptions,
        progress: &mut dyn FnMut(Bytes, Bytes),
    ) -> Result<Self, StreamError> {
        let started = Instant::now();
        let files = Arc::new(Files::new(files, source)?);
        let runs = plan.runs();
        let total: Bytes = runs.iter().map(|run| run.stored().len).sum();
        let mut arena = Buffer::new(total)?;
        load(&files, &runs, &mut arena, options.readers, &mut |done| progress(done, total))?;
        let load_time = started.elapsed();
        let locked = options.lock_pages && arena.lock();
        let streamed: Vec<Block> =
            plan.blocks.iter().filter(|block| block.home == Home::Disk).cloned().collect();
        let count = streamed.len() as u64;
        let ring = match plan.ring {
            Some(ring) if count > 0 => {
                Some(Ring::start(Arc::clone(&files), streamed, ring, options.readers)?)
            }
            _ => None,
        };
        let mut store = Self {
            weights: entries(&files, weights, plan, &runs)?,
            by_place: by_place(&runs),
            row: Buffer::new(longest_row(weights))?,
            experts: match &plan.experts {
                // Experts come late and all at once, not ahead of time: more readers, to make up for it.
                Some(cache) => {
                    Some(Demand::start(Arc::clone(&files), weights, cache, 2 * options.readers)?)
                }
                None => None,
            },
            files,
            arena,
            ring,
            streamed: count,
            position: 0,
            failed: false,
            counters: Counters { loaded: total, load_time, locked, ..Counters::default() },
        };
        store.expect_passes(Some(0));
        Ok(store)
    }

    /// The bytes of a small weight that is always in memory.
    ///
    /// # Panics
    /// If `weight` is not in the pass's list.
    pub fn kept(&self, weight: usize) -> &[u8] {
        &self.weights[weight].kept
    }

    /// The rows of matrix `weight`, part by part.
    ///
    /// A matrix with streamed blocks must be asked for once per pass, in the pass's order, and its parts
    /// taken to the end; otherwise a later part is refused with [`StreamError::Order`].
    ///
    /// # Panics
    /// If `weight` is not in the pass's list.
    pub fn parts(&mut self, weight: usize) -> Parts<'_> {
        Parts { store: self, weight, next: 0 }
    }

    /// Copies one row of a looked-up matrix: from memory if it is there, else by one small read.
    ///
    /// # Errors
    /// If reading fails, or there is no such row, or `out` is not one row long.
    ///
    /// # Panics
    /// If `weight` is not in the pass's list.
    pub fn lookup(&mut self, weight: usize, row: u64, out: &mut [u8]) -> Result<(), StreamError> {
        let entry = &self.weights[weight];
        let span = entry.span.and_then(|span| row_span(span, entry.row_len, row));
        let (Some(span), true) = (span, out.len() as u64 == entry.row_len) else {
            return Err(StreamError::Order {
                what: format!("row {row} of weight {weight}, {} bytes", out.len()),
            });
        };
        if let Some(bytes) = self.find_in_memory(span) {
            out.copy_from_slice(bytes);
            return Ok(());
        }
        let lead = span.offset.left_after(span.offset.align_down(ALIGNMENT)).get() as usize;
        let stored = (lead + out.len()).next_multiple_of(ALIGNMENT as usize);
        self.files.fill(span, &mut self.row[..stored])?;
        out.copy_from_slice(&self.row[lead..lead + out.len()]);
        self.counters.looked_up = self.counters.looked_up.saturating_add(Bytes::of_len(stored));
        Ok(())
    }

    fn find_in_memory(&self, span: FileSpan) -> Option<&[u8]> {
        let key = |place: &FileSpan| (place.file, place.offset);
        let after = self.by_place.partition_point(|(place, _)| key(place) <= key(&span));
        let (place, at) = self.by_place.get(after.checked_sub(1)?)?;
        let inside = place.file == span.file && span.end() <= place.end();
        let start = at.saturating_add(span.offset.left_after(place.offset)).to_usize()?;
        let len = span.len.to_usize()?;
        inside.then(|| &self.arena[start..start + len])
    }

    /// Goes back to the start of a pass, after one was abandoned.
    ///
    /// # Errors
    /// None at present; a source that cannot go back would say so here.
    pub fn rewind(&mut self) -> Result<(), StreamError> {
        if let Some(experts) = &mut self.experts {
            experts.abandon();
        }
        if let Some(ring) = &self.ring {
            ring.restart();
            self.position = 0;
            self.failed = false;
        }
        self.expect_passes(Some(1));
        Ok(())
    }

    /// Tells which experts of one layer are needed next: reading those that are not in memory begins. The
    /// parts of their matrices must then be taken, each once, expert by expert in the order in which `wanted`
    /// is left, before others are wanted.
    ///
    /// Unless `in_order`, those that are in memory are moved to the front.
    ///
    /// # Errors
    /// [`StreamError::Order`] if one is no expert, or an earlier one was not taken.
    pub fn want_experts(
        &mut self,
        wanted: &mut [Wanted],
        in_order: bool,
    ) -> Result<(), StreamError> {
        match &mut self.experts {
            Some(experts) => experts.want(wanted, in_order),
            // All are in memory.
            None => Ok(()),
        }
    }

    /// Tells how many more passes will be made, so that nothing is read after the last of them; `None`
    /// if that is not known. Call it between passes. A pass that was not announced is served all the
    /// same, but its reads begin when it asks for them.
    pub fn expect_passes(&mut self, passes: Option<u64>) {
        if let Some(ring) = &self.ring {
            let begun = self.position.div_ceil(self.streamed);
            let end = passes
                .map_or(u64::MAX, |more| begun.saturating_add(more).saturating_mul(self.streamed));
            ring.read_until(end);
        }
    }

    /// What was read so far.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        if let Some(ring) = &self.ring {
            ring.count(&mut counters);
        }
        if let Some(experts) = &self.experts {
            counters.experts = experts.counters();
        }
        counters
    }

    /// Waits for the `index`th piece of an expert.
    fn take_expert(&mut self, index: usize) -> Result<Lent<'_>, StreamError> {
        match &mut self.experts {
            Some(experts) => experts.take(index),
            None => Err(StreamError::Order { what: format!("piece {index} of no experts") }),
        }
    }

    /// Waits for the pass's `index`th streamed block.
    fn take(&mut self, index: u64) -> Result<Filled<'_>, StreamError> {
        let due = self.position % self.streamed.max(1);
        let Some(ring) = self.ring.as_ref().filter(|_| due == index) else {
            return Err(StreamError::Order {
                what: format!("streamed block {index}, but {due} is due"),
            });
        };
        if self.failed {
            return Err(StreamError::Order {
                what: "a pass goes on after a failed read".to_owned(),
            });
        }
        let (filled, waited) = ring.take(self.position);
        self.counters.stall += waited;
        self.failed = filled.is_err();
        if filled.is_ok() {
            self.position += 1;
            if self.position.is_multiple_of(self.streamed) {
                self.counters.passes += 1;
            }
        }
        filled
    }
}

/// The parts of one matrix, first row to last. Made by [`Store::parts`].
pub struct Parts<'a> {
    store: &'a mut Store,
    weight: usize,
    next: usize,
}

impl Parts<'_> {
    /// The next part; waits until it is in memory. The part must be dropped before the next is taken,
    /// which frees its slot.
    #[allow(clippy::should_implement_trait)] // an iterator cannot lend
    pub fn next(&mut self) -> Option<Result<Part<'_>, StreamError>> {
        let piece = *self.store.weights[self.weight].pieces.get(self.next)?;
        self.next += 1;
        let bytes = match piece.place {
            Place::Arena { start, len } => PartBytes::Arena(&self.store.arena[start..start + len]),
            Place::Slot { index, start, len } => match self.store.take(index) {
                Ok(filled) => PartBytes::Slot { filled, start, len },
                Err(error) => return Some(Err(error)),
            },
            Place::Expert { index, start, len } => match self.store.take_expert(index) {
                Ok(lent) => PartBytes::Expert { lent, start, len },
                Err(error) => return Some(Err(error)),
            },
        };
        Some(Ok(Part { first_row: piece.first_row, rows: piece.rows, bytes }))
    }
}

/// Consecutive rows of a matrix that are in memory while this lives.
pub struct Part<'a> {
    first_row: u64,
    rows: u64,
    bytes: PartBytes<'a>,
}

enum PartBytes<'a> {
    Arena(&'a [u8]),
    Slot { filled: Filled<'a>, start: usize, len: usize },
    Expert { lent: Lent<'a>, start: usize, len: usize },
}

impl Part<'_> {
    /// Its first row.
    pub fn first_row(&self) -> u64 {
        self.first_row
    }

    /// How many rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The rows, `[rows, cols]`, row-major and little-endian, at any alignment.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            PartBytes::Arena(bytes) => bytes,
            PartBytes::Slot { filled, start, len } => &filled.bytes()[*start..*start + *len],
            PartBytes::Expert { lent, start, len } => &lent.bytes()[*start..*start + *len],
        }
    }
}

/// Where each weight's rows are, and the bytes of the small ones.
fn entries(
    files: &Files,
    weights: &[PassWeight],
    plan: &Plan,
    runs: &[Run],
) -> Result<Vec<Entry>, StreamError> {
    let mut entries = Vec::with_capacity(weights.len());
    for weight in weights {
        let span = weight.tensor.span;
        let row_len = span.len.get().checked_div(weight.rows()).unwrap_or(0);
        let kept = match weight.access {
            Access::Kept => read_whole(files, span)?,
            Access::Rows | Access::Lookup | Access::Expert => Vec::new(),
        };
        entries.push(Entry { span: Some(span), row_len, kept, pieces: Vec::new() });
    }
    for (weight, piece) in pieces(plan, runs) {
        let entry = entries.get_mut(weight).ok_or_else(|| StreamError::Order {
            what: format!("the plan names weight {weight} of {}", weights.len()),
        })?;
        entry.pieces.push(piece);
    }
    entries.iter_mut().for_each(|entry| entry.pieces.sort_by_key(|piece| piece.first_row));
    Ok(entries)
}

fn pieces<'a>(plan: &'a Plan, runs: &'a [Run]) -> impl Iterator<Item = (usize, Piece)> + 'a {
    let resident = runs.iter().map(|run| {
        let place = Place::Arena {
            start: (run.at.get() + lead(run.span)) as usize,
            len: run.span.len.get() as usize,
        };
        (run.weight, Piece { first_row: run.first_row, rows: run.rows, place })
    });
    let streamed = plan.blocks.iter().filter(|block| block.home == Home::Disk);
    let streamed = streamed.enumerate().map(|(index, block)| {
        let place = Place::Slot {
            index: index as u64,
            start: lead(block.span) as usize,
            len: block.span.len.get() as usize,
        };
        (block.weight, Piece { first_row: block.first_row, rows: block.rows, place })
    });
    let experts = plan.experts.iter().flat_map(|experts| &experts.pieces).enumerate();
    let experts = experts.map(|(index, block)| {
        let place = Place::Expert {
            index,
            start: lead(block.span) as usize,
            len: block.span.len.get() as usize,
        };
        (block.weight, Piece { first_row: block.first_row, rows: block.rows, place })
    });
    resident.chain(streamed).chain(experts)
}

/// Bytes before a span in its aligned surroundings.
fn lead(span: FileSpan) -> u64 {
    span.offset.get() % ALIGNMENT
}

fn by_place(runs: &[Run]) -> Vec<(FileSpan, Bytes)> {
    let at = |run: &Run| run.at.saturating_add(Bytes::new(lead(run.span)));
    let mut places: Vec<_> = runs.iter().map(|run| (run.span, at(run))).collect();
    places.sort_by_key(|(span, _)| (span.file, span.offset));
    places
}

fn row_span(span: FileSpan, row_len: u64, row: u64) -> Option<FileSpan> {
    let from = Bytes::new(row_len.checked_mul(row)?);
    let offset = span.offset.checked_add(from)?;
    let found = FileSpan { file: span.file, offset, len: Bytes::new(row_len) };
    (found.end() <= span.end()).then_some(found)
}

fn longest_row(weights: &[PassWeight]) -> Bytes {
    let looked_up = weights.iter().filter(|weight| weight.access == Access::Lookup);
    let longest =
        looked_up.map(|w| w.tensor.span.len.get().checked_div(w.rows()).unwrap_or(0)).max();
    Bytes::new(longest.unwrap_or(0)).saturating_add(Bytes::new(2 * ALIGNMENT))
}

fn read_whole(files: &Files, span: FileSpan) -> Result<Vec<u8>, StreamError> {
    let lead = lead(span) as usize;
    let len = span.len.to_usize().unwrap_or(usize::MAX);
    let stored = Bytes::new(lead as u64).saturating_add(span.len).align_up(ALIGNMENT);
    let mut buffer = Buffer::new(stored)?;
    files.fill(span, &mut buffer)?;
    Ok(buffer[lead..lead + len].to_vec())
}
