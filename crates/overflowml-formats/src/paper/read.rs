//! What builders of tensor lists ask of fields: counts that may be left out.

use crate::config::Fields;
use crate::{ConfigError, limits};

/// Larger than any size in a configuration; products of such are computed saturating.
const MOST: usize = 1 << 31;

impl<'a> Fields<'a> {
    /// A whole number, or what its absence means.
    pub(super) fn count_or(&self, name: &str, default: u64) -> Result<u64, ConfigError> {
        Ok(self.said(name)?.unwrap_or(default))
    }

    /// A whole number, if it is there.
    pub(super) fn said(&self, name: &str) -> Result<Option<u64>, ConfigError> {
        Ok(self.size(name, 0..=MOST)?.map(|size| size as u64))
    }

    /// How often something is repeated: few enough to list.
    pub(super) fn repeats(&self, name: &str, default: Option<u64>) -> Result<u64, ConfigError> {
        let said = self.size(name, 0..=limits::LAYERS)?.map(|size| size as u64);
        said.or(default).ok_or_else(|| self.missing(name))
    }

    /// Whether a switch is on.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.boolean(name)?.unwrap_or(default))
    }

    /// A list of whole numbers, if it is there.
    pub(super) fn counts(&self, name: &str) -> Result<Option<Vec<u64>>, ConfigError> {
        let Some(list) = self.list(name)? else { return Ok(None) };
        if list.len() > limits::LAYERS {
            let field = self.path_to(name);
            return Err(ConfigError::WrongCount {
                field,
                found: list.len(),
                expected: limits::LAYERS,
            });
        }
        let number = |value: &serde_json::Value| match value.as_u64() {
            Some(number) if number <= MOST as u64 => Ok(number),
            _ => Err(self.wrong_type(name, "a list of whole numbers", value)),
        };
        list.iter().map(number).collect::<Result<_, _>>().map(Some)
    }

    /// A list of texts, if it is there.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, ConfigError> {
        let Some(list) = self.list(name)? else { return Ok(None) };
        let text = |value: &'a serde_json::Value| {
            value.as_str().ok_or_else(|| self.wrong_type(name, "a list of texts", value))
        };
        list.iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// The object inside, or the fields themselves where there is none.
    pub(super) fn inner(&self, name: &str) -> Result<Fields<'a>, ConfigError> {
        Ok(self.object(name)?.unwrap_or_else(|| self.clone()))
    }

    /// The object inside, or one without fields.
    pub(super) fn inner_or_default(&self, name: &str) -> Result<Fields<'a>, ConfigError> {
        Ok(self.object(name)?.unwrap_or_else(Fields::none))
    }
}
