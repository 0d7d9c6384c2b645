//! `config.json` → [`DecoderSpec`]: one set of rules, driven by a table of model families.
//!
//! The oracle is `transformers` 5: a field that is absent means what it means there, in both the
//! present spelling (`rope_parameters`, `layer_types`) and the older one (`rope_theta`,
//! `rope_scaling`). What this decoder cannot reproduce exactly is refused by name, never ignored.

mod decoder;
mod error;
mod families;
mod fields;
mod layers;
mod mixture;
mod rope;
#[cfg(test)]
mod tests;

use overflowml_types::DecoderSpec;
use serde_json::{Map, Value};

pub use self::error::ConfigError;
use self::families::{FAMILIES, Family};
pub(crate) use self::fields::Fields;

/// A parsed `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    object: Map<String, Value>,
}

/// Reads `config.json`. Only that it is a JSON object is checked here.
///
/// # Errors
/// [`ConfigError::NotUtf8`], [`ConfigError::NotJson`] or [`ConfigError::NotObject`].
pub fn parse_config(bytes: &[u8]) -> Result<Config, ConfigError> {
    Ok(Config { object: parse_object(bytes)? })
}

/// The architectures that run, by the names that `config.json` gives them.
pub fn supported_architectures() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.architecture)
}

impl Config {
    /// The model's architecture, for example `LlamaForCausalLM`, whether or not it runs here:
    /// the first of `architectures`, or what `model_type` stands for.
    pub fn architecture(&self) -> Option<String> {
        let first = self.object.get("architectures").and_then(|names| names.get(0));
        let model_type = || self.object.get("model_type").and_then(Value::as_str);
        match first.and_then(Value::as_str) {
            Some(name) => Some(name.to_owned()),
            None => model_type().map(|model_type| {
                let family = FAMILIES.iter().find(|family| family.model_type == model_type);
                family.map_or(model_type, |family| family.architecture).to_owned()
            }),
        }
    }

    /// The class of a model or of a pipeline's component: what `diffusers` wrote, else the
    /// architecture.
    pub(crate) fn class(&self) -> Option<String> {
        let class = self.object.get("_class_name").and_then(Value::as_str);
        class.map(str::to_owned).or_else(|| self.architecture())
    }

    /// The sizes of the decoder `name` that runs, even where something else keeps this one from running;
    /// `None` for other architectures.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field that is missing or impossible.
    pub(crate) fn sizes(&self, name: &str) -> Result<Option<DecoderSpec>, ConfigError> {
        match FAMILIES.iter().find(|family| family.architecture == name) {
            Some(family) => decoder::sizes(family, &self.fields_of(family)?).map(Some),
            None => Ok(None),
        }
    }

    /// What the model computes.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field that is missing, impossible or asks for something that
    /// does not run here.
    pub fn decoder(&self) -> Result<DecoderSpec, ConfigError> {
        let name = self.architecture().ok_or(ConfigError::NoArchitecture)?;
        let Some(family) = FAMILIES.iter().find(|family| family.architecture == name) else {
            return Err(ConfigError::UnsupportedArchitecture { architecture: name });
        };
        decoder::refuse_quantized(family, &self.fields())?;
        decoder::decoder(family, &self.fields_of(family)?)
    }

    /// The outermost fields.
    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields::new(&self.object)
    }

    fn fields_of(&self, family: &Family) -> Result<Fields<'_>, ConfigError> {
        let whole = self.fields();
        match family.nested_in {
            None => Ok(whole),
            Some(name) => {
                whole.object(name)?.ok_or(ConfigError::Missing { field: name.to_owned() })
            }
        }
    }
}

/// A JSON object, of bounded depth (`serde_json` stops at 128).
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ConfigError::NotUtf8 { at: error.valid_up_to() })?;
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(ConfigError::NotObject { found: fields::kind_of(&other) }),
        Err(error) => Err(ConfigError::NotJson { reason: error.to_string() }),
    }
}
