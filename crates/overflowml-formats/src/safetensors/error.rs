use overflowml_types::{Bytes, DType};

use super::DTYPES;

/// Why the start of a file is not a safetensors header, or contradicts the file's length.
///
/// The file itself is named by the [`FormatError`](crate::FormatError) around it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named as the messages use them
pub enum HeaderError {
    /// The file ends before its header does.
    #[error("the file ends after {found}, but its header needs {need}")]
    Truncated { found: Bytes, need: Bytes },
    /// The header claims to be longer than the file.
    #[error("the header claims {claimed}, but the whole file has only {file}")]
    OutsideFile { claimed: Bytes, file: Bytes },
    /// The header claims more than any real header needs.
    #[error("the header claims {claimed}; more than {limit} is refused")]
    TooLarge { claimed: Bytes, limit: Bytes },
    /// The header is not text.
    #[error("the header is not UTF-8 text: first bad byte at {at}")]
    NotUtf8 { at: usize },
    /// The header is not the JSON that it should be.
    #[error("the header is not the expected JSON: {reason}")]
    NotJson { reason: String },
    /// `__metadata__` is not an object of texts.
    #[error("`__metadata__` must map names to texts: {reason}")]
    BadMetadata { reason: String },
    /// A tensor's entry lacks a field or has one of the wrong type.
    #[error("the entry of tensor `{tensor}` is malformed: {reason}")]
    BadEntry { tensor: String, reason: String },
    /// Too many tensors for one file.
    #[error("the header lists more than {limit} tensors")]
    TooManyTensors { limit: usize },
    /// A name that no tool writes.
    #[error("a tensor's name has {len} bytes; more than {limit} is refused: `{start}…`")]
    NameTooLong { start: String, len: usize, limit: usize },
    /// The same name twice.
    #[error("tensor `{tensor}` is listed twice")]
    DuplicateTensor { tensor: String },
    /// More dimensions than any real tensor.
    #[error("tensor `{tensor}` has more than {limit} dimensions")]
    TooManyDimensions { tensor: String, limit: usize },
    /// An element type that this build does not know.
    #[error("tensor `{tensor}` has the unknown element type `{dtype}`")]
    UnknownDType { tensor: String, dtype: String },
    /// The number of elements or bytes overflows.
    #[error("tensor `{tensor}` of shape {shape:?} has more bytes than a file can hold")]
    ShapeOverflow { tensor: String, shape: Vec<u64> },
    /// Element type and shape contradict the span.
    #[error("tensor `{tensor}`: {dtype} {shape:?} takes {} bytes, but its offsets span {}", expected.get(), found.get())]
    SizeMismatch { tensor: String, dtype: DType, shape: Vec<u64>, expected: Bytes, found: Bytes },
    /// The end lies before the start.
    #[error("tensor `{tensor}` starts at {start} but ends at {end}")]
    OffsetsReversed { tensor: String, start: u64, end: u64 },
    /// The data lies behind the file's end.
    #[error("the data of tensor `{tensor}` ends at byte {}, but the file has only {}", end.get(), file.get())]
    DataOutsideFile { tensor: String, end: Bytes, file: Bytes },
    /// Two tensors share bytes.
    #[error("the data of tensor `{tensor}` overlaps that of `{other}`")]
    Overlap { tensor: String, other: String },
    /// Bytes before a tensor belong to no tensor.
    #[error("{} bytes before the data of tensor `{tensor}` belong to no tensor", gap.get())]
    Gap { tensor: String, gap: Bytes },
    /// Bytes after the last tensor belong to no tensor.
    #[error("{} bytes after the last tensor belong to no tensor", extra.get())]
    TrailingBytes { extra: Bytes },
}

impl HeaderError {
    /// Stable name: shown by `--json`, never reused.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "formats.header-truncated",
            Self::OutsideFile { .. } => "formats.header-outside-file",
            Self::TooLarge { .. } => "formats.header-too-large",
            Self::NotUtf8 { .. } => "formats.header-not-utf8",
            Self::NotJson { .. } => "formats.header-not-json",
            Self::BadMetadata { .. } => "formats.bad-metadata",
            Self::BadEntry { .. } => "formats.bad-tensor-entry",
            Self::TooManyTensors { .. } => "formats.too-many-tensors",
            Self::NameTooLong { .. } => "formats.name-too-long",
            Self::DuplicateTensor { .. } => "formats.duplicate-tensor",
            Self::TooManyDimensions { .. } => "formats.too-many-dimensions",
            Self::UnknownDType { .. } => "formats.unknown-dtype",
            Self::ShapeOverflow { .. } => "formats.shape-overflow",
            Self::SizeMismatch { .. } => "formats.size-mismatch",
            Self::OffsetsReversed { .. } => "formats.offsets-reversed",
            Self::DataOutsideFile { .. } => "formats.data-outside-file",
            Self::Overlap { .. } => "formats.data-overlap",
            Self::Gap { .. } => "formats.data-gap",
            Self::TrailingBytes { .. } => "formats.trailing-bytes",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownDType { .. } => {
                let names: Vec<_> = DTYPES.iter().map(|(name, _)| *name).collect();
                Some(format!("known element types: {}", names.join(", ")))
            }
            Self::Truncated { .. } | Self::DataOutsideFile { .. } => {
                Some("the file is incomplete: download or copy it again".to_owned())
            }
            Self::OutsideFile { .. }
            | Self::TooLarge { .. }
            | Self::NotUtf8 { .. }
            | Self::NotJson { .. } => Some(
                "the file is incomplete, or something else was saved under its name, such as a \
                 Git LFS pointer or a web page: download it again"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
