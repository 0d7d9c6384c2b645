use overflowml_types::Bytes;

use super::GgufError;

/// Little-endian values from the start of a file of which perhaps not all bytes are there.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    file: Bytes,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8], file: Bytes) -> Self {
        Self { bytes, at: 0, file }
    }

    /// Bytes read so far.
    pub(super) const fn position(&self) -> Bytes {
        Bytes::of_len(self.at)
    }

    /// Bytes of the file that are still to come, read or not.
    pub(super) const fn left_in_file(&self) -> Bytes {
        self.file.left_after(self.position())
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        match end.and_then(|end| Some((end, self.bytes.get(self.at..end)?))) {
            Some((end, taken)) => {
                self.at = end;
                Ok(taken)
            }
            None => Err(GgufError::Truncated {
                found: Bytes::of_len(self.bytes.len()),
                need: self.position().saturating_add(Bytes::new(count)),
            }),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of `what`, at most `limit`.
    pub(super) fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, GgufError> {
        let count = self.u64()?;
        match usize::try_from(count) {
            Ok(small) if small <= limit => Ok(small),
            _ => Err(GgufError::TooMany { what, count, limit }),
        }
    }

    /// The bytes of a text of at most `limit` bytes.
    pub(super) fn raw_text(
        &mut self,
        what: &'static str,
        limit: usize,
    ) -> Result<&'a [u8], GgufError> {
        let len = self.u64()?;
        if len > limit as u64 {
            return Err(GgufError::TextTooLong { what, len, limit });
        }
        self.take(len)
    }

    /// A text of at most `limit` bytes.
    pub(super) fn text(&mut self, what: &'static str, limit: usize) -> Result<String, GgufError> {
        let bytes = self.raw_text(what, limit)?;
        let text = std::str::from_utf8(bytes).map_err(|_| GgufError::NotUtf8 { what })?;
        Ok(text.to_owned())
    }
}
