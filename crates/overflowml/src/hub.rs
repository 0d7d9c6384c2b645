//! Models by their name on the Hugging Face hub, found in the usual cache.

use std::path::{Path, PathBuf};

/// The revision that is meant when none is named.
const MAIN: &str = "main";

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
    /// A name on the hub that is not in the cache.
    #[error("`{id}` at revision `{revision}` is not in the cache `{}`", cache.display())]
    NotCached {
        /// For example `org/name`.
        id: String,
        /// Branch, tag or commit.
        revision: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
}

impl HubError {
    /// Stable name, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAName { .. } => "hub.not-a-name",
            Self::NotCached { .. } => "hub.not-cached",
        }
    }

    /// What the user can change.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotAName { .. } => Some("check the path's spelling".to_owned()),
            Self::NotCached { id, .. } => Some(format!(
                "download it with `hf download {id}`, or give the path of its folder; `HF_HOME` and \
                 `HF_HUB_CACHE` move the cache"
            )),
        }
    }
}

/// The local path of `model`: a path that exists, or a model in the Hugging Face cache named `org/name` or
/// `org/name@revision`.
///
/// # Errors
/// If it is neither.
pub fn resolve(model: &str) -> Result<PathBuf, HubError> {
    let path = Path::new(model);
    if path.exists() || path.is_symlink() {
        return Ok(path.to_owned());
    }
    let (id, revision) = model.split_once('@').unwrap_or((model, MAIN));
    if !is_name(id) || revision.is_empty() || !revision.split('/').all(is_name_part) {
        return Err(HubError::NotAName { name: model.to_owned() });
    }
    let cache = hub_cache();
    snapshot(&cache, id, revision).ok_or_else(|| HubError::NotCached {
        id: id.to_owned(),
        revision: revision.to_owned(),
        cache,
    })
}

/// The folder of a downloaded revision: a commit, or a branch or tag that points to one.
fn snapshot(cache: &Path, id: &str, revision: &str) -> Option<PathBuf> {
    let home = cache.join(format!("models--{}", id.replace('/', "--")));
    let named = std::fs::read_to_string(home.join("refs").join(revision));
    let commit = named.map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
    let folder = home.join("snapshots").join(commit);
    folder.is_dir().then_some(folder)
}

fn hub_cache() -> PathBuf {
    let set =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(own) = set("HF_HUB_CACHE") {
        return own;
    }
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let home = set("HF_HOME").or_else(|| Some(caches?.join("huggingface")));
    home.unwrap_or_else(std::env::temp_dir).join("hub")
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
    fn a_downloaded_model_is_found_by_branch_and_by_commit() {
        let cache = tempfile::tempdir().unwrap();
        let home = cache.path().join("models--org--name");
        std::fs::create_dir_all(home.join("snapshots/abc123")).unwrap();
        std::fs::create_dir_all(home.join("refs")).unwrap();
        std::fs::write(home.join("refs/main"), "abc123\n").unwrap();
        let expected = Some(home.join("snapshots/abc123"));
        assert_eq!(snapshot(cache.path(), "org/name", "main"), expected);
        assert_eq!(snapshot(cache.path(), "org/name", "abc123"), expected);
        assert_eq!(snapshot(cache.path(), "org/name", "other"), None);
        assert_eq!(snapshot(cache.path(), "org/other", "main"), None);
    }

    #[test]
    fn what_cannot_be_a_name_is_not_looked_for() {
        for wrong in
            ["model", "a/b/c", "../x", "org/..", "org/na me", "/tmp/missing", "org/", "o/n@"]
        {
            let refused = resolve(wrong).unwrap_err();
            assert_eq!(refused.code(), "hub.not-a-name", "{wrong}");
        }
        assert_eq!(resolve("org/surely-missing").unwrap_err().code(), "hub.not-cached");
    }
}
