use overflowml_types::Bytes;

use super::GgmlType;

/// Why the start of a file is not a GGUF header, contradicts the file's length, or does not go with the other parts
/// of a split model. The file is named by the [`FormatError`](crate::FormatError) around it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named as the messages use them
pub enum GgufError {
    /// The bytes end before the header does.
    #[error("the header needs at least {need}, but there are only {found}")]
    Truncated { found: Bytes, need: Bytes },
    /// The header is longer than any real one.
    #[error("the header has more than {limit}")]
    TooLarge { limit: Bytes },
    /// Another format.
    #[error("the file starts with {found:?}, not with `GGUF`")]
    NotGguf { found: [u8; 4] },
    /// Written by a machine of the other byte order.
    #[error("the file is big-endian, which is not read")]
    BigEndian,
    /// Older than any file in use, or newer than this build.
    #[error("version {version} of GGUF is not read; 2 and 3 are")]
    UnsupportedVersion { version: u32 },
    /// A count that no real file has.
    #[error("the header claims {count} {what}; more than {limit} is refused")]
    TooMany { what: &'static str, count: u64, limit: usize },
    /// A text that no tool writes.
    #[error("{what} has {len} bytes; more than {limit} is refused")]
    TextTooLong { what: &'static str, len: u64, limit: usize },
    /// A text that is none.
    #[error("{what} is not UTF-8 text")]
    NotUtf8 { what: &'static str },
    /// A metadata type that this build does not know.
    #[error("metadata `{key}` has the unknown type {kind}")]
    UnknownValueType { key: String, kind: u32 },
    /// Lists in lists in lists.
    #[error("metadata `{key}` is nested too deeply")]
    TooDeep { key: String },
    /// A list longer than the file.
    #[error("metadata `{key}` claims {count} entries, which the file has no room for")]
    ListOutsideFile { key: String, count: u64 },
    /// The same key twice.
    #[error("metadata `{key}` is there twice")]
    DuplicateKey { key: String },
    /// An alignment that is no power of two, or absurd.
    #[error("`general.alignment` is {found}, which is no usable power of two")]
    BadAlignment { found: String },
    /// More dimensions than any real tensor.
    #[error("tensor `{tensor}` has more than {limit} dimensions")]
    TooManyDimensions { tensor: String, limit: usize },
    /// The same name twice.
    #[error("tensor `{tensor}` is listed twice")]
    DuplicateTensor { tensor: String },
    /// An element type that this build does not know.
    #[error("tensor `{tensor}` has the unknown element type {kind}")]
    UnknownType { tensor: String, kind: u32 },
    /// A row that ends inside a block.
    #[error("tensor `{tensor}` has rows of {row}, which are no whole blocks of {kind}")]
    PartialBlock { tensor: String, kind: GgmlType, row: u64 },
    /// A size beyond 64 bits.
    #[error("tensor `{tensor}` has an impossible size or place: shape {shape:?}")]
    ShapeOverflow { tensor: String, shape: Vec<u64> },
    /// A tensor that does not start where the alignment allows.
    #[error("tensor `{tensor}` starts at {offset}, which is no multiple of {alignment}")]
    Misaligned { tensor: String, offset: u64, alignment: u64 },
    /// The file ends inside a tensor.
    #[error("tensor `{tensor}` ends at {end}, but the file has only {file}")]
    DataOutsideFile { tensor: String, end: Bytes, file: Bytes },
    /// Two tensors share bytes.
    #[error("tensors `{tensor}` and `{other}` overlap")]
    Overlap { tensor: String, other: String },
    /// A part of a split model says something else than its name.
    #[error("the name says part {name} of the model, the file says {file}")]
    WrongPart { name: String, file: String },
    /// A tensor is in two parts.
    #[error("tensor `{tensor}` is in two parts of the model")]
    InTwoParts { tensor: String },
    /// Parts that do not add up.
    #[error("the parts hold {found} tensors, but the first says {expected}")]
    WrongTotal { found: usize, expected: u64 },
}

impl GgufError {
    /// Stable name: shown by `--json`, never reused.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "formats.gguf-truncated",
            Self::TooLarge { .. } => "formats.gguf-too-large",
            Self::NotGguf { .. } => "formats.not-gguf",
            Self::BigEndian => "formats.gguf-big-endian",
            Self::UnsupportedVersion { .. } => "formats.gguf-version",
            Self::TooMany { .. } => "formats.gguf-too-many",
            Self::TextTooLong { .. } => "formats.gguf-text-too-long",
            Self::NotUtf8 { .. } => "formats.gguf-not-utf8",
            Self::UnknownValueType { .. } => "formats.gguf-unknown-value-type",
            Self::TooDeep { .. } => "formats.gguf-too-deep",
            Self::ListOutsideFile { .. } => "formats.gguf-list-outside-file",
            Self::DuplicateKey { .. } => "formats.gguf-duplicate-key",
            Self::BadAlignment { .. } => "formats.gguf-alignment",
            Self::TooManyDimensions { .. } => "formats.gguf-too-many-dimensions",
            Self::DuplicateTensor { .. } => "formats.gguf-duplicate-tensor",
            Self::UnknownType { .. } => "formats.gguf-unknown-type",
            Self::PartialBlock { .. } => "formats.gguf-partial-block",
            Self::ShapeOverflow { .. } => "formats.gguf-shape-overflow",
            Self::Misaligned { .. } => "formats.gguf-misaligned",
            Self::DataOutsideFile { .. } => "formats.gguf-data-outside-file",
            Self::Overlap { .. } => "formats.gguf-overlap",
            Self::WrongPart { .. } => "formats.gguf-wrong-part",
            Self::InTwoParts { .. } => "formats.gguf-in-two-parts",
            Self::WrongTotal { .. } => "formats.gguf-wrong-total",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Truncated { .. } | Self::DataOutsideFile { .. } => {
                Some("the download is incomplete: fetch the file again".to_owned())
            }
            Self::WrongPart { .. } | Self::InTwoParts { .. } | Self::WrongTotal { .. } => {
                Some("the parts are of different models: fetch all of them again".to_owned())
            }
            Self::UnsupportedVersion { .. } | Self::BigEndian => {
                Some("convert the model again with a recent llama.cpp".to_owned())
            }
            _ => None,
        }
    }
}
