//! Memory that readers write and others look at, at times that the rotation keeps apart.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use overflowml_types::Bytes;

use super::layout::Place;
use crate::buffer::Buffer;
use crate::error::StreamError;

/// The memory of a slot or of a group that stays. Never seen as a whole, so that pieces of it can be written while
/// others are being written.
#[derive(Debug)]
pub(crate) struct Memory(Buffer);

impl Memory {
    pub(crate) fn new(size: Bytes) -> Result<Arc<Self>, StreamError> {
        Ok(Arc::new(Self(Buffer::new(size)?)))
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.0.start()
    }

    pub(crate) fn len(&self) -> Bytes {
        Bytes::of_len(self.0.len())
    }

    /// The bytes of `range`, to be written; `None` if they are not all in this memory.
    ///
    /// # Safety
    /// Until the slice is gone, nobody else may read or write these bytes.
    #[allow(clippy::mut_from_ref)] // exclusive by the caller's promise
    pub(crate) unsafe fn piece(&self, range: Range<usize>) -> Option<&mut [u8]> {
        if range.start > range.end || range.end > self.0.len() {
            return None;
        }
        // SAFETY: `range.start` is inside the mapping, or at its end.
        let start = unsafe { self.0.start().add(range.start) };
        // SAFETY: the range is inside the mapping, which lives as long as `self`; the caller keeps others away.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), range.len()) })
    }
}

/// A group in memory. Keeps the memory alive, but not the group in it: that needs the group to be held.
#[derive(Clone, Debug)]
pub struct Slab {
    memory: Arc<Memory>,
    len: Bytes,
    places: Arc<[Place]>,
}

impl Slab {
    pub(crate) fn new(memory: Arc<Memory>, len: Bytes, places: Arc<[Place]>) -> Self {
        Self { memory, len, places }
    }

    /// Where it begins, at a multiple of the page size. What is there may be read until the group is released.
    pub fn start(&self) -> NonNull<u8> {
        self.memory.start()
    }

    /// How many bytes the group takes, the sectors around its spans included.
    pub fn len(&self) -> Bytes {
        self.len
    }

    /// Whether it is of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len.is_zero()
    }

    /// Where each span of the group is, in the order of the request.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The bytes of the span at `index`; `None` if there is no such span.
    ///
    /// # Safety
    /// The group must be held (acquired and not released) until the slice is gone.
    pub unsafe fn span(&self, index: usize) -> Option<&[u8]> {
        let place = self.places.get(index)?;
        let start = place.offset.to_usize()?;
        let len = place.len.to_usize()?;
        // SAFETY: places lie inside the memory by construction.
        let start = unsafe { self.memory.start().add(start) };
        // SAFETY: as above; `self` keeps the mapping, and while the group is held nobody writes to it.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), len) })
    }
}
