use std::time::Duration;

use overflowml_types::{Bytes, BytesPerSecond};

/// What a store has read, and how long it was waited for. All counts are since it was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Read once, at the start: what stays in memory.
    pub loaded: Bytes,
    /// How long that took.
    pub load_time: Duration,
    /// Read through the slots.
    pub streamed: Bytes,
    /// Reads through the slots.
    pub reads: u64,
    /// Time during which at least one of those reads was under way.
    pub reading: Duration,
    /// The most of them that were under way at once.
    pub most_in_flight: usize,
    /// Rows looked up on disk.
    pub looked_up: Bytes,
    /// Passes that were completed.
    pub passes: u64,
    /// Time that computing waited for a read.
    pub stall: Duration,
    /// Whether the memory of what stays is locked against swapping.
    pub locked: bool,
    /// Why the page cache is not bypassed; `None` if it is.
    pub buffered_because: Option<String>,
}

impl Counters {
    /// Loads shorter than this say little about a disk.
    const TELLING: Bytes = Bytes::mib(64);

    /// How fast what stays was read; `None` if it was too little to tell.
    pub fn load_rate(&self) -> Option<BytesPerSecond> {
        let telling = self.loaded >= Self::TELLING;
        telling.then(|| BytesPerSecond::of(self.loaded, self.load_time)).flatten()
    }

    /// How fast blocks came through the slots; `None` if it was too little to tell.
    pub fn stream_rate(&self) -> Option<BytesPerSecond> {
        let telling = self.streamed >= Self::TELLING;
        telling.then(|| BytesPerSecond::of(self.streamed, self.reading)).flatten()
    }

    /// Everything that was read.
    pub fn total(&self) -> Bytes {
        self.loaded.saturating_add(self.streamed).saturating_add(self.looked_up)
    }
}
