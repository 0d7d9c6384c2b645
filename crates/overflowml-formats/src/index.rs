//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::limits;

/// Which shard holds which tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// The shards' file names, sorted; plain names without any folder.
    pub shards: Vec<String>,
    /// Tensor name to position in `shards`.
    pub tensors: BTreeMap<String, usize>,
}

/// Why an index is not usable. The file is named by the [`FormatError`](crate::FormatError)
/// around it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named as the messages use them
pub enum IndexError {
    /// Not text.
    #[error("the index is not UTF-8 text: first bad byte at {at}")]
    NotUtf8 { at: usize },
    /// Not the JSON that it should be.
    #[error("the index is not the expected JSON: {reason}")]
    NotJson { reason: String },
    /// It lists nothing.
    #[error("the index lists no tensors")]
    Empty,
    /// A shard's name leads out of the model's folder.
    #[error("tensor `{tensor}` is said to be in `{shard}`, which is not a plain file name")]
    ShardOutsideFolder { tensor: String, shard: String },
    /// A shard is not a safetensors file.
    #[error("tensor `{tensor}` is said to be in `{shard}`, which is not a .safetensors file")]
    ShardUnsupported { tensor: String, shard: String },
    /// More files than any model has.
    #[error("the index names more than {limit} shards")]
    TooManyShards { limit: usize },
    /// A name is given two shards.
    #[error("tensor `{tensor}` is listed twice")]
    DuplicateTensor { tensor: String },
    /// The index names a shard that is not there.
    #[error("shard `{shard}`, which holds `{tensor}`, is missing")]
    ShardMissing { shard: String, tensor: String },
    /// A tensor is not in the shard that the index names.
    #[error("tensor `{tensor}` is not in shard `{shard}`, where the index puts it")]
    NotInShard { tensor: String, shard: String },
    /// A shard holds a tensor that the index does not list.
    #[error("tensor `{tensor}` in shard `{shard}` is not in the index")]
    NotInIndex { tensor: String, shard: String },
    /// The same name in two shards.
    #[error("tensor `{tensor}` is in shard `{shard}`, but the index puts it in `{expected}`")]
    InWrongShard { tensor: String, shard: String, expected: String },
}

impl IndexError {
    /// Stable name: shown by `--json`, never reused.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotUtf8 { .. } => "formats.index-not-utf8",
            Self::NotJson { .. } => "formats.index-not-json",
            Self::Empty => "formats.index-empty",
            Self::ShardOutsideFolder { .. } => "formats.shard-outside-folder",
            Self::ShardUnsupported { .. } => "formats.shard-unsupported",
            Self::TooManyShards { .. } => "formats.too-many-shards",
            Self::DuplicateTensor { .. } => "formats.index-duplicate-tensor",
            Self::ShardMissing { .. } => "formats.shard-missing",
            Self::NotInShard { .. } => "formats.tensor-not-in-shard",
            Self::NotInIndex { .. } => "formats.tensor-not-in-index",
            Self::InWrongShard { .. } => "formats.tensor-in-wrong-shard",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ShardMissing { .. } => {
                Some("the download is incomplete: fetch the missing file".to_owned())
            }
            Self::NotInShard { .. } | Self::NotInIndex { .. } | Self::InWrongShard { .. } => {
                Some("index and shards are of different versions: fetch them again".to_owned())
            }
            _ => None,
        }
    }
}

/// Reads an index. Shard names are only checked to be plain file names: whether the files exist
/// and hold what the index says is for [`open_model`](crate::open_model).
///
/// # Errors
/// [`IndexError`].
pub fn parse_index(bytes: &[u8]) -> Result<Index, IndexError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| IndexError::NotUtf8 { at: error.valid_up_to() })?;
    let raw: RawIndex = serde_json::from_str(text)
        .map_err(|error| IndexError::NotJson { reason: error.to_string() })?;
    let mut shards: Vec<String> = Vec::new();
    let mut position = BTreeMap::new();
    for (tensor, shard) in &raw.weight_map.0 {
        if position.contains_key(shard) {
            continue;
        }
        check_shard_name(tensor, shard)?;
        position.insert(shard.clone(), 0);
    }
    if position.len() > limits::SHARDS {
        return Err(IndexError::TooManyShards { limit: limits::SHARDS });
    }
    for (index, (shard, at)) in position.iter_mut().enumerate() {
        *at = index;
        shards.push(shard.clone());
    }
    let mut tensors = BTreeMap::new();
    for (tensor, shard) in raw.weight_map.0 {
        let at = position.get(&shard).copied().unwrap_or_default();
        if tensors.insert(tensor.clone(), at).is_some() {
            return Err(IndexError::DuplicateTensor { tensor });
        }
    }
    match tensors.is_empty() {
        true => Err(IndexError::Empty),
        false => Ok(Index { shards, tensors }),
    }
}

/// A shard lies in the model's own folder: nothing an index says may lead elsewhere.
fn check_shard_name(tensor: &str, shard: &str) -> Result<(), IndexError> {
    let plain = !shard.is_empty()
        && shard.len() <= limits::NAME
        && !shard.starts_with('.')
        && !shard.contains(['/', '\\', ':', '\0']);
    let (tensor, shard) = (tensor.to_owned(), shard.to_owned());
    match plain {
        false => Err(IndexError::ShardOutsideFolder { tensor, shard }),
        true if !shard.ends_with(".safetensors") => {
            Err(IndexError::ShardUnsupported { tensor, shard })
        }
        true => Ok(()),
    }
}

// `metadata.total_size` is not read: in published models it is often wrong.
#[derive(Deserialize)]
struct RawIndex {
    weight_map: Pairs,
}

/// An object's entries with duplicates kept.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> serde::de::Visitor<'de> for Entries {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object that maps tensor names to shard names")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
