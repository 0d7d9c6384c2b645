//! Many prompts that advance together: each pass over the weights serves all of them.
//!
//! Whenever a sequence ends, the next prompt takes its place, so that passes stay full. Each output is what its
//! prompt would give alone: a decoder's results do not depend on which sequences share a pass.

mod error;
mod journal;
mod rows;

use std::sync::atomic::AtomicBool;

use overflowml_exec::{ExecError, Sampler, Step};

pub use error::BatchError;
pub use journal::{Journal, Provenance};
pub use rows::{Outcome, Row, RowError, Rows};

use overflowml_formats::Model;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::report::StoppedBy;
use crate::session::{GenerateOptions, Session};

/// A prompt of a batch.
#[derive(Clone, Debug)]
pub struct BatchPrompt {
    /// The caller's name for it.
    pub index: usize,
    /// At least one token.
    pub tokens: Vec<u32>,
    /// How to continue it.
    pub options: GenerateOptions,
}

/// What a prompt was continued with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOutput {
    /// The new tokens, without the one that ended the text.
    pub tokens: Vec<u32>,
    /// How many tokens the prompt had.
    pub prompt_tokens: usize,
    /// Why there are no more.
    pub stopped_by: StoppedBy,
}

/// A prompt that is being continued.
struct Running {
    index: usize,
    /// The prompt and what was made of it.
    tokens: Vec<u32>,
    prompt: usize,
    /// How many of the tokens are in the cache.
    fed: usize,
    options: GenerateOptions,
    sampler: Sampler,
}

impl Running {
    fn new(prompt: BatchPrompt, vocab: usize, context: usize) -> Result<Self, Error> {
        let BatchPrompt { index, tokens, options } = prompt;
        if tokens.is_empty() {
            return Err(Error::TooShort { what: "prompt", found: 0, needed: 1 });
        }
        if tokens.len() > context {
            let given = tokens.len();
            return Err(ExecError::ContextFull { given, position: 0, context }.into());
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(ExecError::TokenOutOfRange { token, vocab }.into());
        }
        let sampler = Sampler::new(options.sampling, vocab, &tokens)?;
        Ok(Self { index, prompt: tokens.len(), tokens, fed: 0, options, sampler })
    }

    fn waiting(&self) -> &[u32] {
        &self.tokens[self.fed..]
    }

    /// Passes that it takes at most, if each reads `chunk` tokens of the prompt.
    fn passes_left(&self, chunk: usize) -> usize {
        let made = self.tokens.len() - self.prompt;
        let waiting = self.waiting().len();
        waiting.div_ceil(chunk.max(1)) + self.options.max_new_tokens.saturating_sub(made + 1)
    }

    /// Takes the token that `logits` choose; why the text ends, if it does.
    fn take(&mut self, logits: &[f32], context: usize) -> Result<Option<StoppedBy>, Error> {
        let next = self.sampler.choose(logits)?;
        if self.options.stop.contains(&next) {
            return Ok(Some(StoppedBy::EndOfText));
        }
        let full = self.fed == context;
        self.tokens.push(next);
        let made = self.tokens.len() - self.prompt;
        Ok((full || made == self.options.max_new_tokens).then_some(StoppedBy::Length))
    }

    fn finish(self, stopped_by: StoppedBy) -> (usize, BatchOutput) {
        let tokens = self.tokens[self.prompt..].to_vec();
        (self.index, BatchOutput { tokens, prompt_tokens: self.prompt, stopped_by })
    }
}

/// Where a batch takes its prompts from and brings its results to.
pub trait BatchEnds {
    /// The next prompt; `None` if there are no more.
    ///
    /// # Errors
    /// What keeps the whole batch from going on; a prompt that cannot be had is passed over in here.
    fn next(&mut self) -> Result<Option<BatchPrompt>, Error>;

    /// A prompt is done, or cannot be continued. Prompts end in any order.
    ///
    /// # Errors
    /// What keeps the whole batch from going on.
    fn done(&mut self, index: usize, result: Result<BatchOutput, Error>) -> Result<(), Error>;

    /// A pass has been made, which chose `tokens` new tokens.
    fn passed(&mut self, tokens: usize);
}

impl Session {
    /// Continues every prompt of `ends`, as many at once as the session was planned for.
    ///
    /// Setting `cancel` ends it at the next layer; what was not done is not told of then.
    ///
    /// # Errors
    /// If `ends` fails, on cancellation ([`Error::is_interrupt`]), or if reading or computing fails. A prompt
    /// that cannot be continued is no error: it is told to `ends`.
    pub fn generate_many(
        &mut self,
        ends: &mut dyn BatchEnds,
        cancel: &AtomicBool,
    ) -> Result<(), Error> {
        let mut lanes: Vec<Option<Running>> = Vec::new();
        lanes.resize_with(self.plan().sequences, || None);
        self.forget();
        let result = self.run_lanes(&mut lanes, ends, cancel);
        self.forget();
        if result.is_err() {
            // A pass that was broken off has left the weights in the middle.
            self.store.rewind()?;
        }
        result
    }

    fn run_lanes(
        &mut self,
        lanes: &mut [Option<Running>],
        ends: &mut dyn BatchEnds,
        cancel: &AtomicBool,
    ) -> Result<(), Error> {
        loop {
            let more = self.refill(lanes, ends)?;
            let chunk = self.plan.prefill_chunk;
            let running = || lanes.iter().flatten();
            let left = running().map(|lane| lane.passes_left(chunk / lanes.len())).max();
            let Some(left) = left else { return Ok(()) };
            self.store.expect_passes((!more).then_some(left as u64));
            let steps = steps(lanes, chunk);
            self.decoder.advance(&mut self.store, &steps, cancel)?;
            let fed: Vec<_> = steps.iter().map(|step| (step.sequence, step.tokens.len())).collect();
            let chosen = self.take_tokens(lanes, &fed, ends)?;
            ends.passed(chosen);
        }
    }

    /// Chooses the next token of every lane whose tokens are all fed; how many that were. `fed` are the lanes of the
    /// pass and how many tokens each fed.
    fn take_tokens(
        &mut self,
        lanes: &mut [Option<Running>],
        fed: &[(usize, usize)],
        ends: &mut dyn BatchEnds,
    ) -> Result<usize, Error> {
        let mut chosen = 0;
        for (row, &(sequence, count)) in fed.iter().enumerate() {
            let Some(lane) = &mut lanes[sequence] else { continue };
            lane.fed += count;
            if !lane.waiting().is_empty() {
                continue;
            }
            chosen += 1;
            let stopped = lane.take(self.decoder.logits_after(row), self.plan.context)?;
            let Some(stopped_by) = stopped else { continue };
            if let Some(lane) = lanes[sequence].take() {
                let (index, output) = lane.finish(stopped_by);
                self.decoder.reset(sequence);
                ends.done(index, Ok(output))?;
            }
        }
        Ok(chosen)
    }

    /// Gives every free lane the next prompt; whether there may be more.
    fn refill(
        &mut self,
        lanes: &mut [Option<Running>],
        ends: &mut dyn BatchEnds,
    ) -> Result<bool, Error> {
        for lane in lanes.iter_mut().filter(|lane| lane.is_none()) {
            while lane.is_none() {
                let Some(prompt) = ends.next()? else { return Ok(false) };
                let index = prompt.index;
                match Running::new(prompt, self.planner.spec.vocab, self.plan.context) {
                    Ok(running) => *lane = Some(running),
                    Err(error) => ends.done(index, Err(error))?,
                }
            }
        }
        Ok(true)
    }

    fn forget(&mut self) {
        (0..self.plan.sequences).for_each(|sequence| self.decoder.reset(sequence));
        self.fed.clear();
    }
}

/// What the results of `rows` by `model` depend on; `settings` are all that change results, as text.
///
/// # Errors
/// If the model's configuration cannot be read.
pub fn provenance(model: &Model, rows: &Rows, settings: String) -> Result<Provenance, BatchError> {
    let mut digest = Sha256::new();
    if let Some(path) = &model.files.config {
        let failed = |source| BatchError::Read { path: path.clone(), source };
        digest.update(std::fs::read(path).map_err(failed)?);
    }
    for file in &model.manifest.files {
        digest.update(file.path.file_name().unwrap_or_default().as_encoded_bytes());
        digest.update(file.size.get().to_le_bytes());
    }
    let model = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Provenance { model, prompts: rows.fingerprint().to_owned(), settings })
}

/// What each lane feeds to the next pass: a token each, and the room that is left for prompts, first come first served.
fn steps(lanes: &[Option<Running>], chunk: usize) -> Vec<Step<'_>> {
    let waiting = || {
        let lanes = lanes.iter().enumerate();
        lanes.filter_map(|(sequence, lane)| lane.as_ref().map(|lane| (sequence, lane.waiting())))
    };
    let mut room = chunk.saturating_sub(waiting().count());
    waiting()
        .map(|(sequence, tokens)| {
            let more = room.min(tokens.len() - 1);
            room -= more;
            Step { sequence, tokens: &tokens[..=more] }
        })
        .collect()
}
