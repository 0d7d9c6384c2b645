//! A plan being run: files, weights, decoder and cache, held together.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use overflowml_exec::{Decoder, ExecError, Kernels, Pool, Sampler, Sampling};
use overflowml_formats::Model;
use overflowml_hardware as hardware;
use overflowml_plan::{Plan, Prediction, predict};
use overflowml_stream::{Counters, DirectIo, Store, StoreOptions};
use overflowml_types::{Bytes, Known, Seconds};

use crate::calibration::Calibration;
use crate::error::Error;
use crate::planner::{Planner, SessionRequest};
use crate::report::{
    IoReport, MemoryReport, RunReport, ScoreReport, StoppedBy, Timings, seconds,
};
use crate::text::Text;

/// Reads in flight: as many as keep a disk busy with blocks of this size.
const READERS: usize = 4;

/// A model ready to compute within its budget.
pub struct Session {
    planner: Planner,
    plan: Plan,
    prediction: Prediction,
    store: Store,
    decoder: Decoder,
    /// Tokens whose keys and values are in the cache.
    fed: Vec<u32>,
    load: Duration,
    root: PathBuf,
    threads: usize,
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
    pub fn new(model: &Model, text: &Text, sampling: Sampling, limit: usize, ignore_eos: bool) -> Self {
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
    prefill: Duration,
    decode: Duration,
    decode_passes: u64,
    decode_streamed: Bytes,
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
        let threads = planner.request.threads;
        let decoder = Decoder::new(
            &planner.spec,
            &planner.weights,
            &store,
            &plan,
            Pool::new(threads),
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
            root: model.root.clone(),
            threads,
        };
        session.learn_disk_speed();
        Ok(session)
    }

    /// Loading has just measured the disk: predict with that.
    fn learn_disk_speed(&mut self) {
        if let Some(rate) = self.store.counters().load_rate() {
            self.planner.request.rates.disk = Known::measured(rate, "loading the resident weights");
            self.prediction =
                predict(&self.planner.spec, &self.planner.weights, &self.plan, &self.planner.request);
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
        let mut next = match self.prefill(prompt, &mut sampler, cancel) {
            Ok(token) => token,
            Err(Error::Exec(ExecError::Cancelled)) => return self.interrupted(made, started),
            Err(error) => return Err(error),
        };
        made.prefill = started.elapsed();
        let decode_started = Instant::now();
        let streamed_before = self.store.counters().streamed;
        loop {
            if options.stop.contains(&next) {
                made.stopped_by = StoppedBy::EndOfText;
                break;
            }
            made.tokens.push(next);
            on_token(next);
            if made.tokens.len() == options.max_new_tokens || self.fed.len() == self.plan.context {
                break;
            }
            next = match self.step(next, &mut sampler, cancel) {
                Ok(token) => token,
                Err(Error::Exec(ExecError::Cancelled)) => {
                    made.stopped_by = StoppedBy::Interrupt;
                    self.store.rewind()?;
                    break;
                }
                Err(error) => return Err(error),
            };
            made.decode_passes += 1;
        }
        made.decode = decode_started.elapsed();
        made.decode_streamed = self.store.counters().streamed.left_after(streamed_before);
        Ok(made)
    }

    fn interrupted(&mut self, mut made: Generation, started: Instant) -> Result<Generation, Error> {
        self.store.rewind()?;
        made.stopped_by = StoppedBy::Interrupt;
        made.prefill = started.elapsed();
        Ok(made)
    }

    /// Feeds what the cache lacks of `prompt` and chooses the first new token.
    fn prefill(
        &mut self,
        prompt: &[u32],
        sampler: &mut Sampler,
        cancel: &AtomicBool,
    ) -> Result<u32, Error> {
        let known = self.keep_common_prefix(prompt)?;
        for chunk in prompt[known..].chunks(self.plan.prefill_chunk) {
            self.decoder.feed(&mut self.store, chunk, cancel)?;
            self.fed.extend_from_slice(chunk);
        }
        Ok(sampler.choose(self.decoder.last_logits())?)
    }

    fn step(&mut self, token: u32, sampler: &mut Sampler, cancel: &AtomicBool) -> Result<u32, Error> {
        self.decoder.feed(&mut self.store, &[token], cancel)?;
        self.fed.push(token);
        Ok(sampler.choose(self.decoder.last_logits())?)
    }

    /// Shortens the cache to what it has in common with `prompt`, less the last token of it, whose
    /// logits are wanted. Returns how many tokens are kept.
    fn keep_common_prefix(&mut self, prompt: &[u32]) -> Result<usize, Error> {
        let common = self.fed.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let mut keep = common.min(prompt.len() - 1);
        if self.decoder.truncate(keep).is_err() {
            // A sliding window has already forgotten what precedes that position.
            self.decoder.reset();
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
        self.decoder.reset();
        self.fed.clear();
        let mut logprobs = Vec::with_capacity(tokens.len() - 1);
        for chunk in chunks_with_next(tokens, self.plan.prefill_chunk) {
            self.decoder.score(&mut self.store, chunk, cancel, &mut logprobs)?;
        }
        let score = started.elapsed();
        #[allow(clippy::cast_precision_loss)] // texts are far shorter than 2^52 tokens
        let mean = logprobs.iter().map(|&p| f64::from(p)).sum::<f64>() / logprobs.len() as f64;
        Ok(ScoreReport {
            tokens: tokens.to_vec(),
            perplexity: (-mean).exp(),
            logprobs,
            score_seconds: seconds(score),
            memory: self.memory_report(),
            io: self.io_report(Bytes::ZERO),
            plan: self.plan.clone(),
        })
    }
}
