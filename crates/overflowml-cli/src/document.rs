//! What a command would print with `--json`, as a value.

use std::ffi::OsString;

use clap::Parser;
use overflowml::Error;
use serde_json::Value;

use crate::args::{Cli, Command};
use crate::{commands, named};

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The arguments are not what the command takes.
    #[error("{}", first_line(.0))]
    Arguments(clap::Error),
    /// The command has no document without doing more than answer.
    #[error("`overflowml {command}` is not a question")]
    NotAQuestion {
        /// Its name.
        command: String,
    },
    /// The command failed; the library's own [`Error`] is among the causes, if it is one.
    #[error("{}", in_words(.0))]
    Failed(anyhow::Error),
}

impl DocumentError {
    /// The library's own error, if it is one.
    pub fn library(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) => error.chain().find_map(|cause| cause.downcast_ref()),
            Self::Arguments(_) | Self::NotAQuestion { .. } => None,
        }
    }

    /// Stable name, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Arguments(_) => "cli.arguments",
            Self::NotAQuestion { .. } => "cli.not-a-question",
            Self::Failed(_) => self.library().map_or("cli.failed", Error::code),
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        self.library().and_then(Error::hint)
    }
}

/// The document that `overflowml` prints for `arguments` with `--json`, for the commands that only answer: `detect`,
/// `inspect`, `plan`, `can-run` and `doctor`. A valid "no" is a document, too.
///
/// Prints nothing. Blocks.
///
/// # Errors
/// If the arguments are not understood, or what the command itself fails with.
pub fn document(arguments: Vec<OsString>) -> Result<Value, DocumentError> {
    let first = arguments.first().map(|name| name.to_string_lossy().into_owned());
    let cli = Cli::try_parse_from(named(arguments)).map_err(DocumentError::Arguments)?;
    let answer = match cli.command {
        Command::Detect(args) => commands::detect::document(&args),
        Command::Inspect(args) => commands::inspect::document(&args),
        Command::Plan(args) => commands::plan::document(&args),
        Command::CanRun(args) => commands::can_run::document(&args),
        Command::Doctor(args) => commands::doctor::document(&args),
        _ => {
            let command = first.unwrap_or_default();
            return Err(DocumentError::NotAQuestion { command });
        }
    };
    answer.map_err(DocumentError::Failed)
}

/// The message of a refusal without usage and tips.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// An error with those of its causes that it does not tell itself.
fn in_words(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(arguments: &[&str]) -> Result<Value, DocumentError> {
        document(arguments.iter().map(OsString::from).collect())
    }

    #[test]
    fn a_plan_for_another_machine_is_the_commands_document() {
        let plan = ask(&["plan", "--gpu=RTX 4090", "--ram=64GiB", "--", "40"]).unwrap();
        assert_eq!(plan["fits"], true);
        assert!(plan["recommended"]["offload"].is_string());
    }

    #[test]
    fn what_is_not_understood_is_an_error_in_one_line() {
        let refused = ask(&["plan", "40", "--colour=red"]).unwrap_err();
        assert_eq!(refused.code(), "cli.arguments");
        assert!(refused.to_string().contains("--colour") && !refused.to_string().contains('\n'));
    }

    #[test]
    fn only_questions_have_documents() {
        assert_eq!(ask(&["demo"]).unwrap_err().code(), "cli.not-a-question");
    }

    #[test]
    fn the_librarys_error_keeps_its_code_and_hint() {
        let refused = ask(&["inspect", "/nonexistent/model"]).unwrap_err();
        assert!(refused.library().is_some() && refused.code().contains('.'));
    }
}
