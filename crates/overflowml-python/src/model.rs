//! Models on disk: where they are, and what their files hold.

use std::path::PathBuf;

use overflowml::stored_weights;
use overflowml::torch::{PlaceRequest, place as choose};
use pyo3::prelude::*;

use crate::errors;

/// The local path of a model: a path that exists, or a model on the hub, which is downloaded unless the cache has it.
///
/// `progress(done_bytes, total_bytes)` is called meanwhile; what it raises is raised when the download has ended.
#[pyfunction]
#[pyo3(signature = (model, progress = None))]
pub(crate) fn download(
    py: Python<'_>,
    model: &str,
    progress: Option<Py<PyAny>>,
) -> PyResult<PathBuf> {
    let mut raised = None;
    let fetched = py.detach(|| {
        overflowml::fetch(model, &mut |done, total| {
            let Some(progress) = progress.as_ref().filter(|_| raised.is_none()) else { return };
            let told = Python::attach(|py| progress.call1(py, (done.get(), total.get())));
            raised = told.err();
        })
    });
    let path = fetched.map_err(|error| errors::library(&error))?;
    raised.map_or(Ok(path), Err)
}

/// The stored tensors of a folder or `.safetensors` file, as JSON text; headers are checked, no weights are read.
#[pyfunction]
pub(crate) fn open_model(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    let weights = py.detach(|| stored_weights(&path)).map_err(|error| errors::library(&error))?;
    Ok(weights.to_string())
}

/// Chooses which blocks of a torch object stay where; request and answer are JSON text.
#[pyfunction]
pub(crate) fn place(py: Python<'_>, request: &str) -> PyResult<String> {
    let wrong = |error| errors::argument(&format!("the request is not understood: {error}"));
    let request: PlaceRequest = serde_json::from_str(request).map_err(wrong)?;
    let placement = py.detach(|| choose(&request)).map_err(|error| errors::library(&error))?;
    serde_json::to_string(&placement).map_err(|error| errors::argument(&error.to_string()))
}
