use std::io;
use std::path::{Path, PathBuf};

use overflowml_formats::{ConfigError, HeaderError, supported_architectures};
use overflowml_types::Bytes;

/// Why a synthetic model was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named as the messages use them
pub enum SynthError {
    /// No family of that name runs here.
    #[error("architecture `{arch}` is not known")]
    UnknownArchitecture { arch: String },
    /// Weights are not made in that type.
    #[error("weights cannot be made as `{dtype}`")]
    UnknownDType { dtype: String },
    /// No shape of the family has about so many parameters.
    #[error("`{architecture}` cannot have {asked} parameters, only from {least} to {most}")]
    ParametersOutOfRange { architecture: String, asked: u64, least: u64, most: u64 },
    /// The configuration that was made up for the family is not one that runs.
    #[error("the configuration made for `{architecture}` does not run here")]
    Config { architecture: String, source: ConfigError },
    /// A safetensors header could not be made.
    #[error("the header of `{}` cannot be made", path.display())]
    Header { path: PathBuf, source: HeaderError },
    /// The folder holds something else.
    #[error("`{}` is not empty: it holds `{entry}`, which is not of an interrupted synth", dir.display())]
    FolderInUse { dir: PathBuf, entry: String },
    /// The folder holds a synthetic model of another kind, whole or not.
    #[error("`{}` holds another synthetic model ({found}), not {asked}", dir.display())]
    OtherRequest { dir: PathBuf, found: String, asked: String },
    /// Another process is making the same model.
    #[error("`{}` is being written by another process", dir.display())]
    Busy { dir: PathBuf },
    /// The disk has no room for the rest.
    #[error("the disk is full: `{}` could not be written, {missing} of the model are missing", path.display())]
    DiskFull { path: PathBuf, missing: Bytes, source: io::Error },
    /// What the system reports.
    #[error("cannot {action} `{}`", path.display())]
    Os { action: &'static str, path: PathBuf, source: io::Error },
}

impl SynthError {
    pub(super) fn os(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Os { action, path: path.to_owned(), source }
    }

    /// Stable name: shown by `--json`, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownArchitecture { .. } => "synth.unknown-architecture",
            Self::UnknownDType { .. } => "synth.unknown-dtype",
            Self::ParametersOutOfRange { .. } => "synth.parameters-out-of-range",
            Self::Config { .. } => "synth.config",
            Self::Header { .. } => "synth.header",
            Self::FolderInUse { .. } => "synth.folder-in-use",
            Self::OtherRequest { .. } => "synth.other-request",
            Self::Busy { .. } => "synth.busy",
            Self::DiskFull { .. } => "synth.disk-full",
            Self::Os { .. } => "synth.os",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownArchitecture { .. } => {
                let names: Vec<_> =
                    supported_architectures().map(super::family::short_name).collect();
                Some(format!("known architectures: {}", names.join(", ")))
            }
            Self::UnknownDType { .. } => Some("use bf16, f16 or f32".to_owned()),
            Self::FolderInUse { .. } | Self::OtherRequest { .. } => {
                Some("name a folder that does not exist yet, or delete this one".to_owned())
            }
            Self::Busy { .. } => Some("wait until it is finished".to_owned()),
            Self::DiskFull { missing, .. } => Some(format!(
                "free {missing} and run the same command again: what is finished is kept"
            )),
            _ => None,
        }
    }
}
