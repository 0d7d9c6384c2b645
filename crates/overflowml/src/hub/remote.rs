//! A model on the hub as a folder: small files are downloaded, of weights only the headers are read.

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

/// One revision of a model.
pub(super) struct RemoteDir {
    pub(super) repository: Arc<Repository>,
}

/// A file of a [`RemoteDir`], from its start.
pub(super) enum RemoteReader {
    /// Downloaded.
    Local(File),
    /// Read piece by piece as it is asked for.
    Ranges { repository: Arc<Repository>, file: RemoteFile, at: u64, ahead: Vec<u8>, used: usize },
}

impl RemoteDir {
    fn file(&self, name: &str) -> Option<&RemoteFile> {
        self.repository.listing.files.iter().find(|file| file.path == name)
    }
}

impl ModelDir for RemoteDir {
    type Reader = RemoteReader;

    fn path(&self, name: &str) -> PathBuf {
        self.repository.cache.folder(&self.repository.listing.commit).join(name)
    }

    fn names(&self) -> Result<Vec<String>, FileProblem> {
        let files = self.repository.listing.files.iter();
        Ok(files.map(|file| file.path.clone()).filter(|path| !path.contains('/')).collect())
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
