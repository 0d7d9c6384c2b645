//! From a model and a wish to a plan for this host.

use overflowml_formats::Model;
use overflowml_hardware as hardware;
use overflowml_plan::{Infeasible, Plan, Request, plan};
use overflowml_types::{Access, Bytes, DType, DecoderSpec, LogitsWanted, PassWeight};

use crate::calibration::Calibration;
use crate::error::Error;
use crate::overhead;

/// What a user wants from a run; everything absent is decided here.
#[derive(Clone, Debug)]
pub struct SessionRequest {
    /// Bound on the memory of the whole process; `None` is what is free now, less a margin.
    pub memory: Option<Bytes>,
    /// Tokens that are fed before the first new one.
    pub prompt: usize,
    /// New tokens at most.
    pub generate: usize,
    /// Positions that the KV cache must hold, if more than `prompt + generate`.
    pub context: Option<usize>,
    /// Sequences that advance together.
    pub sequences: usize,
    /// Whether text is generated or scored.
    pub logits: LogitsWanted,
    /// Compute threads; `None` is every usable core.
    pub threads: Option<usize>,
    /// Whether reads may bypass the page cache.
    pub direct_io: bool,
    /// Memory that this process will hold before the run and does not hold yet: a tokenizer that was not read.
    pub later: Bytes,
}

impl SessionRequest {
    /// A run of `generate` tokens after a prompt of `prompt`, with whatever memory is free.
    pub const fn new(prompt: usize, generate: usize, logits: LogitsWanted) -> Self {
        Self {
            memory: None,
            prompt,
            generate,
            context: None,
            sequences: 1,
            logits,
            threads: None,
            direct_io: true,
            later: Bytes::ZERO,
        }
    }
}

/// A model, bound to its files, with everything that a plan depends on.
#[derive(Clone, Debug)]
pub struct Planner {
    pub(crate) spec: DecoderSpec,
    pub(crate) weights: Vec<PassWeight>,
    pub(crate) request: Request,
    pub(crate) calibration: Calibration,
}

impl Planner {
    /// Looks at the model and the machine.
    ///
    /// # Errors
    /// If the model cannot be run: unsupported, incomplete or damaged.
    pub fn new(model: &Model, wanted: &SessionRequest) -> Result<Self, Error> {
        Self::with(model, wanted, Calibration::current)
    }

    /// The same with the speeds that `calibrate` gives for a number of threads and memory to spare.
    pub(crate) fn with(
        model: &Model,
        wanted: &SessionRequest,
        calibrate: impl FnOnce(usize, Bytes) -> Calibration,
    ) -> Result<Self, Error> {
        let spec = model.decoder()?.clone();
        let weights = model.bind()?;
        let threads = wanted.threads.unwrap_or_else(hardware::usable_threads);
        let budget = wanted.memory.unwrap_or_else(free_budget);
        let calibration = calibrate(threads, budget.share(0.25));
        let mut overhead = overhead::now();
        overhead.value = overhead.value.saturating_add(wanted.later);
        // A larger context is asked for as if more were to be generated.
        let needed = wanted.prompt + wanted.generate;
        let generate =
            wanted.generate + wanted.context.map_or(0, |most| most.saturating_sub(needed));
        let request = Request {
            budget,
            prompt: wanted.prompt,
            generate,
            sequences: wanted.sequences,
            logits: wanted.logits,
            kv_dtype: kv_dtype(&weights),
            threads,
            overhead,
            rates: calibration.rates_for(model),
        };
        Ok(Self { spec, weights, request, calibration })
    }

    /// How many sequences, at most `most`, make the tokens come fastest within the budget: each more shares the
    /// reading of what streams, but its cache takes memory that weights could have.
    ///
    /// # Errors
    /// [`Infeasible`] if even one does not fit.
    pub fn best_sequences(&self, most: usize) -> Result<usize, Infeasible> {
        /// A larger batch must be better by this, or its memory is not worth it.
        const BETTER: f64 = 0.98;
        let per_row = |sequences: usize| -> Result<f64, Infeasible> {
            let request = Request { sequences, ..self.request.clone() };
            let plan = plan(&self.spec, &self.weights, &request)?;
            #[allow(clippy::cast_precision_loss)] // far below 2^52
            let sequences = sequences as f64;
            Ok(plan.prediction.seconds_for(&request).get() / sequences)
        };
        let (mut best, mut least) = (1, per_row(1)?);
        let larger = std::iter::successors(Some(2), |&sequences| Some(sequences * 2));
        for sequences in larger.take_while(|&sequences| sequences < 2 * most) {
            let sequences = sequences.min(most);
            let Ok(time) = per_row(sequences) else { break };
            if time < least * BETTER {
                (best, least) = (sequences, time);
            }
        }
        Ok(best)
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Infeasible`] says what was needed, what there was and what to change.
    pub fn plan(&self) -> Result<Plan, Infeasible> {
        plan(&self.spec, &self.weights, &self.request)
    }
}

/// What is free now, less a margin for what other programs take meanwhile.
fn free_budget() -> Bytes {
    const LEAST_MARGIN: Bytes = Bytes::mib(256);
    let free = hardware::available_memory().value;
    let held = hardware::process_memory().map_or(Bytes::ZERO, |memory| memory.rss);
    let margin = LEAST_MARGIN.max(free.share(0.04));
    free.left_after(margin).saturating_add(held)
}

/// Keys and values take as many bytes as the weights' elements: 32 bits for F32, else 16. F16 for BF16 too: it is
/// eight times as precise, and what is beyond its range is cut to it.
pub(crate) fn kv_dtype(weights: &[PassWeight]) -> DType {
    let matrix = weights.iter().find(|weight| weight.access == Access::Rows);
    match matrix.map(|weight| weight.tensor.dtype) {
        Some(DType::F16 | DType::BF16) => DType::F16,
        _ => DType::F32,
    }
}
