//! Test support, shared by the crates that need model files: builds safetensors files with chosen
//! defects, folders in memory, and small random-weight models on disk. Not part of the API.

// What fails here is a broken test set-up, which should stop the test at that line.
#![allow(clippy::expect_used, clippy::missing_panics_doc, missing_docs)]

mod gguf;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use overflowml_types::{Access, Bytes, DType, DecoderSpec, WeightSpec};
use serde_json::{Value, json};

pub use self::gguf::GgufFile;
use crate::{FileProblem, HeaderBuilder, ModelDir, OpenFile, parse_config};

/// Starts a safetensors file.
pub fn safetensors() -> FileBuilder {
    FileBuilder { header: HeaderBuilder::new(), json: None, cut: 0, extra: 0 }
}

/// A safetensors file in the making; all data bytes are zero.
#[derive(Clone, Debug)]
pub struct FileBuilder {
    header: HeaderBuilder,
    json: Option<Vec<u8>>,
    cut: usize,
    extra: usize,
}

impl FileBuilder {
    #[must_use]
    pub fn tensor(mut self, name: &str, dtype: DType, shape: &[u64]) -> Self {
        self.header.tensor(name, dtype, shape).expect("a fixture's tensor is valid");
        self
    }

    /// Replaces the header's JSON, valid or not; `data` zero bytes follow it.
    #[must_use]
    pub fn json(mut self, json: impl AsRef<[u8]>, data: usize) -> Self {
        self.json = Some(json.as_ref().to_vec());
        self.extra = data;
        self
    }

    #[must_use]
    pub const fn cut_data_by(mut self, bytes: usize) -> Self {
        self.cut = bytes;
        self
    }

    #[must_use]
    pub const fn extend_data_by(mut self, bytes: usize) -> Self {
        self.extra = bytes;
        self
    }

    pub fn build(self) -> FileFixture {
        let (mut bytes, data) = match self.json {
            Some(json) => {
                let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
                bytes.extend(json);
                (bytes, 0)
            }
            None => {
                let data = self.header.data_len().to_usize().expect("a fixture fits in memory");
                (self.header.build().expect("a fixture's header is valid"), data)
            }
        };
        let header_len = bytes.len();
        bytes.resize(header_len + data + self.extra - self.cut, 0);
        FileFixture { bytes, header_len }
    }
}

/// A finished file.
#[derive(Clone, Debug)]
pub struct FileFixture {
    pub bytes: Vec<u8>,
    header_len: usize,
}

impl FileFixture {
    /// The bytes before the data.
    pub fn header(&self) -> &[u8] {
        &self.bytes[..self.header_len.min(self.bytes.len())]
    }

    /// The file's length.
    pub fn len(&self) -> Bytes {
        Bytes::of_len(self.bytes.len())
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A folder in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryDir {
    files: BTreeMap<String, Vec<u8>>,
}

impl MemoryDir {
    #[must_use]
    pub fn with(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.files.insert(name.to_owned(), bytes.as_ref().to_vec());
        self
    }
}

impl ModelDir for MemoryDir {
    type Reader = Cursor<Vec<u8>>;

    fn path(&self, name: &str) -> PathBuf {
        Path::new("memory").join(name)
    }

    /// Files whose names start with the folder's.
    fn folder(&self, name: &str) -> Self {
        let start = format!("{name}/");
        let inside = self.files.iter().filter_map(|(path, bytes)| {
            Some((path.strip_prefix(&start)?.to_owned(), bytes.clone()))
        });
        Self { files: inside.collect() }
    }

    fn names(&self) -> Result<Vec<String>, FileProblem> {
        let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = self.files.keys().map(first).collect();
        Ok(names.into_iter().collect())
    }

    fn open(&self, name: &str) -> Result<OpenFile<Self::Reader>, FileProblem> {
        let start = format!("{name}/");
        if self.files.keys().any(|path| path.starts_with(&start)) {
            return Err(FileProblem::IsFolder);
        }
        let bytes = self.files.get(name).ok_or(FileProblem::Missing)?.clone();
        Ok(OpenFile { len: Bytes::of_len(bytes.len()), reader: Cursor::new(bytes) })
    }
}

/// A small configuration of any supported architecture: 4 layers, 64 wide, 97 tokens.
pub fn config(architecture: &str) -> Value {
    let mut config = json!({
        "architectures": [architecture],
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "query_pre_attn_scalar": 16,
        "sliding_window": 8,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "n_group": 2,
        "topk_group": 1,
        "q_lora_rank": null,
        "kv_lora_rank": 24,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "first_k_dense_replace": 1,
        "eos_token_id": 2,
        "bos_token_id": 1
    });
    if architecture == "Gemma3ForConditionalGeneration" {
        config = json!({ "architectures": [architecture], "text_config": config });
    }
    config
}

/// What `config` describes.
pub fn spec(config: &Value) -> DecoderSpec {
    parse_config(config.to_string().as_bytes())
        .and_then(|config| config.decoder())
        .expect("a fixture's configuration is valid")
}

/// Writes a model with random weights in `shards` files, the same for the same `seed`.
///
/// # Errors
/// What the system reports.
pub fn write_model(
    folder: &Path,
    config: &Value,
    dtype: DType,
    seed: u64,
    shards: usize,
) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.json"), config.to_string())?;
    let spec = spec(config);
    let weights = spec.tensors();
    let mut random = Random::new(seed);
    if shards == 1 {
        let file = weights_file(&weights, &spec, dtype, &mut random);
        return fs::write(folder.join("model.safetensors"), file);
    }
    let mut map = BTreeMap::new();
    for (number, part) in weights.chunks(weights.len().div_ceil(shards)).enumerate() {
        let name = format!("model-{:05}-of-{shards:05}.safetensors", number + 1);
        fs::write(folder.join(&name), weights_file(part, &spec, dtype, &mut random))?;
        map.extend(part.iter().map(|weight| (weight.name.clone(), name.clone())));
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string())
}

fn weights_file(
    weights: &[WeightSpec],
    spec: &DecoderSpec,
    dtype: DType,
    random: &mut Random,
) -> Vec<u8> {
    let mut header = HeaderBuilder::new();
    header.metadata("format", "pt");
    for weight in weights {
        header.tensor(&weight.name, dtype, &weight.shape).expect("weight names are unique");
    }
    let mut bytes = header.build().expect("a small header");
    for weight in weights {
        write_weight(weight, spec, dtype, random, &mut bytes);
    }
    bytes
}

/// Matrices keep the size of what they multiply, norms are near 1, biases near 0.
#[allow(clippy::cast_precision_loss)]
fn write_weight(
    weight: &WeightSpec,
    spec: &DecoderSpec,
    dtype: DType,
    random: &mut Random,
    bytes: &mut Vec<u8>,
) {
    let cols = weight.shape.last().copied().unwrap_or(1);
    let is_norm = weight.access == Access::Kept && weight.name.ends_with("norm.weight");
    let (centre, spread) = match weight.access {
        Access::Kept if is_norm => (1.0 - spec.norm_weight_offset, 0.2),
        Access::Kept => (0.0, 0.2),
        Access::Rows | Access::Lookup | Access::Expert => (0.0, (3.0 / cols as f32).sqrt()),
    };
    for _ in 0..weight.shape.iter().product::<u64>() {
        let value = centre + spread * random.next();
        match dtype {
            DType::F32 => bytes.extend(value.to_le_bytes()),
            DType::BF16 => bytes.extend(to_bf16(value).to_le_bytes()),
            DType::F16 => bytes.extend(to_f16(value).to_le_bytes()),
            other => unreachable!("no fixture has {other} weights"),
        }
    }
}

/// Rounded to nearest, ties to even.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let round = 0x7fff + ((bits >> 16) & 1);
    u16::try_from(bits.wrapping_add(round) >> 16).unwrap_or_default()
}

/// Truncated; magnitudes below the smallest normal number become zero.
fn to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let exponent = (bits >> 23) & 0xff;
    if exponent <= 112 {
        return u16::try_from(sign).unwrap_or_default();
    }
    assert!(exponent < 143, "{value} is too large for f16");
    let half = sign | ((exponent - 112) << 10) | ((bits >> 13) & 0x3ff);
    u16::try_from(half).unwrap_or_default()
}

/// xorshift64*: uniform in -1 .. 1.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    #[allow(clippy::cast_precision_loss)]
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
        bits as f32 / (1u32 << 23) as f32 - 1.0
    }
}
