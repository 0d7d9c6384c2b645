//! The usual cache: `models--ORG--NAME/{refs,blobs,snapshots}`, shared with every other tool of the hub.
//!
//! A blob is complete or not there: it grows as `HASH.incomplete` under a lock, is checked, and gets its name last.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::HubError;
use super::api::RemoteFile;

/// Takes bytes as they arrive.
pub(super) type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), HubError> + 'a;

/// Gets a file from an offset on.
pub(super) type Fetch<'a> = dyn FnMut(u64, &mut Sink<'_>) -> Result<(), HubError> + 'a;

/// One model's place in the cache.
#[derive(Clone, Debug)]
pub(super) struct ModelCache {
    home: PathBuf,
    locks: PathBuf,
}

impl ModelCache {
    pub(super) fn new(cache: &Path, id: &str) -> Self {
        let name = format!("models--{}", id.replace('/', "--"));
        Self { home: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The folder of a revision: a commit, or a branch or tag that points to one. It may lack files.
    pub(super) fn snapshot(&self, revision: &str) -> Option<PathBuf> {
        let named = fs::read_to_string(self.home.join("refs").join(revision));
        let commit = named.map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
        let folder = self.home.join("snapshots").join(commit);
        folder.is_dir().then_some(folder)
    }

    /// The folder of a commit, there or not.
    pub(super) fn folder(&self, commit: &str) -> PathBuf {
        self.home.join("snapshots").join(commit)
    }

    /// How much of `file` is here: complete, or begun.
    pub(super) fn progress(&self, file: &RemoteFile) -> u64 {
        let size = |path: PathBuf| fs::metadata(path).map(|data| data.len()).ok();
        let complete = size(self.blob(&file.etag)).filter(|&len| len == file.size.get());
        complete.or_else(|| size(self.incomplete(&file.etag))).unwrap_or(0).min(file.size.get())
    }

    /// Remembers what commit `revision` means.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.home.join("refs").join(revision);
        if fs::read_to_string(&path).is_ok_and(|known| known.trim() == commit) {
            return Ok(());
        }
        make_parent(&path)?;
        let new = path.with_file_name(format!(
            "{}.{}.new",
            path.file_name().unwrap_or_default().to_string_lossy(),
            std::process::id()
        ));
        let written = fs::write(&new, commit).and_then(|()| fs::rename(&new, &path));
        written.map_err(|source| HubError::Cache { path, source })
    }

    /// Makes `file` appear in the snapshot of `commit`; `fetch(from, sink)` gets what is missing of it.
    ///
    /// Waits while another process downloads the same file.
    pub(super) fn store(
        &self,
        id: &str,
        commit: &str,
        file: &RemoteFile,
        fetch: &mut Fetch<'_>,
    ) -> Result<PathBuf, HubError> {
        let link = self.folder(commit).join(&file.path);
        let blob = self.blob(&file.etag);
        let is_whole =
            |path: &Path| fs::metadata(path).is_ok_and(|data| data.len() == file.size.get());
        if is_whole(&link) {
            return Ok(link);
        }
        let _lock = self.lock(&file.etag)?;
        if is_whole(&link) {
            return Ok(link);
        }
        if !is_whole(&blob) {
            let resumed = self.progress(file) > 0;
            let first = self.complete(id, file, fetch);
            match first {
                // What an earlier run left may be what is damaged.
                Err(HubError::Damaged { .. }) if resumed => self.complete(id, file, fetch)?,
                other => other?,
            }
        }
        make_parent(&link)?;
        point(&blob, &link).map_err(|source| HubError::Cache { path: link.clone(), source })?;
        Ok(link)
    }

    /// Fills up the begun file, checks it, and gives it its name.
    fn complete(&self, id: &str, file: &RemoteFile, fetch: &mut Fetch<'_>) -> Result<(), HubError> {
        let path = self.incomplete(&file.etag);
        make_parent(&path)?;
        let failed = |source| HubError::Cache { path: path.clone(), source };
        let (mut out, mut hash, from) = begin(&path, file).map_err(failed)?;
        fetch(from, &mut |bytes| {
            hash.update(bytes);
            out.write_all(bytes).map_err(failed)
        })?;
        out.sync_all().map_err(failed)?;
        let len = out.metadata().map_err(failed)?.len();
        drop(out);
        let found = format!("{:x}", HexOf(&hash.finalize()));
        let reason = if len != file.size.get() {
            Some(format!("{len} bytes instead of {}", file.size.get()))
        } else if file.is_sha256 && found != file.etag {
            Some(format!("its SHA-256 is {found} instead of {}", file.etag))
        } else {
            None
        };
        if let Some(reason) = reason {
            // Ignored: a file that cannot be removed is found damaged again.
            let _ = fs::remove_file(&path);
            let (id, file) = (id.to_owned(), file.path.clone());
            return Err(HubError::Damaged { id, file, reason });
        }
        fs::rename(&path, self.blob(&file.etag)).map_err(failed)
    }

    fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_parent(&path)?;
        let open = OpenOptions::new().create(true).append(true).open(&path);
        let locked = open.and_then(|file| file.lock().map(|()| file));
        locked.map_err(|source| HubError::Cache { path, source })
    }

    fn blob(&self, etag: &str) -> PathBuf {
        self.home.join("blobs").join(etag)
    }

    fn incomplete(&self, etag: &str) -> PathBuf {
        self.home.join("blobs").join(format!("{etag}.incomplete"))
    }
}

/// Opens a begun file at its end, with the hash of what it holds.
fn begin(path: &Path, file: &RemoteFile) -> io::Result<(File, Sha256, u64)> {
    let mut out = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    if out.metadata()?.len() > file.size.get() {
        out.set_len(0)?;
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut from = 0;
    loop {
        let count = out.read(&mut buffer)?;
        if count == 0 {
            return Ok((out, hash, from));
        }
        hash.update(&buffer[..count]);
        from += count as u64;
    }
}

/// Bytes as lower-case hexadecimal digits.
struct HexOf<'a>(&'a [u8]);

impl std::fmt::LowerHex for HexOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn make_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|source| HubError::Cache { path: parent.to_owned(), source })
}

/// Makes `link` stand for `blob`: a relative symbolic link, as every tool of the hub makes it.
#[cfg(unix)]
fn point(blob: &Path, link: &Path) -> io::Result<()> {
    let above = |path: &Path| path.components().count();
    let home = blob.parent().and_then(Path::parent).unwrap_or(blob);
    let up = above(link) - above(home) - 1;
    let name = blob.file_name().unwrap_or_default();
    let target: PathBuf =
        std::iter::repeat_n("..", up).collect::<PathBuf>().join("blobs").join(name);
    // A link that others may be reading through is replaced in one step.
    let new =
        link.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    std::os::unix::fs::symlink(&target, &new)?;
    fs::rename(&new, link)
}

/// Where symbolic links need rights that users lack, a second name for the same file does.
#[cfg(not(unix))]
fn point(blob: &Path, link: &Path) -> io::Result<()> {
    if link.exists() {
        fs::remove_file(link)?;
    }
    fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_downloaded_model_is_found_by_branch_and_by_commit() {
        let cache = tempfile::tempdir().unwrap();
        let home = cache.path().join("models--org--name");
        fs::create_dir_all(home.join("snapshots/abc123")).unwrap();
        fs::create_dir_all(home.join("refs")).unwrap();
        fs::write(home.join("refs/main"), "abc123\n").unwrap();
        let expected = Some(home.join("snapshots/abc123"));
        let model = ModelCache::new(cache.path(), "org/name");
        assert_eq!(model.snapshot("main"), expected);
        assert_eq!(model.snapshot("abc123"), expected);
        assert_eq!(model.snapshot("other"), None);
        assert_eq!(ModelCache::new(cache.path(), "org/other").snapshot("main"), None);
    }
}
