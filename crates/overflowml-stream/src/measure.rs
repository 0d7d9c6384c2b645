//! How fast a disk gives what we ask it for, in the way we ask.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use overflowml_types::{Bytes, BytesPerSecond, FileId, FileSpan, Known, ModelFile};

use crate::buffer::Buffer;
use crate::error::StreamError;
use crate::files::{DirectIo, Files, SystemFiles};

const PIECE: Bytes = Bytes::mib(4);
const READERS: usize = 4;

/// Reads `path` past the page cache from its start, as a store would, until `most` was read or `longest`
/// has passed, and tells how fast that was.
///
/// # Errors
/// If the file cannot be read, or is empty.
pub fn measure_disk(
    path: &Path,
    most: Bytes,
    longest: Duration,
) -> Result<Known<BytesPerSecond>, StreamError> {
    let open_error = |source| StreamError::Open { path: path.to_owned(), source };
    let size = Bytes::new(std::fs::metadata(path).map_err(open_error)?.len());
    let list = [ModelFile { path: path.to_owned(), size }];
    let system = SystemFiles::open(&list, DirectIo::Auto)?;
    let how = if system.buffered_because().is_none() { "direct" } else { "buffered" };
    let files = Files::new(&list, Box::new(system))?;
    let (started, next) = (Instant::now(), AtomicU64::new(0));
    let end = size.min(most);
    let read_all = || read_pieces(&files, &next, end, || started.elapsed() < longest);
    let read = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read_all)).collect();
        let counts = readers.into_iter().map(|reader| reader.join().unwrap_or(Ok(Bytes::ZERO)));
        counts.sum::<Result<Bytes, StreamError>>()
    })?;
    let rate = BytesPerSecond::of(read, started.elapsed());
    let rate = rate.ok_or_else(|| open_error(std::io::ErrorKind::UnexpectedEof.into()))?;
    Ok(Known::measured(rate, format!("{how} reads of {read} in pieces of {PIECE}")))
}

fn read_pieces(
    files: &Files,
    next: &AtomicU64,
    end: Bytes,
    go_on: impl Fn() -> bool,
) -> Result<Bytes, StreamError> {
    let mut buffer = Buffer::new(PIECE)?;
    let mut read = Bytes::ZERO;
    while go_on() {
        let offset = Bytes::new(next.fetch_add(PIECE.get(), Ordering::Relaxed));
        if offset >= end {
            break;
        }
        let len = end.left_after(offset).min(PIECE);
        files.fill(FileSpan { file: FileId(0), offset, len }, &mut buffer)?;
        read = read.saturating_add(len);
    }
    Ok(read)
}
