use std::io;
use std::path::PathBuf;

use overflowml_types::Bytes;

/// Why weights could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A file could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system could not read.
    #[error("cannot read {len} at offset {offset} of {}: {source}", path.display(), offset = offset.get())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where the read began.
        offset: Bytes,
        /// How much was wanted.
        len: Bytes,
        /// What the system says.
        source: io::Error,
    },
    /// The file stops before the weights do.
    #[error(
        "{} ends at offset {end}, but weights are expected up to {needed}: it was cut short",
        path.display(), end = end.get(), needed = needed.get()
    )]
    Ended {
        /// The file.
        path: PathBuf,
        /// Where it ends.
        end: Bytes,
        /// Up to where it was to be read.
        needed: Bytes,
    },
    /// The file is not the one whose header was read.
    #[error("{} changed while it was in use (noticed at offset {offset})", path.display(), offset = offset.get())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The read that noticed.
        offset: Bytes,
    },
    /// The memory could not be had.
    #[error("cannot allocate {need} for weights: {source}")]
    Allocate {
        /// How much.
        need: Bytes,
        /// What the system says.
        source: io::Error,
    },
    /// A reader thread could not be started.
    #[error("cannot start a reader thread: {source}")]
    Thread {
        /// What the system says.
        source: io::Error,
    },
    /// Weights were asked for in another order than the plan's, or a plan does not match its files.
    #[error("weights were asked for out of order: {what}")]
    Order {
        /// What was asked for and what was due.
        what: String,
    },
    /// Groups or spans that do not fit together, or not the files.
    #[error("the groups are not usable: {what}")]
    Layout {
        /// What is wrong.
        what: String,
    },
    /// Every slot holds a group that was not released.
    #[error("group {group} has no slot: all {slots} hold groups that are in use")]
    NoSlot {
        /// The group that was asked for.
        group: usize,
        /// How many slots there are.
        slots: usize,
    },
    /// The store was closed.
    #[error("the weights are closed")]
    Closed,
}

impl StreamError {
    /// Stable name: shown by `--json`, never reused.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open { .. } => "stream.open",
            Self::Read { .. } => "stream.read",
            Self::Ended { .. } => "stream.ended",
            Self::Changed { .. } => "stream.changed",
            Self::Allocate { .. } => "stream.allocate",
            Self::Thread { .. } => "stream.thread",
            Self::Order { .. } => "stream.order",
            Self::Layout { .. } => "stream.layout",
            Self::NoSlot { .. } => "stream.no-slot",
            Self::Closed => "stream.closed",
        }
    }

    /// What the user can change; `None` if nothing they control would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Open { .. } => Some("check that the file exists and may be read".to_owned()),
            Self::Read { .. } => Some(
                "the disk or its connection may be failing; the system log tells more".to_owned(),
            ),
            Self::Ended { .. } => Some("download or copy the file again".to_owned()),
            Self::Changed { .. } => {
                Some("start again once nothing writes to the model's files".to_owned())
            }
            Self::Allocate { .. } => {
                Some("close other programs, or give a smaller budget with `--memory`".to_owned())
            }
            Self::Thread { .. } => {
                Some("the limit on threads may be too low (`ulimit -u`)".to_owned())
            }
            Self::Order { .. } | Self::Layout { .. } | Self::Closed => None,
            Self::NoSlot { .. } => {
                Some("release groups before others are asked for, or use more slots".to_owned())
            }
        }
    }
}
