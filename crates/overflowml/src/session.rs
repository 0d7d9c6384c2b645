//! A plan being run: files, weights, decoder and cache, held together.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use overflowml_exec::{Decoder, ExecError, Kernels, Layouts, Pool, Sampler, Sampling};
use overflowml_formats::Model;
use overflowml_hardware as hardware;
use overflowml_plan::{Plan, Prediction, predict};
use overflowml_stream::{DirectIo, ExpertCounters, Store, StoreOptions};
use overflowml_types::{Basis, Bytes, BytesPerSecond, Known};

use crate::error::Error;
use crate::planner::{Planner, SessionRequest};
use crate::report::{
    BatchReport, ExpertReport, IoReport, MemoryReport, RunReport, ScoreReport, StoppedBy, Timings,
    seconds,
};
use crate::text::Text;

/// Reads in flight: as many as keep a disk busy with blocks of this size.
const READERS: usize = 4;

/// A model ready to compute within its budget.
pub struct Session {
    pub(crate) planner: Planner,
    pub(crate) plan: Plan,
    prediction: Prediction,
    pub(crate) store: Store,
    pub(crate) decoder: Decoder,
    /// Tokens whose keys and values are in the cache of the first sequence.
    pub(crate) fed: Vec<u32>,
    load: Duration,
    /// What experts had cost before the last decoding began.
    experts_before: ExpertCounters,
    root: PathBuf,
}

/// How to continue a prompt.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// New tokens at most.
    pub max_new_tokens: usize,
    /// Tokens that end the text.
    pub stop: Vec<u32>,
}

impl GenerateOptions {
    /// The model's own end-of-text tokens, unless they are to be ignored.
    pub fn new(
        model: &Model,
        text: &Text,
        sampling: Sampling,
        limit: usize,
        ignore_eos: bool,
    ) -> Self {
        let mut stop = Vec::new();
        if !ignore_eos {
            stop.extend_from_slice(&model.generation.eos);
            if stop.is_empty() {
                stop.extend(text.eos_token());
            }
        }
        Self { sampling, max_new_tokens: limit, stop }
    }
}

/// New tokens and how they came about.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The new tokens, without the one that ended the text.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub stopped_by: StoppedBy,
    /// From the prompt to the first new token.
    pub prefill: Duration,
    /// All tokens after the first.
    pub decode: Duration,
    /// Passes that took: one per token after the first, and one more if the last ended the text.
    pub decode_passes: u32,
}

impl Generation {
    fn empty() -> Self {
        Self {
            tokens: Vec::new(),
            stopped_by: StoppedBy::Length,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
            decode_passes: 0,
        }
    }
}

impl Session {
    /// Plans, allocates everything, and reads what stays in memory.
    ///
    /// `progress` is told bytes read and bytes to read.
    ///
    /// # Errors
    /// [`Error::Infeasible`] if no plan keeps the budget, [`Error::MemoryTaken`] if the memory went
    /// away meanwhile; whatever reading reports.
    pub fn open(
        model: &Model,
        wanted: &SessionRequest,
        progress: &mut dyn FnMut(Bytes, Bytes),
    ) -> Result<Self, Error> {
        let started = Instant::now();
        let planner = Planner::new(model, wanted)?;
        let plan = planner.plan()?;
        check_memory_is_still_free(&plan)?;
        let options = StoreOptions {
            readers: READERS,
            direct: if wanted.direct_io { DirectIo::Auto } else { DirectIo::Never },
            ..StoreOptions::default()
        };
        let store =
            Store::open(&model.manifest.files, &planner.weights, &plan, &options, progress)?;
        let decoder = Decoder::new(
            &planner.spec,
            &planner.weights,
            &store,
            &Layouts { context: plan.context, kv: &plan.kv, scratch: &plan.scratch },
            Pool::new(planner.request.threads),
            Kernels::detect(),
        )?;
        let mut session = Self {
            prediction: plan.prediction.clone(),
            planner,
            plan,
            store,
            decoder,
            fed: Vec::new(),
            load: started.elapsed(),
            experts_before: ExpertCounters::default(),
            root: model.root.clone(),
        };
        session.learn_disk_speed();
        Ok(session)
    }

    /// Loading has just measured the disk: predict with that, unless earlier streams did, which is nearer to what
    /// comes now.
    fn learn_disk_speed(&mut self) {
        let known = self.planner.request.rates.disk.basis == Basis::Measured;
        if let Some(rate) = self.store.counters().load_rate().filter(|_| !known) {
            self.planner.request.rates.disk = Known::measured(rate, "loading the resident weights");
            let Planner { spec, weights, request, .. } = &self.planner;
            self.prediction = predict(spec, weights, &self.plan, request);
        }
    }

    /// Positions that the KV cache holds.
    pub fn context(&self) -> usize {
        self.plan.context
    }

    /// The plan that is being run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Continues `prompt`, telling `on_token` of each new token as it comes.
    ///
    /// What the cache already holds of the prompt is not computed again. Setting `cancel` ends the
    /// generation at the next layer; the session stays usable.
    ///
    /// # Errors
    /// If the prompt is empty or does not fit the context, or reading or computing fails.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        cancel: &AtomicBool,
        on_token: &mut dyn FnMut(u32),
    ) -> Result<Generation, Error> {
        let started = Instant::now();
        if prompt.is_empty() {
            return Err(Error::TooShort { what: "prompt", found: 0, needed: 1 });
        }
        let mut sampler = Sampler::new(options.sampling, self.planner.spec.vocab, prompt)?;
        let mut made = Generation::empty();
        let first = self.prefill(prompt, options.max_new_tokens, &mut sampler, cancel);
        made.prefill = started.elapsed();
        let decode_started = Instant::now();
        self.experts_before = self.store.counters().experts;
        match first
            .and_then(|next| self.decode(next, options, &mut sampler, cancel, &mut made, on_token))
        {
            Ok(stopped_by) => made.stopped_by = stopped_by,
            Err(Error::Exec(ExecError::Cancelled)) => {
                self.store.rewind()?;
                made.stopped_by = StoppedBy::Interrupt;
            }
            Err(error) => return Err(error),
        }
        made.decode = decode_started.elapsed();
        Ok(made)
    }

    /// Takes `next` and what follows it, token by token.
    fn decode(
        &mut self,
        mut next: u32,
        options: &GenerateOptions,
        sampler: &mut Sampler,
        cancel: &AtomicBool,
        made: &mut Generation,
        on_token: &mut dyn FnMut(u32),
    ) -> Result<StoppedBy, Error> {
        loop {
            if options.stop.contains(&next) {
                return Ok(StoppedBy::EndOfText);
            }
            made.tokens.push(next);
            on_token(next);
            if made.tokens.len() == options.max_new_tokens || self.fed.len() == self.plan.context {
                return Ok(StoppedBy::Length);
            }
            self.feed(&[next], cancel)?;
            made.decode_passes += 1;
            next = sampler.choose(self.decoder.last_logits())?;
        }
    }

    /// One pass. After an error that leaves the cache usable, the weights start over.
    fn feed(&mut self, tokens: &[u32], cancel: &AtomicBool) -> Result<(), Error> {
        self.decoder.feed(&mut self.store, tokens, cancel)?;
        self.fed.extend_from_slice(tokens);
        Ok(())
    }

    /// Feeds what the cache lacks of `prompt` and chooses the first new token.
    fn prefill(
        &mut self,
        prompt: &[u32],
        limit: usize,
        sampler: &mut Sampler,
        cancel: &AtomicBool,
    ) -> Result<u32, Error> {
        let known = self.keep_common_prefix(prompt)?;
        let chunks = prompt[known..].chunks(self.plan.prefill_chunk);
        // Each new token but the last is fed, too.
        self.store.expect_passes(Some((chunks.len() + limit - 1) as u64));
        for chunk in chunks {
            self.feed(chunk, cancel)?;
        }
        Ok(sampler.choose(self.decoder.last_logits())?)
    }

    /// Shortens the cache to what it has in common with `prompt`, less the last token of it, whose
    /// logits are wanted. Returns how many tokens are kept.
    fn keep_common_prefix(&mut self, prompt: &[u32]) -> Result<usize, Error> {
        let common = self.fed.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let mut keep = common.min(prompt.len() - 1);
        if self.decoder.truncate(0, keep).is_err() {
            // A sliding window has already forgotten what precedes that position.
            self.decoder.reset(0);
            keep = 0;
        }
        self.fed.truncate(keep);
        Ok(keep)
    }

    /// Log-probability of every token after the first, given those before it.
    ///
    /// # Errors
    /// If there are fewer than two tokens or they do not fit the context, or reading or computing
    /// fails.
    pub fn score(&mut self, tokens: &[u32], cancel: &AtomicBool) -> Result<ScoreReport, Error> {
        if tokens.len() < 2 {
            return Err(Error::TooShort { what: "text", found: tokens.len(), needed: 2 });
        }
        let started = Instant::now();
        self.decoder.reset(0);
        self.fed.clear();
        let chunk = self.plan.prefill_chunk;
        self.store.expect_passes(Some((tokens.len() - 1).div_ceil(chunk) as u64));
        let mut logprobs = Vec::with_capacity(tokens.len() - 1);
        for start in (0..tokens.len() - 1).step_by(chunk) {
            // The last token of each part is only scored; it is fed as the first of the next.
            let part = &tokens[start..tokens.len().min(start + chunk + 1)];
            self.decoder.score(&mut self.store, part, cancel, &mut logprobs)?;
        }
        let score = started.elapsed();
        #[allow(clippy::cast_precision_loss)] // texts are far shorter than 2^52 tokens
        let mean = logprobs.iter().map(|&p| f64::from(p)).sum::<f64>() / logprobs.len() as f64;
        self.remember_disk_speed();
        Ok(ScoreReport {
            tokens: tokens.to_vec(),
            perplexity: (-mean).exp(),
            logprobs,
            score_seconds: seconds(score),
            memory: self.memory_report(),
            io: self.io_report(),
            plan: self.plan.clone(),
        })
    }

    /// Everything about a finished generation; `text` is what its tokens decode to.
    pub fn report(&mut self, text: String, prompt_tokens: usize, made: Generation) -> RunReport {
        self.remember_disk_speed();
        self.remember_memory_speed(&made);
        let decode = made.decode.as_secs_f64();
        let passes = (made.decode_passes > 0).then(|| f64::from(made.decode_passes));
        RunReport {
            text,
            tokens: made.tokens,
            prompt_tokens,
            stopped_by: made.stopped_by,
            timings: Timings {
                load_seconds: seconds(self.load),
                prefill_seconds: seconds(made.prefill),
                decode_seconds: seconds(made.decode),
                decode_tokens_per_second: passes.map(|passes| passes / decode),
                predicted_tokens_per_second: self.prediction.decode_tokens_per_second,
            },
            memory: self.memory_report(),
            io: self.io_report(),
            plan: self.plan.clone(),
        }
    }

    /// Everything about a batch that made `tokens` new tokens in `took`.
    pub fn batch_report(&mut self, tokens: usize, took: Duration) -> BatchReport {
        self.remember_disk_speed();
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let tokens_per_second = tokens as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
        BatchReport {
            load_seconds: seconds(self.load),
            generate_seconds: seconds(took),
            tokens_per_second,
            memory: self.memory_report(),
            io: self.io_report(),
            plan: self.plan.clone(),
        }
    }

    /// Later plans for models on this disk use the speed that this one was read with.
    fn remember_disk_speed(&mut self) {
        let counters = self.store.counters();
        let direct = counters.buffered_because.is_none();
        let rate = counters.stream_rate().or_else(|| counters.load_rate());
        if let Some(rate) = rate.filter(|_| direct) {
            self.planner.calibration.record_disk(&self.root, rate);
        }
    }

    /// Where nothing streams, decoding tells how fast weights in memory are multiplied with.
    fn remember_memory_speed(&mut self, made: &Generation) {
        /// Fewer passes, or weights that a cache holds, say little.
        const TELLING: (u32, Bytes) = (4, Bytes::mib(512));
        let weights = self.prediction.weights_per_pass;
        let telling = made.decode_passes >= TELLING.0 && weights >= TELLING.1;
        let read = weights.saturating_mul(made.decode_passes.into());
        if let Some(rate) =
            BytesPerSecond::of(read, made.decode).filter(|_| telling && self.plan.streams_nothing())
        {
            self.planner.calibration.record_memory(rate);
        }
    }

    fn memory_report(&self) -> MemoryReport {
        MemoryReport {
            budget: self.plan.budget,
            predicted_peak: self.plan.memory.peak,
            peak_rss: hardware::process_memory().and_then(|memory| memory.peak_rss),
            resident_weights: self.plan.resident_weights(),
        }
    }

    fn expert_report(&self, all: &ExpertCounters) -> ExpertReport {
        let decode = all.since(&self.experts_before);
        ExpertReport {
            used: all.used,
            missed: all.missed,
            read: all.read,
            hit_rate: all.hit_rate(),
            decode_hit_rate: decode.hit_rate(),
            decode_read: decode.read,
            stall_seconds: seconds(all.stall),
        }
    }

    fn io_report(&self) -> IoReport {
        let counters = self.store.counters();
        let per_pass = counters.streamed.get().checked_div(counters.passes).unwrap_or(0);
        let rate = counters.stream_rate().or_else(|| counters.load_rate());
        IoReport {
            read: counters.total(),
            loaded: counters.loaded,
            streamed: counters.streamed,
            looked_up: counters.looked_up,
            streamed_per_pass: Bytes::new(per_pass),
            read_bytes_per_second: rate.map(BytesPerSecond::get),
            stall_seconds: seconds(counters.stall),
            passes: counters.passes,
            experts: self.plan.experts.as_ref().map(|_| self.expert_report(&counters.experts)),
            direct: counters.buffered_because.is_none(),
            buffered_because: counters.buffered_because,
        }
    }
}

/// Other programs may have taken memory since the plan was made.
fn check_memory_is_still_free(plan: &Plan) -> Result<(), Error> {
    let need = plan.memory.peak.left_after(plan.memory.overhead);
    let free = hardware::available_memory().value;
    if need > free { Err(Error::MemoryTaken { need, free }) } else { Ok(()) }
}
