use std::path::PathBuf;

use overflowml_types::Bytes;

use crate::{BindError, ConfigError, FileProblem, GgufError, HeaderError, IndexError};

/// Why a model cannot be opened. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named as the messages use them
pub enum FormatError {
    /// A path is missing or cannot be read as what it should be.
    #[error("`{}` {problem}", path.display())]
    File {
        path: PathBuf,
        #[source]
        problem: FileProblem,
    },
    /// A file that is no model, or of a format that is not read yet.
    #[error("`{}` is not a model that can be opened", path.display())]
    UnsupportedFile { path: PathBuf },
    /// A folder without weights.
    #[error("`{}` holds no .safetensors file{}", path.display(), found_instead(found))]
    NoWeights { path: PathBuf, found: Vec<String> },
    /// A folder without weights whose configuration does not tell sizes either.
    #[error("`{}` has no weights beside it, and {error}", path.display())]
    NoSizes {
        path: PathBuf,
        #[source]
        error: ConfigError,
    },
    /// A pipeline of which no component is there.
    #[error("`{}` lists components, but none of them is there ({})", path.display(), reasons.join("; "))]
    NoComponents { path: PathBuf, reasons: Vec<String> },
    /// Several weight files and nothing that says how they belong together.
    #[error(
        "`{}` holds {count} .safetensors files, but neither `model.safetensors` nor \
         `model.safetensors.index.json`",
        path.display()
    )]
    NoIndex { path: PathBuf, count: usize },
    /// A folder with more entries than any model has.
    #[error("`{}` holds more than {limit} files", path.display())]
    TooManyFiles { path: PathBuf, limit: usize },
    /// A text file that is larger than any real one.
    #[error("`{}` has {size}; more than {limit} is refused", path.display())]
    TooLarge { path: PathBuf, size: Bytes, limit: Bytes },
    /// A weight file's header is wrong.
    #[error("`{}`: {error}", path.display())]
    Header {
        path: PathBuf,
        #[source]
        error: HeaderError,
    },
    /// A GGUF file's header is wrong.
    #[error("`{}`: {error}", path.display())]
    Gguf {
        path: PathBuf,
        #[source]
        error: GgufError,
    },
    /// Several GGUF models in one folder.
    #[error("`{}` holds several GGUF models: {}", path.display(), names.join(", "))]
    SeveralGguf { path: PathBuf, names: Vec<String> },
    /// The index is wrong, or contradicts the shards.
    #[error("`{}`: {error}", path.display())]
    Index {
        path: PathBuf,
        #[source]
        error: IndexError,
    },
    /// `config.json` or `generation_config.json` is wrong.
    #[error("`{}`: {error}", path.display())]
    Config {
        path: PathBuf,
        #[source]
        error: ConfigError,
    },
    /// The files do not hold the weights that the configuration calls for.
    #[error("`{}`: {error}", path.display())]
    Bind {
        path: PathBuf,
        #[source]
        error: BindError,
    },
}

fn found_instead(found: &[String]) -> String {
    match found {
        [] => String::new(),
        names => format!(" (only {})", names.join(", ")),
    }
}

impl FormatError {
    /// Stable name: shown by `--json`, never reused.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::File { problem, .. } => problem.code(),
            Self::UnsupportedFile { .. } => "formats.unsupported-file",
            Self::NoWeights { .. } => "formats.no-weights",
            Self::NoSizes { error, .. } => error.code(),
            Self::NoComponents { .. } => "formats.no-components",
            Self::NoIndex { .. } => "formats.no-index",
            Self::TooManyFiles { .. } => "formats.too-many-files",
            Self::TooLarge { .. } => "formats.file-too-large",
            Self::Header { error, .. } => error.code(),
            Self::Gguf { error, .. } => error.code(),
            Self::SeveralGguf { .. } => "formats.several-gguf",
            Self::Index { error, .. } => error.code(),
            Self::Config { error, .. } => error.code(),
            Self::Bind { error, .. } => error.code(),
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { problem: FileProblem::BrokenLink { .. }, .. } => {
                Some("the file that it stands for was removed: download the model again".to_owned())
            }
            Self::File { .. } | Self::TooManyFiles { .. } | Self::TooLarge { .. } => None,
            Self::UnsupportedFile { .. } => Some(
                "give a folder in the Hugging Face layout, or a .safetensors file with its \
                 config.json beside it"
                    .to_owned(),
            ),
            Self::NoWeights { .. } => Some(
                "use the model's safetensors version; for a .bin checkpoint, load it with \
                 transformers and save it again with save_pretrained"
                    .to_owned(),
            ),
            Self::NoComponents { .. } => Some("fetch the components' folders too".to_owned()),
            Self::NoIndex { .. } => {
                Some("fetch the index too, or name the one file to open".to_owned())
            }
            Self::Header { error, .. } => error.hint(),
            Self::Gguf { error, .. } => error.hint(),
            Self::SeveralGguf { .. } => Some("name the one to open".to_owned()),
            Self::Index { error, .. } => error.hint(),
            Self::Config { error, .. } | Self::NoSizes { error, .. } => error.hint(),
            Self::Bind { error, .. } => error.hint(),
        }
    }
}
