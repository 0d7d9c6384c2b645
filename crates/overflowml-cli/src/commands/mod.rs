//! One file per command: it asks the library and renders the answer.

use std::path::PathBuf;

use overflowml::Error;

use crate::progress::ByteBar;

pub mod batch;
pub mod bench;
pub mod can_run;
pub mod chat;
pub mod demo;
pub mod detect;
pub mod doctor;
pub mod inspect;
pub mod plan;
pub mod run;
pub mod score;
mod subject;
pub mod synth;

/// How a command ended when nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Yes,
    /// A valid "no".
    No,
    /// The user stopped it.
    Interrupted,
}

/// What to change about an error, if the library knows.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| cause.downcast_ref::<Error>()).and_then(Error::hint)
}

/// 1 for a valid "no", 130 if the user stopped it, 2 for a failure to answer.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    match error.chain().find_map(|cause| cause.downcast_ref::<Error>()) {
        Some(error) if error.is_no() => 1,
        Some(error) if error.is_interrupt() => 130,
        _ => 2,
    }
}

/// The model's files on this machine, downloaded if they are on the hub only.
fn local_files(model: &str) -> anyhow::Result<PathBuf> {
    let mut bar = ByteBar::new("downloading");
    Ok(overflowml::fetch(model, &mut |done, total| bar.update(done, total))?)
}

/// Opens a model by folder, file or name, to run it.
fn open_model(model: &str) -> anyhow::Result<overflowml::Model> {
    Ok(overflowml::open(&local_files(model)?)?)
}
