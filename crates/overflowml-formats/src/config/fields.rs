//! Typed access to a JSON object's fields. Absent and `null` are the same: not said.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::ConfigError;

/// An object's fields; errors name them with the path to the object.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// `rope_scaling.`, for a nested object.
    path: String,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(object: &'a Map<String, Value>) -> Self {
        Self { object, path: String::new() }
    }

    /// Of an object that is not there.
    pub(crate) fn none() -> Self {
        static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        Self::new(&NONE)
    }

    /// The value, unless it is absent or `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field is there and says `null`, which for some fields differs from its absence.
    pub(crate) fn is_null(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(Value::is_null)
    }

    /// Whether the object has no fields at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// The field's name with the path to its object.
    pub(crate) fn path_to(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    pub(crate) fn missing(&self, name: &str) -> ConfigError {
        ConfigError::Missing { field: self.path_to(name) }
    }

    pub(crate) fn wrong_type(
        &self,
        name: &str,
        expected: &'static str,
        found: &Value,
    ) -> ConfigError {
        ConfigError::WrongType { field: self.path_to(name), expected, found: describe(found) }
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => {
                Ok(Some(Fields { object, path: format!("{}{name}.", self.path) }))
            }
            Some(other) => Err(self.wrong_type(name, "an object", other)),
        }
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong_type(name, "true or false", other)),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(name, "a text", other)),
        }
    }

    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a [Value]>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(self.wrong_type(name, "a list", other)),
        }
    }

    /// A whole number within `range`.
    pub(crate) fn size(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let Value::Number(number) = value else {
            return Err(self.wrong_type(name, "a whole number", value));
        };
        match number.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size) if range.contains(&size) => Ok(Some(size)),
            None if number.as_f64().is_some_and(|float| float.fract() != 0.0) => {
                Err(self.wrong_type(name, "a whole number", value))
            }
            _ => Err(self.out_of_range(name, value, range.start(), range.end())),
        }
    }

    /// A whole number from 1 to `most`.
    pub(crate) fn positive(&self, name: &str, most: usize) -> Result<Option<usize>, ConfigError> {
        self.size(name, 1..=most)
    }

    /// A finite number above zero.
    pub(crate) fn positive_float(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        self.float(name, f64::MIN_POSITIVE..=1e30)
    }

    /// A number within `range`.
    pub(crate) fn float(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let Some(number) = value.as_f64() else {
            return Err(self.wrong_type(name, "a number", value));
        };
        match range.contains(&number) {
            true => Ok(Some(number)),
            false => Err(self.out_of_range(name, value, range.start(), range.end())),
        }
    }

    /// A number within `range`, as the decoder computes with it.
    #[allow(clippy::cast_possible_truncation)] // rounding is what is meant
    pub(crate) fn float_in(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, ConfigError> {
        Ok(self.float(name, range)?.map(|number| number as f32))
    }

    fn out_of_range(
        &self,
        name: &str,
        found: &Value,
        least: &impl ToString,
        most: &impl ToString,
    ) -> ConfigError {
        ConfigError::OutOfRange {
            field: self.path_to(name),
            found: describe(found),
            least: least.to_string(),
            most: most.to_string(),
        }
    }
}

/// What kind of JSON value this is, in words.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The value itself where it is short, else its kind.
fn describe(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind_of(value).to_owned(),
        value => {
            let text = value.to_string();
            match text.char_indices().nth(60) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}
