//! A model's folder: which files there are, what they hold, and whether they fit together.

use std::collections::BTreeSet;
use std::path::PathBuf;

use overflowml_types::{
    Component, DecoderSpec, FileId, FileSpan, Manifest, ModelFile, PassWeight, Tensor,
};
use serde_json::Map;

use crate::config::Fields;
use crate::dir::{read_small, read_up_to};
use crate::{
    Config, ConfigError, FileProblem, FormatError, GenerationDefaults, Header, Index, IndexError,
    ModelDir, bind, groups, limits, parse_config, parse_generation_config, parse_index,
    safetensors,
    weights::{self, Choice},
};

pub(crate) const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

/// An opened model: what is in its files, and what it computes.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its folder, or its one file.
    pub root: PathBuf,
    /// Every tensor and where it lies.
    pub manifest: Manifest,
    /// What `config.json` calls it, for example `LlamaForCausalLM`; known for models that do not
    /// run, too.
    pub architecture: Option<String>,
    /// What it computes, or why it does not run here.
    pub decoder: Result<DecoderSpec, ConfigError>,
    /// How its makers sample it.
    pub generation: GenerationDefaults,
    /// The files beside the weights, where they exist.
    pub files: ModelFiles,
}

/// The files beside a model's weights; `None` for those that do not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // each field is the file's own name
pub struct ModelFiles {
    pub config: Option<PathBuf>,
    pub generation_config: Option<PathBuf>,
    pub tokenizer: Option<PathBuf>,
    pub tokenizer_config: Option<PathBuf>,
    pub chat_template: Option<PathBuf>,
}

impl Model {
    /// What the model computes.
    ///
    /// # Errors
    /// [`FormatError::Config`] with the reason why it does not run here.
    pub fn decoder(&self) -> Result<&DecoderSpec, FormatError> {
        self.decoder.as_ref().map_err(|error| FormatError::Config {
            path: self.files.config.clone().unwrap_or_else(|| self.root.clone()),
            error: error.clone(),
        })
    }

    /// Every weight of the decoder, found in the files, in the order in which a pass uses them.
    ///
    /// # Errors
    /// [`FormatError::Config`] if the model does not run here, [`FormatError::Bind`] if the files
    /// do not hold what the configuration calls for.
    pub fn bind(&self) -> Result<Vec<PassWeight>, FormatError> {
        let spec = self.decoder()?;
        let failed = |error| FormatError::Bind { path: self.root.clone(), error };
        bind(spec, &self.manifest).map_err(failed)
    }
}

/// Opens the model in `dir`: the weights file `file` if one is named, else what the folder holds.
///
/// # Errors
/// As [`open_model`](crate::open_model).
pub fn open_model_in<D: ModelDir>(dir: &D, file: Option<&str>) -> Result<Model, FormatError> {
    let root = dir.path(file.unwrap_or_default());
    let names = file_names(dir)?;
    let manifest = match read_weights(dir, &names, file)? {
        Weights::Found(manifest) => manifest,
        Weights::None { found } => {
            return Err(FormatError::NoWeights { path: dir.path(""), found });
        }
    };
    let path_of = |name: &str| names.contains(name).then(|| dir.path(name));
    let files = ModelFiles {
        config: path_of(CONFIG),
        generation_config: path_of(GENERATION),
        tokenizer: path_of("tokenizer.json"),
        tokenizer_config: path_of("tokenizer_config.json"),
        chat_template: path_of("chat_template.jinja").or_else(|| path_of("chat_template.json")),
    };
    let config = read_config(dir)?;
    let generation = read_generation(dir, config.as_ref())?;
    let (architecture, mut decoder) = match config {
        Some(config) => (config.architecture(), config.decoder()),
        None => (None, Err(ConfigError::NoConfig)),
    };
    if let Ok(spec) = &mut decoder {
        bind::settle_storage(spec, &manifest);
    }
    Ok(Model { root, manifest, architecture, decoder, generation, files })
}

pub(crate) fn file_names<D: ModelDir>(dir: &D) -> Result<BTreeSet<String>, FormatError> {
    let path = || dir.path("");
    let names = dir.names().map_err(|problem| FormatError::File { path: path(), problem })?;
    if names.len() > limits::FOLDER_ENTRIES {
        return Err(FormatError::TooManyFiles { path: path(), limit: limits::FOLDER_ENTRIES });
    }
    Ok(names.into_iter().collect())
}

pub(crate) fn read_config<D: ModelDir>(dir: &D) -> Result<Option<Config>, FormatError> {
    let Some(bytes) = read_small(dir, CONFIG, limits::CONFIG)? else { return Ok(None) };
    let wrong = |error| FormatError::Config { path: dir.path(CONFIG), error };
    parse_config(&bytes).map(Some).map_err(wrong)
}

fn read_generation<D: ModelDir>(
    dir: &D,
    config: Option<&Config>,
) -> Result<GenerationDefaults, FormatError> {
    let own = match read_small(dir, GENERATION, limits::CONFIG)? {
        Some(bytes) => parse_generation_config(&bytes)
            .map_err(|error| FormatError::Config { path: dir.path(GENERATION), error })?,
        None => GenerationDefaults::default(),
    };
    let none = Map::new();
    Ok(own.or_from_config(&config.map_or(Fields::new(&none), Config::fields)))
}

/// The weights of a folder.
pub(crate) enum Weights {
    Found(Manifest),
    /// None that are read; a few of other formats.
    None {
        found: Vec<String>,
    },
}

/// The weights file `file` if one is named, else what the folder holds.
pub(crate) fn read_weights<D: ModelDir>(
    dir: &D,
    names: &BTreeSet<String>,
    file: Option<&str>,
) -> Result<Weights, FormatError> {
    match file {
        Some(file) => read_single(dir, file).map(Weights::Found),
        None => read_folder(dir, names),
    }
}

/// What the folder holds, chosen as `transformers` and `diffusers` choose.
fn read_folder<D: ModelDir>(dir: &D, names: &BTreeSet<String>) -> Result<Weights, FormatError> {
    match weights::choose(names) {
        Choice::Single(name) => read_single(dir, name).map(Weights::Found),
        Choice::Index(name) => {
            let wrong = |error| FormatError::Index { path: dir.path(name), error };
            let bytes = read_small(dir, name, limits::INDEX)?.unwrap_or_default();
            let index = parse_index(&bytes).map_err(wrong)?;
            read_shards(dir, name, &index).map(Weights::Found)
        }
        Choice::Several(count) => Err(FormatError::NoIndex { path: dir.path(""), count }),
        Choice::None => Ok(Weights::None { found: other_weights(names) }),
    }
}

/// Weight files of formats that are not read, for the message; a few are enough.
fn other_weights(names: &BTreeSet<String>) -> Vec<String> {
    let known = [".gguf", ".bin", ".pt", ".pth", ".onnx", ".h5", ".msgpack", ".ckpt"];
    let other = |name: &&String| known.iter().any(|end| name.ends_with(end));
    names.iter().filter(other).take(3).cloned().collect()
}

fn read_single<D: ModelDir>(dir: &D, name: &str) -> Result<Manifest, FormatError> {
    let (file, header) = read_header(dir, name)?;
    let tensors = into_tensors(header, FileId(0));
    Ok(manifest(vec![file], tensors))
}

fn read_shards<D: ModelDir>(dir: &D, name: &str, index: &Index) -> Result<Manifest, FormatError> {
    let wrong = |error| FormatError::Index { path: dir.path(name), error };
    let mut files = Vec::with_capacity(index.shards.len());
    let mut tensors = Vec::with_capacity(index.tensors.len());
    for (position, shard) in index.shards.iter().enumerate() {
        let (file, header) = read_header(dir, shard).map_err(|error| match error {
            FormatError::File { problem: FileProblem::Missing, .. } => {
                wrong(missing_shard(index, position))
            }
            error => error,
        })?;
        check_shard(index, position, &header).map_err(wrong)?;
        #[allow(clippy::cast_possible_truncation)] // the number of shards is capped
        let id = FileId(position as u32);
        files.push(file);
        tensors.extend(into_tensors(header, id));
    }
    if tensors.len() < index.tensors.len() {
        return Err(wrong(not_in_shard(index, &tensors)));
    }
    Ok(manifest(files, tensors))
}

/// Every tensor of the shard must be where the index puts it.
fn check_shard(index: &Index, position: usize, header: &Header) -> Result<(), IndexError> {
    for tensor in header.tensors.iter().map(|tensor| tensor.name.as_str()) {
        let shard = || index.shards[position].clone();
        match index.tensors.get(tensor) {
            Some(&expected) if expected == position => {}
            Some(&expected) => {
                let expected = index.shards[expected].clone();
                let tensor = tensor.to_owned();
                return Err(IndexError::InWrongShard { tensor, shard: shard(), expected });
            }
            None => {
                return Err(IndexError::NotInIndex { tensor: tensor.to_owned(), shard: shard() });
            }
        }
    }
    Ok(())
}

fn missing_shard(index: &Index, position: usize) -> IndexError {
    let tensor = index.tensors.iter().find(|&(_, &shard)| shard == position);
    let tensor = tensor.map(|(name, _)| name.clone()).unwrap_or_default();
    IndexError::ShardMissing { shard: index.shards[position].clone(), tensor }
}

/// The first tensor of the index that no shard holds.
fn not_in_shard(index: &Index, found: &[Tensor]) -> IndexError {
    let found: BTreeSet<&str> = found.iter().map(|tensor| tensor.name.as_str()).collect();
    let missing = index.tensors.iter().find(|(name, _)| !found.contains(name.as_str()));
    let (tensor, shard) = missing
        .map(|(name, &shard)| (name.clone(), index.shards[shard].clone()))
        .unwrap_or_default();
    IndexError::NotInShard { tensor, shard }
}

/// Reads no more of the file than its header.
fn read_header<D: ModelDir>(dir: &D, name: &str) -> Result<(ModelFile, Header), FormatError> {
    let path = dir.path(name);
    let failed = |problem| FormatError::File { path: path.clone(), problem };
    let wrong = |error| FormatError::Header { path: path.clone(), error };
    let mut file = dir.open(name).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut read_to = |bytes: &mut Vec<u8>, len| {
        read_up_to(&mut file.reader, bytes, len).map_err(|error| failed(FileProblem::Os(error)))
    };
    read_to(&mut bytes, safetensors::PREFIX)?;
    let data_start = safetensors::data_start(&bytes, file.len).map_err(wrong)?;
    read_to(&mut bytes, data_start)?;
    let header = safetensors::parse_header(&bytes, file.len).map_err(wrong)?;
    Ok((ModelFile { path, size: file.len }, header))
}

fn into_tensors(header: Header, file: FileId) -> Vec<Tensor> {
    let tensors = header.tensors.into_iter();
    tensors
        .map(|tensor| Tensor {
            name: tensor.name,
            dtype: tensor.dtype,
            shape: tensor.shape,
            span: FileSpan { file, offset: tensor.offset, len: tensor.len },
        })
        .collect()
}

fn manifest(files: Vec<ModelFile>, tensors: Vec<Tensor>) -> Manifest {
    let component = Component { name: "model".to_owned(), groups: groups::group(tensors) };
    Manifest { files, components: vec![component] }
}
