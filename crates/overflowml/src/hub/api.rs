//! The hub's list of a model's files, and which of them are needed.

use overflowml_types::Bytes;
use serde::Deserialize;

/// A model at one commit, as the hub lists it.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// The commit that the revision means now.
    pub(super) commit: String,
    /// All files.
    pub(super) files: Vec<RemoteFile>,
}

/// A file of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Its path in the repository, for example `vae/config.json`.
    pub(super) path: String,
    /// Its length.
    pub(super) size: Bytes,
    /// The name of its content: SHA-256 for large files, git's hash for small ones.
    pub(super) etag: String,
    /// Whether `etag` is the content's SHA-256.
    pub(super) is_sha256: bool,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// Reads the answer of `/api/models/ID/revision/REVISION?blobs=true`.
///
/// What is later used as a path is checked here: names from the net must not lead out of the cache.
pub(super) fn parse_listing(json: &[u8]) -> Result<Listing, String> {
    let info: Info = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if !is_hash(&info.sha) {
        return Err(format!("`{}` is no commit", info.sha));
    }
    let files = info.siblings.into_iter().map(remote_file).collect::<Result<_, _>>()?;
    Ok(Listing { commit: info.sha, files })
}

fn remote_file(file: Sibling) -> Result<RemoteFile, String> {
    let Sibling { rfilename: path, size, blob_id, lfs } = file;
    if !is_inside(&path) {
        return Err(format!("`{path}` is no file's path in a repository"));
    }
    let (etag, size, is_sha256) = match (lfs, blob_id, size) {
        (Some(lfs), ..) => (lfs.sha256, lfs.size, true),
        (None, Some(id), Some(size)) => (id, size, false),
        _ => return Err(format!("`{path}` is listed without its size")),
    };
    if !is_hash(&etag) {
        return Err(format!("`{etag}` is no hash of `{path}`"));
    }
    Ok(RemoteFile { path, size: Bytes::new(size), etag, is_sha256 })
}

fn is_hash(text: &str) -> bool {
    (40..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `path` stays inside the folder that it is joined to.
fn is_inside(path: &str) -> bool {
    let odd = |c: char| c.is_control() || "\\:*?\"<>|".contains(c);
    !path.is_empty()
        && path.len() < 512
        && !path.chars().any(odd)
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Files that are read beside weights.
const SMALL: [&str; 5] = [".json", ".jinja", ".txt", ".model", ".tiktoken"];
const WEIGHTS: &str = ".safetensors";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PIPELINE: &str = "model_index.json";

/// The files that running the model takes: its configuration, tokenizer, and one set of weights.
///
/// # Errors
/// A few of the weight files that there are instead, if none can be used.
pub(super) fn choose(files: &[RemoteFile]) -> Result<Vec<&RemoteFile>, Vec<String>> {
    let has = |name: &str| files.iter().any(|file| file.path == name);
    let weights: Box<dyn Fn(&str) -> bool> = if has(PIPELINE) {
        Box::new(|path| path.contains('/') && !is_variant(path))
    } else if has(SINGLE) {
        Box::new(|path| path == SINGLE)
    } else if has(INDEX) {
        Box::new(is_shard)
    } else {
        Box::new(|path| !path.contains('/'))
    };
    let depth = if has(PIPELINE) { 1 } else { 0 };
    let small = |path: &str| {
        path.matches('/').count() <= depth && SMALL.iter().any(|end| path.ends_with(end))
    };
    let (mut chosen, mut weighty) = (Vec::new(), 0);
    for file in files {
        let wanted = file.path.ends_with(WEIGHTS) && weights(&file.path);
        weighty += usize::from(wanted);
        if wanted || small(&file.path) {
            chosen.push(file);
        }
    }
    if weighty == 0 {
        let other = |file: &&RemoteFile| {
            [".gguf", ".bin", ".pt", ".pth", ".onnx", ".ckpt"]
                .iter()
                .any(|end| file.path.ends_with(end))
        };
        return Err(files.iter().filter(other).take(3).map(|file| file.path.clone()).collect());
    }
    Ok(chosen)
}

/// `model-00001-of-00003.safetensors`
fn is_shard(path: &str) -> bool {
    let numbers = path.strip_prefix("model-").and_then(|rest| rest.strip_suffix(WEIGHTS));
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers
        .and_then(|numbers| numbers.split_once("-of-"))
        .is_some_and(|(a, b)| number(a) && number(b))
}

/// `diffusion_pytorch_model.fp16.safetensors`: the same weights once more, in another precision.
fn is_variant(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.strip_suffix(WEIGHTS).unwrap_or(name);
    [".fp16", ".bf16", ".fp32", ".ema", ".non_ema"]
        .iter()
        .any(|variant| stem.ends_with(variant) || stem.contains(&format!("{variant}-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        let file = |path: &&str| RemoteFile {
            path: (*path).to_owned(),
            size: Bytes::new(1),
            etag: COMMIT.to_owned(),
            is_sha256: false,
        };
        paths.iter().map(file).collect()
    }

    fn chosen(paths: &[&str]) -> Vec<String> {
        let files = files(paths);
        choose(&files).unwrap().into_iter().map(|file| file.path.clone()).collect()
    }

    #[test]
    fn one_set_of_weights_is_chosen() {
        let both = [
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "README.md",
        ];
        assert_eq!(chosen(&both), ["config.json", "model.safetensors"]);
        let sharded = [
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/config.json",
            "tokenizer.model",
        ];
        let expected = [sharded[0], sharded[2], sharded[3], sharded[4], sharded[6]];
        assert_eq!(chosen(&sharded), expected);
        assert_eq!(chosen(&["weights.safetensors"]), ["weights.safetensors"]);
    }

    #[test]
    fn a_pipeline_takes_its_components_once() {
        let all = [
            "model_index.json",
            "flux1-dev.safetensors",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
            "transformer/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/deep/er.json",
        ];
        assert_eq!(chosen(&all), [all[0], all[2], all[3], all[5], all[7]]);
    }

    #[test]
    fn what_there_is_instead_of_safetensors_is_named() {
        let gguf = files(&["config.json", "a-q4.gguf", "README.md"]);
        assert_eq!(choose(&gguf).unwrap_err(), ["a-q4.gguf"]);
        assert_eq!(choose(&[]).unwrap_err(), Vec::<String>::new());
    }

    #[test]
    fn names_that_lead_out_of_the_cache_are_refused() {
        for path in
            ["../x", "a/../../b", "/etc/passwd", "a//b", "", "a\\b", "c:x", "a/./b", "nul\0"]
        {
            let json = serde_json::json!({
                "sha": COMMIT, "siblings": [{ "rfilename": path, "size": 1, "blobId": COMMIT }]
            });
            assert!(parse_listing(json.to_string().as_bytes()).is_err(), "{path}");
        }
        for hash in ["", "../../x", "zz"] {
            let json = serde_json::json!({ "sha": hash, "siblings": [] });
            assert!(parse_listing(json.to_string().as_bytes()).is_err(), "{hash}");
            let json = serde_json::json!({
                "sha": COMMIT, "siblings": [{ "rfilename": "a", "size": 1, "blobId": hash }]
            });
            assert!(parse_listing(json.to_string().as_bytes()).is_err(), "{hash}");
        }
    }

    #[test]
    fn large_files_are_known_by_their_sha256() {
        let sha256 = "0".repeat(64);
        let json = serde_json::json!({ "sha": COMMIT, "siblings": [
            { "rfilename": "a", "size": 5, "blobId": COMMIT },
            { "rfilename": "b", "size": 9, "blobId": COMMIT, "lfs": { "sha256": sha256, "size": 9, "pointerSize": 3 } },
        ]});
        let listing = parse_listing(json.to_string().as_bytes()).unwrap();
        let [a, b] = listing.files.as_slice() else { panic!("two files") };
        assert_eq!((a.etag.as_str(), a.is_sha256, a.size), (COMMIT, false, Bytes::new(5)));
        assert_eq!((b.etag.as_str(), b.is_sha256, b.size), (sha256.as_str(), true, Bytes::new(9)));
    }
}
