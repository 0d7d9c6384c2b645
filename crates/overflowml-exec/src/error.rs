use overflowml_stream::StreamError;
use overflowml_types::{DType, WeightRole};

/// Why a decoder could not be made, or a pass not be finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The specification calls for a weight that was not given.
    #[error("the weight `{role}` is missing")]
    WeightMissing {
        /// What it would do.
        role: WeightRole,
    },
    /// A weight does not have the shape that the specification calls for.
    #[error("the weight `{role}` has shape {shape:?}, but {expected:?} is needed")]
    WeightShape {
        /// What it does.
        role: WeightRole,
        /// As stored.
        shape: Vec<u64>,
        /// As needed.
        expected: Vec<u64>,
    },
    /// A weight is stored in an element type that the kernels do not multiply with.
    #[error(
        "the weight `{role}` is stored as {dtype}; only f32, f16 and bf16 can be computed with"
    )]
    WeightType {
        /// What it does.
        role: WeightRole,
        /// As stored.
        dtype: DType,
    },
    /// The source holds another number of bytes for a weight than its shape calls for.
    #[error("the weight `{role}` should take {expected} bytes, but {actual} were given")]
    WeightBytes {
        /// What it does.
        role: WeightRole,
        /// From shape and element type.
        expected: u64,
        /// What the source has.
        actual: u64,
    },
    /// Keys and values cannot be stored in this element type.
    #[error("keys and values cannot be stored as {dtype}")]
    CacheType {
        /// What was asked for.
        dtype: DType,
    },
    /// The layouts were made for another model.
    #[error(
        "`{buffer}` was laid out for another model: it has {actual} elements, {expected} are needed"
    )]
    Layout {
        /// Which buffer.
        buffer: &'static str,
        /// What this model needs.
        expected: usize,
        /// What was laid out.
        actual: usize,
    },
    /// A token is not in the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocab} tokens")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// There is nothing to compute on.
    #[error("{given} tokens were given, but at least {needed} are needed")]
    TooFewTokens {
        /// How many were given.
        given: usize,
        /// How many it takes.
        needed: usize,
    },
    /// A pass got more tokens than its buffers were laid out for.
    #[error("{given} tokens were given to one pass, which takes at most {chunk}")]
    ChunkTooLong {
        /// How many were given.
        given: usize,
        /// How many fit.
        chunk: usize,
    },
    /// The cache has no room for the tokens.
    #[error("{given} more tokens after {position} do not fit a context of {context} tokens")]
    ContextFull {
        /// How many were given.
        given: usize,
        /// How many are there already.
        position: usize,
        /// How many there can be.
        context: usize,
    },
    /// A sampling setting is out of its range.
    #[error("`{name}` must be between {low} and {high}, not {value}")]
    Sampling {
        /// Which setting.
        name: &'static str,
        /// What was given.
        value: f32,
        /// The least that is allowed.
        low: f32,
        /// The most that is allowed.
        high: f32,
    },
    /// The steps of a pass are out of order, or name a sequence that there is not.
    #[error(
        "the steps of a pass must be of different sequences of {sequences}, in ascending order"
    )]
    Steps {
        /// How many sequences there are.
        sequences: usize,
    },
    /// The session was not laid out for scoring.
    #[error("this session was planned for generating text, not for scoring it")]
    NotForScoring,
    /// The cache cannot go back to this position.
    #[error("cannot go back to position {wanted}: positions {oldest} to {len} can be returned to")]
    Truncate {
        /// Where to.
        wanted: usize,
        /// The earliest that a sliding window has kept enough for.
        oldest: usize,
        /// How many positions there are.
        len: usize,
    },
    /// The caller asked to stop. The session is as it was before the pass, and can go on.
    #[error("cancelled")]
    Cancelled,
    /// The model's output is not a number.
    #[error("the model's output for the token after position {position} is not a number")]
    NotANumber {
        /// The last position that was computed.
        position: usize,
    },
    /// Weights could not be had.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl ExecError {
    /// Stable name: shown by `--json`, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::WeightMissing { .. } => "exec.weight-missing",
            Self::WeightShape { .. } => "exec.weight-shape",
            Self::WeightType { .. } => "exec.weight-type",
            Self::WeightBytes { .. } => "exec.weight-bytes",
            Self::CacheType { .. } => "exec.cache-type",
            Self::Layout { .. } => "exec.layout",
            Self::TokenOutOfRange { .. } => "exec.token-out-of-range",
            Self::TooFewTokens { .. } => "exec.too-few-tokens",
            Self::ChunkTooLong { .. } => "exec.chunk-too-long",
            Self::Steps { .. } => "exec.steps",
            Self::ContextFull { .. } => "exec.context-full",
            Self::Sampling { .. } => "exec.sampling",
            Self::NotForScoring => "exec.not-for-scoring",
            Self::Truncate { .. } => "exec.truncate",
            Self::Cancelled => "exec.cancelled",
            Self::NotANumber { .. } => "exec.not-a-number",
            Self::Stream(error) => error.code(),
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TokenOutOfRange { .. } => {
                Some("the tokenizer may belong to another model: check the model's folder".to_owned())
            }
            Self::ContextFull { given, position, .. } => {
                Some(format!("plan for a context of at least {}", given + position))
            }
            Self::NotANumber { .. } => Some(
                "the weights may be damaged or overflow in their type: `overflowml score` on a short text tells"
                    .to_owned(),
            ),
            Self::Stream(error) => error.hint(),
            _ => None,
        }
    }
}
