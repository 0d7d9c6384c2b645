//! Models by their name on the Hugging Face hub: found in the usual cache, else downloaded to it.

mod api;
mod cache;
mod client;
mod error;
mod remote;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};

use overflowml_formats::{FormatError, Model, open_model_in, profile_in};
use overflowml_types::{Bytes, ModelProfile};

pub use self::error::HubError;

use self::api::{Listing, RemoteFile};
use self::cache::ModelCache;
use self::client::Client;
use self::remote::RemoteDir;
use self::settings::Settings;

/// The revision that is meant when none is named.
const MAIN: &str = "main";

/// Files that are downloaded at once.
const CONNECTIONS: usize = 4;

/// A model's name on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    /// `org/name`
    id: String,
    /// Branch, tag or commit.
    revision: String,
}

/// A model at one commit, here and on the hub.
struct Repository {
    id: String,
    client: Client,
    cache: ModelCache,
    listing: Listing,
}

/// The local path of `model`: a path that exists, or a model on the hub named `org/name` or `org/name@revision`,
/// which is downloaded unless the cache has all of it.
///
/// `progress` hears how many bytes are here, of how many. A download that was interrupted goes on where it ended.
///
/// # Errors
/// If it is neither, or cannot be downloaded.
pub fn fetch(model: &str, progress: &mut dyn FnMut(Bytes, Bytes)) -> Result<PathBuf, HubError> {
    if let Some(path) = local(model) {
        return Ok(path);
    }
    let (name, settings) = (Name::parse(model)?, Settings::from_env());
    let repository = Repository::open(&name, &settings)?;
    repository.download(&settings.cache, progress)?;
    repository.cache.set_ref(&name.revision, &repository.listing.commit)?;
    Ok(repository.cache.folder(&repository.listing.commit))
}

/// What of a model on the hub is downloaded to look at it, beside its configuration and headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Nothing.
    Headers,
    /// Tokenizer and chat template, as a plan needs them that tells a run's memory exactly.
    Tokenizer,
}

/// The files of [`Depth::Tokenizer`].
const TOKENIZER: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"];

/// Opens a model for looking: of one on the hub no weights are read, only their headers.
///
/// # Errors
/// If there is no such model, or it is damaged.
pub fn look(model: &str, depth: Depth) -> Result<Model, LookError> {
    if let Some(path) = local(model) {
        return Ok(overflowml_formats::open_model(&path)?);
    }
    let (name, settings) = (Name::parse(model)?, Settings::from_env());
    let repository = Repository::open(&name, &settings)?;
    if depth == Depth::Tokenizer {
        let files = repository.listing.files.iter();
        for file in files.filter(|file| TOKENIZER.contains(&file.path.as_str())) {
            repository.get(file, &|_| {})?;
        }
    }
    Ok(open_model_in(&RemoteDir::new(repository), None)?)
}

/// What a planner needs to know of a model: of one on the hub only headers and small files are read.
///
/// # Errors
/// As [`look`].
pub fn profile(model: &str) -> Result<ModelProfile, LookError> {
    if let Some(path) = local(model) {
        return Ok(overflowml_formats::open_profile(&path)?);
    }
    let (name, settings) = (Name::parse(model)?, Settings::from_env());
    let repository = Repository::open(&name, &settings)?;
    let mut profile = profile_in(&RemoteDir::new(repository), None)?;
    profile.name = model.to_owned();
    Ok(profile)
}

/// Why a model cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookError {
    /// It could not be had from the hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Its files are missing, damaged or of an unsupported kind.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Where `model` is on this machine, all of it; nothing is asked of the hub.
pub fn local(model: &str) -> Option<PathBuf> {
    let path = Path::new(model);
    if path.exists() || path.is_symlink() {
        return Some(path.to_owned());
    }
    let (name, settings) = (Name::parse(model).ok()?, Settings::from_env());
    let folder = ModelCache::new(&settings.cache, &name.id).snapshot(&name.revision)?;
    is_complete(&folder).then_some(folder)
}

/// Whether a snapshot has all that it says it has; other tools may have left parts only.
fn is_complete(folder: &Path) -> bool {
    match overflowml_formats::open_model(folder) {
        // Weights that do not run here are as complete as others.
        Ok(_) => true,
        // What is there in full, but wrong, is not for downloading again.
        Err(error) => !matches!(
            error,
            FormatError::File { .. } | FormatError::NoWeights { .. } | FormatError::Index { .. }
        ),
    }
}

impl Name {
    fn parse(model: &str) -> Result<Self, HubError> {
        let (id, revision) = model.split_once('@').unwrap_or((model, MAIN));
        if !is_name(id) || !revision.split('/').all(is_name_part) {
            return Err(HubError::NotAName { name: model.to_owned() });
        }
        Ok(Self { id: id.to_owned(), revision: revision.to_owned() })
    }
}

impl Repository {
    /// Asks the hub what there is.
    fn open(name: &Name, settings: &Settings) -> Result<Self, HubError> {
        let Name { id, revision } = name.clone();
        if settings.offline {
            return Err(HubError::Offline { id, revision, cache: settings.cache.clone() });
        }
        let client = Client::new(settings);
        let (json, url) = client.listing(&id, &revision)?;
        let listing =
            api::parse_listing(&json).map_err(|reason| HubError::Answer { url, reason })?;
        let cache = ModelCache::new(&settings.cache, &id);
        Ok(Self { id, client, cache, listing })
    }

    /// Downloads what running the model takes, several files at once.
    fn download(
        &self,
        cache: &Path,
        progress: &mut dyn FnMut(Bytes, Bytes),
    ) -> Result<(), HubError> {
        let chosen = api::choose(&self.listing.files)
            .map_err(|found| HubError::NoWeights { id: self.id.clone(), found })?;
        let total: Bytes = chosen.iter().map(|file| file.size).sum();
        let here: u64 = chosen.iter().map(|file| self.cache.progress(file)).sum();
        self.check_room(cache, total.left_after(Bytes::new(here)))?;
        let waiting = Mutex::new(chosen.into_iter());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (sender, arrived) = mpsc::channel();
            let workers: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let sender = sender.clone();
                    let (waiting, stop) = (&waiting, &stop);
                    scope.spawn(move || self.work(waiting, stop, &sender))
                })
                .collect();
            drop(sender);
            let mut done = here;
            for count in arrived {
                done += count;
                // A damaged file that is fetched anew counts twice.
                progress(Bytes::new(done).min(total), total);
            }
            let ended = workers.into_iter().map(|worker| worker.join());
            // A worker that panicked has nothing to add to the panic's own message.
            ended.flatten().collect()
        })
    }

    /// Downloads file after file until none is waiting or another worker has failed.
    fn work<'a>(
        &self,
        waiting: &Mutex<impl Iterator<Item = &'a RemoteFile>>,
        stop: &AtomicBool,
        sender: &mpsc::Sender<u64>,
    ) -> Result<(), HubError> {
        while !stop.load(Ordering::Relaxed) {
            let Some(file) = waiting.lock().ok().and_then(|mut files| files.next()) else { break };
            let arrived = |count| {
                // Ignored: whoever shows progress may have gone.
                let _ = sender.send(count);
            };
            if let Err(error) = self.get(file, &arrived) {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The local path of `file`, downloaded if it is not here; `arrived` hears of every piece.
    fn get(&self, file: &RemoteFile, arrived: &dyn Fn(u64)) -> Result<PathBuf, HubError> {
        let commit = &self.listing.commit;
        self.cache.store(&self.id, commit, file, &mut |from, sink| {
            let range = (from, file.size.get());
            self.client.read_range(&self.id, commit, &file.path, range, &mut |bytes| {
                arrived(bytes.len() as u64);
                sink(bytes)
            })
        })
    }

    /// Appends bytes `from..to` of `file` to `out`.
    fn read(
        &self,
        file: &RemoteFile,
        from: u64,
        to: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), HubError> {
        let commit = &self.listing.commit;
        self.client.read_range(&self.id, commit, &file.path, (from, to), &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn check_room(&self, cache: &Path, need: Bytes) -> Result<(), HubError> {
        let there = cache.ancestors().find(|folder| folder.exists()).unwrap_or(cache);
        let disk = overflowml_hardware::disk_under(there);
        match disk.and_then(|disk| disk.free) {
            Some(free) if free.value < need => Err(HubError::DiskFull {
                id: self.id.clone(),
                need,
                free: free.value,
                cache: cache.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// Whether `id` can be a model's name: `org/name`, of the characters that the hub allows.
fn is_name(id: &str) -> bool {
    id.split('/').count() == 2 && id.split('/').all(is_name_part)
}

fn is_name_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_name_is_not_looked_for() {
        for wrong in
            ["model", "a/b/c", "../x", "org/..", "org/na me", "/tmp/missing", "org/", "o/n@"]
        {
            let refused = Name::parse(wrong).unwrap_err();
            assert_eq!(refused.code(), "hub.not-a-name", "{wrong}");
        }
        let name = |id: &str, revision: &str| Name { id: id.into(), revision: revision.into() };
        assert_eq!(Name::parse("org/name").unwrap(), name("org/name", "main"));
        assert_eq!(Name::parse("o/n@refs/pr/1").unwrap(), name("o/n", "refs/pr/1"));
    }
}
