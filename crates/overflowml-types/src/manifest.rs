use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Bytes, DType};

/// What is in a model's files: components → groups → tensors → byte spans.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Manifest {
    /// The files that hold tensors; [`FileId`] indexes them.
    pub files: Vec<ModelFile>,
    /// A language model has one component; a diffusion pipeline several.
    pub components: Vec<Component>,
}

/// One file that holds tensors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelFile {
    /// Where it is, as opened (symbolic links are followed when it is read).
    pub path: PathBuf,
    /// Its length when its header was read.
    #[serde(rename = "size_bytes")]
    pub size: Bytes,
}

/// Index into [`Manifest::files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FileId(pub u32);

/// A part of a model that runs on its own: a decoder, a text encoder, a VAE.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Component {
    /// Its folder's name, or `model`.
    pub name: String,
    /// In the order in which they are stored by name (layers ascending).
    pub groups: Vec<Group>,
}

/// The tensors that belong together by name: an embedding, a layer, the head.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// For example `model.layers.3`.
    pub name: String,
    /// What kind of part it is.
    pub kind: GroupKind,
    /// Sorted by name.
    pub tensors: Vec<Tensor>,
}

/// What a [`Group`] is in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// Token embeddings.
    Embedding,
    /// A numbered, repeated layer.
    Layer(u32),
    /// Of such a layer, one routed expert, or all of them where they share tensors.
    Experts(u32),
    /// Whatever follows the layers: final norm, output head.
    Head,
    /// Everything else.
    Other,
}

/// One stored tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tensor {
    /// Its full name in the file.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Outermost dimension first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Where its data lies; row-major, little-endian.
    pub span: FileSpan,
}

/// A run of bytes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct FileSpan {
    /// The file.
    pub file: FileId,
    /// From the start of the file.
    #[serde(rename = "offset_bytes")]
    pub offset: Bytes,
    /// How many bytes.
    #[serde(rename = "len_bytes")]
    pub len: Bytes,
}

impl FileSpan {
    /// The first offset after the span, saturating.
    pub const fn end(self) -> Bytes {
        self.offset.saturating_add(self.len)
    }
}

impl Tensor {
    /// The number of elements; `None` if it overflows (never for a validated header).
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))
    }
}

impl Group {
    /// Bytes of all its tensors.
    pub fn size(&self) -> Bytes {
        self.tensors.iter().map(|tensor| tensor.span.len).sum()
    }
}

impl Manifest {
    /// Every group of every component.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.components.iter().flat_map(|component| &component.groups)
    }

    /// Every tensor of every group.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.groups().flat_map(|group| &group.tensors)
    }

    /// Bytes of all tensors.
    pub fn size(&self) -> Bytes {
        self.groups().map(Group::size).sum()
    }

    /// How many numbers the model consists of.
    pub fn parameters(&self) -> u64 {
        self.tensors().filter_map(Tensor::elements).fold(0, u64::saturating_add)
    }

    /// Bytes per element type.
    pub fn size_by_dtype(&self) -> BTreeMap<DType, Bytes> {
        let mut sizes = BTreeMap::new();
        for tensor in self.tensors() {
            let size: &mut Bytes = sizes.entry(tensor.dtype).or_default();
            *size = size.saturating_add(tensor.span.len);
        }
        sizes
    }

    /// The group with the most bytes; `None` for an empty model.
    pub fn largest_group(&self) -> Option<&Group> {
        self.groups().max_by_key(|group| group.size())
    }
}
