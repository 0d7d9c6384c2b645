//! Text to tokens and back: the model's own tokenizer and chat template.

mod chat;
mod stream;

use std::io::Read;
use std::path::{Path, PathBuf};

use overflowml_formats::Model;
use overflowml_types::Bytes;
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use self::chat::ChatTemplate;
pub use self::chat::{ChatMessage, Role};
pub use self::stream::TextStream;

/// Larger than any tokenizer: the largest in use have 40 MB.
const MOST_TOKENIZER: Bytes = Bytes::mib(256);

/// Larger than any tokenizer configuration or template.
const MOST_CONFIG: Bytes = Bytes::mib(16);

/// Why text and tokens cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model has no tokenizer that is read.
    #[error("`{}` holds no `tokenizer.json`", folder.display())]
    NoTokenizer {
        /// The model's folder.
        folder: PathBuf,
    },
    /// A file cannot be read.
    #[error("`{}` cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system reports.
        source: std::io::Error,
    },
    /// A file is larger than any real one.
    #[error("`{}` is larger than {limit}, which no tokenizer is", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What is read at most.
        limit: Bytes,
    },
    /// A file is not what its name says.
    #[error("`{}` is damaged: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// In the parser's words.
        reason: String,
    },
    /// The model was not made for conversations, or does not say how they are written.
    #[error("the model has no chat template")]
    NoChatTemplate,
    /// The chat template refuses the conversation, or is wrong.
    #[error("the chat template failed: {reason}")]
    Template {
        /// In its own words.
        reason: String,
    },
    /// The tokenizer refuses the text.
    #[error("the text cannot be turned into tokens: {reason}")]
    Encode {
        /// In its own words.
        reason: String,
    },
}

impl TextError {
    /// Stable name, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoTokenizer { .. } => "text.no-tokenizer",
            Self::Read { .. } => "text.read",
            Self::TooLarge { .. } => "text.too-large",
            Self::Malformed { .. } => "text.malformed",
            Self::NoChatTemplate => "text.no-chat-template",
            Self::Template { .. } => "text.template",
            Self::Encode { .. } => "text.encode",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoTokenizer { .. } => Some(
                "put the model's tokenizer.json beside its config.json, or give token ids with \
                 `score --tokens`"
                    .to_owned(),
            ),
            Self::Malformed { path, .. } => {
                Some(format!("copy or download `{}` again", path.display()))
            }
            Self::NoChatTemplate => {
                Some("continue a text with `--prompt` instead of `--chat`".to_owned())
            }
            _ => None,
        }
    }
}

/// A model's tokenizer, with its chat template if it has one.
pub struct Text {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    eos: Option<u32>,
}

impl Text {
    /// About what reading the tokenizer of `model` adds to this process, from its file's size alone; zero without one.
    ///
    /// Code that is touched, tables for both directions and what the parser leaves behind: measured with files of 0.36
    /// and 1.57 MB, which took 6.6 and 16.7 MiB.
    pub fn memory(model: &Model) -> Bytes {
        let size = |path: &PathBuf| std::fs::metadata(path).map(|about| Bytes::new(about.len()));
        let size = model.files.tokenizer.as_ref().and_then(|path| size(path).ok());
        size.map_or(Bytes::ZERO, |size| {
            let tables = size.saturating_mul(8).saturating_add(size.share(0.7));
            Bytes::kib(3584).saturating_add(tables)
        })
    }

    /// Reads the tokenizer of `model`.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn open(model: &Model) -> Result<Self, TextError> {
        let Some(path) = &model.files.tokenizer else {
            return Err(TextError::NoTokenizer { folder: model.root.clone() });
        };
        let malformed = |error: tokenizers::Error| TextError::Malformed {
            path: path.clone(),
            reason: error.to_string(),
        };
        let mut tokenizer =
            Tokenizer::from_bytes(read(path, MOST_TOKENIZER)?).map_err(malformed)?;
        // Settings of somebody's training run, not of the model.
        tokenizer.with_truncation(None).map_err(malformed)?;
        tokenizer.with_padding(None);
        let config = match &model.files.tokenizer_config {
            Some(path) => object(path)?,
            None => Map::new(),
        };
        let eos = token_text(&config, "eos_token").and_then(|text| tokenizer.token_to_id(&text));
        let template = ChatTemplate::find(&config, model.files.chat_template.as_deref())?;
        Ok(Self { tokenizer, template, eos })
    }

    /// The tokens of `text`, with those that the model expects around it.
    ///
    /// # Errors
    /// If the tokenizer refuses it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.tokens(text, true)
    }

    /// The tokens of a conversation that the assistant is to continue.
    ///
    /// # Errors
    /// If there is no chat template, or it refuses the conversation.
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoChatTemplate)?;
        // The template writes special tokens itself.
        self.tokens(&template.render(messages)?, false)
    }

    /// Whether conversations are possible.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`] if not.
    pub fn require_chat_template(&self) -> Result<(), TextError> {
        self.template.as_ref().map(|_| ()).ok_or(TextError::NoChatTemplate)
    }

    /// The token that ends a text, as far as the tokenizer's configuration says.
    pub fn eos_token(&self) -> Option<u32> {
        self.eos
    }

    /// Starts turning tokens into text as they come.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(&self.tokenizer)
    }

    fn tokens(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        let encoding = self.tokenizer.encode_fast(text, special);
        let failed = |error: tokenizers::Error| TextError::Encode { reason: error.to_string() };
        Ok(encoding.map_err(failed)?.get_ids().to_vec())
    }
}

/// A special token in `tokenizer_config.json`: a string, or an object that holds it.
fn token_text(config: &Map<String, Value>, name: &str) -> Option<String> {
    match config.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => Some(token.get("content")?.as_str()?.to_owned()),
        _ => None,
    }
}

fn object(path: &Path) -> Result<Map<String, Value>, TextError> {
    let malformed = |reason: String| TextError::Malformed { path: path.to_owned(), reason };
    match serde_json::from_slice(&read(path, MOST_CONFIG)?) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(malformed("it is not a JSON object".to_owned())),
        Err(error) => Err(malformed(error.to_string())),
    }
}

/// A whole file, if it is not larger than `limit`.
fn read(path: &Path, limit: Bytes) -> Result<Vec<u8>, TextError> {
    let failed = |source| TextError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit.get() + 1).read_to_end(&mut bytes).map_err(failed)?;
    if Bytes::of_len(bytes.len()) > limit {
        return Err(TextError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
