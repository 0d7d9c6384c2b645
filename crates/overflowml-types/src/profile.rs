use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Bytes, GroupKind};

/// What a planner needs to know of a model: sizes and shapes, without a single weight.
///
/// Made from files, from headers alone, from a configuration, or from nothing but a size; the
/// planner treats all alike and says which it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelProfile {
    /// A path, a hub id, or `40 GB model`.
    pub name: String,
    /// How well it is known.
    pub source: ProfileSource,
    /// What it is for.
    pub task: Task,
    /// Its parts, in the order in which a run uses them.
    pub components: Vec<ComponentProfile>,
    /// What a user should know about how it was read: parts that were skipped, guesses.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// How a [`ModelProfile`] came about, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileSource {
    /// Every tensor was read from a header.
    Headers,
    /// The tensor list was built from a configuration, on paper.
    Config,
    /// Only a size was given: the shape is a documented stand-in.
    Size,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Task {
    /// Generates text, token by token.
    Text,
    /// Generates pictures by denoising.
    Image,
    /// Generates video by denoising.
    Video,
    /// Anything that runs once per input: encoders, classifiers.
    Encode,
    /// Not known; only sizes are used.
    Unknown,
}

/// A part of a model that runs on its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComponentProfile {
    /// Its folder's name, or `model`.
    pub name: String,
    /// The class that runs it, for example `FluxTransformer2DModel`.
    pub class: Option<String>,
    /// What it does in its model.
    pub role: Role,
    /// Its parts, in order of use.
    pub groups: Vec<GroupProfile>,
    /// Bytes per element type, as stored: `bf16`, `q4_k`.
    #[serde(default)]
    pub dtypes: BTreeMap<String, Bytes>,
    /// Widths that activations are made of.
    pub shape: Shape,
    /// What each layer remembers of earlier tokens; empty if nothing does.
    #[serde(default)]
    pub caches: Vec<LayerCache>,
    /// The longest sequence it was made for, in tokens.
    #[serde(default)]
    pub max_context: Option<u64>,
}

/// What a component does in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Generates tokens.
    Decoder,
    /// Turns a prompt into vectors, once per run.
    TextEncoder,
    /// Turns a picture into vectors, once per run.
    ImageEncoder,
    /// Runs at every step.
    Denoiser,
    /// Runs beside the denoiser at every step.
    ControlNet,
    /// Turns latents into pictures, once per run.
    Vae,
    /// A low-rank addition to another component.
    Adapter,
    /// Anything else, once per run.
    Other,
}

/// What moves together: a layer, an embedding, a head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupProfile {
    /// For example `model.layers.3`.
    pub name: String,
    /// What kind of part it is.
    pub kind: GroupKind,
    /// How many numbers it consists of, experts included.
    pub parameters: u64,
    /// As stored, experts included.
    #[serde(rename = "size_bytes")]
    pub size: Bytes,
    /// The part of it that only chosen tokens use.
    #[serde(default)]
    pub experts: Option<Experts>,
}

/// The routed experts of a mixture-of-experts layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experts {
    /// How many there are.
    pub count: u64,
    /// How many a token uses.
    pub active: u64,
    /// Numbers in all of them.
    pub parameters: u64,
    /// All of them, as stored.
    #[serde(rename = "size_bytes")]
    pub size: Bytes,
}

/// The widths that a component's activations are made of, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Shape {
    /// A language model.
    Decoder {
        /// Width of the residual stream.
        hidden: u64,
        /// Width inside the feed-forward part that one token uses.
        intermediate: u64,
        /// Query heads.
        heads: u64,
        /// Rows of the output head.
        vocab: u64,
    },
    /// An encoder over a sequence of fixed length.
    Encoder {
        /// Width of the residual stream.
        hidden: u64,
        /// Width inside the feed-forward part.
        intermediate: u64,
        /// Query heads.
        heads: u64,
        /// Tokens per input.
        tokens: u64,
    },
    /// A transformer or U-Net over latents.
    Denoiser {
        /// Width of the residual stream (of a U-Net: of its widest level).
        hidden: u64,
        /// Width inside the feed-forward part.
        intermediate: u64,
        /// Query heads.
        heads: u64,
        /// Latent pixels per token along one side.
        patch: u64,
        /// Latent channels.
        channels: u64,
        /// Text tokens that join the sequence.
        text_tokens: u64,
    },
    /// A variational autoencoder.
    Vae {
        /// Pixels per latent pixel along one side.
        scale: u64,
        /// Frames per latent frame; 1 for pictures.
        temporal: u64,
        /// Channels at full resolution.
        channels: u64,
    },
    /// Not known.
    Unknown,
}

/// What one layer remembers of earlier tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum LayerCache {
    /// Keys and values of every token.
    Full {
        /// Key/value heads.
        heads: u64,
        /// Width of a key.
        key: u64,
        /// Width of a value.
        value: u64,
    },
    /// Keys and values of the latest tokens only.
    Window {
        /// Key/value heads.
        heads: u64,
        /// Width of a key.
        key: u64,
        /// Width of a value.
        value: u64,
        /// How many tokens.
        window: u64,
    },
    /// Keys and values of the current chunk only (Llama 4).
    Chunked {
        /// Key/value heads.
        heads: u64,
        /// Width of a key.
        key: u64,
        /// Width of a value.
        value: u64,
        /// Tokens per chunk.
        chunk: u64,
    },
    /// One compressed vector per token for keys and values together (MLA).
    Latent {
        /// Width of the compressed vector.
        rank: u64,
        /// Width of the rotated key beside it.
        rope: u64,
    },
    /// A state whose size does not depend on the context, in 32-bit elements (linear attention,
    /// Mamba, RWKV).
    State {
        /// How many elements.
        elements: u64,
    },
    /// Nothing: the layer reads another layer's cache, or needs none.
    None,
}

impl LayerCache {
    /// Bytes for one sequence of `context` tokens.
    ///
    /// Saturating: shapes may come from untrusted files.
    pub fn bytes(self, context: u64, element: CacheElement) -> Bytes {
        let cached = |tokens: u64, width: u64| element.bytes(tokens.saturating_mul(width));
        match self {
            Self::Full { heads, key, value } => {
                cached(context, heads.saturating_mul(key.saturating_add(value)))
            }
            Self::Window { heads, key, value, window } => {
                cached(context.min(window), heads.saturating_mul(key.saturating_add(value)))
            }
            Self::Chunked { heads, key, value, chunk } => {
                cached(context.min(chunk), heads.saturating_mul(key.saturating_add(value)))
            }
            Self::Latent { rank, rope } => cached(context, rank.saturating_add(rope)),
            Self::State { elements } => Bytes::new(elements.saturating_mul(4)),
            Self::None => Bytes::ZERO,
        }
    }
}

/// How one element of a KV cache is stored: `bytes` for every `elements`, scales included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CacheElement {
    bytes: u64,
    elements: u64,
}

impl CacheElement {
    /// 32-bit floating point.
    pub const F32: Self = Self { bytes: 4, elements: 1 };
    /// 16-bit floating point, either kind.
    pub const F16: Self = Self { bytes: 2, elements: 1 };
    /// 8-bit floating point without scales.
    pub const F8: Self = Self { bytes: 1, elements: 1 };
    /// Blocks of 32 bytes with a 16-bit scale.
    pub const Q8_0: Self = Self { bytes: 34, elements: 32 };
    /// Blocks of 32 half bytes with a 16-bit scale.
    pub const Q4_0: Self = Self { bytes: 18, elements: 32 };

    /// Bytes of `count` elements, rounded up, saturating.
    pub fn bytes(self, count: u64) -> Bytes {
        let bytes = (u128::from(count) * u128::from(self.bytes)).div_ceil(self.elements.into());
        Bytes::new(bytes.try_into().unwrap_or(u64::MAX))
    }
}

impl ComponentProfile {
    /// Bytes of all groups, as stored.
    pub fn size(&self) -> Bytes {
        self.groups.iter().map(|group| group.size).sum()
    }

    /// How many numbers it consists of.
    pub fn parameters(&self) -> u64 {
        self.groups.iter().fold(0, |sum, group| sum.saturating_add(group.parameters))
    }

    /// How many of them one token uses.
    pub fn active_parameters(&self) -> u64 {
        self.groups.iter().fold(0, |sum, group| sum.saturating_add(group.active_parameters()))
    }

    /// The KV cache of one sequence of `context` tokens.
    pub fn cache(&self, context: u64, element: CacheElement) -> Bytes {
        self.caches.iter().map(|layer| layer.bytes(context, element)).sum()
    }
}

impl GroupProfile {
    /// How many of its numbers one token uses.
    pub fn active_parameters(&self) -> u64 {
        let idle = self.experts.map_or(0, |experts| {
            experts.parameters.saturating_sub(share(
                experts.parameters,
                experts.active,
                experts.count,
            ))
        });
        self.parameters.saturating_sub(idle)
    }

    /// The part that every token uses, as stored.
    pub fn dense_size(&self) -> Bytes {
        self.experts.map_or(self.size, |experts| self.size.left_after(experts.size))
    }
}

impl ModelProfile {
    /// Bytes of all components, as stored.
    pub fn size(&self) -> Bytes {
        self.components.iter().map(ComponentProfile::size).sum()
    }

    /// How many numbers it consists of.
    pub fn parameters(&self) -> u64 {
        self.components.iter().fold(0, |sum, part| sum.saturating_add(part.parameters()))
    }
}

/// `whole * part / parts`, rounded up; `whole` if `parts` is zero.
fn share(whole: u64, part: u64, parts: u64) -> u64 {
    if parts == 0 {
        return whole;
    }
    let product = u128::from(whole) * u128::from(part.min(parts));
    product.div_ceil(parts.into()).try_into().unwrap_or(u64::MAX)
}
