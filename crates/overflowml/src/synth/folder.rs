//! The folder that a synthetic model is made in: whose it is, and files that appear whole.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use overflowml_types::Bytes;
use serde_json::Value;

use super::SynthError;

/// Says which request the folder belongs to. Written first, and it stays.
const MARKER: &str = "overflowml_synth.json";
const PARTIAL: &str = ".partial";

/// A folder that belongs to one request, and to this process while this exists.
pub(super) struct Folder {
    dir: PathBuf,
    _lock: File,
}

impl Folder {
    /// Takes `dir` for `request`; nothing in it is touched unless it is empty or was taken for
    /// the same request before.
    pub(super) fn take(dir: &Path, request: &Value) -> Result<Self, SynthError> {
        let failed = |action| move |source| SynthError::os(action, dir, source);
        fs::create_dir_all(dir).map_err(failed("create the folder"))?;
        match fs::read(dir.join(MARKER)) {
            Ok(found) => check_request(dir, &found, request)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_empty(dir)?;
                write_whole(dir, MARKER, &pretty(request))?;
            }
            Err(error) => return Err(SynthError::os("read", &dir.join(MARKER), error)),
        }
        let path = dir.join(MARKER);
        let lock = File::open(&path).map_err(|error| SynthError::os("open", &path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(SynthError::Busy { dir: dir.to_owned() }),
            // Not every file system can lock; then nobody else is known to write.
            Err(TryLockError::Error(_)) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
        }
    }

    /// Whether the finished file `name` is there: as long as it must be, and starting with
    /// `header`. Files get their names only when they are whole.
    pub(super) fn has(&self, name: &str, header: &[u8], len: Bytes) -> Result<bool, SynthError> {
        let path = self.dir.join(name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(SynthError::os("open", &path, error)),
        };
        let mut start = vec![0; header.len()];
        let found = file.metadata().map(|metadata| metadata.len());
        let found = found.map_err(|error| SynthError::os("read", &path, error))?;
        if Bytes::new(found) != len {
            return Ok(false);
        }
        file.read_exact(&mut start).map_err(|error| SynthError::os("read", &path, error))?;
        Ok(start == header)
    }

    /// Makes the file `name` by `fill`, under another name until it is whole and on disk.
    ///
    /// `missing` is what the disk lacks should it be full.
    pub(super) fn write(
        &self,
        name: &str,
        missing: &dyn Fn() -> Bytes,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), SynthError> {
        let path = self.dir.join(name);
        write_by(&self.dir, name, fill).map_err(|error| explain(&path, error, missing))
    }

    /// Writes a small file, unless it is there already as it must be.
    pub(super) fn write_json(&self, name: &str, value: &Value) -> Result<(), SynthError> {
        let bytes = pretty(value);
        if fs::read(self.dir.join(name)).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        write_whole(&self.dir, name, &bytes)
    }
}

fn check_request(dir: &Path, found: &[u8], asked: &Value) -> Result<(), SynthError> {
    match serde_json::from_slice::<Value>(found) {
        Ok(found) if found == *asked => Ok(()),
        Ok(found) => Err(SynthError::OtherRequest {
            dir: dir.to_owned(),
            found: found.to_string(),
            asked: asked.to_string(),
        }),
        Err(_) => Err(SynthError::FolderInUse { dir: dir.to_owned(), entry: MARKER.to_owned() }),
    }
}

/// A folder that was taken, but not marked before the power went, is as good as empty.
fn check_empty(dir: &Path) -> Result<(), SynthError> {
    let failed = |source| SynthError::os("list the folder", dir, source);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if entry.strip_suffix(PARTIAL) != Some(MARKER) {
            return Err(SynthError::FolderInUse { dir: dir.to_owned(), entry });
        }
    }
    Ok(())
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), SynthError> {
    let missing = || Bytes::of_len(bytes.len());
    write_by(dir, name, |out| out.write_all(bytes))
        .map_err(|error| explain(&dir.join(name), error, &missing))
}

fn write_by(
    dir: &Path,
    name: &str,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let partial = dir.join(format!("{name}{PARTIAL}"));
    let result = write_partial(&partial, fill).and_then(|()| {
        fs::rename(&partial, dir.join(name))?;
        sync_folder(dir)
    });
    if result.is_err() {
        // What is not whole is of no use; the first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    result
}

fn write_partial(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(256 << 10, File::create(path)?);
    fill(&mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    // Renaming goes to disk on its own: without this, the name could outlive a crash that the
    // data does not.
    file.sync_all()
}

/// Makes a renaming outlive a crash, where folders can be opened at all.
fn sync_folder(dir: &Path) -> io::Result<()> {
    match File::open(dir) {
        Ok(folder) => folder.sync_all(),
        Err(_) => Ok(()),
    }
}

pub(super) fn explain(path: &Path, error: io::Error, missing: &dyn Fn() -> Bytes) -> SynthError {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => {
            SynthError::DiskFull { path: path.to_owned(), missing: missing(), source: error }
        }
        _ => SynthError::os("write", path, error),
    }
}
