use super::supported_architectures;

/// Why a configuration is not usable, or does not run here. The file is named by the
/// [`FormatError`](crate::FormatError) around it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named as the messages use them
pub enum ConfigError {
    /// There is no `config.json`, so what the weights are for is unknown.
    #[error("there is no config.json, so what the weights compute is unknown")]
    NoConfig,
    /// Not text.
    #[error("not UTF-8 text: first bad byte at {at}")]
    NotUtf8 { at: usize },
    /// Not JSON.
    #[error("not JSON: {reason}")]
    NotJson { reason: String },
    /// JSON, but not an object.
    #[error("expected a JSON object, found {found}")]
    NotObject { found: &'static str },
    /// Neither `architectures` nor `model_type`.
    #[error("neither `architectures` nor `model_type` says what the model is")]
    NoArchitecture,
    /// An architecture that this build does not run.
    #[error("architecture `{architecture}` does not run here")]
    UnsupportedArchitecture { architecture: String },
    /// A class whose tensors cannot be told from its configuration.
    #[error("the sizes of class `{class}` cannot be told from a configuration alone")]
    UnknownClass { class: String },
    /// More tensors than any model has.
    #[error("the configuration calls for more than {limit} tensors")]
    TooManyTensors { limit: usize },
    /// A component's name leads out of the pipeline's folder.
    #[error("component `{name}` is not a plain folder name")]
    NotAFolder { name: String },
    /// More components than any pipeline has.
    #[error("the pipeline lists more than {limit} components")]
    TooManyComponents { limit: usize },
    /// A field that must be there is not.
    #[error("field `{field}` is missing")]
    Missing { field: String },
    /// A field has the wrong type.
    #[error("field `{field}` must be {expected}, found {found}")]
    WrongType { field: String, expected: &'static str, found: String },
    /// A number is impossible or absurd.
    #[error("field `{field}` is {found}; it must be from {least} to {most}")]
    OutOfRange { field: String, found: String, least: String, most: String },
    /// A value that this build has no arithmetic for.
    #[error("field `{field}` is `{found}`, which does not run here; supported: {supported}")]
    Unsupported { field: String, found: String, supported: &'static str },
    /// Weights in a quantised format.
    #[error(
        "the weights are quantised (`quantization_config` says `{method}`), which does not run here"
    )]
    Quantized { method: String },
    /// A list does not have one entry per layer or frequency.
    #[error("field `{field}` has {found} entries, expected {expected}")]
    WrongCount { field: String, found: usize, expected: usize },
    /// Two fields contradict each other.
    #[error("field `{field}` is {found}, which does not go with `{other}` {value}")]
    Contradiction { field: String, found: String, other: &'static str, value: String },
}

impl ConfigError {
    /// Stable name: shown by `--json`, never reused.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoConfig => "formats.no-config",
            Self::NotUtf8 { .. } => "formats.config-not-utf8",
            Self::NotJson { .. } => "formats.config-not-json",
            Self::NotObject { .. } => "formats.config-not-object",
            Self::NoArchitecture => "formats.no-architecture",
            Self::UnsupportedArchitecture { .. } => "formats.unsupported-architecture",
            Self::UnknownClass { .. } => "formats.unknown-class",
            Self::TooManyTensors { .. } => "formats.too-many-tensors-on-paper",
            Self::NotAFolder { .. } => "formats.component-outside-folder",
            Self::TooManyComponents { .. } => "formats.too-many-components",
            Self::Missing { .. } => "formats.config-missing-field",
            Self::WrongType { .. } => "formats.config-wrong-type",
            Self::OutOfRange { .. } => "formats.config-out-of-range",
            Self::Unsupported { .. } => "formats.config-unsupported",
            Self::Quantized { .. } => "formats.quantized-weights",
            Self::WrongCount { .. } => "formats.config-wrong-count",
            Self::Contradiction { .. } => "formats.config-contradiction",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoConfig => Some("put the model's config.json beside its weights".to_owned()),
            Self::NoArchitecture | Self::UnsupportedArchitecture { .. } => {
                let names: Vec<_> = supported_architectures().collect();
                Some(format!("supported architectures: {}", names.join(", ")))
            }
            Self::Quantized { .. } => {
                Some("use the model's unquantised version (bf16, f16 or f32)".to_owned())
            }
            _ => None,
        }
    }
}
