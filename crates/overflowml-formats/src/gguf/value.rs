use std::fmt;

use overflowml_types::Bytes;

use super::GgufError;
use super::reader::Reader;
use crate::limits;

/// A value of a GGUF file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// A whole number that is not negative, of any width.
    U64(u64),
    /// A negative whole number, of any width.
    I64(i64),
    /// A floating-point number of either width.
    F64(f64),
    /// Yes or no.
    Bool(bool),
    /// A text; bytes that are no UTF-8 are replaced.
    Text(String),
    /// A short list of numbers or flags, such as one for every layer.
    List(Vec<GgufValue>),
    /// A list that is too long to keep, or of texts: how many entries it has.
    Counted(u64),
}

impl GgufValue {
    /// A whole number that is not negative.
    pub const fn as_u64(&self) -> Option<u64> {
        match self {
            Self::U64(value) => Some(*value),
            _ => None,
        }
    }

    /// A text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// How many entries a list has.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::List(list) => Some(list.len() as u64),
            Self::Counted(count) => Some(*count),
            _ => None,
        }
    }
}

impl fmt::Display for GgufValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U64(value) => write!(f, "{value}"),
            Self::I64(value) => write!(f, "{value}"),
            Self::F64(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Text(text) => f.write_str(text),
            Self::List(list) => write!(f, "a list of {}", list.len()),
            Self::Counted(count) => write!(f, "a list of {count}"),
        }
    }
}

const TEXT: u32 = 8;
const LIST: u32 = 9;

/// The fewest bytes that a value of this type takes; `None` for an unknown type.
const fn least_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        TEXT | 10..=12 => Some(8),
        LIST => Some(12),
        _ => None,
    }
}

/// Reads the value of `key`, its type first.
pub(super) fn read(reader: &mut Reader<'_>, key: &str) -> Result<GgufValue, GgufError> {
    let kind = reader.u32()?;
    match kind {
        LIST => list(reader, key, 0),
        TEXT => {
            let bytes = reader.raw_text("a metadata text", limits::GGUF_TEXT)?;
            Ok(GgufValue::Text(String::from_utf8_lossy(bytes).into_owned()))
        }
        kind => scalar(reader, key, kind),
    }
}

fn scalar(reader: &mut Reader<'_>, key: &str, kind: u32) -> Result<GgufValue, GgufError> {
    let signed = |value: i64| match u64::try_from(value) {
        Ok(value) => GgufValue::U64(value),
        Err(_) => GgufValue::I64(value),
    };
    Ok(match kind {
        0 => GgufValue::U64(u8::from_le_bytes(reader.array()?).into()),
        1 => signed(i8::from_le_bytes(reader.array()?).into()),
        2 => GgufValue::U64(u16::from_le_bytes(reader.array()?).into()),
        3 => signed(i16::from_le_bytes(reader.array()?).into()),
        4 => GgufValue::U64(reader.u32()?.into()),
        5 => signed(i32::from_le_bytes(reader.array()?).into()),
        6 => GgufValue::F64(f32::from_le_bytes(reader.array()?).into()),
        7 => GgufValue::Bool(reader.array::<1>()? != [0]),
        10 => GgufValue::U64(reader.u64()?),
        11 => signed(i64::from_le_bytes(reader.array()?)),
        12 => GgufValue::F64(f64::from_le_bytes(reader.array()?)),
        kind => return Err(GgufError::UnknownValueType { key: key.to_owned(), kind }),
    })
}

fn list(reader: &mut Reader<'_>, key: &str, depth: usize) -> Result<GgufValue, GgufError> {
    let key_name = || key.to_owned();
    if depth >= limits::GGUF_DEPTH {
        return Err(GgufError::TooDeep { key: key_name() });
    }
    let kind = reader.u32()?;
    let Some(least) = least_size(kind) else {
        return Err(GgufError::UnknownValueType { key: key_name(), kind });
    };
    let count = reader.u64()?;
    let needed = Bytes::new(least).checked_mul(count);
    if needed.is_none_or(|needed| needed > reader.left_in_file()) {
        return Err(GgufError::ListOutsideFile { key: key_name(), count });
    }
    match kind {
        TEXT => {
            for _ in 0..count {
                reader.raw_text("an entry of a metadata list", limits::GGUF_TEXT)?;
            }
        }
        LIST => {
            for _ in 0..count {
                list(reader, key, depth + 1)?;
            }
        }
        kind if count <= limits::LAYERS as u64 && depth == 0 => {
            let list = (0..count).map(|_| scalar(reader, key, kind)).collect::<Result<_, _>>()?;
            return Ok(GgufValue::List(list));
        }
        _ => {
            reader.take(least.saturating_mul(count))?;
        }
    }
    Ok(GgufValue::Counted(count))
}
