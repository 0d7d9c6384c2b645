//! The weights themselves: pseudo-random numbers that depend on seed, tensor and position only,
//! made on all cores while the calling thread writes.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use half::f16;
use overflowml_types::{Access, Bytes, DType, DecoderSpec, WeightSpec};

/// What one job makes; also how much is handed to the disk at once.
const PIECE: usize = 1 << 20;
/// Buffers per thread: one being made, one waiting, one being written.
const BUFFERS: usize = 3;

/// A tensor's distribution: uniform around `centre`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recipe {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    centre: f32,
    spread: f32,
    key: u64,
}

impl Recipe {
    /// Matrices keep activations near the size of their input, norms are near one, biases small.
    pub(super) fn new(weight: &WeightSpec, name: String, spec: &DecoderSpec, seed: u64) -> Self {
        let norm_offset = spec.norm_weight_offset;
        let routed = spec.experts.is_some() && !spec.tied_embeddings;
        let cols = weight.shape.last().copied().unwrap_or(1);
        // A uniform distribution is as wide as its standard deviation times the root of three.
        #[allow(clippy::cast_precision_loss)] // widths are far below 2^24
        let (centre, spread) = match weight.access {
            Access::Kept if weight.name.ends_with(".bias") => (0.0, 0.02),
            Access::Kept => (1.0 - norm_offset, 0.1),
            // Where tokens choose experts, they must differ by more than what layers add to all of them.
            Access::Lookup if routed => (0.0, 3.0_f32.sqrt()),
            Access::Rows | Access::Lookup | Access::Expert => {
                (0.0, 0.7 * (3.0 / cols as f32).sqrt())
            }
        };
        let key = name.bytes().fold(mix(seed), |key, byte| mix(key ^ u64::from(byte)));
        Self { name, shape: weight.shape.clone(), centre, spread, key }
    }

    pub(super) fn len(&self, dtype: DType) -> Bytes {
        dtype.size().saturating_mul(self.shape.iter().product())
    }
}

/// Writes the data of `recipes`, one after another, and says after each piece how much it was.
///
/// # Errors
/// What `out` reports.
pub(super) fn write(
    recipes: &[Recipe],
    dtype: DType,
    threads: usize,
    out: &mut dyn Write,
    wrote: &mut dyn FnMut(Bytes),
) -> io::Result<()> {
    let threads = threads.max(1);
    thread::scope(|scope| {
        let workers: Vec<Worker> = (0..threads)
            .map(|first| {
                let (full, done) = sync_channel(BUFFERS);
                let (back, empty) = sync_channel(BUFFERS);
                scope.spawn(move || {
                    make(jobs(recipes, dtype).skip(first).step_by(threads), dtype, &empty, &full);
                });
                Worker { done, back }
            })
            .collect();
        for worker in &workers {
            for _ in 0..BUFFERS {
                // A worker that has nothing to do may be gone already.
                let _ = worker.back.send(Vec::with_capacity(PIECE));
            }
        }
        for worker in (0..jobs(recipes, dtype).count()).map(|job| &workers[job % threads]) {
            let gone = |_| io::Error::other("a thread that makes weights has ended early");
            let bytes = worker.done.recv().map_err(gone)?;
            out.write_all(&bytes)?;
            wrote(Bytes::of_len(bytes.len()));
            let _ = worker.back.send(bytes);
        }
        // Returning drops the channels, which ends the workers, whatever they are doing.
        Ok(())
    })
}

struct Worker {
    done: Receiver<Vec<u8>>,
    back: SyncSender<Vec<u8>>,
}

/// A piece of a tensor.
struct Job<'a> {
    recipe: &'a Recipe,
    piece: u64,
    elements: usize,
}

fn jobs(recipes: &[Recipe], dtype: DType) -> impl Iterator<Item = Job<'_>> {
    let width = dtype.size().to_usize().unwrap_or(1);
    recipes.iter().flat_map(move |recipe| {
        let bytes = recipe.len(dtype).get();
        (0..bytes.div_ceil(PIECE as u64)).map(move |piece| {
            let left = bytes - piece * PIECE as u64;
            let bytes = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            Job { recipe, piece, elements: bytes / width }
        })
    })
}

fn make<'a>(
    jobs: impl Iterator<Item = Job<'a>>,
    dtype: DType,
    empty: &Receiver<Vec<u8>>,
    full: &SyncSender<Vec<u8>>,
) {
    for job in jobs {
        let Ok(mut buffer) = empty.recv() else { return };
        fill(&job, dtype, &mut buffer);
        if full.send(buffer).is_err() {
            return;
        }
    }
}

/// Makes a piece. Sixteen random bits per element suffice for 16-bit types.
fn fill(job: &Job<'_>, dtype: DType, buffer: &mut Vec<u8>) {
    let recipe = job.recipe;
    let random = Random { key: mix(recipe.key ^ mix(job.piece)) };
    let wide = dtype == DType::F32;
    let width = if wide { 4 } else { 2 };
    buffer.clear();
    // The last draw may make more than is needed.
    buffer.resize((job.elements * width).next_multiple_of(8), 0);
    let (centre, spread) = (recipe.centre, recipe.spread);
    let draws = (0u64..).zip(buffer.chunks_exact_mut(8));
    match dtype {
        DType::F32 => draws.for_each(|(draw, eight)| {
            let halves = random.halves(draw).map(|unit| centre + spread * unit);
            eight[..4].copy_from_slice(&halves[0].to_le_bytes());
            eight[4..].copy_from_slice(&halves[1].to_le_bytes());
        }),
        DType::F16 => draws.for_each(|(draw, eight)| {
            let four = random.quarters(draw).map(|unit| f16::from_f32(centre + spread * unit));
            eight.copy_from_slice(&packed(four.map(f16::to_bits)).to_le_bytes());
        }),
        _ => draws.for_each(|(draw, eight)| {
            let four = random.quarters(draw).map(|unit| to_bf16(centre + spread * unit));
            eight.copy_from_slice(&packed(four).to_le_bytes());
        }),
    }
    buffer.truncate(job.elements * width);
}

fn packed(four: [u16; 4]) -> u64 {
    four.iter().rev().fold(0, |all, &one| all << 16 | u64::from(one))
}

/// Rounded to nearest, halves up; finite values only.
#[allow(clippy::cast_possible_truncation)] // the upper half of 32 bits
fn to_bf16(value: f32) -> u16 {
    ((value.to_bits() + 0x8000) >> 16) as u16
}

/// Random numbers by position: any of them can be made without those before it.
#[derive(Clone, Copy)]
struct Random {
    key: u64,
}

impl Random {
    fn bits(self, draw: u64) -> u64 {
        mix(self.key.wrapping_add(draw.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Four numbers in -1 .. 1.
    #[allow(clippy::cast_possible_truncation)] // a quarter each
    fn quarters(self, draw: u64) -> [f32; 4] {
        let bits = self.bits(draw);
        [0, 16, 32, 48].map(|shift| f32::from((bits >> shift) as u16 as i16) * (1.0 / 32768.0))
    }

    /// Two numbers in -1 .. 1.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // half each
    fn halves(self, draw: u64) -> [f32; 2] {
        let bits = self.bits(draw);
        [0, 32].map(|shift| ((bits >> shift) as u32 as i32 >> 8) as f32 * (1.0 / 8_388_608.0))
    }
}

/// Spreads every bit of `value` over the whole result (the finaliser of splitmix64).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
