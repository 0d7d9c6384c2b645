//! What a planner needs to know of a model.

use std::path::Path;

use overflowml_types::ModelProfile;

use crate::error::Error;

/// What a planner needs to know of the model in a folder or file: its components, their parts and
/// sizes, what each layer remembers. Reads headers and small files, no weights; a folder may hold
/// nothing but a configuration.
///
/// # Errors
/// If it is missing, damaged, or of a kind whose sizes cannot be told.
pub fn profile(path: &Path) -> Result<ModelProfile, Error> {
    Ok(overflowml_formats::open_profile(path)?)
}
