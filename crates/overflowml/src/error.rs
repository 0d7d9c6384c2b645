use overflowml_exec::ExecError;
use overflowml_formats::FormatError;
use overflowml_plan::Infeasible;
use overflowml_stream::StreamError;
use overflowml_types::Bytes;

use crate::batch::BatchError;
use crate::doctor::BundleError;
use crate::hub::HubError;
use crate::synth::SynthError;
use crate::text::TextError;

/// Whatever can keep a model from being looked at, planned or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model's files are missing, damaged or of an unsupported kind.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The model could not be had from the hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Tokenizer or chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A valid "no": it does not fit.
    #[error(transparent)]
    Infeasible(#[from] Infeasible),
    /// Reading weights failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Computing failed, or was asked for something impossible.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A synthetic model could not be made.
    #[error(transparent)]
    Synth(#[from] SynthError),
    /// A bug report's file could not be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Many prompts could not be read, or their results not be kept.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Between planning and allocating, other programs took the memory.
    #[error("the plan needs {need} more memory, but only {free} is free now")]
    MemoryTaken {
        /// What is yet to be allocated.
        need: Bytes,
        /// What is free.
        free: Bytes,
    },
    /// There is nothing to score or to continue.
    #[error("the {what} has {found} token(s), at least {needed} needed")]
    TooShort {
        /// Prompt or text.
        what: &'static str,
        /// What was given.
        found: usize,
        /// What is needed.
        needed: usize,
    },
}

impl Error {
    /// Stable name, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Format(error) => error.code(),
            Self::Hub(error) => error.code(),
            Self::Text(error) => error.code(),
            Self::Infeasible(error) => error.code(),
            Self::Stream(error) => error.code(),
            Self::Exec(error) => error.code(),
            Self::Synth(error) => error.code(),
            Self::Bundle(error) => error.code(),
            Self::Batch(error) => error.code(),
            Self::MemoryTaken { .. } => "session.memory-taken",
            Self::TooShort { .. } => "session.too-short",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Format(error) => error.hint(),
            Self::Hub(error) => error.hint(),
            Self::Text(error) => error.hint(),
            Self::Infeasible(error) => error.hint(),
            Self::Stream(error) => error.hint(),
            Self::Exec(error) => error.hint(),
            Self::Synth(error) => error.hint(),
            Self::Bundle(error) => error.hint(),
            Self::Batch(error) => error.hint(),
            Self::MemoryTaken { free, .. } => Some(format!(
                "close other programs, or give a budget that fits with `--memory` (below {free})"
            )),
            Self::TooShort { .. } => None,
        }
    }

    /// Whether this is a valid "no" to a well-posed question, and not a failure to answer it.
    pub fn is_no(&self) -> bool {
        matches!(self, Self::Infeasible(_) | Self::MemoryTaken { .. })
    }

    /// Whether the user ended it.
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Self::Exec(ExecError::Cancelled))
    }
}
