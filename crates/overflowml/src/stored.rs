//! What a model's files hold, tensor by tensor, for programs that read them elsewhere.

use std::path::Path;

use overflowml_formats::open_weights;
use overflowml_types::Manifest;
use serde_json::{Value, json};

use crate::error::Error;

/// The stored tensors of a folder or `.safetensors` file, as a document:
/// `{"components": [{"name", "files": [path], "tensors": [{"name", "dtype", "shape", "file", "offset", "length"}]}]}`.
///
/// A pipeline's folder has a component per folder; otherwise there is one without a name. `file` indexes the
/// component's files, `offset` and `length` are bytes in it. Headers are checked, no weights are read.
///
/// # Errors
/// If files are missing, damaged, or of other formats.
pub fn stored_weights(path: &Path) -> Result<Value, Error> {
    let components = open_weights(path)?;
    let components: Vec<Value> =
        components.iter().map(|(name, manifest)| component(name, manifest)).collect();
    Ok(json!({ "components": components }))
}

fn component(name: &str, manifest: &Manifest) -> Value {
    let tensors = manifest.tensors().map(|tensor| {
        json!({
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "file": tensor.span.file,
            "offset": tensor.span.offset,
            "length": tensor.span.len,
        })
    });
    json!({
        "name": name,
        "files": manifest.files.iter().map(|file| &file.path).collect::<Vec<_>>(),
        "tensors": tensors.collect::<Vec<_>>(),
    })
}
