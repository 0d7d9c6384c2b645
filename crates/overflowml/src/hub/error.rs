use std::io;
use std::path::PathBuf;

use overflowml_types::Bytes;

/// Why a model's name leads to no files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Neither a path that exists nor a name on the hub.
    #[error("`{name}` is neither a file, a folder nor a model's name on the hub (`org/name`)")]
    NotAName {
        /// As given.
        name: String,
    },
    /// Not in the cache, and the hub may not be asked.
    #[error("`{id}` at revision `{revision}` is not in the cache `{}`, and HF_HUB_OFFLINE is set", cache.display())]
    Offline {
        /// For example `org/name`.
        id: String,
        /// Branch, tag or commit.
        revision: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The hub does not know it, or does not show it to this user.
    #[error("the hub {endpoint} has no model `{id}` with a revision `{revision}`")]
    NotFound {
        /// Which hub.
        endpoint: String,
        /// For example `org/name`.
        id: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// The hub wants a token, or another one.
    #[error("the hub refuses access to `{id}`{}", if *with_token { " with this token" } else { "" })]
    Denied {
        /// For example `org/name`.
        id: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub cannot be reached, or broke off too often.
    #[error("cannot get {url}: {reason}")]
    Network {
        /// What was asked for.
        url: String,
        /// In the words of the system or of the server.
        reason: String,
    },
    /// The hub's answer is not what the protocol says.
    #[error("the hub's answer to {url} is not understood: {reason}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No weights that could be used.
    #[error("`{id}` has no safetensors weights{}", others(found))]
    NoWeights {
        /// For example `org/name`.
        id: String,
        /// A few weight files of other formats.
        found: Vec<String>,
    },
    /// The bytes that came are not those that the hub announced.
    #[error("`{file}` of `{id}` arrived damaged: {reason}")]
    Damaged {
        /// For example `org/name`.
        id: String,
        /// The file in the repository.
        file: String,
        /// What differs.
        reason: String,
    },
    /// The model is larger than what the disk has left.
    #[error("`{id}` needs {need} more on the disk of `{}`, which has {free} free", cache.display())]
    DiskFull {
        /// For example `org/name`.
        id: String,
        /// What is yet to be downloaded.
        need: Bytes,
        /// What is free.
        free: Bytes,
        /// Where it would go.
        cache: PathBuf,
    },
    /// The cache cannot be written.
    #[error("cannot write `{}`", path.display())]
    Cache {
        /// What could not be written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn others(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!("; it has {}", found.join(", ")) }
}

impl HubError {
    /// Stable name, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAName { .. } => "hub.not-a-name",
            Self::Offline { .. } => "hub.offline",
            Self::NotFound { .. } => "hub.not-found",
            Self::Denied { .. } => "hub.denied",
            Self::Network { .. } => "hub.network",
            Self::Answer { .. } => "hub.answer",
            Self::NoWeights { .. } => "hub.no-weights",
            Self::Damaged { .. } => "hub.damaged",
            Self::DiskFull { .. } => "hub.disk-full",
            Self::Cache { .. } => "hub.cache",
        }
    }

    /// What the user can change.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotAName { .. } => "check the path's spelling".to_owned(),
            Self::Offline { .. } => {
                "unset HF_HUB_OFFLINE to download it, or give the path of its folder".to_owned()
            }
            Self::NotFound { .. } => {
                "check the name's spelling; a private model needs HF_TOKEN, another hub HF_ENDPOINT"
                    .to_owned()
            }
            Self::Denied { id, with_token: false } => {
                format!("accept the terms on the model's page (`{id}`), and set HF_TOKEN to a token that may read it")
            }
            Self::Denied { id, with_token: true } => {
                format!("accept the terms on the model's page (`{id}`) with the account that the token belongs to")
            }
            Self::Network { .. } => {
                "try again: what has arrived is kept. HF_ENDPOINT names another hub, HTTPS_PROXY a proxy".to_owned()
            }
            Self::Damaged { .. } => "try again: the file was removed".to_owned(),
            Self::DiskFull { .. } => {
                "make room, or set HF_HUB_CACHE to a folder on a larger disk".to_owned()
            }
            Self::Cache { .. } => "set HF_HUB_CACHE to a folder that can be written".to_owned(),
            Self::Answer { .. } | Self::NoWeights { .. } => return None,
        })
    }
}
