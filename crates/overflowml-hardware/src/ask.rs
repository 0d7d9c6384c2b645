//! Asking vendors' libraries without trusting them: in a process of its own, for a limited time.
//!
//! The process is this program, started again with a hidden argument, which [`serve_probe`] answers. A program that
//! does not tell how it is started again ([`restarts_as`]) asks in a thread, which a hung driver can keep, but not
//! this program.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{link, nvml};

/// The hidden first argument; the second is the question.
const ARGUMENT: &str = "--overflowml-ask-a-driver";

/// Drivers may write to the standard output, too.
const MARK: &str = "overflowml-answer:";

/// How this program is started again.
static PROGRAM: OnceLock<Vec<OsString>> = OnceLock::new();

/// A question that a driver could hang on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Question {
    Nvml {
        libraries: Vec<String>,
        live: bool,
    },
    /// Copies to and from NVIDIA GPUs are timed.
    Links {
        libraries: Vec<String>,
    },
    /// macOS only.
    Metal,
}

/// Why there is no answer, in words.
pub(crate) type NoAnswer = String;

/// Tells how this program is started again: an executable, and arguments that go before all others. What is started
/// so must call [`serve_probe`]. Only the first call counts.
pub fn restarts_as(program: Vec<OsString>) {
    // A second call would tell the same.
    let _ = PROGRAM.set(program);
}

/// This program again, without arguments; `None` if it has not told how it is started.
pub fn restart() -> Option<Command> {
    let (executable, arguments) = PROGRAM.get()?.split_first()?;
    let mut command = Command::new(executable);
    command.args(arguments);
    Some(command)
}

/// Answers if this process was started to ask a driver, and says whether it was: then the caller ends.
///
/// To be called before `arguments`, those after the program's name, are read.
pub fn serve_probe(arguments: &[OsString]) -> bool {
    let [hidden, rest @ ..] = arguments else { return false };
    if hidden != ARGUMENT {
        return false;
    }
    let question = rest.first().and_then(|text| text.to_str());
    let answer = question.and_then(|text| serde_json::from_str(text).ok()).and_then(|q| answer(&q));
    if let Some(answer) = answer {
        // The parent may be gone; there is nobody else to tell.
        let _ = writeln!(std::io::stdout().lock(), "\n{MARK}{answer}");
    }
    true
}

fn answer(question: &Question) -> Option<String> {
    match question {
        Question::Nvml { libraries, live } => {
            serde_json::to_string(&nvml::ask(libraries, *live)).ok()
        }
        Question::Links { libraries } => serde_json::to_string(&link::time(libraries)).ok(),
        Question::Metal => serde_json::to_string(&crate::os::metal()).ok(),
    }
}

/// The answer, if it comes within `patience`.
pub(crate) fn ask<T: DeserializeOwned>(
    question: Question,
    patience: Duration,
) -> Result<T, NoAnswer> {
    let text = match start(&question) {
        Some(child) => hear(child, patience)?,
        None => ask_here(question, patience)?,
    };
    serde_json::from_str(&text).map_err(|error| format!("its answer is not readable: {error}"))
}

/// This program again, asking.
fn start(question: &Question) -> Option<Child> {
    restart()?
        .arg(ARGUMENT)
        .arg(serde_json::to_string(question).ok()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

fn hear(mut child: Child, patience: Duration) -> Result<String, NoAnswer> {
    let (sender, receiver) = mpsc::channel();
    let mut output = child.stdout.take();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.as_mut().map(|output| output.read_to_end(&mut bytes));
        // Nobody listens any more if it took too long.
        let _ = sender.send((read.is_some_and(|read| read.is_ok()), bytes));
    });
    let heard = receiver.recv_timeout(patience);
    if heard.is_err() {
        // Ignored: it may have ended just now. One that a driver holds cannot be ended at all.
        let _ = child.kill();
    }
    let Ok((true, bytes)) = heard else {
        std::thread::spawn(move || child.wait());
        return Err(late(patience));
    };
    let text = String::from_utf8_lossy(&bytes);
    if let Some(answer) = text.lines().find_map(|line| line.strip_prefix(MARK)) {
        std::thread::spawn(move || child.wait());
        return Ok(answer.to_owned());
    }
    // Its output is closed, so it is ending.
    let how = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    Err(format!("the process that asked it ended without an answer ({how})"))
}

fn ask_here(question: Question, patience: Duration) -> Result<String, NoAnswer> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(answer(&question));
    });
    match receiver.recv_timeout(patience) {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err("it has no answer".to_owned()),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(late(patience)),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err("asking it failed".to_owned()),
    }
}

fn late(patience: Duration) -> NoAnswer {
    format!("no answer within {:.1} seconds", patience.as_secs_f64())
}
