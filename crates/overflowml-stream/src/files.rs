//! The model's files: exact positional reads, past the page cache where the file system allows it.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use overflowml_types::{Bytes, FileSpan, ModelFile};
use rustix::fs::{Advice, Mode, OFlags, fadvise, fstat, open};

use overflowml_plan::ALIGNMENT;

use crate::buffer::Buffer;
use crate::error::StreamError;

/// Reads in a row that may bring less than one aligned unit before the disk counts as failing.
const MOST_RETRIES: u32 = 16;

/// Whether to read past the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectIo {
    /// Where the file system allows it.
    #[default]
    Auto,
    /// Not at all: read through the page cache, and drop from it what was read.
    Never,
}

/// What the store asks of the system, so that tests can inject faults.
pub(crate) trait Source: Send + Sync {
    /// One read, as the system answers it: it may be short, interrupted, or fail.
    fn read_at(&self, file: usize, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Offsets that reads must begin at are multiples of this.
    fn alignment(&self) -> usize;

    /// What changes when someone writes to the file.
    fn fingerprint(&self, file: usize) -> io::Result<Fingerprint>;
}

/// A file's size and time of last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) size: u64,
    pub(crate) modified: (i64, i64),
}

/// Open files, with what they looked like when they were opened.
pub(crate) struct Files {
    source: Box<dyn Source>,
    files: Vec<Known>,
}

struct Known {
    path: PathBuf,
    fingerprint: Fingerprint,
}

impl Files {
    /// Takes `files` for what they are now.
    ///
    /// # Errors
    /// If one has another size than when its header was read, or cannot be asked.
    pub(crate) fn new(files: &[ModelFile], source: Box<dyn Source>) -> Result<Self, StreamError> {
        let known = |(index, file): (usize, &ModelFile)| {
            let path = file.path.clone();
            let fingerprint = source
                .fingerprint(index)
                .map_err(|source| StreamError::Open { path: path.clone(), source })?;
            if fingerprint.size == file.size.get() {
                Ok(Known { path, fingerprint })
            } else {
                Err(StreamError::Changed { path, offset: Bytes::ZERO })
            }
        };
        let files = files.iter().enumerate().map(known).collect::<Result<_, _>>()?;
        Ok(Self { source, files })
    }

    /// Reads the aligned surroundings of `span` into `buf`: the span completely, and what else the file
    /// has there. Blocks. May be called from many threads.
    ///
    /// `buf` must be as long as the aligned span and begin at a multiple of [`ALIGNMENT`].
    ///
    /// # Errors
    /// If the file ends inside `span`, has changed since it was opened, or the system reports an error.
    /// The contents of `buf` are then unspecified.
    pub(crate) fn fill(&self, span: FileSpan, buf: &mut [u8]) -> Result<(), StreamError> {
        let start = span.offset.align_down(ALIGNMENT);
        let needed = Bytes::to_usize(span.end().left_after(start)).unwrap_or(usize::MAX);
        debug_assert!(needed <= buf.len());
        let index = span.file.0 as usize;
        let (mut done, mut stuck) = (0, 0);
        while done < needed {
            let at = Bytes::new(start.get() + done as u64);
            match self.source.read_at(index, at.get(), &mut buf[done..]) {
                Ok(read) if done + read >= needed => done += read,
                // Past the last whole sector, a file that was cut inside one would answer short for ever.
                Ok(read) if read == 0 || self.ends_at(index, at, read) => {
                    return Err(self.ended(index, at, span));
                }
                // The next read must be aligned again: what is past the last boundary is read twice.
                Ok(read) if read >= self.source.alignment() => {
                    done += read - read % self.source.alignment();
                    stuck = 0;
                }
                Ok(_) if stuck < MOST_RETRIES => stuck += 1,
                Ok(_) => return Err(self.failed(index, at, span, io::ErrorKind::TimedOut.into())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed(index, at, span, source)),
            }
        }
        self.check_unchanged(index, span)
    }

    fn failed(&self, index: usize, at: Bytes, span: FileSpan, source: io::Error) -> StreamError {
        let path = self.files[index].path.clone();
        StreamError::Read { path, offset: at, len: span.end().left_after(at), source }
    }

    /// Whether a short read of `read` bytes at `at` was short because the file ends there.
    fn ends_at(&self, index: usize, at: Bytes, read: usize) -> bool {
        let end = at.saturating_add(Bytes::of_len(read));
        read < self.source.alignment()
            && self.source.fingerprint(index).is_ok_and(|now| Bytes::new(now.size) <= end)
    }

    /// Nothing more came at `at`: the file ends there, or before it if it was cut further.
    fn ended(&self, index: usize, at: Bytes, span: FileSpan) -> StreamError {
        let size = self.source.fingerprint(index).map_or(at, |now| Bytes::new(now.size));
        // A file that says to be longer than it can be read is not believed.
        let end = if size < span.end() { size } else { at };
        StreamError::Ended { path: self.files[index].path.clone(), end, needed: span.end() }
    }

    /// Bytes that were read while someone wrote to the file must not be used.
    fn check_unchanged(&self, index: usize, span: FileSpan) -> Result<(), StreamError> {
        let known = &self.files[index];
        match self.source.fingerprint(index) {
            Ok(now) if now == known.fingerprint => Ok(()),
            Ok(_) => Err(StreamError::Changed { path: known.path.clone(), offset: span.offset }),
            Err(source) => Err(self.failed(index, span.offset, span, source)),
        }
    }
}

/// Files of this system.
pub(crate) struct SystemFiles {
    files: Vec<File>,
    /// Why the page cache is not bypassed; `None` if it is.
    buffered_because: Option<String>,
}

impl SystemFiles {
    pub(crate) fn open(files: &[ModelFile], direct: DirectIo) -> Result<Self, StreamError> {
        let buffered_because = match direct {
            DirectIo::Never => Some("direct reads were switched off".to_owned()),
            DirectIo::Auto => files.iter().find_map(why_not_direct),
        };
        let flags = if buffered_because.is_none() { direct_flag() } else { OFlags::empty() };
        let opened = files.iter().map(|file| open_file(file, flags)).collect::<Result<_, _>>()?;
        Ok(Self { files: opened, buffered_because })
    }

    pub(crate) fn buffered_because(&self) -> Option<String> {
        self.buffered_because.clone()
    }
}

impl Source for SystemFiles {
    fn read_at(&self, file: usize, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = &self.files[file];
        let read = rustix::io::pread(file, &mut *buf, offset)?;
        if self.buffered_because.is_some() {
            // What was read once is not needed twice before everything else was: it must not push
            // other programs' files out of the cache. Only advice: failure costs nothing.
            let _ = fadvise(file, offset, std::num::NonZeroU64::new(read as u64), Advice::DontNeed);
        }
        Ok(read)
    }

    fn alignment(&self) -> usize {
        if self.buffered_because.is_some() { 1 } else { ALIGNMENT as usize }
    }

    fn fingerprint(&self, file: usize) -> io::Result<Fingerprint> {
        let stat = fstat(&self.files[file])?;
        Ok(Fingerprint {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        })
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn direct_flag() -> OFlags {
    OFlags::DIRECT
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn direct_flag() -> OFlags {
    OFlags::empty()
}

fn open_file(file: &ModelFile, flags: OFlags) -> Result<File, StreamError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | flags;
    match open(&file.path, flags, Mode::empty()) {
        Ok(opened) => Ok(File::from(opened)),
        Err(source) => Err(StreamError::Open { path: file.path.clone(), source: source.into() }),
    }
}

/// Tries one direct read: some file systems accept the flag and then refuse to read.
fn why_not_direct(file: &ModelFile) -> Option<String> {
    if direct_flag().is_empty() {
        return Some("this system has no direct reads".to_owned());
    }
    let refused = |source: &dyn std::fmt::Display| {
        Some(format!("the file system of {} refuses direct reads: {source}", file.path.display()))
    };
    let opened = match open_file(file, direct_flag()) {
        Ok(opened) => opened,
        // Whether the file can be opened at all is told by opening it without the flag.
        Err(StreamError::Open { source, .. }) => return refused(&source),
        Err(error) => return refused(&error),
    };
    let mut page = match Buffer::new(Bytes::new(ALIGNMENT)) {
        Ok(page) => page,
        Err(error) => return refused(&error),
    };
    match rustix::io::pread(&opened, &mut *page, 0) {
        Ok(_) => None,
        Err(source) => refused(&source),
    }
}
