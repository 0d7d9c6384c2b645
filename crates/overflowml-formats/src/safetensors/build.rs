use std::collections::BTreeMap;

use overflowml_types::{Bytes, DType};
use serde_json::{Map, Value, json};

use super::{HeaderError, PREFIX, dtype_name};
use crate::limits;

/// Writes safetensors headers.
///
/// The data follows the header, tensor after tensor in the order of the calls to
/// [`HeaderBuilder::tensor`], without gaps.
///
/// ```
/// use overflowml_formats::HeaderBuilder;
/// use overflowml_types::{Bytes, DType};
///
/// let mut header = HeaderBuilder::new();
/// header.metadata("format", "pt");
/// header.tensor("model.norm.weight", DType::BF16, &[64])?;
/// let mut file = header.build()?;
/// file.extend(std::iter::repeat_n(0u8, 128));
/// # Ok::<(), overflowml_formats::HeaderError>(())
/// ```
#[derive(Clone, Debug)]
pub struct HeaderBuilder {
    metadata: BTreeMap<String, String>,
    entries: Map<String, Value>,
    data_len: Bytes,
    alignment: u64,
}

impl Default for HeaderBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl HeaderBuilder {
    /// A header without tensors.
    pub fn new() -> Self {
        Self {
            metadata: BTreeMap::new(),
            entries: Map::new(),
            data_len: Bytes::ZERO,
            alignment: PREFIX.get(),
        }
    }

    /// Adds free text about the file; `transformers` wants `format` to be `pt`.
    pub fn metadata(&mut self, name: &str, text: &str) -> &mut Self {
        self.metadata.insert(name.to_owned(), text.to_owned());
        self
    }

    /// Pads the header so that the data section starts at a multiple of `alignment` (8 unless
    /// said otherwise): direct reads of the first tensor then need no rounding.
    ///
    /// # Panics
    /// If `alignment` is zero.
    pub fn align_data(&mut self, alignment: u64) -> &mut Self {
        assert!(alignment > 0, "an alignment is at least one byte");
        self.alignment = alignment;
        self
    }

    /// Adds a tensor behind those added so far.
    ///
    /// # Errors
    /// [`HeaderError::DuplicateTensor`], [`HeaderError::UnknownDType`] for a type that the format
    /// has no name for, [`HeaderError::ShapeOverflow`].
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[u64]) -> Result<(), HeaderError> {
        let tensor = || name.to_owned();
        let Some(dtype_name) = dtype_name(dtype) else {
            return Err(HeaderError::UnknownDType { tensor: tensor(), dtype: dtype.to_string() });
        };
        let len = shape.iter().try_fold(dtype.size(), |len, &dim| len.checked_mul(dim));
        let Some(end) = len.and_then(|len| self.data_len.checked_add(len)) else {
            return Err(HeaderError::ShapeOverflow { tensor: tensor(), shape: shape.to_vec() });
        };
        if self.entries.contains_key(name) {
            return Err(HeaderError::DuplicateTensor { tensor: tensor() });
        }
        let offsets = [self.data_len.get(), end.get()];
        let entry = json!({ "dtype": dtype_name, "shape": shape, "data_offsets": offsets });
        self.entries.insert(tensor(), entry);
        self.data_len = end;
        Ok(())
    }

    /// Bytes of data that must follow the header.
    pub const fn data_len(&self) -> Bytes {
        self.data_len
    }

    /// The bytes before the data section.
    ///
    /// # Errors
    /// [`HeaderError::TooLarge`] if no reader would accept it.
    pub fn build(&self) -> Result<Vec<u8>, HeaderError> {
        let mut object = Map::new();
        if !self.metadata.is_empty() {
            object.insert("__metadata__".to_owned(), json!(self.metadata));
        }
        object.extend(self.entries.clone());
        let mut text = Value::Object(object).to_string().into_bytes();
        let unpadded = PREFIX.saturating_add(Bytes::of_len(text.len()));
        let claimed = unpadded.align_up(self.alignment).left_after(PREFIX);
        let Some(len) = claimed.to_usize().filter(|_| claimed <= limits::HEADER) else {
            return Err(HeaderError::TooLarge { claimed, limit: limits::HEADER });
        };
        text.resize(len, b' ');
        let mut bytes = claimed.get().to_le_bytes().to_vec();
        bytes.append(&mut text);
        Ok(bytes)
    }
}
