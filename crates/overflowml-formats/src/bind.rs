//! Finds every weight that a decoder calls for among the tensors of a model's files.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use overflowml_types::{
    Access, DType, DecoderSpec, ExpertStorage, FileId, FileSpan, Manifest, PassWeight, Slice,
    Tensor, WeightSpec,
};

/// Why the files do not hold the decoder that the configuration describes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // fields are named as the messages use them
pub enum BindError {
    /// A weight is not there.
    #[error("weight `{tensor}` ({role}, {shape:?}) is in none of the model's {files} file(s)")]
    Missing { tensor: String, role: String, shape: Vec<u64>, files: usize },
    /// A weight has another shape than the configuration says.
    #[error(
        "weight `{tensor}` in `{}` has shape {found:?}, but config.json makes it {expected:?}",
        file.display()
    )]
    WrongShape { tensor: String, file: PathBuf, expected: Vec<u64>, found: Vec<u64> },
    /// A weight is stored in a type that the decoder does not compute with.
    #[error("weight `{tensor}` in `{}` is stored as {found}; only f32, f16 and bf16 run", file.display())]
    WrongDType { tensor: String, file: PathBuf, found: DType },
}

impl BindError {
    /// Stable name: shown by `--json`, never reused.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "formats.weight-missing",
            Self::WrongShape { .. } => "formats.weight-shape",
            Self::WrongDType { .. } => "formats.weight-dtype",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { tensor, .. } if tensor.ends_with("lm_head.weight") => Some(
                "if the model shares its head with the embedding, config.json must say \
                 `\"tie_word_embeddings\": true`"
                    .to_owned(),
            ),
            Self::Missing { .. } | Self::WrongShape { .. } => {
                Some("config.json and the weights may be of different models".to_owned())
            }
            Self::WrongDType { .. } => {
                Some("use the model's unquantised version (bf16, f16 or f32)".to_owned())
            }
        }
    }
}

/// Finds every weight of `spec`, in the order in which a pass uses them.
///
/// Names may lack `model.` or be nested under `language_model`, as `transformers` accepts them. A
/// tied model whose files hold a head as well gets that head, and one whose files hold only the
/// head gets it as embedding: so do `transformers`.
///
/// # Errors
/// [`BindError`] naming the first weight that is missing, of the wrong shape, or of a type that
/// is not computed with.
pub fn bind(spec: &DecoderSpec, manifest: &Manifest) -> Result<Vec<PassWeight>, BindError> {
    let tensors: HashMap<&str, &Tensor> =
        manifest.tensors().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let layout = Layout::found_in(&tensors);
    spec.weights()
        .into_iter()
        .map(|wanted| {
            let tensor =
                find(&wanted, spec.tied_embeddings, layout, &tensors).ok_or_else(|| {
                    BindError::Missing {
                        tensor: layout.rename(&wanted.name),
                        role: wanted.role.to_string(),
                        shape: wanted.shape.clone(),
                        files: manifest.files.len(),
                    }
                })?;
            check(&wanted, tensor, spec, manifest)?;
            let tensor = match &wanted.slice {
                Some(slice) => part_of(tensor, slice, &wanted.shape),
                None => tensor.clone(),
            };
            Ok(PassWeight { role: wanted.role, access: wanted.access, tensor })
        })
        .collect()
}

/// The run of `tensor`, whose shape was checked, that is a weight of its own.
fn part_of(tensor: &Tensor, slice: &Slice, shape: &[u64]) -> Tensor {
    let size = tensor.dtype.size();
    let elements = shape.iter().product();
    let offset = tensor.span.offset.saturating_add(size.saturating_mul(slice.first));
    let span = FileSpan { file: tensor.span.file, offset, len: size.saturating_mul(elements) };
    Tensor { name: tensor.name.clone(), dtype: tensor.dtype, shape: shape.to_vec(), span }
}

/// Sets how the files hold experts: configurations do not say it.
pub(crate) fn settle_storage(spec: &mut DecoderSpec, manifest: &Manifest) {
    let Some(experts) = &mut spec.experts else { return };
    let has = |end: &str| manifest.tensors().any(|tensor| tensor.name.ends_with(end));
    if has(".mlp.experts.gate_up_proj_blocks") {
        experts.storage = ExpertStorage::Mxfp4;
    } else if has(".mlp.experts.gate_up_proj") && experts.storage != ExpertStorage::Transposed {
        experts.storage = ExpertStorage::Stacked;
        experts.names.part = "mlp";
    }
}

/// The tensors that no weight of a pass uses: harmless buffers, or parts of a larger model.
pub fn unused_tensors<'a>(weights: &[PassWeight], manifest: &'a Manifest) -> Vec<&'a Tensor> {
    let used: HashSet<&str> = weights.iter().map(|weight| weight.tensor.name.as_str()).collect();
    manifest.tensors().filter(|tensor| !used.contains(tensor.name.as_str())).collect()
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn find<'a>(
    wanted: &WeightSpec,
    tied: bool,
    layout: Layout,
    tensors: &HashMap<&str, &'a Tensor>,
) -> Option<&'a Tensor> {
    use overflowml_types::WeightRole::{Embedding, Head};
    let named = |name: &str| tensors.get(layout.rename(name).as_str()).copied();
    match wanted.role {
        Head if tied => named(HEAD).or_else(|| named(EMBEDDING)),
        Embedding if tied => named(EMBEDDING).or_else(|| named(HEAD)),
        _ => named(&wanted.name),
    }
}

fn check(
    wanted: &WeightSpec,
    tensor: &Tensor,
    spec: &DecoderSpec,
    manifest: &Manifest,
) -> Result<(), BindError> {
    let file = || file_of(tensor.span.file, manifest);
    let expected = wanted.slice.as_ref().map_or(&wanted.shape, |slice| &slice.of);
    if tensor.shape != *expected {
        return Err(BindError::WrongShape {
            tensor: tensor.name.clone(),
            file: file(),
            expected: expected.clone(),
            found: tensor.shape.clone(),
        });
    }
    let in_blocks = wanted.access == Access::Expert
        && spec.experts.as_ref().is_some_and(|it| it.storage == ExpertStorage::Mxfp4);
    let runs = if in_blocks { tensor.dtype == DType::U8 } else { tensor.dtype.is_computable() };
    if !runs {
        let found = tensor.dtype;
        return Err(BindError::WrongDType { tensor: tensor.name.clone(), file: file(), found });
    }
    Ok(())
}

fn file_of(id: FileId, manifest: &Manifest) -> PathBuf {
    let file = manifest.files.get(id.0 as usize);
    file.map(|file| file.path.clone()).unwrap_or_default()
}

/// How the files name what is `model.…` and `lm_head.…` in the usual layout.
#[derive(Clone, Copy)]
struct Layout {
    model: &'static str,
    head: &'static str,
}

impl Layout {
    /// The usual one first: it is also what messages use if none fits.
    const KNOWN: [Self; 4] = [
        Self { model: "model.", head: "lm_head." },
        Self { model: "", head: "lm_head." },
        Self { model: "language_model.model.", head: "language_model.lm_head." },
        Self { model: "model.language_model.", head: "lm_head." },
    ];

    fn found_in(tensors: &HashMap<&str, &Tensor>) -> Self {
        let holds = |layout: &Self, name| tensors.contains_key(layout.rename(name).as_str());
        let fits = |layout: &&Self| holds(layout, EMBEDDING) || holds(layout, "model.norm.weight");
        Self::KNOWN.iter().find(fits).copied().unwrap_or(Self::KNOWN[0])
    }

    fn rename(self, name: &str) -> String {
        if let Some(rest) = name.strip_prefix("model.") {
            format!("{}{rest}", self.model)
        } else if let Some(rest) = name.strip_prefix("lm_head.") {
            format!("{}{rest}", self.head)
        } else {
            name.to_owned()
        }
    }
}
