//! The decision: what stays, through which slots the rest streams, how long a prefill chunk is.

use overflowml_types::{Access, Bytes, DecoderSpec, KvLayout, PassWeight, ScratchLayout, Seconds};

use crate::blocks::{cut, keep_within, resident_bytes};
use crate::cost::{kept_bytes, predict, schedule_bytes};
use crate::experts::{ExpertCache, cache, has_experts, passage, smallest_passage};
use crate::infeasible::Infeasible;
use crate::plan::{Block, Home, MemoryTerms, Plan, Prediction, Request, Ring, Strategy};

/// The longest prefill chunk: beyond it, matrix products do not get faster.
const LONGEST_CHUNK: usize = 512;

/// Activations take at most this share of the budget while weights stream.
const ACTIVATION_SHARE: f64 = 0.03;

/// Slots take at most this share of what is left for weights.
const RING_SHARE: f64 = 1.0 / 16.0;

/// Left of every budget for what the kernel holds on the process's behalf (page tables, stacks),
/// which counts in control groups.
const LEAST_SLACK: Bytes = Bytes::mib(4);
const SLACK_SHARE: f64 = 0.005;

/// More blocks than this would make the schedule itself large.
const MOST_BLOCKS: u64 = 400_000;

/// Slots and block sizes to choose from, best first: large blocks read fastest, and four readers
/// want twice as many slots.
const RINGS: [(Bytes, usize); 10] = [
    (Bytes::mib(4), 16),
    (Bytes::mib(4), 10),
    (Bytes::mib(2), 10),
    (Bytes::mib(1), 10),
    (Bytes::kib(512), 10),
    (Bytes::kib(256), 10),
    (Bytes::kib(128), 8),
    (Bytes::kib(64), 8),
    (Bytes::kib(32), 6),
    (Bytes::kib(16), 4),
];

/// The least that can stream: two slots of the largest row.
const SMALLEST_RING: (Bytes, usize) = (Bytes::new(1), 2);

/// Decides where every part of a model lives, within the request's budget.
///
/// # Errors
/// [`Infeasible`] says what was needed, what there was and what to change.
pub fn plan(
    spec: &DecoderSpec,
    weights: &[PassWeight],
    request: &Request,
) -> Result<Plan, Infeasible> {
    let chooser = Chooser { spec, weights, request };
    chooser.check_context()?;
    let candidates = chunks(request).filter_map(|chunk| chooser.with_chunk(chunk));
    let total = |plan: &Plan| chooser.total(plan).get();
    candidates
        .min_by(|a, b| total(a).total_cmp(&total(b)))
        .map_or_else(|| Err(chooser.infeasible()), Ok)
}

/// Chunk lengths to try, longest first.
fn chunks(request: &Request) -> impl Iterator<Item = usize> {
    // Every sequence advances by at least a token.
    let shortest = request.sequences.max(1);
    let all = request.prompt.saturating_mul(shortest);
    let longest = all.clamp(shortest, LONGEST_CHUNK.max(shortest));
    std::iter::successors(Some(longest), move |&chunk| {
        (chunk > shortest).then(|| chunk.div_ceil(2).max(shortest))
    })
}

struct Chooser<'a> {
    spec: &'a DecoderSpec,
    weights: &'a [PassWeight],
    request: &'a Request,
}

/// Where weights are.
struct Placed {
    blocks: Vec<Block>,
    ring: Option<Ring>,
    experts: Option<ExpertCache>,
}

/// What a run takes beside blocks and slots.
struct Fixed {
    kv: KvLayout,
    scratch: ScratchLayout,
    kept: Bytes,
    /// The part of the budget that is left for blocks and slots.
    room: Bytes,
}

impl Chooser<'_> {
    fn check_context(&self) -> Result<(), Infeasible> {
        let (wanted, most) = (self.context(), self.spec.max_context);
        if wanted > most { Err(Infeasible::ContextBeyondModel { wanted, most }) } else { Ok(()) }
    }

    fn context(&self) -> usize {
        self.request.prompt.saturating_add(self.request.generate).max(1)
    }

    /// Prefill and all new tokens.
    fn total(&self, plan: &Plan) -> Seconds {
        plan.prediction.seconds_for(self.request)
    }

    /// `None` if the chunk's buffers leave no room even for streaming everything.
    fn fixed(&self, context: usize, chunk: usize) -> Option<Fixed> {
        let budget = self.request.budget;
        let (kv, scratch) = self.buffers(context, chunk);
        let kept = kept_bytes(self.weights);
        let taken = [self.request.overhead.value, kept, kv.size(), scratch.size(), slack(budget)];
        let taken = taken.into_iter().try_fold(Bytes::ZERO, Bytes::checked_add)?;
        let room = budget.left_after(taken);
        (!room.is_zero()).then_some(Fixed { kv, scratch, kept, room })
    }

    /// The best plan with prefill chunks of `chunk` tokens.
    fn with_chunk(&self, chunk: usize) -> Option<Plan> {
        let fixed = self.fixed(self.context(), chunk)?;
        let whole = self.all_in_memory(&fixed, true).or_else(|| self.all_in_memory(&fixed, false));
        if let Some((strategy, blocks)) = whole {
            return Some(self.finish(
                fixed,
                strategy,
                Placed { blocks, ring: None, experts: None },
            ));
        }
        let affordable = self.request.budget.share(ACTIVATION_SHARE);
        if chunk > self.request.sequences.max(1) && fixed.scratch.size() > affordable {
            return None;
        }
        let placed = match has_experts(self.weights) {
            true => self.with_experts(fixed.room)?,
            false => {
                let (ring, blocks) = self.streaming(fixed.room)?;
                Placed { blocks, ring: Some(ring), experts: None }
            }
        };
        Some(self.finish(fixed, Strategy::Disk, placed))
    }

    /// What every token uses stays in memory and experts get the rest; or nothing of them stays, and the
    /// others stream.
    fn with_experts(&self, room: Bytes) -> Option<Placed> {
        let mut blocks = cut(self.weights, Bytes::new(u64::MAX), &[Access::Rows]);
        blocks.iter_mut().for_each(|block| block.home = Home::Memory);
        let taken = resident_bytes(&blocks).saturating_add(schedule_bytes(&blocks));
        if let Some(experts) = cache(self.weights, room.left_after(taken)) {
            return Some(Placed { blocks, ring: None, experts: Some(experts) });
        }
        let experts = passage(self.weights, room.share(RING_SHARE))?;
        let taken = experts.size().saturating_add(schedule_bytes(&experts.pieces));
        let (ring, blocks) = self.streaming(room.left_after(taken))?;
        Some(Placed { blocks, ring: Some(ring), experts: Some(experts) })
    }

    /// Every matrix as one block, if they fit; with or without the embedding.
    fn all_in_memory(&self, fixed: &Fixed, lookups: bool) -> Option<(Strategy, Vec<Block>)> {
        let lookups = lookups && !self.embedding_is_head();
        let kinds = [Access::Rows, Access::Expert, Access::Lookup];
        let kinds = if lookups { &kinds[..] } else { &kinds[..2] };
        let mut blocks = cut(self.weights, Bytes::new(u64::MAX), kinds);
        blocks.iter_mut().for_each(|block| block.home = Home::Memory);
        let room = fixed.room.left_after(schedule_bytes(&blocks));
        let fits = resident_bytes(&blocks) <= room;
        let complete = lookups || self.embedding_is_head();
        let strategy = if complete { Strategy::None } else { Strategy::Disk };
        fits.then_some((strategy, blocks))
    }

    /// Whether looked-up rows lie in a matrix that is used whole anyway.
    fn embedding_is_head(&self) -> bool {
        let of = |access| self.weights.iter().find(move |weight| weight.access == access);
        let looked_up = of(Access::Lookup).map(|weight| weight.tensor.span);
        let mut rows = self.weights.iter().filter(|weight| weight.access == Access::Rows);
        looked_up.is_none_or(|span| rows.any(|weight| weight.tensor.span == span))
    }

    /// The largest blocks whose slots are affordable, and as many kept as fit beside them.
    fn streaming(&self, room: Bytes) -> Option<(Ring, Vec<Block>)> {
        let affordable = room.share(RING_SHARE);
        let cheap = |(ring, blocks): &(Ring, Vec<Block>)| {
            ring.size() <= affordable && schedule_bytes(blocks) <= affordable
        };
        let preferred = RINGS.iter().filter_map(|&choice| self.ring(choice)).find(cheap);
        let (ring, mut blocks) = preferred.or_else(|| self.smallest_ring())?;
        let room = room.left_after(schedule_bytes(&blocks));
        (ring.size() <= room).then(|| {
            keep_within(&mut blocks, room.left_after(ring.size()));
            (ring, blocks)
        })
    }

    /// Blocks of about `target`, all on disk, and slots for them; `None` for a model without matrices.
    fn ring(&self, (target, slots): (Bytes, usize)) -> Option<(Ring, Vec<Block>)> {
        let matrices = self.weights.iter().filter(|weight| weight.access == Access::Rows);
        let total: Bytes = matrices.map(|weight| weight.tensor.span.len).sum();
        let least = Bytes::new(total.get() / MOST_BLOCKS);
        let blocks = cut(self.weights, target.max(least), &[Access::Rows]);
        let slot = blocks.iter().map(|block| block.stored().len).max()?;
        Some((Ring { slots: slots.min(blocks.len()), slot }, blocks))
    }

    /// What streams in the least memory.
    fn smallest_ring(&self) -> Option<(Ring, Vec<Block>)> {
        let choices = RINGS.into_iter().chain([SMALLEST_RING]);
        choices.filter_map(|choice| self.ring(choice)).min_by_key(ring_cost)
    }

    fn finish(&self, fixed: Fixed, strategy: Strategy, placed: Placed) -> Plan {
        let Placed { blocks, ring, experts } = placed;
        let resident = resident_bytes(&blocks);
        let slots = ring.map_or(Bytes::ZERO, |ring| ring.size());
        let (kv, activations) = (fixed.kv.size(), fixed.scratch.size());
        let (cached, pieces) = experts.as_ref().map_or((Bytes::ZERO, Bytes::ZERO), |experts| {
            (experts.size(), schedule_bytes(&experts.pieces))
        });
        let overhead = [self.request.overhead.value, schedule_bytes(&blocks), pieces];
        let overhead = overhead.into_iter().sum();
        let kept = fixed.kept;
        let peak = [resident, slots, cached, kept, kv, activations, overhead].into_iter().sum();
        let memory =
            MemoryTerms { resident, kept, slots, experts: cached, kv, activations, overhead, peak };
        // Does every block stay? Then there is nothing to rotate.
        let ring = ring.filter(|_| blocks.iter().any(|block| block.home == Home::Disk));
        let mut plan = Plan {
            strategy,
            budget: self.request.budget,
            blocks,
            ring,
            experts,
            sequences: fixed.kv.sequences,
            context: self.context(),
            prefill_chunk: fixed.scratch.chunk,
            kv: fixed.kv,
            scratch: fixed.scratch,
            memory,
            rates: self.request.rates.clone(),
            prediction: Prediction::default(),
        };
        plan.prediction = predict(self.spec, self.weights, &plan, self.request);
        plan
    }

    /// Names the smallest budget that works and the largest context that fits.
    fn infeasible(&self) -> Infeasible {
        let context = self.context();
        let (kv, activations) = self.smallest_buffers(context);
        let ring = self.smallest_ring().as_ref().map_or(Bytes::ZERO, ring_cost);
        let slots = ring.saturating_add(smallest_passage(self.weights));
        let fixed = self.request.overhead.value.saturating_add(kept_bytes(self.weights));
        let needed = self.smallest_budget(context, slots);
        let fits = |context| self.smallest_budget(context, slots) <= self.request.budget;
        Infeasible::BudgetTooSmall {
            needed,
            budget: self.request.budget,
            overhead: fixed,
            context,
            kv,
            activations,
            slots,
            largest_context: largest(context, fits),
        }
    }

    /// Cache and activations of all sequences, for passes of `chunk` tokens.
    fn buffers(&self, context: usize, chunk: usize) -> (KvLayout, ScratchLayout) {
        let Request { logits, threads, kv_dtype, sequences, .. } = *self.request;
        let sequences = sequences.max(1);
        let kv = KvLayout::new(self.spec, kv_dtype, context, chunk);
        let scratch = ScratchLayout::new(self.spec, chunk, threads, logits);
        let scratch = scratch.for_sequences(sequences, self.spec.vocab);
        (kv.for_sequences(sequences), scratch)
    }

    fn smallest_buffers(&self, context: usize) -> (Bytes, Bytes) {
        let (kv, scratch) = self.buffers(context, self.request.sequences.max(1));
        (kv.size(), scratch.size())
    }

    fn smallest_budget(&self, context: usize, slots: Bytes) -> Bytes {
        let (kv, activations) = self.smallest_buffers(context);
        let terms = [self.request.overhead.value, kept_bytes(self.weights), kv, activations, slots];
        let used: Bytes = terms.into_iter().sum();
        // The inverse of `budget - slack(budget)`, and a page for rounding.
        let slack = LEAST_SLACK.max(used.share(SLACK_SHARE / (1.0 - SLACK_SHARE)));
        used.saturating_add(slack).saturating_add(Bytes::kib(4))
    }
}

impl Ring {
    /// Bytes of all slots.
    pub fn size(&self) -> Bytes {
        self.slot.saturating_mul(self.slots as u64)
    }
}

/// Bytes of a ring and of the schedule that goes with it.
fn ring_cost((ring, blocks): &(Ring, Vec<Block>)) -> Bytes {
    ring.size().saturating_add(schedule_bytes(blocks))
}

fn slack(budget: Bytes) -> Bytes {
    LEAST_SLACK.max(budget.share(SLACK_SHARE))
}

/// The largest number below `refused` that `fits`, by bisection.
fn largest(refused: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut low, mut high) = (0, refused);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    (low > 0).then_some(low)
}
