//! The decoder: tokens in, logits out, one pass over the weights per chunk of tokens.

use std::sync::atomic::{AtomicBool, Ordering};

use overflowml_types::{DecoderSpec, KvLayout, PassWeight, ScratchLayout};

use crate::error::ExecError;
use crate::kernels::{Kernels, MatrixRef};
use crate::kv::{Cell, KvCache, LayerKv, Layers, Place};
use crate::layer::{Pass, Prepared, Target};
use crate::maths::{FinishLogits, RmsNorm};
use crate::pool::Pool;
use crate::rope::Rope;
use crate::score::Tally;
use crate::scratch::Scratch;
use crate::source::WeightSource;
use crate::vector::Isa;
use crate::weights::{Weights, widen};

/// What a decoder allocates, as planned.
#[derive(Clone, Debug)]
pub struct Layouts<'a> {
    /// Positions that there can be.
    pub context: usize,
    /// The key/value cache.
    pub kv: &'a KvLayout,
    /// The activation buffers.
    pub scratch: &'a ScratchLayout,
}

/// The next tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Which sequence, below [`KvLayout::sequences`].
    pub sequence: usize,
    /// At least one.
    pub tokens: &'a [u32],
}

/// A decoder-only language model with its cache: the same code for every family, configured by its
/// [`DecoderSpec`].
///
/// It can advance several sequences in one pass, which then serves all of them. Results do not depend on how
/// weights are cut into runs, how tokens are cut into chunks, which sequences advance together, or how many
/// threads there are: every sum has one order.
pub struct Decoder {
    spec: DecoderSpec,
    weights: Weights,
    ropes: Vec<Rope>,
    kv: KvCache,
    context: usize,
    scratch: Scratch,
    /// Where the tokens of the running pass belong.
    places: Vec<Place>,
    pool: Pool,
    kernels: Kernels,
    isa: Isa,
}

impl Decoder {
    /// Allocates everything that passes need. `list` is the pass's list of weights that `source` holds.
    ///
    /// # Errors
    /// For a weight that is missing or of another shape or type than `spec` calls for, or layouts of another
    /// model.
    pub fn new(
        spec: &DecoderSpec,
        list: &[PassWeight],
        source: &impl WeightSource,
        layouts: &Layouts<'_>,
        pool: Pool,
        kernels: Kernels,
    ) -> Result<Self, ExecError> {
        let weights = Weights::new(spec, list, source)?;
        let row_bytes = weights.embedding.cols * weights.embedding.dtype.size().get() as usize;
        let scratch = Scratch::new(spec, layouts.scratch, pool.threads(), row_bytes)?;
        let kv = KvCache::new(spec, layouts.kv, layouts.context, layouts.scratch.chunk)?;
        Ok(Self {
            ropes: spec.ropes.iter().map(|rope| Rope::new(rope, layouts.context)).collect(),
            spec: spec.clone(),
            weights,
            kv,
            context: layouts.context,
            places: Vec::with_capacity(scratch.chunk),
            scratch,
            pool,
            isa: kernels.isa(),
            kernels,
        })
    }

    /// Positions of a sequence that are remembered; its next token's position.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn position(&self, sequence: usize) -> usize {
        self.kv.len(sequence)
    }

    /// Forgets every position of a sequence.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn reset(&mut self, sequence: usize) {
        self.kv.reset(sequence);
    }

    /// Forgets everything of a sequence from position `len` on.
    ///
    /// # Errors
    /// [`ExecError::Truncate`] if `len` is beyond the end, or so far back that a sliding window has already
    /// lost what the next token would see. Nothing is changed then.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn truncate(&mut self, sequence: usize, len: usize) -> Result<(), ExecError> {
        self.kv.truncate(sequence, len)
    }

    /// Adds `tokens` to the first sequence: [`Self::advance`] with one step.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub fn feed(
        &mut self,
        source: &mut impl WeightSource,
        tokens: &[u32],
        cancel: &AtomicBool,
    ) -> Result<(), ExecError> {
        self.advance(source, &[Step { sequence: 0, tokens }], cancel)
    }

    /// Adds the tokens of each step, together at most a chunk, and computes the logits after the last of each,
    /// in one pass. Steps are in ascending order of their sequences.
    ///
    /// `cancel` is looked at before every layer. After an error the cache is as before the call, and `source`
    /// must be rewound.
    ///
    /// # Errors
    /// If the tokens do not fit or are not in the vocabulary, if the steps are not in order, if weights cannot be
    /// had, or on cancellation.
    pub fn advance(
        &mut self,
        source: &mut impl WeightSource,
        steps: &[Step<'_>],
        cancel: &AtomicBool,
    ) -> Result<(), ExecError> {
        self.layers(source, steps, cancel)?;
        self.last_heads(source, steps)?;
        steps.iter().for_each(|step| self.kv.commit(step.sequence, step.tokens.len()));
        Ok(())
    }

    /// The logits after the last token of the first step: `[vocab]`.
    pub fn last_logits(&self) -> &[f32] {
        self.logits_after(0)
    }

    /// The logits after the last token of the last pass's step number `step`: `[vocab]`.
    ///
    /// # Panics
    /// If a pass cannot have had so many steps.
    pub fn logits_after(&self, step: usize) -> &[f32] {
        &self.scratch.logits[step * self.spec.vocab..][..self.spec.vocab]
    }

    /// Adds to the first sequence all but the last of `tokens`, at most a chunk, and appends to `log_probabilities` the natural
    /// logarithm of the probability of each token after the first.
    ///
    /// # Errors
    /// As [`Self::feed`]; [`ExecError::NotForScoring`] if the layout has no room for it.
    pub fn score(
        &mut self,
        source: &mut impl WeightSource,
        tokens: &[u32],
        cancel: &AtomicBool,
        log_probabilities: &mut Vec<f32>,
    ) -> Result<(), ExecError> {
        let Some((_, fed)) = tokens.split_last().filter(|(_, fed)| !fed.is_empty()) else {
            return Err(ExecError::TooFewTokens { given: tokens.len(), needed: 2 });
        };
        if self.scratch.tallies.len() < fed.len() {
            return Err(ExecError::NotForScoring);
        }
        self.check_vocabulary(&tokens[1..])?;
        self.layers(source, &[Step { sequence: 0, tokens: fed }], cancel)?;
        self.tally_head(source, &tokens[1..])?;
        for (token, tally) in self.scratch.tallies[..fed.len()].iter().enumerate() {
            let log_probability = tally.log_probability();
            if log_probability.is_nan() {
                return Err(ExecError::NotANumber { position: self.kv.len(0) + token });
            }
            log_probabilities.push(log_probability);
        }
        self.kv.commit(0, fed.len());
        Ok(())
    }

    /// Embedding and layers: leaves the residual stream of all steps' tokens in the scratch.
    fn layers<S: WeightSource>(
        &mut self,
        source: &mut S,
        steps: &[Step<'_>],
        cancel: &AtomicBool,
    ) -> Result<(), ExecError> {
        self.check_steps(steps)?;
        self.place(steps);
        self.embed(source, steps)?;
        self.rotations();
        steps.iter().for_each(|step| self.kv.begin(step.sequence, step.tokens.len()));
        let Self { spec, weights, kv, scratch, places, pool, kernels, isa, .. } = self;
        let tokens = places.len();
        let pass = Pass { spec, pool, kernels: *kernels, isa: *isa, places, tokens };
        match kv.layers_mut() {
            Layers::F32(kv) => all_layers(&pass, weights, kv, scratch, source, cancel),
            Layers::F16(kv) => all_layers(&pass, weights, kv, scratch, source, cancel),
            Layers::BF16(kv) => all_layers(&pass, weights, kv, scratch, source, cancel),
        }
    }

    fn check_steps(&self, steps: &[Step<'_>]) -> Result<(), ExecError> {
        let sequences = self.kv.sequences();
        let ascending = steps.is_sorted_by(|a, b| a.sequence < b.sequence);
        if !ascending || steps.last().is_some_and(|step| step.sequence >= sequences) {
            return Err(ExecError::Steps { sequences });
        }
        let given = steps.iter().map(|step| step.tokens.len()).sum();
        if given > self.scratch.chunk {
            return Err(ExecError::ChunkTooLong { given, chunk: self.scratch.chunk });
        }
        if steps.is_empty() {
            return Err(ExecError::TooFewTokens { given, needed: 1 });
        }
        steps.iter().try_for_each(|step| self.check_room(step))
    }

    fn check_room(&self, step: &Step<'_>) -> Result<(), ExecError> {
        let (given, position) = (step.tokens.len(), self.kv.len(step.sequence));
        if given == 0 {
            return Err(ExecError::TooFewTokens { given, needed: 1 });
        }
        if position + given > self.context {
            return Err(ExecError::ContextFull { given, position, context: self.context });
        }
        self.check_vocabulary(step.tokens)
    }

    /// Notes where every token belongs.
    fn place(&mut self, steps: &[Step<'_>]) {
        self.places.clear();
        for &Step { sequence, tokens } in steps {
            let start = self.kv.len(sequence);
            let places = (start..start + tokens.len()).map(|position| Place { sequence, position });
            self.places.extend(places);
        }
    }

    fn check_vocabulary(&self, tokens: &[u32]) -> Result<(), ExecError> {
        let vocab = self.spec.vocab;
        match tokens.iter().find(|&&token| token as usize >= vocab) {
            Some(&token) => Err(ExecError::TokenOutOfRange { token, vocab }),
            None => Ok(()),
        }
    }

    fn embed(
        &mut self,
        source: &mut impl WeightSource,
        steps: &[Step<'_>],
    ) -> Result<(), ExecError> {
        let embedding = self.weights.embedding;
        let Scratch { residual, row, .. } = &mut self.scratch;
        let tokens = steps.iter().flat_map(|step| step.tokens);
        for (&token, out) in tokens.zip(residual.chunks_exact_mut(self.spec.hidden)) {
            source.lookup(embedding.index, u64::from(token), row)?;
            widen(embedding.dtype, row, out);
            out.iter_mut().for_each(|value| *value *= self.spec.scales.embedding);
        }
        Ok(())
    }

    /// Cosines and sines of every token's position.
    fn rotations(&mut self) {
        let chunk = self.scratch.chunk;
        let mut rest = self.scratch.rotations.as_mut_slice();
        for rope in &self.ropes {
            let dim = rope.rotary_dim();
            let (own, others) = rest.split_at_mut(chunk * dim);
            for (place, out) in self.places.iter().zip(own.chunks_exact_mut(dim)) {
                rope.fill(place.position, out);
            }
            rest = others;
        }
    }

    /// The head on the last token of every step.
    fn last_heads(
        &mut self,
        source: &mut impl WeightSource,
        steps: &[Step<'_>],
    ) -> Result<(), ExecError> {
        let (hidden, vocab) = (self.spec.hidden, self.spec.vocab);
        let mut end = 0;
        for (row, step) in steps.iter().enumerate() {
            end += step.tokens.len();
            self.final_norm(end - 1..end, row);
        }
        let Self { spec, weights, scratch, pool, kernels, isa, .. } = self;
        let tokens = steps.len();
        let pass = Pass { spec, pool, kernels: *kernels, isa: *isa, places: &[], tokens };
        let Scratch { delta, input, logits, .. } = scratch;
        let target = Target { out: logits, stride: vocab, offset: 0 };
        let x = &delta[..tokens * hidden];
        pass.multiply(weights.head, x, &mut Prepared::new(input), source, target)?;
        let (scale, cap) = (spec.scales.logits, spec.logit_softcap);
        for (logits, step) in logits.chunks_exact_mut(vocab).zip(steps) {
            isa.run(FinishLogits { logits: &mut *logits, scale, cap });
            if logits.iter().any(|logit| logit.is_nan()) {
                let position = self.kv.len(step.sequence) + step.tokens.len() - 1;
                return Err(ExecError::NotANumber { position });
            }
        }
        Ok(())
    }

    /// The head on all positions, tile by tile of the vocabulary; `next[i]` is the token after position `i`.
    fn tally_head(
        &mut self,
        source: &mut impl WeightSource,
        next: &[u32],
    ) -> Result<(), ExecError> {
        const TILE: usize = ScratchLayout::VOCAB_TILE;
        let tokens = next.len();
        self.final_norm(0..tokens, 0);
        let Self { spec, weights, scratch, pool, kernels, isa, .. } = self;
        let (spec, isa, kernels) = (&*spec, *isa, *kernels);
        let Scratch { delta, input, logits, tallies, .. } = scratch;
        let (head, width) = (weights.head, TILE.min(spec.vocab));
        let row_bytes = head.cols * head.dtype.size().get() as usize;
        kernels.prepare(pool, head.dtype, tokens, head.cols, &delta[..tokens * spec.hidden], input);
        tallies[..tokens].fill(Tally::EMPTY);
        source.each_run(head.index, &mut |run| {
            let end = run.first_row + run.rows;
            let mut row = run.first_row;
            while row < end {
                let tile = row - row % TILE;
                let to = end.min(tile + TILE);
                let bytes = &run.bytes[(row - run.first_row) * row_bytes..];
                let (dtype, cols) = (head.dtype, head.cols);
                let matrix = MatrixRef { dtype, rows: to - row, cols, bytes };
                kernels.matmul(pool, matrix, input, logits, width, row - tile);
                row = to;
                // A tile may come in several runs.
                if to == tile + TILE || to == spec.vocab {
                    let rows = logits.chunks_exact_mut(width).zip(&mut tallies[..tokens]);
                    for ((logits, tally), &next) in rows.zip(next) {
                        let logits = &mut logits[..to - tile];
                        let (scale, cap) = (spec.scales.logits, spec.logit_softcap);
                        isa.run(FinishLogits { logits: &mut *logits, scale, cap });
                        tally.add(isa, logits, tile, next);
                    }
                }
            }
        })?;
        Ok(())
    }

    /// The last norm, of some tokens' residuals, to `delta` from `row` on.
    fn final_norm(&mut self, tokens: std::ops::Range<usize>, row: usize) {
        let (hidden, eps) = (self.spec.hidden, self.spec.norm_eps);
        let weight = &self.weights.final_norm;
        let Scratch { residual, delta, .. } = &mut self.scratch;
        let rows = residual[tokens.start * hidden..tokens.end * hidden].chunks_exact(hidden);
        for (x, out) in rows.zip(delta[row * hidden..].chunks_exact_mut(hidden)) {
            self.isa.run(RmsNorm { x, weight, eps, out });
        }
    }
}

fn all_layers<S: WeightSource, C: Cell>(
    pass: &Pass<'_>,
    weights: &Weights,
    kv: &mut [LayerKv<C>],
    scratch: &mut Scratch,
    source: &mut S,
    cancel: &AtomicBool,
) -> Result<(), ExecError> {
    let layers = pass.spec.layers.iter().zip(&weights.layers).zip(kv);
    for ((layer, weights), kv) in layers {
        if cancel.load(Ordering::Relaxed) {
            return Err(ExecError::Cancelled);
        }
        pass.layer(layer, weights, kv, scratch, source)?;
    }
    Ok(())
}
