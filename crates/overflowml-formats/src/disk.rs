//! The operating system's files behind [`ModelDir`]: the only I/O of this crate.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use overflowml_types::{Bytes, Manifest, ModelProfile};

use crate::model::open_model_in;
use crate::profile::{chosen_gguf, profile_in, weights_in};
use crate::{FileProblem, FormatError, GgufModel, Model, ModelDir, OpenFile, limits, open_gguf_in};

/// Opens the model at `path`: a folder in the Hugging Face layout, or a `.safetensors` file
/// (with its `config.json` beside it).
///
/// Reads headers and small text files, never weights. Blocks.
///
/// # Errors
/// [`FormatError`] naming the file that is missing, unreadable or malformed. A model that is
/// intact but cannot be run opens: [`Model::decoder`] says why.
pub fn open_model(path: &Path) -> Result<Model, FormatError> {
    let (folder, file) = locate(path, &[".safetensors"])?;
    open_model_in(&folder, file)
}

/// What a planner needs to know of the model at `path`: a folder in the Hugging Face layout with or
/// without weights, a pipeline's folder, a `.safetensors` or a `.gguf` file (any part of a split one).
///
/// Reads headers and small text files, never weights. Blocks.
///
/// # Errors
/// [`FormatError`] naming the file that is missing, unreadable or malformed, or
/// [`FormatError::NoSizes`] where there are no weights and the configuration does not tell sizes.
pub fn open_profile(path: &Path) -> Result<ModelProfile, FormatError> {
    let (folder, file) = locate(path, &[".safetensors", ".gguf"])?;
    profile_in(&folder, file)
}

/// The stored tensors at `path`, component by component: of a pipeline's folder each by its name, of any other folder or
/// `.safetensors` file one whose name is empty. No configuration is needed.
///
/// Reads headers, never weights. Blocks.
///
/// # Errors
/// [`FormatError`] naming the file that is missing, unreadable or malformed; [`FormatError::NoWeights`] or
/// [`FormatError::NoComponents`] where there are none.
pub fn open_weights(path: &Path) -> Result<Vec<(String, Manifest)>, FormatError> {
    let (folder, file) = locate(path, &[".safetensors"])?;
    weights_in(&folder, file)
}

/// Opens the GGUF model at `path`: a file, with the other parts if it is one of several, or the folder of one model.
///
/// Reads headers, never weights. Blocks.
///
/// # Errors
/// [`FormatError`] naming the file that is missing, unreadable or malformed.
pub fn open_gguf(path: &Path) -> Result<GgufModel, FormatError> {
    match locate(path, &[".gguf"])? {
        (folder, Some(file)) => open_gguf_in(&folder, file),
        (folder, None) => match chosen_gguf(&folder)? {
            Some(file) => open_gguf_in(&folder, &file),
            None => Err(FormatError::NoWeights { path: path.to_owned(), found: Vec::new() }),
        },
    }
}

/// The folder of a path and, if it is not that itself, the weights file in it, which has one of `endings`.
fn locate<'a>(path: &'a Path, endings: &[&str]) -> Result<(Folder, Option<&'a str>), FormatError> {
    let problem = |problem| FormatError::File { path: path.to_owned(), problem };
    let kind = fs::metadata(path).map_err(|error| problem(explain(path, error)))?;
    if kind.is_dir() {
        return Ok((Folder { path: path.to_owned() }, None));
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !endings.iter().any(|end| name.ends_with(end)) {
        return Err(FormatError::UnsupportedFile { path: path.to_owned() });
    }
    let parent = path.parent().unwrap_or(Path::new("")).to_owned();
    Ok((Folder { path: parent }, Some(name)))
}

/// A folder on disk.
struct Folder {
    path: PathBuf,
}

impl ModelDir for Folder {
    type Reader = File;

    fn path(&self, name: &str) -> PathBuf {
        match name {
            "" => self.path.clone(),
            name => self.path.join(name),
        }
    }

    fn folder(&self, name: &str) -> Self {
        Self { path: self.path.join(name) }
    }

    fn names(&self) -> Result<Vec<String>, FileProblem> {
        let entries = fs::read_dir(&self.path).map_err(|error| explain(&self.path, error))?;
        entries
            .take(limits::FOLDER_ENTRIES + 1)
            .map(|entry| match entry {
                // A name that is not UTF-8 is no model file, but it counts.
                Ok(entry) => Ok(entry.file_name().to_string_lossy().into_owned()),
                Err(error) => Err(FileProblem::Os(error)),
            })
            .collect()
    }

    fn open(&self, name: &str) -> Result<OpenFile<File>, FileProblem> {
        let path = self.path(name);
        let problem = |error| explain(&path, error);
        let kind = fs::metadata(&path).map_err(problem)?;
        if kind.is_dir() {
            return Err(FileProblem::IsFolder);
        }
        if !kind.is_file() {
            // Opening a pipe would wait for its other end.
            return Err(FileProblem::Special);
        }
        let reader = File::open(&path).map_err(problem)?;
        let len = Bytes::new(reader.metadata().map_err(problem)?.len());
        Ok(OpenFile { len, reader })
    }
}

/// Says what is wrong with `path` in the user's words.
fn explain(path: &Path, error: io::Error) -> FileProblem {
    match error.kind() {
        io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => FileProblem::BrokenLink { target },
            Err(_) => FileProblem::Missing,
        },
        io::ErrorKind::PermissionDenied => FileProblem::Denied(error),
        io::ErrorKind::NotADirectory => FileProblem::NotFolder,
        io::ErrorKind::IsADirectory => FileProblem::IsFolder,
        // The standard library has no stable kind for a loop: a link that cannot be followed.
        _ if fs::read_link(path).is_ok() => FileProblem::LinkLoop,
        _ => FileProblem::Os(error),
    }
}
