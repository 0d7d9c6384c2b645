//! A model on the hub as a folder: small files are downloaded, of weights only the headers are read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use overflowml_formats::{FileProblem, ModelDir, OpenFile};

use super::api::RemoteFile;
use super::{HubError, Repository};

/// Larger files are weights as far as looking is concerned, whatever their name.
const SMALL: u64 = 64 << 20;

/// The first read of a weights file: most headers are shorter.
const FIRST: usize = 256 << 10;

/// A folder of one revision of a model.
pub(super) struct RemoteDir {
    repository: Arc<Repository>,
    /// Before its files' names: empty, or a path and a slash.
    inside: String,
}

/// A file of a [`RemoteDir`], from its start.
pub(super) enum RemoteReader {
    /// Downloaded.
    Local(File),
    /// Read piece by piece as it is asked for.
    Ranges { repository: Arc<Repository>, file: RemoteFile, at: u64, ahead: Vec<u8>, used: usize },
}

impl RemoteDir {
    /// The model's own folder.
    pub(super) fn new(repository: Repository) -> Self {
        Self { repository: Arc::new(repository), inside: String::new() }
    }

    fn file(&self, name: &str) -> Option<&RemoteFile> {
        let path = format!("{}{name}", self.inside);
        self.repository.listing.files.iter().find(|file| file.path == path)
    }
}

impl ModelDir for RemoteDir {
    type Reader = RemoteReader;

    fn path(&self, name: &str) -> PathBuf {
        let root = self.repository.cache.folder(&self.repository.listing.commit);
        root.join(&self.inside).join(name)
    }

    fn names(&self) -> Result<Vec<String>, FileProblem> {
        let files = self.repository.listing.files.iter();
        let below = files.filter_map(|file| file.path.strip_prefix(&self.inside));
        let names: BTreeSet<&str> = below.filter_map(|path| path.split('/').next()).collect();
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn folder(&self, name: &str) -> Self {
        let inside = format!("{}{name}/", self.inside);
        Self { repository: Arc::clone(&self.repository), inside }
    }

    fn open(&self, name: &str) -> Result<OpenFile<RemoteReader>, FileProblem> {
        let Some(file) = self.file(name) else { return Err(FileProblem::Missing) };
        let weights = [".safetensors", ".gguf"].iter().any(|end| name.ends_with(end));
        let reader = if weights || file.size.get() > SMALL {
            let (repository, file) = (Arc::clone(&self.repository), file.clone());
            RemoteReader::Ranges { repository, file, at: 0, ahead: Vec::new(), used: 0 }
        } else {
            let path = self
                .repository
                .get(file, &|_| {})
                .map_err(|error| FileProblem::Os(into_io(error)))?;
            RemoteReader::Local(File::open(path).map_err(FileProblem::Os)?)
        };
        Ok(OpenFile { len: file.size, reader })
    }
}

impl Read for RemoteReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Local(file) => file.read(out),
            Self::Ranges { repository, file, at, ahead, used } => {
                if *used == ahead.len() {
                    // As much as is asked for at once, so that a long header takes two requests.
                    let end = file.size.get().min(*at + out.len().max(FIRST) as u64);
                    ahead.clear();
                    *used = 0;
                    repository.read(file, *at, end, ahead).map_err(into_io)?;
                    *at = end;
                }
                let count = (&ahead[*used..]).read(out)?;
                *used += count;
                Ok(count)
            }
        }
    }
}

fn into_io(error: HubError) -> io::Error {
    io::Error::other(error)
}
