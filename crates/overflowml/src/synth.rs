//! Random-weight models in the usual layout: real architectures of any size, for tests, benchmarks
//! and the demo, without a download.
//!
//! The same request gives the same bytes on any machine. What the weights compute is nonsense, but
//! of the usual magnitude, and everything about the files is as published models have it.

mod error;
mod family;
mod folder;
mod mixture;
mod shape;
#[cfg(test)]
mod tests;
mod tokenizer;
mod weights;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use overflowml_formats::HeaderBuilder;
use overflowml_types::{Bytes, DType};
use serde::Serialize;
use serde_json::{Value, json};

pub use self::error::SynthError;
use self::family::Family;
use self::folder::Folder;
use self::shape::Shape;
use self::weights::Recipe;

/// The largest file, unless one tensor alone is larger.
const SHARD: Bytes = Bytes::new(2_000_000_000);
/// Where data starts: direct reads of it need no rounding.
const ALIGNMENT: u64 = 4096;

/// A model to make: where, and which.
#[derive(Clone, Debug)]
pub struct SynthRequest {
    dir: PathBuf,
    family: Family,
    /// Parameters asked for.
    asked: u64,
    dtype: DType,
    seed: u64,
    shape: Shape,
    config: Value,
    recipes: Vec<Recipe>,
    shard: Bytes,
    threads: usize,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SynthReport {
    /// The model's folder.
    pub dir: PathBuf,
    /// Its name in `config.json`.
    pub architecture: String,
    /// Parameters it really has; a tied head counts once.
    pub parameters: u64,
    /// All weights.
    #[serde(rename = "weights_bytes")]
    pub weights: Bytes,
    /// Their element type.
    pub dtype: DType,
    /// Where the numbers come from.
    pub seed: u64,
    /// Layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width inside the feed-forward part.
    pub intermediate: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Rows of the embedding.
    pub vocab: u32,
    /// Weight files.
    pub files: usize,
    /// Of them, those that an earlier attempt had finished.
    pub kept_files: usize,
}

impl SynthRequest {
    /// Decides what to make; touches no file.
    ///
    /// `arch` is a `model_type` (`llama`) or an architecture (`LlamaForCausalLM`), `params` about
    /// how many parameters (met within 5 % from a million up), `dtype` one of `bf16`, `f16` and
    /// `f32`.
    ///
    /// # Errors
    /// [`SynthError::UnknownArchitecture`], [`SynthError::UnknownDType`],
    /// [`SynthError::ParametersOutOfRange`].
    pub fn new(
        dir: &Path,
        arch: &str,
        params: u64,
        dtype: &str,
        seed: u64,
    ) -> Result<Self, SynthError> {
        let unknown = || SynthError::UnknownArchitecture { arch: arch.to_owned() };
        let family = Family::named(arch).ok_or_else(unknown)?;
        let dtype = parse_dtype(dtype)?;
        let shape = shape::choose(&family, params)?;
        let failed =
            |source| SynthError::Config { architecture: family.architecture.to_owned(), source };
        let config = family.config(&shape, dtype).map_err(failed)?;
        let spec = family::read(&config).map_err(failed)?;
        let tensors = spec.tensors();
        let recipes = tensors
            .iter()
            .map(|weight| {
                let name = family.tensor_name(&weight.name);
                Recipe::new(weight, name, &spec, seed)
            })
            .collect();
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let dir = dir.to_owned();
        let (asked, shard) = (params, SHARD);
        Ok(Self { dir, family, asked, dtype, seed, shape, config, recipes, shard, threads })
    }

    /// What the folder is marked with: all that the bytes depend on.
    fn marker(&self) -> Value {
        json!({
            "made_by": "overflowml synth",
            "format": 1,
            "architecture": self.family.architecture,
            "parameters_asked": self.asked,
            "dtype": self.dtype,
            "seed": self.seed,
        })
    }

    fn weights(&self) -> Bytes {
        self.recipes.iter().map(|recipe| recipe.len(self.dtype)).sum()
    }

    fn report(&self, files: usize, kept_files: usize) -> SynthReport {
        let shape = &self.shape;
        SynthReport {
            dir: self.dir.clone(),
            architecture: self.family.architecture.to_owned(),
            parameters: self.recipes.iter().map(|it| it.shape.iter().product::<u64>()).sum(),
            weights: self.weights(),
            dtype: self.dtype,
            seed: self.seed,
            layers: shape.layers,
            hidden: shape.hidden,
            intermediate: shape.intermediate,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            vocab: shape.vocab,
            files,
            kept_files,
        }
    }
}

/// Makes the model, or continues where an interrupted attempt at the same request stopped.
///
/// `progress` is called on this thread with the bytes of weights that are done and their total.
/// Blocks until everything is on disk; uses all cores and a few MiB of memory.
///
/// # Errors
/// [`SynthError::FolderInUse`] and [`SynthError::OtherRequest`] if the folder holds something
/// else, which is then left as it is; [`SynthError::Busy`], [`SynthError::DiskFull`] and
/// [`SynthError::Os`]. Whole files stay, so that the same request continues.
pub fn synthesize(
    request: &SynthRequest,
    progress: &mut dyn FnMut(Bytes, Bytes),
) -> Result<SynthReport, SynthError> {
    let folder = Folder::take(&request.dir, &request.marker())?;
    let shards = shards(request);
    let kept = write_shards(request, &folder, &shards, progress)?;
    if shards.len() > 1 {
        folder.write_json("model.safetensors.index.json", &index(request, &shards))?;
    }
    folder.write_json("tokenizer.json", &tokenizer::tokenizer_json(request.shape.vocab))?;
    folder.write_json("tokenizer_config.json", &tokenizer::tokenizer_config_json())?;
    folder.write_json("generation_config.json", &generation_config())?;
    // Last: a folder with a configuration is a whole model.
    folder.write_json("config.json", &request.config)?;
    Ok(request.report(shards.len(), kept))
}

/// One weight file.
struct Shard<'a> {
    name: String,
    recipes: &'a [Recipe],
}

/// Tensors in the order in which a pass uses them, as many to a file as it may hold.
fn shards(request: &SynthRequest) -> Vec<Shard<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut len) = (0, Bytes::ZERO);
    for (at, recipe) in request.recipes.iter().enumerate() {
        let next = recipe.len(request.dtype);
        // A little is left for the header.
        if at > start && len.saturating_add(next) > request.shard.share(0.995) {
            parts.push(&request.recipes[start..at]);
            (start, len) = (at, Bytes::ZERO);
        }
        len = len.saturating_add(next);
    }
    parts.push(&request.recipes[start..]);
    let count = parts.len();
    let name = |number: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
    };
    parts.into_iter().enumerate().map(|(at, recipes)| Shard { name: name(at), recipes }).collect()
}

/// Writes the files that are not there yet, and returns how many were.
fn write_shards(
    request: &SynthRequest,
    folder: &Folder,
    shards: &[Shard<'_>],
    progress: &mut dyn FnMut(Bytes, Bytes),
) -> Result<usize, SynthError> {
    let total = request.weights();
    let done = Cell::new(Bytes::ZERO);
    let missing = || total.left_after(done.get());
    let mut kept = 0;
    for shard in shards {
        let header = header(request, shard)?;
        let data = shard.recipes.iter().map(|recipe| recipe.len(request.dtype)).sum();
        if folder.has(&shard.name, &header, Bytes::of_len(header.len()).saturating_add(data))? {
            kept += 1;
            done.set(done.get().saturating_add(data));
            progress(done.get(), total);
            continue;
        }
        folder.write(&shard.name, &missing, |out| {
            out.write_all(&header)?;
            weights::write(shard.recipes, request.dtype, request.threads, out, &mut |wrote| {
                done.set(done.get().saturating_add(wrote));
                progress(done.get(), total);
            })
        })?;
    }
    Ok(kept)
}

fn header(request: &SynthRequest, shard: &Shard<'_>) -> Result<Vec<u8>, SynthError> {
    let mut header = HeaderBuilder::new();
    header.metadata("format", "pt").align_data(ALIGNMENT);
    let mut tensors = shard.recipes.iter();
    tensors
        .try_for_each(|recipe| header.tensor(&recipe.name, request.dtype, &recipe.shape))
        .and_then(|()| header.build())
        .map_err(|source| SynthError::Header { path: request.dir.join(&shard.name), source })
}

fn index(request: &SynthRequest, shards: &[Shard<'_>]) -> Value {
    let entries = shards.iter().flat_map(|shard| {
        shard.recipes.iter().map(|recipe| (recipe.name.as_str(), shard.name.as_str()))
    });
    let map: BTreeMap<_, _> = entries.collect();
    json!({ "metadata": { "total_size": request.weights() }, "weight_map": map })
}

fn generation_config() -> Value {
    json!({
        "bos_token_id": tokenizer::BOS,
        "eos_token_id": tokenizer::EOS,
        "pad_token_id": tokenizer::PAD,
    })
}

fn parse_dtype(name: &str) -> Result<DType, SynthError> {
    match name.to_ascii_lowercase().as_str() {
        "bf16" | "bfloat16" => Ok(DType::BF16),
        "f16" | "fp16" | "float16" => Ok(DType::F16),
        "f32" | "fp32" | "float32" => Ok(DType::F32),
        _ => Err(SynthError::UnknownDType { dtype: name.to_owned() }),
    }
}
