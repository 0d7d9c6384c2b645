//! Chat templates: how a model's makers write a conversation as one text.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value};
use serde::Serialize;
use serde_json::Map;
use serde_json::ser::Formatter;

use super::{MOST_CONFIG, TextError, object, read, token_text};

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Special tokens that templates write.
const TOKENS: [&str; 5] = ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token"];

const NAME: &str = "chat";

/// A model's template, ready to be rendered.
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    /// What the template may refer to beside the messages.
    tokens: BTreeMap<&'static str, String>,
}

impl ChatTemplate {
    /// The template in a file of its own, else the one in `tokenizer_config.json`; `None` without either.
    pub(super) fn find(
        config: &Map<String, serde_json::Value>,
        file: Option<&Path>,
    ) -> Result<Option<Self>, TextError> {
        let source = match file {
            Some(path) if path.extension().is_some_and(|extension| extension == "json") => {
                default_template(object(path)?.get("chat_template"))
            }
            Some(path) => Some(String::from_utf8_lossy(&read(path, MOST_CONFIG)?).into_owned()),
            None => default_template(config.get("chat_template")),
        };
        let tokens = TOKENS.into_iter().filter_map(|name| Some((name, token_text(config, name)?)));
        source.map(|source| Self::new(source, tokens.collect())).transpose()
    }

    fn new(source: String, tokens: BTreeMap<&'static str, String>) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        // As transformers sets Jinja up.
        let blanks = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(blanks.map_err(failed)?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source).map_err(failed)?;
        Ok(Self { environment, tokens })
    }

    /// The conversation, up to where the assistant's reply begins.
    pub(super) fn render(&self, messages: &[ChatMessage]) -> Result<String, TextError> {
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let mut known: BTreeMap<&str, Value> =
            self.tokens.iter().map(|(&name, text)| (name, Value::from(text.as_str()))).collect();
        known.insert("messages", Value::from(Serde(messages)));
        known.insert("add_generation_prompt", Value::from(true));
        template.render(Value::from(known)).map_err(failed)
    }
}

/// A template, or the one called `default` of several.
fn default_template(value: Option<&serde_json::Value>) -> Option<String> {
    match value? {
        serde_json::Value::String(source) => Some(source.clone()),
        serde_json::Value::Array(named) => {
            let is_default = |entry: &&serde_json::Value| entry["name"] == "default";
            Some(named.iter().find(is_default)?["template"].as_str()?.to_owned())
        }
        _ => None,
    }
}

fn failed(error: minijinja::Error) -> TextError {
    // What a template itself says is the whole message; anything else is a defect, and its place helps.
    let reason = match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        _ => error.to_string(),
    };
    TextError::Template { reason }
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
        .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// JSON as Python's `json.dumps(…, ensure_ascii=False)` writes it.
fn to_json(value: &Value, keywords: Kwargs) -> Result<Value, minijinja::Error> {
    let wrong = |error: serde_json::Error| {
        minijinja::Error::new(ErrorKind::BadSerialization, error.to_string())
    };
    let indent: Option<usize> = keywords.get("indent")?;
    let mut text = Vec::new();
    match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, pretty))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced)),
    }
    .map_err(wrong)?;
    Ok(Value::from_safe_string(String::from_utf8_lossy(&text).into_owned()))
}

/// One line, with a blank after every comma and colon.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}
