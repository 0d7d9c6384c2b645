//! What a planner needs to know of a model.

use overflowml_types::ModelProfile;

use crate::error::Error;
use crate::hub::{self, LookError};

/// What a planner needs to know of a model in a folder or file, or on the hub: its components, their parts and
/// sizes, what each layer remembers. Reads headers and small files, no weights; a folder may hold nothing but a
/// configuration.
///
/// # Errors
/// If it is missing, damaged, or of a kind whose sizes cannot be told.
pub fn profile(model: &str) -> Result<ModelProfile, Error> {
    hub::profile(model).map_err(|error| match error {
        LookError::Hub(error) => Error::Hub(error),
        LookError::Format(error) => Error::Format(error),
    })
}
