//! GGUF headers, versions 2 and 3: metadata, then where every tensor lies.
//!
//! As with safetensors, each claim is checked against [`crate::limits`] and the file's length before
//! anything is allocated, and the data itself is never looked at. Padding between tensors is allowed, overlaps
//! are not. Long lists (a tokenizer's words) are checked and counted, but not kept.

mod error;
mod model;
mod reader;
mod types;
mod value;

use std::collections::{BTreeMap, HashSet};

use overflowml_types::Bytes;

pub use self::error::GgufError;
pub(crate) use self::model::split_name;
pub use self::model::{GgufModel, GgufModelTensor, open_gguf_in};
use self::reader::Reader;
pub use self::types::GgmlType;
pub use self::value::GgufValue;
use crate::limits;

/// What a GGUF file says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    /// 2 or 3.
    pub version: u32,
    /// Facts about the model, by name.
    pub metadata: BTreeMap<String, GgufValue>,
    /// In the order of the file's list.
    pub tensors: Vec<GgufTensor>,
    /// Where the data section starts, from the start of the file.
    pub data_start: Bytes,
}

/// One tensor of a [`Gguf`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor {
    /// Unique in the file.
    pub name: String,
    /// How its numbers are stored.
    pub kind: GgmlType,
    /// Outermost dimension first, unlike in the file.
    pub shape: Vec<u64>,
    /// Where its data starts, from the start of the file.
    pub offset: Bytes,
    /// How many bytes of data.
    pub len: Bytes,
}

/// What tensors are aligned to unless the file says otherwise.
const ALIGNMENT: u64 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";

/// Reads the header of a GGUF file of `file_len` bytes.
///
/// `bytes` is the file's start. How long the header is shows only when it is read: with too few bytes the error is
/// [`GgufError::Truncated`], which says how many are needed at least.
///
/// # Errors
/// [`GgufError`] for everything that is wrong with the header or that the file's length contradicts.
pub fn parse_gguf(bytes: &[u8], file_len: Bytes) -> Result<Gguf, GgufError> {
    let mut reader = Reader::new(bytes, file_len);
    let version = version(&mut reader)?;
    let tensors = reader.count("tensors", limits::TENSORS_PER_FILE)?;
    let entries = reader.count("metadata entries", limits::GGUF_ENTRIES)?;
    let metadata = metadata(&mut reader, entries)?;
    let alignment = alignment(&metadata)?;
    let mut raw = Vec::new();
    for _ in 0..tensors {
        raw.push(raw_tensor(&mut reader)?);
    }
    let data_start = reader.position().align_up(alignment);
    refuse_duplicates(&raw)?;
    let tensors = raw
        .into_iter()
        .map(|tensor| place(tensor, data_start, alignment, file_len))
        .collect::<Result<Vec<_>, _>>()?;
    refuse_overlaps(&tensors)?;
    Ok(Gguf { version, metadata, tensors, data_start })
}

fn version(reader: &mut Reader<'_>) -> Result<u32, GgufError> {
    let magic = reader.array::<4>()?;
    if magic != *b"GGUF" {
        return Err(GgufError::NotGguf { found: magic });
    }
    match reader.u32()? {
        version @ (2 | 3) => Ok(version),
        // Small in its upper half: written by a machine of the other byte order.
        version if version != 0 && version & 0xffff == 0 => Err(GgufError::BigEndian),
        version => Err(GgufError::UnsupportedVersion { version }),
    }
}

fn metadata(
    reader: &mut Reader<'_>,
    entries: usize,
) -> Result<BTreeMap<String, GgufValue>, GgufError> {
    let mut metadata = BTreeMap::new();
    for _ in 0..entries {
        let key = reader.text("a metadata key", limits::GGUF_KEY)?;
        let value = value::read(reader, &key)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(GgufError::DuplicateKey { key });
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, GgufValue>) -> Result<u64, GgufError> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else { return Ok(ALIGNMENT) };
    match value.as_u64() {
        Some(alignment) if alignment.is_power_of_two() && alignment <= limits::GGUF_ALIGNMENT => {
            Ok(alignment)
        }
        _ => Err(GgufError::BadAlignment { found: value.to_string() }),
    }
}

/// A tensor's entry as it is written.
struct RawTensor {
    name: String,
    kind: u32,
    /// Innermost dimension first.
    dims: Vec<u64>,
    offset: u64,
}

fn raw_tensor(reader: &mut Reader<'_>) -> Result<RawTensor, GgufError> {
    let name = reader.text("a tensor's name", limits::NAME)?;
    let count = reader.u32()?;
    if count as usize > limits::DIMENSIONS {
        return Err(GgufError::TooManyDimensions { tensor: name, limit: limits::DIMENSIONS });
    }
    let dims = (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()?;
    Ok(RawTensor { name, dims, kind: reader.u32()?, offset: reader.u64()? })
}

fn refuse_duplicates(tensors: &[RawTensor]) -> Result<(), GgufError> {
    let mut seen = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|tensor| !seen.insert(tensor.name.as_str())) {
        Some(twice) => Err(GgufError::DuplicateTensor { tensor: twice.name.clone() }),
        None => Ok(()),
    }
}

/// Checks one entry on its own: known type, whole blocks, inside the file.
fn place(
    raw: RawTensor,
    data_start: Bytes,
    alignment: u64,
    file: Bytes,
) -> Result<GgufTensor, GgufError> {
    let RawTensor { name: tensor, kind, dims, offset } = raw;
    let Some(kind) = GgmlType::from_id(kind) else {
        return Err(GgufError::UnknownType { tensor, kind });
    };
    let row = dims.first().copied().unwrap_or(1);
    if !row.is_multiple_of(kind.block()) {
        return Err(GgufError::PartialBlock { tensor, kind, row });
    }
    let elements = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim));
    let len = elements.and_then(|elements| kind.size(elements));
    let start = data_start.checked_add(Bytes::new(offset));
    let shape: Vec<u64> = dims.into_iter().rev().collect();
    let (Some(len), Some(start)) = (len, start) else {
        return Err(GgufError::ShapeOverflow { tensor, shape });
    };
    if !offset.is_multiple_of(alignment) {
        return Err(GgufError::Misaligned { tensor, offset, alignment });
    }
    match start.checked_add(len) {
        Some(end) if end <= file => {
            Ok(GgufTensor { name: tensor, kind, shape, offset: start, len })
        }
        end => Err(GgufError::DataOutsideFile {
            tensor,
            end: end.unwrap_or(Bytes::new(u64::MAX)),
            file,
        }),
    }
}

fn refuse_overlaps(tensors: &[GgufTensor]) -> Result<(), GgufError> {
    let mut ordered: Vec<&GgufTensor> =
        tensors.iter().filter(|tensor| !tensor.len.is_zero()).collect();
    ordered.sort_by_key(|tensor| tensor.offset);
    for pair in ordered.windows(2) {
        if pair[0].offset.saturating_add(pair[0].len) > pair[1].offset {
            let (tensor, other) = (pair[1].name.clone(), pair[0].name.clone());
            return Err(GgufError::Overlap { tensor, other });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::GgufFile;

    fn small() -> GgufFile {
        let mut file = GgufFile::new();
        file.value("general.architecture", GgufValue::Text("llama".to_owned()));
        file.value("llama.block_count", GgufValue::U64(2));
        file.tensor("token_embd.weight", GgmlType::Q4_K, &[3, 256]);
        file.tensor("output_norm.weight", GgmlType::F32, &[5]);
        file
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let bytes = small().build();
        let read = parse_gguf(&bytes, Bytes::of_len(bytes.len())).unwrap();
        assert_eq!(read.version, 3);
        assert_eq!(read.metadata["llama.block_count"], GgufValue::U64(2));
        assert_eq!(read.tensors[0].shape, [3, 256]);
        assert_eq!(read.tensors[0].len, Bytes::new(3 * 144));
        assert_eq!(read.tensors[0].offset, read.data_start);
        // The second starts at the next multiple of the alignment.
        let expected = read.data_start.saturating_add(Bytes::new(3 * 144)).align_up(ALIGNMENT);
        assert_eq!(read.tensors[1].offset, expected);
    }

    #[test]
    fn too_few_bytes_are_an_error_that_says_how_many_are_needed() {
        let bytes = small().build();
        let file = Bytes::of_len(bytes.len());
        let header = parse_gguf(&bytes, file).unwrap().data_start.to_usize().unwrap();
        for cut in 0..header - 40 {
            match parse_gguf(&bytes[..cut], file) {
                Err(GgufError::Truncated { need, .. }) => assert!(need > Bytes::of_len(cut)),
                other => panic!("{cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_other_version_is_read_too() {
        let mut bytes = small().build();
        bytes[4] = 2;
        assert_eq!(parse_gguf(&bytes, Bytes::of_len(bytes.len())).unwrap().version, 2);
    }
}
