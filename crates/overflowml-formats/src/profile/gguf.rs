//! GGUF metadata → what is known beside sizes: widths, and what each layer remembers.
//!
//! The oracle is llama.cpp's loader: keys that may be one number or a list with one for each layer are read as it
//! reads them, and windows that the file does not spell out are those that it has for the architecture.

use std::collections::{BTreeMap, BTreeSet};

use overflowml_types::{LayerCache, ModelProfile, ProfileSource, Role, Shape, Task};

use super::{Part, Piece, part};
use crate::gguf::{GgufModel, GgufValue, open_gguf_in, split_name};
use crate::paper::Facts;
use crate::profile::stored::experts;
use crate::{FormatError, ModelDir, limits};

/// The profile of the GGUF model `file` in `dir`.
pub(super) fn profile<D: ModelDir>(dir: &D, file: &str) -> Result<ModelProfile, FormatError> {
    let model = open_gguf_in(dir, file)?;
    let part = from_model(&model);
    Ok(ModelProfile {
        name: dir.path(file).display().to_string(),
        source: part.source,
        task: part.task,
        components: vec![part.component],
        notes: part.notes,
    })
}

/// The one GGUF model of a folder, by its first file; `None` if there is none.
pub(super) fn choose<'a, D: ModelDir>(
    dir: &D,
    names: &'a BTreeSet<String>,
) -> Result<Option<&'a str>, FormatError> {
    let later = |name: &str| split_name(name).is_some_and(|(_, number, _)| number > 1);
    // What sees and hears for another model lies beside it.
    let models = names
        .iter()
        .map(String::as_str)
        .filter(|name| name.ends_with(".gguf") && !later(name) && !name.starts_with("mmproj"));
    let models: Vec<&str> = models.collect();
    match models.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        several => {
            let names = several.iter().take(8).map(|name| (*name).to_owned()).collect();
            Err(FormatError::SeveralGguf { path: dir.path(""), names })
        }
    }
}

fn from_model(model: &GgufModel) -> Part {
    let keys = Keys::new(&model.metadata);
    let mut notes = Vec::new();
    let facts = keys.facts(&mut notes);
    let pieces = model.tensors.iter().map(|tensor| Piece {
        name: tensor.name.clone(),
        parameters: tensor.elements().unwrap_or(u64::MAX),
        size: tensor.span.len,
        dtype: tensor.kind.name().into(),
        experts: experts(&tensor.name, &tensor.shape),
    });
    let mut part = part("model", facts, pieces.collect(), ProfileSource::Headers);
    part.notes = notes;
    part
}

/// Metadata below the architecture's name.
struct Keys<'a> {
    metadata: &'a BTreeMap<String, GgufValue>,
    arch: &'a str,
    layers: u64,
}

impl<'a> Keys<'a> {
    fn new(metadata: &'a BTreeMap<String, GgufValue>) -> Self {
        let arch = metadata.get("general.architecture").and_then(GgufValue::as_text);
        let mut keys = Self { metadata, arch: arch.unwrap_or_default(), layers: 0 };
        let layers = keys.number("block_count").unwrap_or(0);
        keys.layers = if layers <= limits::LAYERS as u64 { layers } else { 0 };
        keys
    }

    fn get(&self, key: &str) -> Option<&'a GgufValue> {
        self.metadata.get(&format!("{}.{key}", self.arch))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    fn or(&self, key: &str, default: u64) -> u64 {
        self.number(key).unwrap_or(default)
    }

    /// The value for one layer, where the key holds one for all or a list.
    fn of_layer(&self, key: &str, layer: u64) -> Option<u64> {
        match self.get(key)? {
            GgufValue::List(list) => list.get(usize::try_from(layer).ok()?)?.as_u64(),
            value => value.as_u64(),
        }
    }

    /// The largest value over all layers.
    fn largest(&self, key: &str) -> Option<u64> {
        (0..self.layers.max(1)).filter_map(|layer| self.of_layer(key, layer)).max()
    }

    fn facts(&self, notes: &mut Vec<String>) -> Facts {
        let (role, task) = match self.arch {
            "t5encoder" => (Role::TextEncoder, Task::Encode),
            "flux" | "sd1" | "sdxl" | "sd3" | "qwen_image" | "lumina2" | "aura" | "hidream" => {
                (Role::Denoiser, Task::Image)
            }
            "wan" | "ltxv" | "hyvid" | "cosmos" => (Role::Denoiser, Task::Video),
            "clip" => (Role::ImageEncoder, Task::Encode),
            _ if self.is_encoder() => (Role::Other, Task::Encode),
            _ => (Role::Decoder, Task::Text),
        };
        let unknown = Facts { role, task, ..Facts::unknown(self.arch.to_owned()) };
        let hidden = self.number("embedding_length").filter(|_| self.layers > 0);
        let Some(hidden) = hidden else {
            notes.push("model: only sizes are known: the metadata does not tell layers".to_owned());
            let decodes = role == Role::Decoder;
            return if decodes { Facts::unknown(self.arch.to_owned()) } else { unknown };
        };
        let heads = self.largest("attention.head_count").unwrap_or(0);
        let context = self.number("context_length");
        if role != Role::Decoder {
            let tokens = context.unwrap_or(512);
            let intermediate = self.intermediate();
            let shape = Shape::Encoder { hidden, intermediate, heads, tokens };
            return Facts { shape, max_context: context, ..unknown };
        }
        let shape = Shape::Decoder {
            hidden,
            intermediate: self.intermediate(),
            heads,
            vocab: self.vocab(),
        };
        let active = self.number("expert_used_count").filter(|&active| active > 0);
        let caches = self.caches(hidden, heads, notes);
        Facts { shape, caches, max_context: context, active_experts: active, ..unknown }
    }

    /// Whether tokens see later ones, so that nothing is remembered between passes.
    fn is_encoder(&self) -> bool {
        matches!(self.get("attention.causal"), Some(GgufValue::Bool(false)))
            || self.arch.contains("bert")
    }

    /// Width inside the feed-forward part that one token uses.
    fn intermediate(&self) -> u64 {
        let dense = self.largest("feed_forward_length").unwrap_or(0);
        let experts = self.or("expert_feed_forward_length", dense);
        match self.number("expert_used_count").filter(|&active| active > 0) {
            None => dense,
            Some(active) => {
                let shared = self.number("expert_shared_feed_forward_length");
                let shared = shared
                    .unwrap_or_else(|| self.or("expert_shared_count", 0).saturating_mul(experts));
                active.saturating_mul(experts).saturating_add(shared)
            }
        }
    }

    fn vocab(&self) -> u64 {
        let words = self.metadata.get("tokenizer.ggml.tokens").and_then(GgufValue::count);
        self.number("vocab_size").or(words).unwrap_or(0)
    }

    /// What each layer remembers.
    fn caches(&self, hidden: u64, heads: u64, notes: &mut Vec<String>) -> Vec<LayerCache> {
        let predicts = self.or("nextn_predict_layers", 0);
        let shared = self.or("attention.shared_kv_layers", 0);
        let layers = self.layers.saturating_sub(predicts);
        let own = layers.saturating_sub(shared);
        let head = hidden.checked_div(heads).unwrap_or(0);
        let state = self.state(hidden);
        if state.is_some() && self.both_in_one_layer() {
            notes.push(
                "model: layers keep a state beside their keys and values; it is not counted"
                    .to_owned(),
            );
        }
        let cache = |layer| {
            if layer >= own {
                return LayerCache::None;
            }
            let none = state.map_or(LayerCache::None, |elements| LayerCache::State { elements });
            if state.is_some() && self.is_recurrent(layer) {
                return none;
            }
            match self.of_layer("attention.head_count_kv", layer).unwrap_or(heads) {
                0 => none,
                kv_heads => self.attention(layer, kv_heads, head),
            }
        };
        (0..layers).map(cache).collect()
    }

    fn attention(&self, layer: u64, heads: u64, head: u64) -> LayerCache {
        let windowed = self.is_windowed(layer);
        let width = |name: &str| {
            let usual = self.of_layer(&format!("attention.{name}"), layer).unwrap_or(head);
            let local = self.number(&format!("attention.{name}_swa")).filter(|_| windowed);
            local.unwrap_or(usual)
        };
        let (key, value) = (width("key_length"), width("value_length"));
        if let Some(rank) = self.number("attention.kv_lora_rank").filter(|&rank| rank > 0)
            // Files from before the latent form was supported keep whole heads.
            && (heads == 1 || self.get("attention.key_length_mla").is_some())
        {
            return LayerCache::Latent { rank, rope: self.or("rope.dimension_count", 64) };
        }
        let window = self.number("attention.sliding_window").filter(|&window| window > 0);
        match (self.arch, window) {
            ("llama4", _) if windowed => {
                let chunk = self.or("attention.chunk_size", 8192);
                LayerCache::Chunked { heads, key, value, chunk }
            }
            (_, Some(window)) if windowed => LayerCache::Window { heads, key, value, window },
            _ => LayerCache::Full { heads, key, value },
        }
    }

    /// Whether a layer sees only a window or chunk.
    fn is_windowed(&self, layer: u64) -> bool {
        let all_but = |every: u64| every > 0 && layer % every < every - 1;
        match self.get("attention.sliding_window_pattern") {
            Some(GgufValue::List(list)) => {
                let flag = usize::try_from(layer).ok().and_then(|layer| list.get(layer));
                matches!(flag, Some(GgufValue::Bool(true) | GgufValue::U64(1)))
            }
            Some(GgufValue::U64(every)) => all_but(*every),
            _ => PATTERNS.iter().any(|(arch, every)| *arch == self.arch && all_but(*every)),
        }
    }

    /// Elements of a layer's state, where the architecture has one.
    fn state(&self, hidden: u64) -> Option<u64> {
        if let Some(head) = self.number("wkv.head_size") {
            let shift = self.or("token_shift_count", 2);
            return Some(hidden.saturating_mul(head.saturating_add(shift)));
        }
        if let Some(latest) = self.number("shortconv.l_cache") {
            return Some(hidden.saturating_mul(latest.saturating_sub(1)));
        }
        let inner = self.number("ssm.inner_size")?;
        let state = self.number("ssm.state_size")?;
        let groups = self.or("ssm.group_count", 0);
        let channels = inner.saturating_add(groups.saturating_mul(state).saturating_mul(2));
        let latest = self.or("ssm.conv_kernel", 4).saturating_sub(1);
        Some(state.saturating_mul(inner).saturating_add(latest.saturating_mul(channels)))
    }

    /// Whether a layer has a state in place of keys and values, where head counts do not say so.
    fn is_recurrent(&self, layer: u64) -> bool {
        let every = match self.arch {
            "mamba" | "mamba2" => return true,
            arch if arch.contains("rwkv") => return true,
            "qwen3next" | "qwen35" | "qwen35moe" => self.or("full_attention_interval", 4),
            _ => self.or("full_attention_interval", 0),
        };
        every > 0 && !(layer + 1).is_multiple_of(every)
    }

    fn both_in_one_layer(&self) -> bool {
        self.arch == "falcon-h1"
    }
}

/// Architectures whose layers are windowed but for every so-many-th, where the file does not say.
const PATTERNS: &[(&str, u64)] = &[
    ("gemma2", 2),
    ("gemma3", 6),
    ("gemma3n", 5),
    ("gpt-oss", 2),
    ("cohere2", 4),
    ("llama4", 4),
    ("olmo3", 4),
    ("olmo2", 4),
    ("exaone4", 4),
];
