//! The safetensors header: eight bytes of length, then JSON that says where every tensor lies.
//!
//! A file is accepted only if its tensors tile the data section exactly: no gap, no overlap,
//! nothing behind the last one, and every span as long as element type and shape demand. That
//! rules out aliasing and hidden payloads, and it makes every later read safe to compute from the
//! header alone. The data itself is never looked at.

mod build;
mod error;
mod json;

use std::collections::{BTreeMap, HashSet};

use overflowml_types::{Bytes, DType};

pub use self::build::HeaderBuilder;
pub use self::error::HeaderError;
use self::json::RawTensor;
use crate::limits;

/// Bytes before the JSON: its length, little-endian.
pub const PREFIX: Bytes = Bytes::new(8);

/// What a safetensors file says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// In the order in which they lie in the file.
    pub tensors: Vec<HeaderTensor>,
    /// Free text about the file.
    pub metadata: BTreeMap<String, String>,
    /// Where the data section starts, from the start of the file.
    pub data_start: Bytes,
}

/// One tensor of a [`Header`].
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderTensor {
    /// Unique in the file.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Outermost dimension first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Where its data starts, from the start of the file.
    pub offset: Bytes,
    /// How many bytes of data.
    pub len: Bytes,
}

/// Where the data section starts in a file that begins with `prefix`, so how much of the file
/// [`parse_header`] needs.
///
/// # Errors
/// [`HeaderError::Truncated`] if there are not eight bytes, [`HeaderError::TooLarge`] if the
/// claimed length is above [`limits::HEADER`], [`HeaderError::OutsideFile`] if it is longer than
/// the file.
pub fn data_start(prefix: &[u8], file_len: Bytes) -> Result<Bytes, HeaderError> {
    let Some((claimed, _)) = prefix.split_first_chunk::<8>() else {
        return Err(HeaderError::Truncated { found: Bytes::of_len(prefix.len()), need: PREFIX });
    };
    let claimed = Bytes::new(u64::from_le_bytes(*claimed));
    if claimed > file_len.left_after(PREFIX) {
        return Err(HeaderError::OutsideFile { claimed, file: file_len });
    }
    if claimed > limits::HEADER {
        return Err(HeaderError::TooLarge { claimed, limit: limits::HEADER });
    }
    Ok(PREFIX.saturating_add(claimed))
}

/// Reads the header of a safetensors file of `file_len` bytes.
///
/// `bytes` is the file's start: at least up to [`data_start`], more is ignored.
///
/// # Errors
/// [`HeaderError`] for everything that is wrong with the header or that the file's length
/// contradicts.
pub fn parse_header(bytes: &[u8], file_len: Bytes) -> Result<Header, HeaderError> {
    let data_start = data_start(bytes, file_len)?;
    let truncated =
        || HeaderError::Truncated { found: Bytes::of_len(bytes.len()), need: data_start };
    let end = data_start.to_usize().ok_or_else(truncated)?;
    let json = bytes.get(8..end).ok_or_else(truncated)?;
    let raw = json::parse(json)?;
    refuse_duplicates(&raw.tensors)?;
    let mut tensors = raw
        .tensors
        .into_iter()
        .map(|tensor| check_tensor(tensor, data_start))
        .collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|tensor| (tensor.offset, tensor.len));
    check_tiling(&tensors, data_start, file_len)?;
    Ok(Header { tensors, metadata: raw.metadata, data_start })
}

fn refuse_duplicates(tensors: &[RawTensor]) -> Result<(), HeaderError> {
    let mut seen = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|tensor| !seen.insert(tensor.name.as_str())) {
        Some(twice) => Err(HeaderError::DuplicateTensor { tensor: twice.name.clone() }),
        None => Ok(()),
    }
}

/// Checks what one entry says on its own: known element type, span as long as the shape demands.
fn check_tensor(raw: RawTensor, data_start: Bytes) -> Result<HeaderTensor, HeaderError> {
    let RawTensor { name: tensor, dtype, shape, offsets: [start, end] } = raw;
    if shape.len() > limits::DIMENSIONS {
        return Err(HeaderError::TooManyDimensions { tensor, limit: limits::DIMENSIONS });
    }
    let Some(dtype) = dtype_named(&dtype) else {
        return Err(HeaderError::UnknownDType { tensor, dtype });
    };
    let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let Some(expected) = elements.and_then(|count| dtype.size().checked_mul(count)) else {
        return Err(HeaderError::ShapeOverflow { tensor, shape });
    };
    if start > end {
        return Err(HeaderError::OffsetsReversed { tensor, start, end });
    }
    let found = Bytes::new(end - start);
    if found != expected {
        return Err(HeaderError::SizeMismatch { tensor, dtype, shape, expected, found });
    }
    let Some(offset) = data_start.checked_add(Bytes::new(start)) else {
        return Err(HeaderError::ShapeOverflow { tensor, shape });
    };
    Ok(HeaderTensor { name: tensor, dtype, shape, offset, len: expected })
}

/// Checks that `tensors`, sorted by offset, cover the data section exactly once.
fn check_tiling(
    tensors: &[HeaderTensor],
    data_start: Bytes,
    file_len: Bytes,
) -> Result<(), HeaderError> {
    let mut covered = data_start;
    let mut previous: Option<&HeaderTensor> = None;
    for tensor in tensors {
        let name = || tensor.name.clone();
        if tensor.offset < covered {
            let other = previous.map(|tensor| tensor.name.clone()).unwrap_or_default();
            return Err(HeaderError::Overlap { tensor: name(), other });
        }
        let end = tensor.offset.saturating_add(tensor.len);
        if end > file_len {
            return Err(HeaderError::DataOutsideFile { tensor: name(), end, file: file_len });
        }
        if tensor.offset > covered {
            let gap = tensor.offset.left_after(covered);
            return Err(HeaderError::Gap { tensor: name(), gap });
        }
        covered = end;
        previous = Some(tensor);
    }
    match file_len.left_after(covered) {
        Bytes::ZERO => Ok(()),
        extra => Err(HeaderError::TrailingBytes { extra }),
    }
}

/// The element types that this build knows, by the names that safetensors gives them.
const DTYPES: [(&str, DType); 15] = [
    ("BOOL", DType::Bool),
    ("U8", DType::U8),
    ("I8", DType::I8),
    ("F8_E4M3", DType::F8E4M3),
    ("F8_E5M2", DType::F8E5M2),
    ("U16", DType::U16),
    ("I16", DType::I16),
    ("F16", DType::F16),
    ("BF16", DType::BF16),
    ("U32", DType::U32),
    ("I32", DType::I32),
    ("F32", DType::F32),
    ("U64", DType::U64),
    ("I64", DType::I64),
    ("F64", DType::F64),
];

fn dtype_named(name: &str) -> Option<DType> {
    DTYPES.iter().find(|(known, _)| *known == name).map(|&(_, dtype)| dtype)
}

/// The name that safetensors gives `dtype`; `None` if the format has none for it.
pub fn dtype_name(dtype: DType) -> Option<&'static str> {
    DTYPES.iter().find(|(_, known)| *known == dtype).map(|&(name, _)| name)
}
