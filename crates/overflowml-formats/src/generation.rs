//! `generation_config.json`: how the model's makers sample it.

use serde::Serialize;
use serde_json::Value;

use crate::config::{ConfigError, Fields};
use crate::limits;

/// How to sample, as far as the model's files say.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GenerationDefaults {
    /// Tokens that end a text; several models have more than one.
    pub eos: Vec<u32>,
    /// The token that starts a text.
    pub bos: Option<u32>,
    /// Whether to sample at all; greedy if false or not said.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Only so many of the likeliest tokens; 0 is no limit.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that have this probability together.
    pub top_p: Option<f32>,
    /// Only tokens at least this likely, relative to the likeliest.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens that occurred.
    pub repetition_penalty: Option<f32>,
}

/// Reads `generation_config.json`.
///
/// # Errors
/// [`ConfigError`] naming the field that has the wrong type or an impossible value.
pub fn parse_generation_config(bytes: &[u8]) -> Result<GenerationDefaults, ConfigError> {
    let object = crate::config::parse_object(bytes)?;
    let fields = Fields::new(&object);
    Ok(GenerationDefaults {
        eos: token_ids(&fields, "eos_token_id")?,
        bos: token_ids(&fields, "bos_token_id")?.first().copied(),
        do_sample: fields.boolean("do_sample")?,
        temperature: fields.float_in("temperature", 0.0..=1e6)?,
        top_k: fields.size("top_k", 0..=limits::VOCAB)?,
        top_p: fields.float_in("top_p", 0.0..=1.0)?,
        min_p: fields.float_in("min_p", 0.0..=1.0)?,
        repetition_penalty: fields.float_in("repetition_penalty", 1e-6..=1e6)?,
    })
}

impl GenerationDefaults {
    /// These, with `config.json`'s token ids where `generation_config.json` has none.
    #[must_use]
    pub(crate) fn or_from_config(mut self, fields: &Fields<'_>) -> Self {
        // A broken id in config.json matters only if nothing better is known, and then it is
        // as if it were absent.
        if self.eos.is_empty() {
            self.eos = token_ids(fields, "eos_token_id").unwrap_or_default();
        }
        if self.bos.is_none() {
            let ids = token_ids(fields, "bos_token_id").unwrap_or_default();
            self.bos = ids.first().copied();
        }
        self
    }
}

/// One id, a list of ids, or none.
fn token_ids(fields: &Fields<'_>, name: &'static str) -> Result<Vec<u32>, ConfigError> {
    let wrong = |value: &Value| fields.wrong_type(name, "a token id or a list of them", value);
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.filter(|&id| (id as usize) < limits::VOCAB).ok_or_else(|| wrong(value))
    };
    match fields.get(name) {
        None => Ok(Vec::new()),
        Some(Value::Array(ids)) if ids.len() <= limits::STOP_TOKENS => ids.iter().map(id).collect(),
        // -1 is how some files say that there is none.
        Some(Value::Number(number)) if number.as_i64() == Some(-1) => Ok(Vec::new()),
        Some(value) => Ok(vec![id(value)?]),
    }
}
