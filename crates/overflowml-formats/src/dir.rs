//! The seam between deciding which files a model needs and asking the operating system for them.

use std::io::{self, Read};
use std::path::PathBuf;

use overflowml_types::Bytes;

use crate::FormatError;

/// A folder that holds a model's files: the disk's, or one in memory for tests.
pub trait ModelDir {
    /// Reads a file from its start.
    type Reader: Read;

    /// The full path of the file `name`, for messages and for the manifest; of the folder itself
    /// for an empty name.
    fn path(&self, name: &str) -> PathBuf;

    /// The folder `name` inside, whether or not it exists.
    fn folder(&self, name: &str) -> Self
    where
        Self: Sized;

    /// The names of everything in the folder, in any order; at most
    /// [`limits::FOLDER_ENTRIES`](crate::limits::FOLDER_ENTRIES) and one more.
    ///
    /// # Errors
    /// [`FileProblem`] about the folder itself.
    fn names(&self) -> Result<Vec<String>, FileProblem>;

    /// Opens the regular file `name`, following symbolic links.
    ///
    /// # Errors
    /// [`FileProblem::Missing`] if there is none; others for what cannot be read as a file.
    fn open(&self, name: &str) -> Result<OpenFile<Self::Reader>, FileProblem>;
}

/// A file opened for reading from its start.
#[derive(Debug)]
pub struct OpenFile<R> {
    /// Its length now.
    pub len: Bytes,
    /// Its bytes.
    pub reader: R,
}

/// Why a path cannot be read as the file or folder that it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileProblem {
    /// There is nothing.
    #[error("does not exist")]
    Missing,
    /// A symbolic link to nothing.
    #[error("is a symbolic link to `{}`, which does not exist", target.display())]
    BrokenLink {
        /// What it points to.
        target: PathBuf,
    },
    /// Symbolic links that lead back to themselves.
    #[error("is a loop of symbolic links")]
    LinkLoop,
    /// A folder where a file should be.
    #[error("is a folder, but a file is expected")]
    IsFolder,
    /// A file where a folder should be.
    #[error("is a file, but a folder is expected")]
    NotFolder,
    /// A device, pipe or socket.
    #[error("is neither a file nor a folder")]
    Special,
    /// Not allowed.
    #[error("may not be read by this user")]
    Denied(#[source] io::Error),
    /// Whatever else the system reports.
    #[error("cannot be read: {0}")]
    Os(#[source] io::Error),
}

impl FileProblem {
    /// Stable name: shown by `--json`, never reused.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing => "formats.missing",
            Self::BrokenLink { .. } => "formats.broken-link",
            Self::LinkLoop => "formats.link-loop",
            Self::IsFolder => "formats.folder-for-file",
            Self::NotFolder => "formats.file-for-folder",
            Self::Special => "formats.special-file",
            Self::Denied(_) => "formats.denied",
            Self::Os(_) => "formats.io",
        }
    }
}

/// All of the small file `name`; `None` if there is none.
pub(crate) fn read_small<D: ModelDir>(
    dir: &D,
    name: &str,
    limit: Bytes,
) -> Result<Option<Vec<u8>>, FormatError> {
    let file = |problem| FormatError::File { path: dir.path(name), problem };
    let open = match dir.open(name) {
        Ok(open) => open,
        Err(FileProblem::Missing) => return Ok(None),
        Err(problem) => return Err(file(problem)),
    };
    let too_large = |size| FormatError::TooLarge { path: dir.path(name), size, limit };
    if open.len > limit {
        return Err(too_large(open.len));
    }
    // One byte more than allowed: the file may have grown, or (in /proc) not told its length.
    let mut bytes = Vec::new();
    let mut reader = open.reader.take(limit.get().saturating_add(1));
    reader.read_to_end(&mut bytes).map_err(|error| file(FileProblem::Os(error)))?;
    match Bytes::of_len(bytes.len()) {
        size if size > limit => Err(too_large(size)),
        _ => Ok(Some(bytes)),
    }
}

/// Fills `bytes` up to `len` from `reader`; fewer if the file ends before.
pub(crate) fn read_up_to(
    reader: &mut impl Read,
    bytes: &mut Vec<u8>,
    len: Bytes,
) -> io::Result<()> {
    let missing = len.left_after(Bytes::of_len(bytes.len()));
    bytes.try_reserve_exact(missing.to_usize().unwrap_or(usize::MAX))?;
    reader.take(missing.get()).read_to_end(bytes).map(|_| ())
}
