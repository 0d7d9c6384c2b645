//! The only place that prints: answers to stdout, everything else to stderr.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Writes an answer to stdout.
///
/// A reader that has gone away (`overflowml … | head`) is not an error: the process ends quietly.
pub fn answer(text: &str) {
    let mut out = io::stdout().lock();
    ended_pipe(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Writes an answer and a line break.
pub fn answer_line(text: &str) {
    answer(&format!("{text}\n"));
}

/// Writes one JSON document to stdout.
pub fn json(document: &impl Serialize) -> anyhow::Result<()> {
    answer_line(&serde_json::to_string_pretty(document)?);
    Ok(())
}

/// Writes a line to stderr.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes an error to stderr, with its causes and what to do about it.
pub fn error(error: &anyhow::Error) {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(&format!("\n  because: {cause}"));
        }
    }
    note(&text);
}

/// Writes a hint to stderr.
pub fn hint(text: &str) {
    note(&format!("hint: {text}"));
}

/// Whether a person watches stderr.
pub fn watched() -> bool {
    io::stderr().is_terminal()
}

fn ended_pipe(result: io::Result<()>) {
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            note(&format!("error: cannot write the answer: {error}"));
            std::process::exit(2);
        }
    }
}
