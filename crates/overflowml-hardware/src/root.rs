//! The folder that the system's files are read from: `/`, or a captured machine in tests.

use std::path::{Path, PathBuf};

/// Where `/proc` and `/sys` are.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// This machine.
    pub(crate) fn system() -> Self {
        Self(PathBuf::from("/"))
    }

    /// A captured machine.
    #[cfg(test)]
    pub(crate) fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Where the system's `path` is.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where the system's `path` really is: links followed.
    pub(crate) fn resolve(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        std::fs::canonicalize(self.path(path)).ok()
    }

    /// The text of a file; `None` if it cannot be read, whatever the reason: then the system does not say.
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        Self::text(&self.path(path))
    }

    /// The text of a file at its real place.
    pub(crate) fn text(path: &Path) -> Option<String> {
        let bytes = std::fs::read(path).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes of a file.
    pub(crate) fn read_bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        std::fs::read(self.path(path)).ok()
    }

    /// One number in a file.
    pub(crate) fn read_number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.trim().parse().ok()
    }

    /// The names in a folder whose form is `prefix` and a number, in the order of the numbers.
    pub(crate) fn numbered(&self, folder: impl AsRef<Path>, prefix: &str) -> Vec<(u32, String)> {
        let entries = std::fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut found: Vec<(u32, String)> = entries
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                Some((name.strip_prefix(prefix)?.parse().ok()?, name))
            })
            .collect();
        found.sort();
        found
    }
}
