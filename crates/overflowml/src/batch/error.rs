use std::io;
use std::path::PathBuf;

/// Why a batch cannot be read, written or continued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The file of prompts cannot be read.
    #[error("cannot read the prompts in `{path}`: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file of prompts was changed while it was worked on.
    #[error("`{path}` has changed since this run began")]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// Results cannot be written.
    #[error("cannot write the results to `{path}`: {source}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The results are there already.
    #[error("`{path}` exists already")]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// What an earlier run has left is of another model, other prompts or other settings.
    #[error("`{path}` is what an unfinished run with {difference} has left")]
    OtherRun {
        /// The unfinished run's results.
        path: PathBuf,
        /// What differs.
        difference: &'static str,
    },
    /// What an earlier run has left cannot be understood.
    #[error("line {line} of `{path}` is not what an unfinished run leaves")]
    Damaged {
        /// The unfinished run's results.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

impl BatchError {
    /// Stable name, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "batch.read",
            Self::Changed { .. } => "batch.changed",
            Self::Write { .. } => "batch.write",
            Self::Exists { .. } => "batch.exists",
            Self::OtherRun { .. } => "batch.other-run",
            Self::Damaged { .. } => "batch.damaged",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } => {
                Some("name another file, or replace this one with `--overwrite`".to_owned())
            }
            Self::OtherRun { .. } | Self::Damaged { .. } => Some(
                "give the same model, prompts and settings to continue it, or begin anew with `--overwrite`".to_owned(),
            ),
            Self::Changed { .. } => Some("begin anew with `--overwrite`".to_owned()),
            Self::Write { .. } => {
                Some("what is done is kept: run the same command again to continue".to_owned())
            }
            Self::Read { .. } => None,
        }
    }
}
