//! Page-aligned memory straight from the system, for direct reads.

use std::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use overflowml_types::Bytes;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};

use crate::error::StreamError;

/// Memory of a fixed size, owned by whoever holds it; zeroed until written.
///
/// Begins at a huge-page boundary if it is large enough for one, so that a product over it, and a
/// direct read into it, touch few page-table entries. Nothing is in memory until it is touched.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a buffer owns its mapping and has no shared state: it may be used from any thread.
unsafe impl Send for Buffer {}
// SAFETY: through a shared reference the bytes can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    const HUGE_PAGE: usize = 2 << 20;

    /// Maps `len` bytes; at least one, so that an empty buffer needs no special case.
    ///
    /// # Errors
    /// [`StreamError::Allocate`] if the system refuses.
    pub fn new(len: Bytes) -> Result<Self, StreamError> {
        let failed =
            |source: rustix::io::Errno| StreamError::Allocate { need: len, source: source.into() };
        let len = len.to_usize().ok_or_else(|| failed(rustix::io::Errno::NOMEM))?.max(1);
        if len < Self::HUGE_PAGE {
            return Ok(Self { start: map(len).map_err(failed)?, len });
        }
        let pages = len.checked_next_multiple_of(rustix::param::page_size());
        let reserved = pages.and_then(|pages| pages.checked_add(Self::HUGE_PAGE));
        let (Some(pages), Some(reserved)) = (pages, reserved) else {
            return Err(failed(rustix::io::Errno::NOMEM));
        };
        let reservation = map(reserved).map_err(failed)?;
        let before = reservation.align_offset(Self::HUGE_PAGE);
        // SAFETY: `before < HUGE_PAGE`, so that `before + pages` is at most `reserved`.
        let start = unsafe { reservation.add(before) };
        // SAFETY: as above.
        let end = unsafe { start.add(pages) };
        unmap(reservation, before);
        unmap(end, reserved - before - pages);
        let buffer = Self { start, len };
        buffer.advise_huge_pages();
        Ok(buffer)
    }

    /// Where it begins.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Asks for huge pages. Only a wish: nothing depends on it but speed.
    fn advise_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        {
            let start = self.start.as_ptr().cast::<c_void>();
            // SAFETY: the range is this buffer's own mapping, and the advice changes no contents.
            let _ = unsafe { madvise(start, self.len, Advice::LinuxHugepage) };
        }
    }

    /// Keeps the pages from being swapped out; false where that is not allowed.
    pub fn lock(&self) -> bool {
        let start = self.start.as_ptr().cast::<c_void>();
        // SAFETY: the range is this buffer's own mapping; locking changes no contents. The lock ends
        // with the mapping.
        unsafe { mlock(start, self.len) }.is_ok()
    }
}

fn map(len: usize) -> rustix::io::Result<NonNull<u8>> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new private mapping at an address of the system's choice aliases nothing.
    let start =
        unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
    NonNull::new(start.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)
}

/// Gives back pages that nobody uses. Failure would only leave address space reserved.
fn unmap(start: NonNull<u8>, len: usize) {
    if len > 0 {
        // SAFETY: callers pass page-aligned parts of mappings they own and no longer refer to.
        let _ = unsafe { munmap(start.as_ptr().cast::<c_void>(), len) };
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        unmap(self.start, self.len);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start .. start + len` is this buffer's mapping, zeroed by the system, and lives as
        // long as `self`; nobody writes while it is shared.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_begins_at_a_huge_page_and_is_zeroed_to_its_end() {
        for len in [1, 4096, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, (9 << 20) + 4097] {
            let mut buffer = Buffer::new(Bytes::new(len)).unwrap();
            assert_eq!(buffer.len() as u64, len);
            let alignment = if len >= 2 << 20 { 2 << 20 } else { 4096 };
            assert_eq!(buffer.as_ptr().align_offset(alignment), 0);
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(0xa5);
            assert!(buffer.iter().all(|&byte| byte == 0xa5));
        }
    }

    #[test]
    fn memory_that_no_machine_has_is_an_error() {
        let refused = Buffer::new(Bytes::new(u64::MAX - (4 << 20))).unwrap_err();
        assert_eq!(refused.code(), "stream.allocate");
    }

    #[test]
    fn many_large_buffers_do_not_use_up_address_space() {
        // Together more than the 128 TiB that a process can address.
        for _ in 0..40_000 {
            Buffer::new(Bytes::gib(4)).unwrap();
        }
    }
}
