//! Where models and our own small files are.

use std::path::{Path, PathBuf};

use overflowml_formats::Model;
use overflowml_types::Bytes;

use crate::error::Error;
use crate::hub::{self, Depth, LookError};

/// The folder for what OverflowML keeps between runs: `$OVERFLOWML_CACHE_DIR`, else
/// `overflowml` in the user's cache folder.
pub fn cache_dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(own) = set("OVERFLOWML_CACHE_DIR") {
        return own.into();
    }
    let caches = set("XDG_CACHE_HOME")
        .or_else(|| set("LOCALAPPDATA"))
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    caches.join("overflowml")
}

/// The local path of `model`: a path that exists as it is, else a model on the Hugging Face hub (`org/name`,
/// `org/name@revision`), which is downloaded unless the cache has it.
///
/// `progress` hears how many bytes are here, of how many; a download that was interrupted goes on where it ended.
///
/// # Errors
/// If it is neither, or cannot be downloaded.
pub fn fetch(model: &str, progress: &mut dyn FnMut(Bytes, Bytes)) -> Result<PathBuf, Error> {
    Ok(hub::fetch(model, progress)?)
}

/// Opens a model for looking: as [`fetch`] and [`open`], but of a model on the hub no weights are read, only their
/// headers.
///
/// # Errors
/// If there is no such model, or it is damaged.
pub fn look(model: &str, depth: Depth) -> Result<Model, Error> {
    hub::look(model, depth).map_err(|error| match error {
        LookError::Hub(error) => Error::Hub(error),
        LookError::Format(error) => Error::Format(error),
    })
}

/// Opens the model in a folder or file: reads its headers and small files, no weights.
///
/// # Errors
/// If it is missing, damaged, or of a format that is not read.
pub fn open(path: &Path) -> Result<Model, Error> {
    Ok(overflowml_formats::open_model(path)?)
}
