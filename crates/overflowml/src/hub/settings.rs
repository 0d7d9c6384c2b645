//! The environment variables that all tools of the Hugging Face hub obey.

use std::path::PathBuf;

/// Which hub, whose account, and where models are kept.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// `HF_ENDPOINT`, without a slash at the end.
    pub(super) endpoint: String,
    /// `HF_TOKEN`, or what `hf auth login` has stored.
    pub(super) token: Option<String>,
    /// `HF_HUB_OFFLINE`: nothing but the cache is used.
    pub(super) offline: bool,
    /// `HF_HUB_CACHE`, `HF_HOME/hub`, or the usual place.
    pub(super) cache: PathBuf,
}

impl Settings {
    pub(super) fn from_env() -> Self {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// From variables as `var` knows them; empty ones count as unset.
    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let is_on = |name: &str| {
            set(name).is_some_and(|value| {
                ["1", "ON", "YES", "TRUE"].contains(&value.trim().to_ascii_uppercase().as_str())
            })
        };
        let caches = set("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| {
                Some(PathBuf::from(set("HOME").or_else(|| set("USERPROFILE"))?).join(".cache"))
            })
            .unwrap_or_else(std::env::temp_dir);
        let home = set("HF_HOME").map_or_else(|| caches.join("huggingface"), PathBuf::from);
        let stored = set("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let stored = || std::fs::read_to_string(stored).ok();
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(stored);
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            cache: set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> Settings {
        let of = |name: &str| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::from_vars(of)
    }

    #[test]
    fn the_cache_is_where_other_tools_look() {
        assert_eq!(settings(&[("HOME", "/u")]).cache, PathBuf::from("/u/.cache/huggingface/hub"));
        let xdg = [("HOME", "/u"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(settings(&xdg).cache, PathBuf::from("/x/huggingface/hub"));
        let home = [("HOME", "/u"), ("HF_HOME", "/h")];
        assert_eq!(settings(&home).cache, PathBuf::from("/h/hub"));
        let cache = [("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")];
        assert_eq!(settings(&cache).cache, PathBuf::from("/c"));
        let empty = [("HOME", "/u"), ("HF_HUB_CACHE", "")];
        assert_eq!(settings(&empty).cache, PathBuf::from("/u/.cache/huggingface/hub"));
    }

    #[test]
    fn a_token_comes_from_the_environment_or_from_the_stored_login() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", path)]).token, None);
        std::fs::write(home.path().join("token"), "hf_stored\n").unwrap();
        assert_eq!(settings(&[("HF_HOME", path)]).token.as_deref(), Some("hf_stored"));
        let both = settings(&[("HF_HOME", path), ("HF_TOKEN", " hf_set ")]);
        assert_eq!(both.token.as_deref(), Some("hf_set"));
    }

    #[test]
    fn offline_is_what_the_hub_library_takes_for_yes() {
        for (value, offline) in
            [("1", true), ("true", true), ("ON", true), ("0", false), ("", false)]
        {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
    }

    #[test]
    fn an_endpoint_is_taken_without_its_last_slash() {
        assert_eq!(settings(&[]).endpoint, "https://huggingface.co");
        assert_eq!(settings(&[("HF_ENDPOINT", "http://hub:8080/")]).endpoint, "http://hub:8080");
    }
}
