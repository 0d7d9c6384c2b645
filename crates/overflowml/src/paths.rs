//! Where models and our own small files are.

use std::path::{Path, PathBuf};

use overflowml_formats::Model;

use crate::error::Error;
use crate::hub;

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

/// The local path of `model`: a path that exists as it is, else the name of a model in the Hugging Face cache.
///
/// # Errors
/// If it is neither.
pub fn resolve(model: &str) -> Result<PathBuf, Error> {
    Ok(hub::resolve(model)?)
}

/// Opens the model in a folder or file: reads its headers and small files, no weights.
///
/// # Errors
/// If it is missing, damaged, or of a format that is not read.
pub fn open(path: &Path) -> Result<Model, Error> {
    Ok(overflowml_formats::open_model(path)?)
}
